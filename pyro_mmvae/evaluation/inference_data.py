"""Conversion of posterior predictive checks to the format of ArviZ, and netCDF files of them.

This is the only module that knows ArviZ. Version 0.23 holds groups in an ``InferenceData``, versions from 1 on, which
need Python 3.12, in xarray's ``DataTree``; the files are the same.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from pyro_mmvae.evaluation.calibration import LEVELS, calibrate
from pyro_mmvae.evaluation.calibration_data import calibration_constants
from pyro_mmvae.evaluation.local_c2st import LocalTest
from pyro_mmvae.evaluation.ppc import PredictiveCheck
from pyro_mmvae.evaluation.sbc_result import SimulationCalibration

_IMAGE_AXES = ("channel", "height", "width")


def to_inference_data(
    check: PredictiveCheck,
    sbc: SimulationCalibration | None = None,
    *,
    class_names: Sequence[str] = (),
    posterior_sbc: SimulationCalibration | None = None,
    local: LocalTest | None = None,
) -> Any:
    """Convert a check to the format of ArviZ, with a single chain.

    Draws of a guide are independent, so that R-hat and the effective sample size of a chain do not apply.

    Groups and dimensions:

    - ``posterior``: ``z`` (chain, draw, item, latent);
    - ``posterior_predictive``: each statistic by its key, such as ``m0.mean`` (chain, draw, item); ``m0.raw`` if it was
      kept;
    - ``observed_data``: the statistics of the observations by the same keys (item);
    - ``log_likelihood``: each modality (chain, draw, item), in nats, by its name; a modality called ``chain``,
      ``draw``, ``item``, ``z`` or as a variable of ``constant_data`` by ``NAME.log_likelihood``;
    - ``constant_data``: ``id`` (item), ``present`` (item, modality), ``given`` (modality); per statistic ``pit``
      and ``independent`` (statistic, item), ``p_value``, ``pit_p_value`` (NaN if not judged), ``in_sample``,
      ``nominal``, ``n`` (statistic), ``coverage`` and ``coverage_error`` (statistic, level); and the variables of
      :func:`~pyro_mmvae.evaluation.calibration_data.calibration_constants` that are given.

    Values that an item lacks are NaN. Slashes, which netCDF reserves for groups, are written as ``%2F`` in names. The
    attributes of the file and of each group record the modalities given, the density, the numbers of samples and items,
    the seed and the protocol, and the names of the classes as JSON in ``class_names``, if there are any.

    Args:
        check: The draws and the observations of a check.
        sbc: The simulation-based calibration of the same model; left out by default.
        class_names: The names of the classes that ``predicted_class`` counts, from class 0; empty by default, for
            classes without names.
        posterior_sbc: The posterior SBC of the model; left out by default.
        local: The local two-sample test at the items of the check; left out by default.

    Returns:
        An ``arviz.InferenceData``, or an ``xarray.DataTree`` from version 1 of ArviZ on.
    """
    check = _without_slashes(check)
    names = tuple(check.present)
    constant, dims, coords = _constants(check, names)
    calibration = calibration_constants(sbc, posterior_sbc, local)
    constant, dims, coords = constant | calibration.values, dims | calibration.dims, coords | calibration.coords
    taken = {"chain", "draw", "item", "z", "sbc_rank", "sbc_p_value", *constant}
    likelihood_names = {name: f"{name}.log_likelihood" if name in taken else name for name in names}
    dims |= {"z": ["item", "latent"], **dict.fromkeys((*check.observed, *likelihood_names.values()), ["item"])}
    dims |= {f"{name}.raw": ["item", *_axes(name, array.ndim - 1)] for name, array in check.observed_raw.items()}
    raw = {f"{name}.raw": array for name, array in check.raw.items()}
    attributes: dict[str, Any] = {
        "given": ",".join(check.given),
        "density": check.density,
        "samples": check.samples,
        "items": len(check.ids),
        "seed": check.seed,
        "protocol": check.protocol,
        "nominal": ",".join(sorted(check.nominal)),
    }
    if class_names:
        attributes["class_names"] = json.dumps(list(class_names))
    attributes |= calibration.attributes
    groups = {
        "posterior": {"z": check.z[None]},
        "posterior_predictive": {key: array[None] for key, array in (check.replicated | raw).items()},
        "log_likelihood": {likelihood_names[name]: array[None] for name, array in check.log_likelihood.items()},
        "observed_data": check.observed | {f"{name}.raw": array for name, array in check.observed_raw.items()},
        "constant_data": constant,
    }
    coords |= {"item": check.ids, "latent": np.arange(check.z.shape[-1]), "modality": list(names)}
    return _from_groups(groups, coords, dims, attributes)


def _from_groups(
    groups: dict[str, dict[str, NDArray[Any]]],
    coords: dict[str, Any],
    dims: dict[str, list[str]],
    attributes: dict[str, Any],
) -> Any:
    """Return the groups in the format of the installed version of ArviZ, each with the attributes of the whole."""
    arviz = import_arviz()
    if arviz.__version__.startswith("0."):
        options = {f"{group}_attrs": attributes for group in groups}
        return arviz.from_dict(**groups, coords=coords, dims=dims, attrs=attributes, **options)
    return arviz.from_dict(groups, coords=coords, dims=dims, attrs=dict.fromkeys(("/", *groups), attributes))


@cache
def import_arviz() -> Any:
    """Import ArviZ, without its announcement of version 1 and without files in the user's cache.

    Version 0.23 remembers in a file of the user's cache that it announced version 1 today, and cannot be imported where
    that folder is not writable or the user does not have a home.

    Returns:
        The module ``arviz``.
    """
    original = platformdirs.user_cache_dir
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
        platformdirs.user_cache_dir = lambda *_, **__: folder
        try:
            import arviz  # noqa: PLC0415  (takes seconds, and only these files need it)
        finally:
            platformdirs.user_cache_dir = original
    return arviz


def write_inference_data(data: Any, path: Path) -> Path:
    """Write a check to a netCDF file atomically: to a temporary file beside it, which is then renamed.

    Args:
        data: The check in the format of ArviZ, see :func:`to_inference_data`.
        path: The path of the file; its folder is created if needed.

    Returns:
        The argument ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with suppress(FileNotFoundError):
        temporary.unlink()  # the writer would follow a link of this name
    try:
        data.to_netcdf(str(temporary), engine="h5netcdf")
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return path


