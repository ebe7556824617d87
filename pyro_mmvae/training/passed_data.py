"""Data that are passed to a training from Python, and the folder of the run directory that keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pyro_mmvae import runs
from pyro_mmvae.data import MultimodalDataset, write_folder
from pyro_mmvae.runs.config import Config, DataConfig
from pyro_mmvae.runs.layout import process_rank

_NEEDED = ("train", "val")
_ALLOWED = (*_NEEDED, "test")


def passed_data(
    config: Config, folder: Path, data: Mapping[str, MultimodalDataset], keep_data: bool
) -> tuple[Config, Mapping[str, MultimodalDataset] | None]:
    """Return the configuration and the splits of a training on data that were passed.

    Data that are kept are written first and then read as any other folder is, so that a resumed training sees exactly
    what the first one saw. Of several processes only the first writes, and the others have to wait for it.

    Args:
        config: The configuration of the run.
        folder: The path of the run directory in the making.
        data: The data sets by split.
        keep_data: If True, the data are written to the run directory.

    Returns:
        The configuration, which names the data, and the splits if they cannot be loaded by it, otherwise None.

    Raises:
        ValueError: If a split is missing or unknown.
    """
    for split in (*_NEEDED, *data):
        if split not in data or split not in _ALLOWED:
            raise ValueError(f"data must have the splits train, val and, if there is one, test, got {', '.join(data)}")
    if not keep_data:
        return _with_data(config, runs.UNKEPT_DATA), data
    place = runs.RunFiles(folder).data
    if process_rank() == 0:
        write_folder(place, data)
    return _with_data(config, str(place.resolve())), None


def named_after(config: Config, data: Mapping[str, MultimodalDataset]) -> Config:
    """Return a configuration with the name of data that were passed, which names the run directory by default.

    Args:
        config: The configuration of the run.
        data: The data sets by split.
    """
    return _with_data(config, next((part.name for part in data.values()), "arrays"))


def _with_data(config: Config, name: str) -> Config:
    return config.model_copy(update={"data": DataConfig(name=name)})
