"""The netCDF file of a posterior predictive check, read without ArviZ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray

_GROUPS = ("constant_data", "observed_data", "posterior_predictive")


@dataclass(frozen=True)
class CheckFile:
    """The content of the file of a check, as far as reports need it.

    Attributes:
        attrs: The attributes of the file: modalities given, density, numbers of samples and items, seed, protocol.
        constant_data: The dataset of identifiers, masks, PIT values, coverage and p-values.
        observed_data: The dataset of the statistics of the observations, each of shape `(item,)`.
        posterior_predictive: The dataset of the statistics of the replicates, each of shape `(chain, draw, item)`.
    """

    attrs: dict[str, Any]
    constant_data: xarray.Dataset
    observed_data: xarray.Dataset
    posterior_predictive: xarray.Dataset


def read_check(file: Path) -> CheckFile:
    """Read the netCDF file of a check into memory and close it.

    Args:
        file: The path of the file, as written by any version of ArviZ.

    Returns:
        The groups that tables and pictures are made from.

    Raises:
        FileNotFoundError: If the file does not exist.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    with xarray.open_dataset(file, engine="h5netcdf") as root:
        attributes = dict(root.attrs)
    groups = {name: xarray.load_dataset(file, group=name, engine="h5netcdf") for name in _GROUPS}
    return CheckFile(attributes, **groups)
