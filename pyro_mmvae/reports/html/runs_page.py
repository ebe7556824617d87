"""The data of a page on several runs: their figures side by side, and differences paired by seed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from pyro_mmvae.reports.comparison_rows import (
    PLOTTED,
    Cell,
    Key,
    cell_settings,
    find_row,
    key_of,
    read_cells,
    row_name,
    summarise,
    table_keys,
    values_by_seed,
)
from pyro_mmvae.reports.comparison_tables import difference_tables, mean_tables
from pyro_mmvae.reports.html.embedding import rounded
from pyro_mmvae.reports.html.facts import group_findings, part_name, read_config, setting
from pyro_mmvae.reports.metric_names import metric_label
from pyro_mmvae.reports.paired import LEVEL, differences_from, other_data
from pyro_mmvae.reports.texts import protocol_label
from pyro_mmvae.run_files import RunFiles, read_metrics

_SEED = re.compile(r"[-_]?seed[-_]?\d+$")


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the run directories among some paths and inside of the folders of comparisons.

    Args:
        paths: Run directories, or folders that contain run directories.

    Raises:
        FileNotFoundError: If a path does not exist, or neither is a run directory nor contains one.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: must be a run directory or a folder of runs, got no such folder")
        if RunFiles(path).config.exists():
            found.append(path)
            continue
        inside = [child for child in sorted(path.iterdir()) if child.is_dir() and RunFiles(child).config.is_file()]
        if not inside:
            raise FileNotFoundError(f"{path}: must be a run directory or a folder of runs, got one without config.yaml")
        found += inside
    return list(dict.fromkeys(found))


def row_of(path: Path, config: Mapping[str, Any]) -> str:
    """Return the name of the row of a run: that of its directory without the seed, or its aggregation.

    Args:
        path: The path of the run directory.
        config: The configuration of the run.
    """
    return _SEED.sub("", path.name) or part_name(setting(config, "model", "aggregation"))


def read_runs(paths: Sequence[Path]) -> list[Cell]:
    """Read the evaluations of runs; empty if none was evaluated.

    Runs that agree in aggregation, variant and seed are rows by the names of their directories without the seed, or
    with it if these agree too.

    Args:
        paths: The run directories, in the order of the page.

    Raises:
        ValueError: If two runs cannot be told apart by their directories either.
    """
    evaluated = [path for path in paths if RunFiles(path).evaluation_summary.exists()]
    if not evaluated:
        return []
    for name in (None, lambda path: row_of(path, {}), lambda path: path.name, str):
        try:
            return read_cells(evaluated if name is None else _named(evaluated, name))
        except ValueError as error:
            if "must differ" not in str(error) or name is str:
                raise
    raise AssertionError("unreachable: the last name either returns or raises")


def _named(paths: Sequence[Path], name: Any) -> dict[str, list[Path]]:
    """Return the paths by the names of their rows."""
    rows: dict[str, list[Path]] = {}
    for path in paths:
        rows.setdefault(name(path), []).append(path)
    return rows


def label_of(cell: Cell) -> str:
    """Return the name of the row of a run.

    Args:
        cell: The evaluation of the run.
    """
    return row_name(cell["aggregation"], cell.get("variant", ""))


def comparison_data(cells: Sequence[Cell], baseline: str | None) -> dict[str, Any]:
    """Return the figures of several runs by row, and the differences from a baseline.

    Intervals are 95 % intervals of Student's t distribution over seeds; a row with one seed does not have them.

    Args:
        cells: The evaluations of the runs.
        baseline: The name of the row that the others are compared with; by default the first row, if it has a seed in
            common with another one.

    Raises:
        ValueError: If there is no row of that name.
    """
    values = values_by_seed(cells)
    rows = summarise(values)
    labels = list(dict.fromkeys(key_of(row).label for row in rows))
    name = find_row(baseline, labels, cell_settings(cells)) if baseline is not None else labels[0]
    differences = differences_from(values, name) if len(labels) > 1 else {}
    attributes = any(bool(cell.get("attribute_frequency")) for cell in cells)
    means, changes = mean_tables(rows), difference_tables(rows, differences) if differences else {}
    figures = []
    for metric, protocol in table_keys(rows):
        table = means[metric, protocol]
        lines = {label: [r for r in rows if key_of(r).label == label] for label in labels}
        figures.append(
            {
                "metric": metric,
                "protocol": protocol_label(metric, protocol),
                "unit": metric_label(metric, attributes=attributes),
                "main": metric in PLOTTED,
                "columns": [str(column) for column in table.columns],
                "table": [[str(label), *map(str, row)] for label, row in zip(table.index, table.values, strict=True)],
                "changes": _texts(changes.get((metric, protocol))),
                "series": [
                    {"name": label, "points": [_point(r) for r in members if _is(r, metric, protocol)]}
                    for label, members in lines.items()
                ],
                "differences": [
                    _difference(key, value) for key, value in differences.items() if _fits(key, metric, protocol)
                ],
            }
        )
    return {
        "baseline": name if differences else "",
        "labels": labels,
        "figures": figures,
        "otherData": other_data(cells, name) if differences else [],
        "seeds": {label: sorted({cell["train_seed"] for cell in cells if label_of(cell) == label}) for label in labels},
    }


def _texts(table: Any) -> list[list[str]]:
    """Return a table of texts with the names of its rows first; empty without a table."""
    if table is None:
        return []
    return [[str(label), *map(str, row)] for label, row in zip(table.index, table.values, strict=True)]


def _is(row: Mapping[str, Any], metric: str, protocol: str) -> bool:
    return bool(row["metric"] == metric and row["protocol"] == protocol)


def _fits(key: Key, metric: str, protocol: str) -> bool:
    return key.metric == metric and key.protocol == protocol


def _point(row: Mapping[str, Any]) -> list[Any]:
    """Return number of modalities, mean and interval of a figure."""
    mean, half = row["mean"], math.nan
    if row["seeds"] > 1:
        half = row["se"] * float(stats.t.ppf(1 - LEVEL / 2, row["seeds"] - 1))
    point: list[Any] = rounded([row["views"], mean, mean - half, mean + half], 7)
    return point


def _difference(key: Key, value: Any) -> dict[str, Any]:
    low, high = value.mean - value.half_width, value.mean + value.half_width
    return {
        "label": key.label,
        "views": key.views,
        "points": rounded([value.mean, low, high], 7),
        "pairs": value.pairs,
        "p": rounded(value.p_holm, 3),
        "significant": bool(value.is_significant),
    }


def run_rows(paths: Sequence[Path], cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return one row per run: where it is, what it was trained with, and what was found.

    Args:
        paths: The run directories, in the order of the page.
        cells: The evaluations of those that were evaluated.
    """
    by_path = {cell["path"]: cell for cell in cells}
    rows = []
    for path in paths:
        _, config = read_config(path)
        history = read_metrics(path)
        cell = by_path.get(str(path))
        elbos = [row["val"]["elbo"] for row in history if isinstance(setting(row, "val", "elbo"), int | float)]
        findings = group_findings(cell.get("warnings", []) if cell else [])
        rows.append(
            {
                "path": str(path),
                "name": path.name,
                "row": label_of(cell) if cell else row_of(path, config),
                "aggregation": part_name(setting(config, "model", "aggregation")),
                "data": part_name(setting(config, "data", "name")),
                "seed": setting(config, "train", "seed"),
                "epochs": len(history),
                "elbo": f"{max(elbos):,.1f}" if elbos else "–",
                "seconds": sum(row.get("seconds", 0.0) for row in history),
                "evaluated": cell is not None,
                "findings": [finding for finding in findings if finding["advice"]],
                "history": history,
                "config": config,
            }
        )
    return rows


def config_differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return the settings in which configurations differ, with the value of each one.

    Args:
        configs: The configurations, as trees.

    Returns:
        The key of each setting, with dots between levels, and its values as text, empty where it is not there.
    """
    flat = [dict(_flatten(config, "")) for config in configs]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    table = [(key, [settings.get(key, "") for settings in flat]) for key in keys]
    return [(key, values) for key, values in table if len(set(values)) > 1]


def _flatten(tree: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    """Return the settings of a tree, with dots between the keys of its levels."""
    pairs: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            pairs += _flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", str(value)))
    return pairs
