"""The data that a run is asked about: its own splits, another source, or values in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from pyro_mmvae.data import MultimodalDataset, find_data, load_data, resolve_options
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.resolution import UNKEPT_DATA, load_split

DataLike: TypeAlias = MultimodalDataset | str | Path | Mapping[str, Any] | Any
"""Data of a run: None for its own, a name or path, a data set, or values by modality name."""

_INHERITED = (
    "kinds", "layer", "obsm", "modalities_by", "missing_nan", "missing_zero", "allow_constant", "columns", "image_size",
    "covariates", "tokenizer",
)  # fmt: skip
"""Options that say how values are read, which another file in the format of the training data has as well."""


def load_source(
    config: Config,
    data: str | Path | None,
    split: str | None,
    options: Mapping[str, Any] | None = None,
    *,
    allow_missing_columns: bool = False,
) -> MultimodalDataset:
    """Load one split of a run's own data or of another source.

    Args:
        config: The configuration of the run.
        data: The name or the path of another source, or None for the data of the run.
        split: The name of the split; by default ``"test"`` of the run's data or of a named set, and ``"all"`` of a file
            of the user.
        options: Options of the loader by name, which take precedence over those of the run.
        allow_missing_columns: If True, another table may lack columns that its description names; False by default.

    Raises:
        ValueError: If the source, the split or an option is unknown, or the files are not valid.
    """
    own = config.data.options()
    if data is None:
        if config.data.name == UNKEPT_DATA:
            return load_split(config, split or "test")  # which says what to do
        name, inherited = config.data.name, own
        split = split or "test"
    else:
        name = str(data)
        source = find_data(name)
        split = split or ("all" if source.loads_all else "test")
        inherited = {key: own[key] for key in _INHERITED if key in own and key in source.options}
        if source.name == config.data.name or (source.format and _is_one_path(name, config.data.name)):
            inherited = own
        if allow_missing_columns and "allow_missing_columns" in source.options:
            inherited = {**inherited, "allow_missing_columns": True}
    return load_data(name, split, **resolve_options(name, {**inherited, **(options or {})}))


def _is_one_path(first: str, second: str) -> bool:
    """Return True if two texts, relative to the working directory or absolute, are one path."""
    return Path(first).expanduser().resolve() == Path(second).expanduser().resolve()
