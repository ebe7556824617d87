"""Modalities of strings, such as captions, as tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.own.meta import ModalityMeta
from pyro_mmvae.data.own.raw_arrays import RawArrays
from pyro_mmvae.data.text import encode_texts

_PADDINGS = "*_~^|#"
_MULTIPLE, _LEAST = 4, 8  # networks for text take 8, 12, 16, … positions


def encode_strings(raw: RawArrays) -> RawArrays:
    """Return arrays in which strings `(item,)` are tokens `(item, position)`, with their alphabet in the description.

    The alphabet is that of the description, or otherwise the sorted characters of all texts after one for padding.

    Args:
        raw: The arrays as they were read.

    Raises:
        ValueError: If a character is not in the alphabet or cannot be printed; the message names the modality.
    """
    modalities, entries = dict(raw.modalities), dict(raw.meta.modalities)
    for name, array in raw.modalities.items():
        if isinstance(array, np.ndarray) and array.dtype.kind == "U" and array.ndim == 1 and len(array):
            modalities[name], entries[name] = _encode(raw.locate(name), array, raw.meta.entry(name))
    return replace(raw, modalities=modalities, meta=raw.meta.model_copy(update={"modalities": entries}))


def _encode(where: str, array: NDArray[np.str_], entry: ModalityMeta) -> tuple[NDArray[Any], ModalityMeta]:
    """Return the tokens of one modality, and its description."""
    texts: list[str] = array.tolist()
    alphabet, padding = entry.alphabet, entry.padding
    if alphabet is None:
        characters = "".join(sorted(set("".join(texts))))
        padding = next((character for character in _PADDINGS if character not in characters), None)
        if padding is None or not characters.isprintable():
            raise ValueError(
                f"{where}: strings must consist of printable characters without one of {_PADDINGS}, got "
                f"{characters!r}: replace the others, or set alphabet and padding for it in meta.yaml"
            )
        alphabet = padding + characters
    elif padding is None:
        raise ValueError(f"{where}: padding must be set to a character of the alphabet, got None: set it in meta.yaml")
    length = max(_LEAST, -(-max(map(len, texts)) // _MULTIPLE) * _MULTIPLE)
    try:
        tokens, _ = encode_texts(texts, length, padding, alphabet)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return tokens, replace(entry, data_type=entry.data_type or "tokens", alphabet=alphabet, padding=padding)
