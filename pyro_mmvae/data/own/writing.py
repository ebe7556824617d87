"""The writer of a data set into a folder that :func:`~pyro_mmvae.data.load_folder` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from pyro_mmvae.data.covariates import UNKNOWN
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.infer import infer_specs
from pyro_mmvae.data.own.folder import COVARIATES, FEATURES, META_FILE, RESERVED_NAMES, is_reserved
from pyro_mmvae.data.own.labels import UNLABELLED
from pyro_mmvae.data.own.tokenized import describe_tokenizer, store_tokenizers
from pyro_mmvae.files import write_text

_BLOCK = 1_024  # items written at once


def write_folder(folder: str | Path, splits: Mapping[str, MultimodalDataset]) -> None:
    """Write the splits of a data set into a new folder, from which ``load_data(folder, split)`` reads them.

    Items of a split keep their order; the modalities of what is read are in alphabetical order. Values that are mapped
    or decoded from files are read in blocks, so that they may be larger than memory.

    Args:
        folder: Path of the folder, which is created and must not hold files.
        splits: Data sets by the name of the split, ``train``, ``val`` or ``test``, with the same modalities, features,
            alphabets, classes and categories of covariates. At least one.

    Raises:
        ValueError: If the splits do not fit together, or a modality has a name that the folder needs for itself.
        FileExistsError: If the folder holds files.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} must be empty or not exist yet: choose another folder")
    parts = list(splits.values())
    first = parts[0]
    _check_splits(splits)
    folder.mkdir(parents=True, exist_ok=True)
    for name in first.names:
        _write_values(folder / f"{name}.npy", [(part.modalities[name], _mask(part, name)) for part in parts])
    arrays: dict[str, NDArray[Any] | None] = {
        "labels": _labels(parts),
        "present": None if all(part.complete for part in parts) else _present(parts),
        "split": np.concatenate([np.full(len(part), name) for name, part in splits.items()]),
        "ids": _ids(parts),
        **{f"{FEATURES}{name}": np.array(names, dtype=np.str_) for name, names in first.feature_names.items()},
        **{f"{COVARIATES}{name}": category_strings(parts, name) for name in first.covariates},
    }
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
    meta: dict[str, Any] = {"allow_constant": True}  # the whole was checked where it was made
    meta["modalities"] = {name: spec.settings() for name, spec in infer_specs(first).items()}
    if arrays["labels"] is not None:
        meta |= {"label_names": list(first.label_names)} if first.label_names else {}
        meta |= {"class_names": list(first.class_names)} if first.class_names else {}
    if first.covariates:
        meta["categories"] = {name: list(categories) for name, categories in first.covariate_names.items()}
    store_tokenizers(folder, meta["modalities"])
    write_text(folder / META_FILE, yaml.safe_dump(meta, sort_keys=False, allow_unicode=True))


def _check_splits(splits: Mapping[str, MultimodalDataset]) -> None:
    """Check that all splits can be stored in one array per modality."""
    (start, first), *others = splits.items()
    for name in first.names:
        if is_reserved(name):
            raise ValueError(
                f"{first.name}: modality {name!r} must not be called {' or '.join(RESERVED_NAMES)}, nor begin with "
                f"{FEATURES!r} or {COVARIATES!r}: rename it"
            )
    for split, data in others:
        for what, expected, received in (
            ("modalities", first.names, data.names),
            ("shapes", _shapes(first), _shapes(data)),
            ("names of features", dict(first.feature_names), dict(data.feature_names)),
            ("names of classes", first.class_names, data.class_names),
            ("names of attributes", first.label_names, data.label_names),
            ("alphabets", _alphabets(first), _alphabets(data)),
            ("tokenizers", _tokenizers(first), _tokenizers(data)),
            ("categories of covariates", dict(first.covariate_names), dict(data.covariate_names)),
        ):
            if expected != received:
                raise ValueError(f"{split}: {what} must be {expected} as in {start}, got {received}")


def _shapes(data: MultimodalDataset) -> dict[str, tuple[Any, ...]]:
    return {name: (*value.shape[1:], value.dtype == torch.uint8) for name, value in data.modalities.items()}


def _alphabets(data: MultimodalDataset) -> dict[str, str | None]:
    return {name: spec.alphabet for name, spec in data.modality_specs.items() if spec.alphabet is not None}


def _tokenizers(data: MultimodalDataset) -> dict[str, str]:
    specs = data.modality_specs.items()
    return {name: describe_tokenizer(spec.tokenizer) for name, spec in specs if spec.tokenizer is not None}


def _mask(data: MultimodalDataset, name: str) -> torch.Tensor:
    return data.present[:, data.names.index(name)].cpu()


def _write_values(file: Path, parts: list[tuple[Any, torch.Tensor]]) -> None:
    """Write the values of one modality in blocks, with zeros for absent items."""
    dtype = np.result_type(*(torch.empty(0, dtype=values.dtype).numpy().dtype for values, _ in parts))
    shape = (sum(len(values) for values, _ in parts), *parts[0][0].shape[1:])
    array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    start = 0
    for values, mask in parts:
        for rows in mask.nonzero()[:, 0].split(_BLOCK):
            if len(rows):
                array[start + rows.numpy()] = values[rows].cpu().numpy()
        start += len(values)
    array.flush()


def _labels(parts: list[MultimodalDataset]) -> NDArray[Any] | None:
    """Return the labels of all splits, NaN for items without one; None if no item has a label."""
    if parts[0].label_names:
        arrays = [part.labels for part in parts]
        return None if any(array is None for array in arrays) else np.concatenate([np.asarray(a) for a in arrays])
    rows = [np.full(len(p), UNLABELLED) if p.labels is None else p.labels.cpu().numpy() for p in parts]
    labels = np.concatenate(rows)
    if (labels == UNLABELLED).all():
        return None
    return np.where(labels == UNLABELLED, np.nan, labels) if (labels == UNLABELLED).any() else labels


def _present(parts: list[MultimodalDataset]) -> NDArray[np.bool_]:
    """Return the mask of all splits, with columns in alphabetical order of the modalities."""
    return np.concatenate([part.present.cpu().numpy()[:, np.argsort(part.names)] for part in parts])


def category_strings(parts: list[MultimodalDataset], name: str) -> NDArray[np.str_]:
    """Return the category of each item of all splits as a string, empty where it is unknown.

    Args:
        parts: The splits, with equal categories.
        name: Name of the covariate.
    """
    codes = np.concatenate([part.covariates[name].cpu().numpy() for part in parts])
    names = np.array([*parts[0].covariate_names[name], ""], dtype=np.str_)
    return np.asarray(names[np.where(codes == UNKNOWN, len(names) - 1, codes)])


def _ids(parts: list[MultimodalDataset]) -> NDArray[np.str_] | None:
    """Return the identifiers of all splits, or None if a split does not have any."""
    ids = [part.item_ids for part in parts if part.item_ids is not None]
    return np.concatenate(ids) if len(ids) == len(parts) else None
