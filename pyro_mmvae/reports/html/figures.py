"""The figures of an evaluation in a page: metrics by number of modalities given, cross-generation, and k̂."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_mmvae._bounded import read_text
from pyro_mmvae.exhibits import LatentMap
from pyro_mmvae.reports.evaluation_files import read_arrays
from pyro_mmvae.reports.html.embedding import rounded
from pyro_mmvae.reports.html.items import map_data
from pyro_mmvae.reports.metric_names import metric_label
from pyro_mmvae.reports.texts import protocol_label
from pyro_mmvae.run_files import RunFiles, split_names

SHARES = ("probe", "coherence", "joint_coherence", "agreement")
"""The metrics that are shares of items, for which there are binomial intervals unless the labels are attributes."""

_BY_VIEWS = ("probe", "coherence", "joint_coherence", "log_likelihood", "ess")
_CROSSED = {
    "coherence": "higher", "frechet_conditional": "lower", "precision": "higher", "recall": "higher",
    "density": "higher", "coverage": "higher", "mse": "lower", "ssim": "higher", "exact_match": "higher",
    "diversity": "",
}  # fmt: skip
_COLUMNS = ("metric", "protocol", "given", "target", "value", "n")  # those that are read
_MOST_ITEMS = 2**53
_BOUND = "; lower bounds that do not stand, which do not rank models"
_Z = 1.959964  # the quantile of a standard Normal distribution that leaves out 2.5 %

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Read the table of a run's evaluation, one row per metric, protocol, subset and target.

    Args:
        path: The path of the run directory.

    Returns:
        The rows, with ``given`` as a tuple of names and numbers as numbers; rows without a finite value are left out.

    Raises:
        ValueError: If the file is not such a table; the message names it.
    """
    file = RunFiles(path).evaluation_table
    try:
        text = read_text(file)
        if not text.strip():  # of an evaluation that computed none of these metrics, such as one of imputations
            return []
        reader = csv.DictReader(text.splitlines())
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"it lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
        return [parsed for row in reader if (parsed := _parse(row, reader.line_num)) is not None]
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{file}: must be the table of an evaluation, got an error: {str(error)[:200]}") from None


def _parse(row: Row, line: int) -> Row | None:
    """Return a row of the table with numbers as numbers, or None if it does not have a finite value."""
    if any(row[name] is None for name in _COLUMNS):
        raise ValueError(f"line {line} has too few cells")
    try:
        if not math.isfinite(value := float(row["value"])):
            return None
        count = float(row["n"])
    except ValueError:
        raise ValueError(f"line {line}: value and n must be numbers") from None
    if not 0 <= count < _MOST_ITEMS:
        raise ValueError(f"line {line}: n must be a number of items, got {row['n'][:40]}")
    given = split_names(row["given"])
    return {**row, "given": given, "views": len(given), "value": value, "n": int(count)}


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share by Wilson's method (1927).

    Args:
        share: The share of items, from 0 to 1.
        count: The number of items, at least one.

    Example:
        >>> [round(end, 3) for end in wilson_interval(0.5, 100)]
        [0.404, 0.596]
    """
    squared = _Z**2 / count
    middle = (share + squared / 2) / (1 + squared)
    half = _Z / (1 + squared) * math.sqrt(share * (1 - share) / count + squared / (4 * count))
    return middle - half, middle + half


def views_panels(rows: Sequence[Row], *, attributes: bool) -> list[dict[str, Any]]:
    """Return the metrics by number of modalities given, with intervals and the figures of single subsets.

    The interval of a share is Wilson's for its mean over subsets. All subsets are judged on one set of items, whose
    number is that of the interval: it is conservative, since the mean of several figures varies at most as one does.
    The interval of a log likelihood is 1.96 standard errors over items wide on either side.

    Args:
        rows: The rows of :func:`read_rows`.
        attributes: If True, the labels are attributes, whose metrics are not shares of items.
    """
    errors = {
        (row["protocol"], row["given"], row["target"]): row["value"]
        for row in rows
        if row["metric"] == "log_likelihood_se"
    }
    bounds = {
        (row["protocol"], row["target"])
        for row in rows
        if row["metric"] == "log_likelihood_stands" and row["value"] < 1
    }
    panels: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        metric, target = row["metric"], row["target"]
        if metric in _BY_VIEWS and not (metric == "probe" and target):
            of = target if metric in {"log_likelihood", "ess"} else ""
            lines = panels.setdefault((metric, of), {})
            is_bound = metric == "log_likelihood" and (row["protocol"], target) in bounds
            name = protocol_label(metric, row["protocol"]) + _BOUND * is_bound
            lines.setdefault(name, []).append(row)
    result = []
    for (metric, target), protocols in sorted(panels.items(), key=lambda item: _BY_VIEWS.index(item[0][0])):
        is_share = metric in SHARES and not attributes
        series = [
            {"name": name, **_by_views(members, errors if metric == "log_likelihood" else {}, is_share=is_share)}
            for name, members in protocols.items()
        ]
        label = metric_label(metric, attributes=attributes)
        result.append({"metric": metric, "target": target, "unit": label, "share": is_share, "series": series})
    return result


def _by_views(
    rows: Sequence[Row], errors: Mapping[tuple[str, tuple[str, ...], str], float], *, is_share: bool
) -> dict[str, Any]:
    """Return the points of one line, with the ends of an interval if there is one, and the single figures."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["views"], []).append(row)
    points = []
    for views, members in sorted(groups.items()):
        mean = float(np.mean([row["value"] for row in members]))
        found = [errors.get((row["protocol"], row["given"], row["target"]), math.nan) for row in members]
        low = high = math.nan
        if is_share and 0 <= mean <= 1:
            low, high = wilson_interval(mean, max(min(row["n"] for row in members), 1))
        elif found and all(map(math.isfinite, found)):
            # Errors of subsets on one set of items are not independent; their mean bounds that of the mean.
            half = _Z * float(np.mean(found))
            low, high = mean - half, mean + half
        points.append(rounded([views, mean, low, high], 7))
    dots = [
        [row["views"], *rounded([row["value"]], 7), list(row["given"]), row["target"]]
        for row in rows
        if len(groups[row["views"]]) > 1
    ]
    return {"points": points, "dots": dots}


