"""The table of a posterior predictive check, read from its netCDF file alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from pyro_mmvae.reports.check_files import CheckFile, read_check
from pyro_mmvae.run_files import split_key

_SHOWN_FIRST = 2  # the number of statistics per modality in a table, unless all are asked for
_TABLE_COLUMNS = 6  # the largest number of statistics side by side in a table


def ppc_table(file: Path, *, level: float = 0.9, alpha: float = 0.01, every_statistic: bool = False) -> str:
    """Return one check as text: the share of observations inside the predictive interval of each statistic.

    The first two statistics of each modality are shown, unless all are asked for.

    Args:
        file: The netCDF file of a check.
        level: The nominal level of the interval, one of those in the file; 0.9 by default.
        alpha: The p-value of the Kolmogorov–Smirnov test of uniform PIT values below which a statistic gets a star;
            0.01 by default.
        every_statistic: If True, all statistics are shown, six side by side; False by default.

    Returns:
        The table as several lines.
    """
    data = read_check(file)
    constants, attributes = data.constant_data, data.attrs
    cells: dict[str, dict[str, str]] = {}
    for key in (str(key) for key in constants["statistic"].values):
        row = constants.sel(statistic=key)
        name, label = split_key(key, modality_names(data))
        p_value = float(row["ks_p_value"])
        star = "" if bool(row["in_sample"]) else "*" if p_value < alpha else "°" if math.isnan(p_value) else " "
        row_name = f"{name} (given)" if bool(row["in_sample"]) else name
        cells.setdefault(row_name, {})[label] = f"{float(row['coverage'].sel(level=level)):.2f}{star}"
    every = {label for row in cells.values() for label in row}
    shown = {label for row in cells.values() for label in (row if every_statistic else list(row)[:_SHOWN_FIRST])}
    more = f"; {len(shown)} of {len(every)} statistics, --all shows the others" if len(shown) < len(every) else ""
    error = math.sqrt(level * (1 - level) / int(attributes["items"]))
    lines = [
        f"given {attributes['given'] or 'nothing'}: {attributes['protocol']}, {attributes['items']} items, seed "
        f"{attributes['seed']}",
        f"share of items in the {level:.0%} predictive interval (± {error:.2f}){more}",
        *_blocks(cells, list(dict.fromkeys(label for row in cells.values() for label in row if label in shown))),
    ]
    if any("*" in cell for row in cells.values() for cell in row.values()):
        lines.append(f"* PIT values not uniform, Kolmogorov-Smirnov p < {alpha:g}: miscalibrated")
    if any("°" in cell for row in cells.values() for cell in row.values()):
        lines.append("° determined by what the draws are conditioned on, such as a size factor: not judged")
    lines += _noisier(data)
    if any("given" in name for name in cells):
        lines.append("(given): in-sample, conservative by construction and not judged")
    if not bool(constants["in_sample"].all()):
        lines.append(
            "Kolmogorov-Smirnov p-values assume independent items: tuples that share observations, such as those of "
            "polymnist-mini, are not, and get p-values that are too small"
        )
    if "sbc_note" in attributes or "sbc_protocol" in attributes:
        quantities = constants.sizes["quantity"]
        # The least of Holm's corrected p-values is that of Bonferroni.
        worst = min(1.0, quantities * float(constants["sbc_p_value"].min()))
        lines.append(
            f"{attributes['sbc_protocol']}: least chi-square p of {quantities}, corrected for their number (Holm): "
            f"{worst:.2g}"
        )
    return "\n".join(line.rstrip() for line in lines)


def modality_names(data: CheckFile) -> list[str]:
    """Return the names of the modalities of a check."""
    return [str(name) for name in data.constant_data["modality"].values]


def _blocks(cells: dict[str, dict[str, str]], labels: list[str]) -> list[str]:
    """Return the lines of a table of modalities by statistics, a few statistics side by side.

    A column is as wide as its header, and a modality without any statistic of a block is left out of it.
    """
    width, lines = max(map(len, cells)), list[str]()
    for start in range(0, len(labels), _TABLE_COLUMNS):
        block = labels[start : start + _TABLE_COLUMNS]
        widths = {label: max(len(label), len("0.00*")) + 2 for label in block}
        lines.append(" " * width + "".join(f"{label:>{widths[label]}}" for label in block))
        for name, row in cells.items():
            if any(label in row for label in block):
                lines.append(f"{name:<{width}}" + "".join(f"{row.get(k, ''):>{widths[k]}}" for k in block))
    return lines


def _noisier(data: CheckFile) -> list[str]:
    """Return a line about modalities of which every replicate has more contrast than any observation.

    Their likelihood is wider than the data, as a fixed scale may make it.
    """
    cases = []
    for key in (str(key) for key in data.constant_data["statistic"].values):
        name, label = split_key(key, modality_names(data))
        replicated, observed = data.posterior_predictive[key].values, data.observed_data[key].values
        if label == "contrast" and np.nanmin(replicated) > np.nanmax(observed):
            cases.append(f"{name} {np.nanmean(replicated):.2f} (observed {np.nanmean(observed):.2f})")
    if not cases:
        return []
    # Every model of pixels shows it with the defaults, good ones too: a note and not a warning.
    return [
        f"note: replicates are noisier than data, contrast of {', '.join(cases)}: model.scale is fixed, "
        "0.75 by default; learned fits it"
    ]
