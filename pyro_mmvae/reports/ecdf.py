"""Pictures of uniform values: the difference of their ECDF from the diagonal, with simultaneous bands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyro_mmvae.reports.styles import OKABE_ITO
from pyro_mmvae.uniformity import POINTS, ecdf_band, ecdf_p_value, rank_p_value

CELL = (2.7, 2.1)
"""The width and height of a panel in inches."""

COLUMNS = 6
"""The largest number of panels side by side."""

LEVEL = 0.95
"""The probability that the whole ECDF of uniform values lies in the band."""

_MAX_PANELS = 24


def draw_ecdf_difference(
    axis: Axes, values: NDArray[np.float64], *, cells: int = POINTS, color: str = OKABE_ITO[0]
) -> None:
    """Draw the ECDF of values minus that of the uniform distribution, with the band that holds it as a whole.

    Points outside the band are marked. Values that are too small make an arch, those that are too large a trough; a
    curve that rises, falls and rises again belongs to values in the middle, such as PIT values of intervals that are
    too wide.

    Args:
        axis: The panel to draw into.
        values: Independent values in [0, 1], of shape `(value,)`.
        cells: The number of equal cells of [0, 1] at whose edges the ECDF is drawn; 100 by default.
        color: The colour of the curve, blue by default.
    """
    band = ecdf_band(len(values), cells, LEVEL)
    ecdf = np.searchsorted(np.sort(values), band.points, side="right") / len(values)
    points = np.array([0.0, *band.points, 1.0])
    lower, upper, curve = (np.array([0.0, *(y - band.points), 0.0]) for y in (band.lower, band.upper, ecdf))
    outside = (ecdf < band.lower) | (ecdf > band.upper)
    axis.fill_between(points, lower, upper, color="0.3", alpha=0.18, lw=0)
    axis.axhline(0.0, color="0.3", lw=0.8)
    axis.plot(points, curve, color=color, lw=1.2)
    axis.plot(points[1:-1][outside], curve[1:-1][outside], ".", color=OKABE_ITO[1], ms=3)
    axis.set_xlim(0, 1)


def independent_values(data: Any, key: str) -> NDArray[np.float64]:
    """Return the PIT values of the items of a check of which no two share an observation.

    Args:
        data: The check as InferenceData; one of an earlier version has no mask, and all items count.
        key: The key of the statistic.
    """
    row = data.constant_data.sel(statistic=key)
    values = row["pit"].values
    kept = row["independent"].values.astype(bool) if "independent" in row else np.isfinite(values)
    return np.asarray(values[kept], dtype=np.float64)


def pit_p_value(data: Any, key: str) -> float | None:
    """Return the p-value of uniform PIT values of a statistic, or None if the statistic is not judged.

    Args:
        data: The check as InferenceData.
        key: The key of the statistic.
    """
    row = data.constant_data.sel(statistic=key)
    stored = float(row["pit_p_value"] if "pit_p_value" in row else row["ks_p_value"])  # the latter: earlier versions
    return None if math.isnan(stored) else ecdf_p_value(independent_values(data, key))


def sbc_p_values(data: Any, prefix: str) -> NDArray[np.float64]:
    """Return the p-values of uniform ranks of a calibration by simulation, of shape `(quantity,)`.

    Args:
        data: The check as InferenceData.
        prefix: The prefix of the variables: ``sbc`` or ``posterior_sbc``.
    """
    ranks, draws = data.constant_data[f"{prefix}_rank"].values, int(data.attrs[f"{prefix}_draws"])
    return np.array([rank_p_value(column.astype(np.int64), draws) for column in ranks.T])


def sbc_summary(data: Any, prefix: str) -> str:
    """Return one line about a calibration by simulation: the p-value of all quantities, and the one it is least for.

    Args:
        data: The check as InferenceData.
        prefix: The prefix of the variables: ``sbc`` or ``posterior_sbc``.
    """
    p_values = sbc_p_values(data, prefix)
    worst = int(p_values.argmin())
    # The least of Holm's corrected p-values is that of Bonferroni.
    overall = min(1.0, len(p_values) * float(p_values[worst]))
    name = str(data.constant_data["quantity"].values[worst])
    how, _, note = str(data.attrs[f"{prefix}_protocol"]).partition("; ")
    text = f"{how}: p = {overall:.2g} for {len(p_values)} quantities together (Holm), least for {name}"
    return f"{text}; {note}" if note else text


def sbc_figure(data: Any, prefix: str) -> Figure:
    """Return the picture of the ranks of a calibration by simulation, one panel per quantity.

    Of more than 24 quantities the first ones are drawn, and ``log_p`` and ``tarp``.

    Args:
        data: The check as InferenceData.
        prefix: The prefix of the variables: ``sbc`` or ``posterior_sbc``.
    """
    constants, attributes = data.constant_data, data.attrs
    names = [str(name) for name in constants["quantity"].values]
    drawn_names: Sequence[str] = names if len(names) <= _MAX_PANELS else [*names[: _MAX_PANELS - 2], *names[-2:]]
    columns = min(COLUMNS, len(drawn_names))
    height = -(-len(drawn_names) // columns)
    figure = Figure(figsize=(CELL[0] * columns, CELL[1] * height + 1.0), layout="constrained")
    axes = figure.subplots(height, columns, squeeze=False).ravel()
    draws, p_values = int(attributes[f"{prefix}_draws"]), dict(zip(names, sbc_p_values(data, prefix), strict=True))
    for axis, name in zip(axes, drawn_names, strict=False):
        ranks = constants[f"{prefix}_rank"].sel(quantity=name).values
        draw_ecdf_difference(axis, (ranks + 1) / (draws + 1), cells=draws + 1)
        axis.set_title(f"{name}: p = {p_values[name]:.2g}", fontsize=7)
        axis.tick_params(labelsize=6)
    for axis in axes[len(drawn_names) :]:
        axis.axis("off")
    given = f"given {attributes[f'{prefix}_given']}" if attributes[f"{prefix}_given"] else "given nothing"
    how, _, note = str(attributes[f"{prefix}_protocol"]).partition("; ")
    few = f"; {len(drawn_names)} of {len(names)} quantities" if len(drawn_names) < len(names) else ""
    half = note.find(":") + 1
    note = f"\n{note[:half]}\n{note[half:].strip()}" if note else ""
    overall = min(1.0, len(names) * min(p_values.values()))
    figure.suptitle(
        f"ECDF of the rank of the true latent minus the diagonal, {given}; a uniform one lies in its band with "
        f"{LEVEL:.0%}\n{how}, {attributes[f'{prefix}_simulations']} simulations, seed {attributes[f'{prefix}_seed']}"
        f"{few}; p = {overall:.2g} for all quantities together (Holm){note}",
        fontsize=8,
    )
    return figure