def matrix_data(rows: Sequence[Row], names: Sequence[str], *, attributes: bool) -> list[dict[str, Any]]:
    """Return the figures of every target given every subset, by metric and protocol.

    Args:
        rows: The rows of :func:`read_rows`.
        names: The names of all modalities.
        attributes: If True, the labels are attributes, whose metrics have other names.
    """
    number = {name: index for index, name in enumerate(names)}
    metrics: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        known = row["target"] in number and row["given"] and all(name in number for name in row["given"])
        if row["metric"] in _CROSSED and known:
            cell = [[number[name] for name in row["given"]], number[row["target"]], *rounded([row["value"]]), row["n"]]
            metrics.setdefault((row["metric"], row["protocol"]), []).append(cell)
    order = list(_CROSSED)
    return [
        {
            "metric": metric,
            "protocol": protocol,
            "unit": metric_label(metric, attributes=attributes),
            "better": _CROSSED[metric],
            "share": metric == "coherence" and not attributes,
            "cells": cells,
        }
        for (metric, protocol), cells in sorted(metrics.items(), key=lambda item: order.index(item[0][0]))
    ]


def khat_data(path: Path) -> dict[str, Any] | None:
    """Return the diagnostic PSIS k̂ of every item, by the subset given; None if it was not computed.

    Args:
        path: The path of the run directory.
    """
    arrays = read_arrays(path)
    if "khat_threshold" not in arrays:
        return None
    groups = []
    for key in (key for key in arrays if key.startswith("khat.")):
        values = np.asarray(arrays[key], dtype=np.float64)
        groups.append(
            {
                "given": list(split_names(key.removeprefix("khat."))),
                "values": rounded(values[np.isfinite(values)], 3),
                "infinite": int((~np.isfinite(values)).sum()),
            }
        )
    return {"threshold": float(arrays["khat_threshold"]), "groups": groups}


def stored_map(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the map that an evaluation stored, given all modalities and without distances of experts.

    Args:
        arrays: The arrays of the evaluation.
    """
    points = np.asarray(arrays["latent"], dtype=np.float64)
    count, labels, title = len(points), None, ""
    if "labels" in arrays:
        names = ("no", "yes") if "label_name" in arrays else tuple(map(str, arrays.get("class_names", ())))
        codes = np.asarray(arrays["labels"]).astype(int).tolist()
        texts = ["" if code < 0 else names[code] if code < len(names) else str(code) for code in codes]
        labels, title = np.array(texts, dtype=np.str_), str(arrays.get("label_name", ""))
    latent = LatentMap(
        subsets=((),), points=points[None], seen=np.ones((1, count), dtype=np.bool_),
        explained=np.asarray(arrays["explained"]), labels=labels, title=title,
        disagreement=np.full(count, np.nan), ids=np.arange(count).astype(np.str_),
    )  # fmt: skip
    return map_data(latent)
