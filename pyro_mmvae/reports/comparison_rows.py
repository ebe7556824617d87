"""The values of a comparison, read from the evaluations of its runs, and their means over seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from pyro_mmvae._bounded import load_yaml, read_json, read_text
from pyro_mmvae.reports.evaluation_files import check_summary
from pyro_mmvae.reports.panels import RunLike, run_path
from pyro_mmvae.run_files import RunFiles, read_metrics

PLOTTED = ("probe", "coherence", "joint_coherence", "log_likelihood", "frechet_conditional")
"""The metrics that a comparison plots, and whose tables come first."""

Runs: TypeAlias = Sequence[RunLike] | Mapping[str, Sequence[RunLike]] | RunLike
"""Runs or their directories, the folder of a comparison, or runs by the name of the row that they belong to."""

Cell: TypeAlias = dict[str, Any]
"""The summary of the evaluation of one run, with its seed, its data and its training time."""


class Key(NamedTuple):
    """The position of a figure in the tables of a comparison.

    Attributes:
        aggregation: The name of the aggregation.
        variant: The name of the variant of the settings, empty if there are none.
        metric: The name of the metric.
        protocol: The protocol of the metric.
        views: The number of modalities given.
    """

    aggregation: str
    variant: str
    metric: str
    protocol: str
    views: int

    @property
    def label(self) -> str:
        """The name of the row: its aggregation, and the variant of the settings if there is one."""
        return row_name(self.aggregation, self.variant)


def row_name(aggregation: str, variant: str = "") -> str:
    """Return the name of a row of a comparison, such as ``"mopoe"`` or ``"mopoe, warm"``.

    Args:
        aggregation: The name of the aggregation.
        variant: The name of the variant of the settings; none by default.
    """
    return ", ".join(part for part in (aggregation, variant) if part)


def describe_recipes(recipes: Mapping[str, str]) -> str:
    """Return which rows of a comparison were trained with which recipe, empty if it is the same for all.

    Args:
        recipes: The recipe of each row, by the name of the row.

    Example:
        >>> describe_recipes({"poe": "plain", "wb": "contrastive", "mwb": "contrastive"})
        'plain: poe; contrastive: wb, mwb'
    """
    rows: dict[str, list[str]] = {}
    for name, recipe in recipes.items():
        rows.setdefault(recipe, []).append(name)
    return "; ".join(f"{recipe}: {', '.join(names)}" for recipe, names in rows.items()) if len(rows) > 1 else ""


def read_cells(runs: Runs) -> list[Cell]:
    """Read the evaluations of runs; runs without an evaluation are left out.

    Args:
        runs: The runs or their directories, or the folder of a comparison; by name, the runs of a name are one row.

    Raises:
        ValueError: If no run has an evaluation, or two runs have the same aggregation, variant and seed.
    """
    if isinstance(runs, Mapping):
        named = [(name, path) for name, some in runs.items() for path in run_directories(some)]
    else:
        named = [("", path) for path in run_directories(runs)]
    cells: dict[tuple[str, str, int], Cell] = {}
    for name, path in named:
        if (cell := _read(path)) is None:
            continue
        if name:
            cell |= {"aggregation": name, "variant": ""}
        key = cell["aggregation"], cell.get("variant", ""), cell["train_seed"]
        if key in cells:
            raise ValueError(
                f"runs must differ in aggregation, variant or seed, got {cells[key]['path']} and {path}: give the rows "
                "names, as in {'wb, beta 2': [...]}"
            )
        cells[key] = cell
    if not cells:
        raise ValueError(f"at least one run must have an evaluation, got none in {[str(path) for _, path in named]}")
    return list(cells.values())


def is_complete(summary: Mapping[str, Any]) -> bool:
    """Return True if the summary of an evaluation holds everything that the tables of a comparison show.

    Args:
        summary: The summary of an evaluation, which may come from anyone.
    """
    means, accuracy = summary.get("means_by_views"), summary.get("classifier_accuracy")
    words = summary.get("variant_settings", [])
    return (
        isinstance(summary.get("aggregation"), str)
        and isinstance(summary.get("train_seed"), int)
        and isinstance(summary.get("options"), dict)
        and isinstance(words, list)
        and all(isinstance(word, str) for word in words)
        and isinstance(accuracy, dict)
        and all(isinstance(value, (int, float)) for value in accuracy.values())
        and isinstance(means, dict)
        and all(has_means(protocols) for protocols in means.values())
    )


def has_means(protocols: Any) -> bool:
    """Return True if a value holds means by protocol and number of modalities given.

    Args:
        protocols: The value of one metric in a summary.
    """
    return isinstance(protocols, dict) and all(
        isinstance(by_views, dict)
        and all(views.isdecimal() and isinstance(value, (int, float)) for views, value in by_views.items())
        for by_views in protocols.values()
    )


def run_directories(runs: Sequence[RunLike] | RunLike) -> list[Path]:
    """Return the run directories, those inside of the folder of a comparison included.

    Args:
        runs: The runs or their directories, or the folder of a comparison, whose evaluated runs are taken.
    """
    paths = [run_path(run) for run in (runs if isinstance(runs, Sequence) and not isinstance(runs, str) else [runs])]
    found = []
    for path in paths:
        is_run = RunFiles(path).evaluation_summary.exists() or RunFiles(path).config.exists() or not path.is_dir()
        inside = [] if is_run else [p for p in sorted(path.iterdir()) if _is_evaluated(RunFiles(p))]
        found += inside or [path]
    return found


def _is_evaluated(files: RunFiles) -> bool:
    """Return True if a folder has the results of an evaluation, or of readings with other aggregations."""
    return files.evaluation_summary.exists() or files.readings_summary.exists()


def _read(path: Path) -> Cell | None:
    """Read the summary of a run's evaluation, or return None if there is none."""
    files = RunFiles(path)
    if not files.evaluation_summary.exists():
        return None
    summary: Cell = read_json(files.evaluation_summary)
    check_summary(files.evaluation_summary, summary)
    config = load_yaml(read_text(files.config)) if files.config.exists() else {}
    if "train_seed" not in summary:  # which the command evaluate does not write
        summary["train_seed"] = config.get("train", {}).get("seed", 0)
    epochs = read_metrics(path)
    return summary | {
        "path": str(path),
        "data": config.get("data"),
        "recipe": config.get("recipe", ""),  # none in runs of an earlier version
        "train_seconds": sum(s for row in epochs if isinstance(s := row.get("seconds"), (int, float))),
        "epochs": len(epochs),
    }


