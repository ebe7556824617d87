"""The posterior predictive checks in a page: the ECDF of PIT values with its band, and coverage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyro_mmvae.reports.check_files import CheckFile, read_check
from pyro_mmvae.reports.check_table import modality_names, ppc_table
from pyro_mmvae.reports.ecdf import LEVEL, independent_values, pit_p_value
from pyro_mmvae.reports.html.embedding import rounded
from pyro_mmvae.run_files import RunFiles, split_key
from pyro_mmvae.uniformity import POINTS, ecdf_band

ALPHA = 0.01
"""The p-value of the test of uniform PIT values below which a statistic counts as miscalibrated."""

_COVERAGE = 0.9
_MAX_STATISTICS = 8  # the largest number of statistics of a modality in one check


def check_data(path: Path) -> list[dict[str, Any]]:
    """Return all posterior predictive checks of a run; empty if there are none.

    Args:
        path: The path of the run directory.
    """
    return [_check(read_check(file), file) for file in RunFiles(path).checks()]


def _check(data: CheckFile, file: Path) -> dict[str, Any]:
    names = modality_names(data)
    panels: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    for key in (str(key) for key in data.constant_data["statistic"].values):
        name, label = split_key(key, names)
        counts[name] = counts.get(name, 0) + 1
        if counts[name] <= _MAX_STATISTICS:
            panels.append({"modality": name, "statistic": label, **_panel(data, key)})
    judged = [panel for panel in panels if panel["p"] is not None and not panel["given"]]
    given = str(data.attrs["given"])
    return {
        "given": given,
        "about": f"{data.attrs['protocol']}; {data.attrs['items']} items, seed {data.attrs['seed']}",
        "level": LEVEL,
        "judged": len(judged),
        "miscalibrated": sum(panel["p"] < ALPHA for panel in judged),
        "left": sum(max(count - _MAX_STATISTICS, 0) for count in counts.values()),
        "table": ppc_table(file, every_statistic=True),
        "panels": panels,
    }


def _panel(data: CheckFile, key: str) -> dict[str, Any]:
    """Return the ECDF of the PIT values of a statistic minus the diagonal, its band, and its coverage."""
    row = data.constant_data.sel(statistic=key)
    values = independent_values(data, key)
    values = values[np.isfinite(values)]
    result: dict[str, Any] = {
        "given": bool(row["in_sample"]),
        "p": pit_p_value(data, key),
        "coverage": rounded(float(row["coverage"].sel(level=_COVERAGE)), 3),
        "n": len(values),
        "points": [],
    }
    if len(values):
        band = ecdf_band(len(values), POINTS, LEVEL)
        ecdf = np.searchsorted(np.sort(values), band.points, side="right") / len(values)
        columns = (band.points, ecdf - band.points, band.lower - band.points, band.upper - band.points)
        result["points"] = rounded(np.stack(columns, -1)[::2], 3)
    return result
