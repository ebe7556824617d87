"""Data that are passed to a training from Python, and the folder of the run directory that keeps them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from pyro_mmvae import runs
from pyro_mmvae.data import MultimodalDataset, write_folder
from pyro_mmvae.runs.config import Config, DataConfig
from pyro_mmvae.runs.layout import process_rank

_NEEDED = ("train", "val")
_ALLOWED = (*_NEEDED, "test")


@contextmanager
def passed_data(
    config: Config, path: Path, data: Mapping[str, MultimodalDataset] | None, keep_data: bool
) -> Iterator[tuple[Config, Mapping[str, MultimodalDataset] | None]]:
    """Provide the configuration and the splits of a training on data that were passed, if there are any.

    Data that are kept are written first and then read as any other folder is, so that a resumed training sees exactly
    what the first one saw. They are removed if an error occurs inside the context.

    Args:
        config: The configuration of the run.
        path: The path of the run directory.
        data: The data sets by split, or None for those that the configuration names.
        keep_data: If True, the data are written to the run directory.

    Yields:
        The configuration, which names the data, and the splits if they cannot be loaded by it, otherwise None.

    Raises:
        ValueError: If a split is missing or unknown.
        RunError: If the run directory exists already.
    """
    if data is None:
        yield config, None
        return
    for split in (*_NEEDED, *data):
        if split not in data or split not in _ALLOWED:
            raise ValueError(f"data must have the splits train, val and, if there is one, test, got {', '.join(data)}")
    if not keep_data:
        yield _with_data(config, runs.UNKEPT_DATA), data
        return
    runs.check_new(path)
    folder, is_new = runs.RunFiles(path).data, not path.exists()
    try:
        if process_rank() == 0:
            write_folder(folder, data)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        yield _with_data(config, str(folder.resolve())), None
    except BaseException:
        if process_rank() == 0 and not runs.RunFiles(path).config.exists():
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                if is_new:
                    path.rmdir()
        raise


def named_after(config: Config, data: Mapping[str, MultimodalDataset]) -> Config:
    """Return a configuration with the name of data that were passed, which names the run directory by default.

    Args:
        config: The configuration of the run.
        data: The data sets by split.
    """
    return _with_data(config, next((part.name for part in data.values()), "arrays"))


def _with_data(config: Config, name: str) -> Config:
    return config.model_copy(update={"data": DataConfig(name=name)})
