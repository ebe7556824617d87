"""The table of a posterior predictive check, read from its netCDF file alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyro_mmvae.reports.check_files import CheckFile, read_check
from pyro_mmvae.reports.ecdf import pit_p_value, sbc_summary
from pyro_mmvae.run_files import split_key

_SHOWN_FIRST = 2  # the number of statistics per modality in a table, unless all are asked for
_TABLE_COLUMNS = 6  # the largest number of statistics side by side in a table
_LOCAL_ALPHA = 0.05  # the p-value of the local test below which an item counts as rejected


def ppc_table(file: Path, *, level: float = 0.9, alpha: float = 0.01, every_statistic: bool = False) -> str:
    """Return one check as text: the share of observations inside the predictive interval of each statistic.

    The first two statistics of each modality are shown, unless all are asked for.

    Args:
        file: The netCDF file of a check.
        level: The nominal level of the interval, one of those in the file; 0.9 by default.
        alpha: The p-value of the test of uniform PIT values below which a statistic gets a star; 0.01 by default.
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
        p_value = pit_p_value(data, key)
        star = "" if bool(row["in_sample"]) else "°" if p_value is None else "*" if p_value < alpha else " "
        row_name = f"{name} (given)" if bool(row["in_sample"]) else name
        cells.setdefault(row_name, {})[label] = f"{float(row['coverage'].sel(level=level)):.2f}{star}"
    every = {label for row in cells.values() for label in row}
    shown = {label for row in cells.values() for label in (row if every_statistic else list(row)[:_SHOWN_FIRST])}
    more = f"; {len(shown)} of {len(every)} statistics, --all shows the others" if len(shown) < len(every) else ""
    error = float(constants["coverage_error"].sel(level=level).max())  # the largest, of items that share most
    lines = [
        f"given {attributes['given'] or 'nothing'}: {attributes['protocol']}, {attributes['items']} items, seed "
        f"{attributes['seed']}",
        f"share of items in the {level:.0%} predictive interval (± {error:.2f}){more}",
        *_blocks(cells, list(dict.fromkeys(label for row in cells.values() for label in row if label in shown))),
    ]
    if any("*" in cell for row in cells.values() for cell in row.values()):
        lines.append(f"* PIT values not uniform, p < {alpha:g} of the exact test of their ECDF: miscalibrated")
    if any("°" in cell for row in cells.values() for cell in row.values()):
        lines.append("° determined by what the draws are conditioned on, such as a size factor: not judged")
    lines += _noisier(data)
    if any("given" in name for name in cells):
        lines.append("(given): in-sample, conservative by construction and not judged")
    lines += _dependence(data)
    lines += [sbc_summary(data, prefix) for prefix in ("sbc", "posterior_sbc") if f"{prefix}_rank" in constants]
    if "lc2st_p_value" in constants:
        share = float((constants["lc2st_p_value"].values <= _LOCAL_ALPHA).mean())
        lines.append(
            f"{attributes['lc2st_protocol']}: p = {float(attributes['lc2st_overall_p_value']):.2g} for all items, "
            f"{share:.0%} of them below {_LOCAL_ALPHA:g}"
        )
    return "\n".join(line.rstrip() for line in lines)


def _dependence(data: CheckFile) -> list[str]:
    """Return a line about items that share observations, if there are any."""
    constants = data.constant_data
    if "independent" not in constants or bool(constants["in_sample"].all()):
        return []
    judged = ~constants["in_sample"].values
    kept, all_items = constants["independent"].values[judged].sum(-1), constants["n"].values[judged]
    if (kept == all_items).all():
        return []
    least = int(kept.argmin())
    return [
        f"items share observations, such as one digit image: the test of PIT values takes {kept[least]} of "
        f"{all_items[least]} that share none"
    ]


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
