"""Modalities of strings, such as captions, as tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.own.meta import ModalityMeta
from pyro_mmvae.data.own.raw_arrays import RawArrays
from pyro_mmvae.data.own.tokenized import Rows, describe_tokenizer, encode_strings_by, is_strings, set_tokenizer
from pyro_mmvae.data.text import encode_texts

_PADDINGS = "*_~^|#"
_MULTIPLE, _LEAST = 4, 8  # networks for text take 8, 12, 16, … positions


def encode_strings(raw: RawArrays, rows: Rows | None = None) -> RawArrays:
    """Return arrays in which strings `(item,)` are tokens `(item, position)`, with their alphabet in the description.

    The alphabet is that of the description, or otherwise the sorted characters of all texts after one for padding. With
    a tokenizer in place of an alphabet the description gets its content, also if the values are tokens already.

    Args:
        raw: The arrays as they were read.
        rows: The items that a vocabulary is trained on; all by default.

    Raises:
        ValueError: If a character is not in the alphabet or cannot be printed, or a tokenizer cannot be read or
            trained; the message names the modality.
    """
    modalities, entries = dict(raw.modalities), dict(raw.meta.modalities)
    folder, hashes = Path(raw.where), dict[str, str]()
    folder = folder if folder.is_dir() else folder.parent
    for name, array in raw.modalities.items():
        where, entry, are_strings = raw.locate(name), raw.meta.entry(name), is_strings(array)
        request = entry.tokenizer
        if request is None and are_strings and entry.alphabet is None:
            request = raw.meta.tokenizer
        if request is not None:
            entries[name] = set_tokenizer(where, entry, array, request, folder, rows)
            content = entries[name].tokenizer or ""
            hashes[name] = describe_tokenizer(content)
            if are_strings:
                modalities[name] = encode_strings_by(where, cast("NDArray[np.str_]", array).tolist(), content)
        elif are_strings:
            modalities[name], entries[name] = _encode(where, cast("NDArray[np.str_]", array), entry)
    provenance = {**raw.provenance, "tokenizers": hashes} if hashes else raw.provenance
    meta = raw.meta.model_copy(update={"modalities": entries})
    return replace(raw, modalities=modalities, meta=meta, provenance=provenance)


def _encode(where: str, array: NDArray[np.str_], entry: ModalityMeta) -> tuple[NDArray[Any], ModalityMeta]:
    """Return the tokens of one modality, and its description."""
    texts: list[str] = array.tolist()
    alphabet, padding = entry.alphabet, entry.padding
    if alphabet is None:
        alphabet, padding = choose_alphabet(where, "".join(sorted(set("".join(texts)))))
    elif padding is None:
        raise ValueError(f"{where}: padding must be set to a character of the alphabet, got None: set it in meta.yaml")
    length = choose_length(max(map(len, texts)))
    try:
        tokens, _ = encode_texts(texts, length, padding, alphabet)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return tokens, replace(entry, data_type=entry.data_type or "tokens", alphabet=alphabet, padding=padding)


def choose_alphabet(where: str, characters: str) -> tuple[str, str]:
    """Return the alphabet of texts, a character for padding before those that occur, and that character.

    Args:
        where: File and modality, for messages.
        characters: The characters that occur, sorted.

    Raises:
        ValueError: If a character cannot be printed, or all characters for padding occur.
    """
    padding = next((character for character in _PADDINGS if character not in characters), None)
    if padding is None or not characters.isprintable():
        raise ValueError(
            f"{where}: strings must consist of printable characters without one of {_PADDINGS}, got "
            f"{characters!r}: replace the others, or set alphabet and padding for it in meta.yaml"
        )
    return padding + characters, padding


def choose_length(longest: int) -> int:
    """Return the number of tokens of texts, which networks for text take: 8, 12, 16, ….

    Args:
        longest: The number of characters of the longest text.
    """
    return max(_LEAST, -(-longest // _MULTIPLE) * _MULTIPLE)
