"""Data that are passed to a resumed training, because its run directory does not keep them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_mmvae import runs
from pyro_mmvae._bounded import read_json
from pyro_mmvae.data import DataDescription, MultimodalDataset, match_data, to_dataset
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.checkpoint import read_state
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.data_record import DataRecord, read_record
from pyro_mmvae.runs.resolution import read_covariates, read_specs
from pyro_mmvae.training.division import DIVISION_KEY, Division, split_data

_NEEDED = ("train", "val")


def resumed_splits(
    path: Path, config: Config, data: Any, labels: Any = None, present: Any = None, covariates: Any = None
) -> dict[str, MultimodalDataset] | None:
    """Return the splits of the data that were passed to a resumed training, matched by name to those of its start.

    Args:
        path: The path of the run directory.
        config: The configuration of the run.
        data: The data sets ``train`` and ``val`` by name, or all values that were passed to :func:`fit`; None for the
            data that the configuration names.
        labels: Labels of the items of values, or None.
        present: Mask of the modalities of values, or None.
        covariates: Categories of the items of values, or None.

    Returns:
        The training and the validation data; None if ``data`` is None.

    Raises:
        ValueError: If the run needs data and got none, or the other way round, or the data do not fit it.
    """
    is_kept = config.data.name != runs.UNKEPT_DATA
    if data is None and is_kept:
        if not labels is present is covariates is None:
            raise ValueError("labels, present and covariates must come with data, got them without: leave them out")
        return None
    if is_kept:
        raise ValueError(f"{path}: data must be None, as the run finds its data itself, got other data: leave them out")
    if data is None:
        raise ValueError(
            f"{path}: data must be those that the run was trained on, as it does not keep them (keep_data=False), got "
            "none: pass data=… to pyro_mmvae.resume"
        )
    description, further = _read_description(path), {"labels": labels, "present": present, "covariates": covariates}
    if _is_splits(data):
        if not labels is present is covariates is None:
            raise ValueError("labels, present and covariates must be None with data sets, which have their own")
        splits = dict(data)
    else:
        specs = dict(description.modality_specs)
        values = to_dataset(data, **further, specs=specs, shapes=description.shapes, name="data")
        division = _read_division(path)
        splits = split_data(values, division.validation, division.test, division.seed)
    return {
        split: replace(match_data(splits[split], description, surplus_modalities="error").data, split=split)
        for split in _NEEDED
    }


def value_checksums(splits: Mapping[str, MultimodalDataset]) -> dict[str, dict[str, int]]:
    """Return the CRC-32 of all values of each modality that is in memory, and of the mask, by split and name.

    Values that stay on disk are not read as a whole; their fingerprints compare a part of them.

    Args:
        splits: The data sets by split.
    """
    return {
        split: {
            name: zlib.crc32(value.cpu().contiguous().numpy().data)
            for name, value in {**data.modalities, "present": data.present}.items()
            if isinstance(value, Tensor)
        }
        for split, data in splits.items()
    }


def changed_values(before: Mapping[str, Mapping[str, int]], now: Mapping[str, Mapping[str, int]]) -> tuple[str, ...]:
    """Return a line for each split and modality whose values have changed.

    Args:
        before: The checksums of :func:`value_checksums` in a checkpoint; empty in one of an earlier version.
        now: The checksums of the data to go on with.
    """
    return tuple(
        f"split {split!r}: {name}: the values of some items differ"
        for split, sums in now.items()
        for name, value in sums.items()
        if before.get(split, {}).get(name, value) != value
    )


def _is_splits(data: Any) -> bool:
    """Return True if data are data sets by split, and check that none is missing."""
    if not isinstance(data, Mapping) or not all(isinstance(part, MultimodalDataset) for part in data.values()):
        return False
    if not set(_NEEDED) <= set(data) <= {*_NEEDED, "test"}:
        raise ValueError(f"data must have the splits train, val and, if there is one, test, got {', '.join(data)}")
    return True


def _read_description(path: Path) -> DataDescription:
    """Return the description of the data of a run, from its last checkpoint and its record."""
    state = read_state(RunFiles(path).checkpoint("last"))
    shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
    return (read_record(path) or DataRecord()).describe(shapes, read_specs(state) or {}, read_covariates(state))


def _read_division(path: Path) -> Division:
    """Return the recorded division of a run."""
    environment = read_json(RunFiles(path).environment)
    recorded = environment["data"].get(DIVISION_KEY, {})
    if recorded.get("validation") is None or recorded.get("test") is None:
        raise ValueError(
            f"{path}: data must be a mapping with the data sets 'train' and 'val', as the run has no record of how to "
            "divide values, got values"
        )
    return Division(**recorded)
