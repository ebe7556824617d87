"""The variables in which files of checks hold calibration by simulation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.evaluation.local_c2st import LocalTest
from pyro_mmvae.evaluation.sbc_result import SimulationCalibration


@dataclass(frozen=True)
class Constants:
    """Variables of ``constant_data`` with their dimensions, coordinates and attributes.

    Attributes:
        values: A mapping from variable to its array.
        dims: A mapping from variable to the names of its dimensions.
        coords: A mapping from dimension to its coordinates.
        attributes: A mapping from attribute to its value.
    """

    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    dims: dict[str, list[str]] = field(default_factory=dict)
    coords: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


def calibration_constants(
    sbc: SimulationCalibration | None, posterior: SimulationCalibration | None, local: LocalTest | None
) -> Constants:
    """Return the variables of calibrations by simulation.

    Args:
        sbc: The prior SBC of a model, or None.
        posterior: The posterior SBC of the model, or None.
        local: The local two-sample test at the items of the check, or None.

    Returns:
        ``sbc_rank`` (simulation, quantity), ``sbc_p_value`` (quantity), the same with the prefix ``posterior_sbc`` and
        the dimension ``posterior_simulation``, ``lc2st_p_value`` (item), and attributes.
    """
    result = Constants()
    for prefix, rows, calibration in (
        ("sbc", "simulation", sbc),
        ("posterior_sbc", "posterior_simulation", posterior),
    ):
        if calibration is None:
            continue
        result.values.update({f"{prefix}_rank": calibration.ranks, f"{prefix}_p_value": calibration.p_values()})
        result.dims.update({f"{prefix}_rank": [rows, "quantity"], f"{prefix}_p_value": ["quantity"]})
        result.coords.update({"quantity": list(calibration.quantities), rows: np.arange(calibration.simulations)})
        result.attributes.update(
            {
                f"{prefix}_given": ",".join(calibration.given),
                f"{prefix}_draws": calibration.draws,
                f"{prefix}_simulations": calibration.simulations,
                f"{prefix}_seed": calibration.seed,
                f"{prefix}_protocol": calibration.protocol,
                f"{prefix}_overall_p_value": calibration.p_value(),
            }
        )
    if local is not None:
        result.values["lc2st_p_value"] = local.p_values
        result.dims["lc2st_p_value"] = ["item"]
        result.attributes.update({"lc2st_overall_p_value": local.p_value, "lc2st_protocol": local.protocol})
    return result