def read_inference_data(path: Path) -> Any:
    """Read a netCDF file of a check into memory and close the file.

    ``arviz.from_netcdf`` opens such files as well, but reads them lazily.

    Returns:
        An ``arviz.InferenceData``, or an ``xarray.DataTree`` from version 1 of ArviZ on.

    Raises:
        FileNotFoundError: If the file does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    arviz = import_arviz()
    if arviz.__version__.startswith("0."):
        with arviz.rc_context({"data.load": "eager"}):
            return arviz.from_netcdf(str(path))
    with arviz.from_netcdf(path, engine="h5netcdf") as data:
        return data.load()


def _constants(
    check: PredictiveCheck, names: tuple[str, ...]
) -> tuple[dict[str, NDArray[Any]], dict[str, list[str]], dict[str, Any]]:
    """Return the constant data with its dimensions and coordinates."""
    rows = calibrate(check)
    values = {
        "id": check.ids,
        "present": np.stack([check.present[name] for name in names], 1),
        "given": np.array([name in check.given for name in names]),
        "pit": np.stack([row.pit for row in rows]),
        "p_value": np.array([row.p_value for row in rows]),
        "independent": np.stack([row.independent for row in rows]),
        "pit_p_value": np.array([np.nan if row.pit_p_value is None else row.pit_p_value for row in rows]),
        "in_sample": np.array([row.in_sample for row in rows]),
        "nominal": np.array([row.statistic in check.nominal for row in rows]),
        "n": np.array([row.n for row in rows]),
        "coverage": np.array([[c.value for c in row.coverage] for row in rows]),
        "coverage_error": np.array([[c.error for c in row.coverage] for row in rows]),
    }
    dims = dict.fromkeys(("p_value", "pit_p_value", "in_sample", "nominal", "n"), ["statistic"])
    dims |= dict.fromkeys(("coverage", "coverage_error"), ["statistic", "level"])
    dims |= dict.fromkeys(("pit", "independent"), ["statistic", "item"])
    dims |= {"id": ["item"], "present": ["item", "modality"], "given": ["modality"]}
    return values, dims, {"statistic": [row.statistic for row in rows], "level": list(LEVELS)}


def _without_slashes(check: PredictiveCheck) -> PredictiveCheck:
    """Return a check in whose names slashes are percent-encoded."""

    def encode(values: dict[str, Any]) -> dict[str, Any]:
        return {name.replace("/", "%2F"): value for name, value in values.items()}

    if not any("/" in name for name in check.present):
        return check
    mappings: dict[str, Any] = {
        field: encode(getattr(check, field))
        for field in ("replicated", "observed", "log_likelihood", "present", "raw", "observed_raw", "shared")
    }
    return replace(
        check,
        given=tuple(name.replace("/", "%2F") for name in check.given),
        nominal=frozenset(key.replace("/", "%2F") for key in check.nominal),
        **mappings,
    )


def _axes(name: str, dimensions: int) -> list[str]:
    """Return the names of the axes of one observation of a modality."""
    axes = _IMAGE_AXES if dimensions == 3 else range(dimensions)
    return [f"{name}_{axis}" for axis in axes]
