"""Modalities of strings as tokens of a tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.options import describe_item
from pyro_mmvae.data.own.columns import GivenColumn
from pyro_mmvae.data.storage.rows import MatrixRows
from pyro_mmvae.data.tokenizer import (
    TokenizerOption,
    is_json,
    make_absolute,
    open_tokenizer,
    pad_tokens,
    read_tokenizer,
    text_length,
)
from pyro_mmvae.files import write_text
from pyro_mmvae.modality_spec import ModalitySpec, Spec

Rows = Callable[[int], NDArray[np.int64]]
"""A function from the number of items to those that a vocabulary is trained on."""


def is_strings(values: Any) -> bool:
    """Return True for an array of strings `(item,)` with at least one item."""
    return isinstance(values, np.ndarray) and values.dtype.kind == "U" and values.ndim == 1 and len(values) > 0


def set_tokenizer(where: str, spec: Spec, values: Any, request: str, folder: Path, rows: Rows | None) -> Spec:
    """Return the description of a modality with the JSON of its tokenizer and the number of tokens.

    Args:
        where: Data and modality, the beginning of error messages.
        spec: The description of the modality.
        values: Strings `(item,)`, or tokens, for which a tokenizer is not trained.
        request: The tokenizer that was asked for, see :func:`~pyro_mmvae.data.tokenizer.read_tokenizer`.
        folder: Path of the folder that a path is relative to.
        rows: The items to train on; None for all.

    Raises:
        ValueError: If the tokenizer cannot be read or trained, or does not fit the description.
    """

    def texts() -> list[str]:
        chosen: list[str] = (values if rows is None else values[rows(len(values))]).tolist()
        return chosen

    content = read_tokenizer(where, request, folder, texts if is_strings(values) else None)
    classes = open_tokenizer(content).classes
    if spec.classes is not None and spec.classes < classes:
        raise ValueError(
            f"{where}: classes must be at least {classes}, the number of tokens of the tokenizer, got {spec.classes}"
        )
    return replace(
        spec, data_type=spec.data_type or "tokens", tokenizer=content, classes=max(classes, spec.classes or 0)
    )


def encode_strings_by(where: str, texts: Sequence[str], tokenizer: str) -> NDArray[np.int32]:
    """Return the tokens of all texts, `(item, position)`, in as many positions as the longest text needs.

    Args:
        where: Data and modality, the beginning of error messages.
        texts: One text per item, empty where the item lacks the modality.
        tokenizer: The JSON of the tokenizer.

    Raises:
        ValueError: If a text cannot be encoded; the message names the item.
    """
    opened = open_tokenizer(tokenizer)
    found = opened.encode(texts, lambda row: f"{where}: item {row}")
    return pad_tokens(found, text_length(max(map(len, found))), opened.padding)


def encode_column(
    where: str, column: GivenColumn, tokenizer: str, length: int | None, keys: Sequence[Hashable] | None
) -> NDArray[np.int32]:
    """Return the tokens of the strings that a Python user holds, `(item, position)`.

    Args:
        where: Data and modality, the beginning of error messages.
        column: The strings and the mask of the items that have one.
        tokenizer: The JSON of the tokenizer.
        length: Number of positions; None for as many as the longest text needs.
        keys: The keys of the items, or None.

    Raises:
        ValueError: If a text cannot be encoded or is too long; the message names the item.
    """
    opened = open_tokenizer(tokenizer)
    values: list[str] = [] if column.values is None or isinstance(column.values, MatrixRows) else column.values.tolist()
    texts = [text if is_present else "" for text, is_present in zip(values, column.present, strict=True)]
    found = opened.encode(texts, lambda row: f"{where}: {describe_item(keys, row)}")
    for row, tokens in enumerate(found):
        if length is not None and len(tokens) > length:
            raise ValueError(
                f"{where}: {describe_item(keys, row)} must have at most {length} tokens, got {len(tokens)}: "
                f"{texts[row][:40]!r}: shorten it"
            )
    return pad_tokens(found, length or text_length(max(map(len, found))), opened.padding)


def set_tokenizers(
    where: str,
    columns: Mapping[str, GivenColumn],
    specs: Mapping[str, ModalitySpec],
    tokenizer: TokenizerOption,
    rows: Rows | None,
) -> dict[str, ModalitySpec]:
    """Return descriptions of what a Python user holds, with the JSON of each tokenizer that was asked for.

    Args:
        where: Name of the data, the beginning of error messages.
        columns: The values by modality name.
        specs: Descriptions by modality name, which may ask for tokenizers.
        tokenizer: The tokenizer of all strings without an alphabet, or of modalities by name, or None.
        rows: The items to train on; None for all.

    Raises:
        ValueError: If a modality that is named does not hold strings, or a tokenizer cannot be read or trained.
    """
    strings = [name for name, column in columns.items() if is_strings(column.values)]
    requests = {name: spec.tokenizer for name, spec in specs.items() if spec.tokenizer is not None and name in columns}
    if isinstance(tokenizer, str):
        free = [name for name in strings if specs.get(name, ModalitySpec()).alphabet is None]
        if not free:
            raise ValueError(f"{where}: tokenizer must be left out, as no modality holds strings, got {tokenizer!r}")
        requests = dict.fromkeys(free, tokenizer) | requests
    else:
        for name, request in (tokenizer or {}).items():
            if name not in strings:
                raise ValueError(
                    f"{where}: tokenizer must name modalities of strings ({', '.join(strings) or 'none'}), got {name!r}"
                )
            requests[name] = request
    result = dict(specs)
    for name, request in requests.items():
        place, spec = f"{where}: modality {name!r}", result.get(name, ModalitySpec())
        result[name] = set_tokenizer(place, spec, columns[name].values, request, Path(), rows)
    return result


def store_tokenizers(folder: Path, modalities: Mapping[str, dict[str, Any]]) -> None:
    """Write the tokenizers of modalities into files of a folder, whose names take their place in the settings.

    Args:
        folder: Path of the folder of a data set.
        modalities: The settings of each modality by name, which are changed.
    """
    for name, settings in modalities.items():
        if is_json(settings.get("tokenizer") or ""):
            file = f"tokenizer_{name}.json"
            write_text(folder / file, settings["tokenizer"])
            settings["tokenizer"] = file


def describe_tokenizer(tokenizer: str) -> str:
    """Return a short hash of the content of a tokenizer, by which data that it encoded are told apart."""
    return hashlib.sha256(tokenizer.encode()).hexdigest()[:16]


def with_absolute_path(spec: Spec) -> Spec:
    """Return a description whose tokenizer, if it is a path relative to the working directory, is an absolute path."""
    return spec if spec.tokenizer is None else replace(spec, tokenizer=make_absolute(spec.tokenizer))