def values_by_seed(cells: Sequence[Cell]) -> dict[Key, dict[int, float]]:
    """Return every figure of a comparison by its position and, for each, by the seed of the training.

    Args:
        cells: The evaluations of the runs.
    """
    values: dict[Key, dict[int, float]] = {}
    for cell in cells:
        name, seed = (cell["aggregation"], cell.get("variant", "")), cell["train_seed"]
        for metric, protocols in cell["means_by_views"].items():
            for protocol, means in protocols.items():
                for views, value in means.items():
                    values.setdefault(Key(*name, metric, protocol, int(views)), {})[seed] = value
        values.setdefault(Key(*name, "train_seconds", "", 0), {})[seed] = cell["train_seconds"]
    return values


def summarise(values: Mapping[Key, Mapping[int, float]]) -> list[dict[str, Any]]:
    """Return one row per aggregation, variant, metric, protocol and number of modalities given.

    ``se`` is the standard error over seeds. ``se_items``, which only log likelihoods have, is that over the test items;
    all seeds are evaluated on the same items, so it does not shrink with their number. ``stands`` is the share of log
    likelihoods that stand, see :func:`pyro_mmvae.evaluation.held_out_log_likelihood`, and NaN for other metrics.

    Args:
        values: The figures by position and seed.
    """
    rows = []
    for key, replicates in values.items():
        if key.metric.endswith(("_se", "_stands")):
            continue
        standing = values.get(key._replace(metric=f"{key.metric}_stands"), {})
        over_items = values.get(key._replace(metric=f"{key.metric}_se"), {})
        rows.append(
            {
                **key._asdict(),
                "mean": float(np.mean(list(replicates.values()))),
                "se": standard_error(list(replicates.values())),
                "se_items": float(np.mean(list(over_items.values()))) if over_items else math.nan,
                "seeds": len(replicates),
                "stands": float(np.mean(list(standing.values()))) if standing else math.nan,
            }
        )
    return rows


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of a mean, or NaN for fewer than two values.

    Args:
        values: The values that the mean is taken over.
    """
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def key_of(row: Mapping[str, Any]) -> Key:
    """Return the position of a row.

    Args:
        row: A row of :func:`summarise`.
    """
    return Key(*(row[field] for field in Key._fields))


def table_keys(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the metric and protocol of each table, the most common metrics first.

    Args:
        rows: The rows of a comparison.
    """
    keys = dict.fromkeys((row["metric"], row["protocol"]) for row in rows)
    return sorted(keys, key=lambda key: PLOTTED.index(key[0]) if key[0] in PLOTTED else len(PLOTTED))


def find_row(name: str, labels: Sequence[str], settings: Mapping[str, str] | None = None) -> str:
    """Return the name of the row that a user means, whatever the spaces around its commas.

    Args:
        name: The name of an aggregation, or of an aggregation and a variant, as in ``"wb, warm"``, or of an aggregation
            and all settings of a variant, as in ``"wb, model.beta=2"``.
        labels: The names of all rows.
        settings: The aggregation and the settings of each row that has settings, by the name of the row, as
            :func:`row_settings` returns them; none by default.

    Raises:
        ValueError: If there is no such row; the message lists those there are.
    """
    parts = _parts(name)
    for label in labels:
        if _parts(label) == parts:
            return label
    for label, text in (settings or {}).items():
        if sorted(_parts(text)) == sorted(parts):  # settings have no order
            return label
    raise ValueError(f"baseline must be the name of a row ({'; '.join(labels)}), got {name!r}")


def row_settings(variants: Iterable[tuple[str, str, Sequence[str]]]) -> dict[str, str]:
    """Return the aggregation and the settings of each row whose variant has settings, by the name of the row.

    Args:
        variants: The aggregation, the name of the variant and its settings ``KEY=VALUE`` for each row.

    Example:
        >>> row_settings([("wb", "", []), ("wb", "beta_2", ["model.beta=2"])])
        {'wb, beta_2': 'wb, model.beta=2'}
    """
    return {row_name(name, variant): row_name(name, ", ".join(words)) for name, variant, words in variants if words}


def cell_settings(cells: Sequence[Cell]) -> dict[str, str]:
    """Return the aggregation and the settings of each row of evaluated runs, see :func:`row_settings`.

    Args:
        cells: The evaluations of the runs.
    """
    return row_settings((c["aggregation"], c.get("variant", ""), c.get("variant_settings", ())) for c in cells)


def _parts(name: str) -> list[str]:
    """Return the parts of the name of a row, without the spaces around commas and equals signs."""
    return [part.strip() for part in re.sub(r"\s*=\s*", "=", name).split(",")]
