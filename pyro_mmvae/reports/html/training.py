"""The curves of trainings in a page, one facet per quantity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pyro_mmvae.reports.html.embedding import rounded

_UNIT = "nats per item"

History = Sequence[Mapping[str, Any]]


def training_panels(rows: History) -> list[dict[str, Any]]:
    """Return the facets of one training: objective, KL divergence, each modality, penalties, and learned weights.

    Args:
        rows: The metrics of each epoch, as :func:`~pyro_mmvae.run_files.read_metrics` returns them.
    """
    if not rows:
        return []
    beta = rows[0].get("beta", 1.0)
    note = "" if beta == 1 else f"; the objective has β = {beta:g}"
    panels = [
        _panel(f"Evidence lower bound{note}", rows, ("objective",), ("val", "elbo")),
        _panel("KL divergence of posterior and prior", rows, ("kl",), ("val", "kl")),
    ]
    for name in rows[0].get("log_likelihood", {}):
        keys = ("log_likelihood", name), ("val", "log_likelihood", name)
        panels.append(_panel(name, rows, *keys, what="log likelihood of its reconstructions, "))
    for name in dict.fromkeys(name for row in rows for name in row.get("penalties", {})):
        panels.append(_panel(name, rows, ("penalties", name), None, what="penalty that is added to the loss, "))
    weights = [name for name, value in (rows[-1].get("expert_weights") or {}).items() if isinstance(value, int | float)]
    if weights:
        series = [{"name": name, "points": _points(rows, ("expert_weights", name))} for name in weights]
        about = "mean over validation items; 1 prefers none"
        panels.append({"title": "Learned expert weights λ", "subtitle": about, "unit": "λ", "series": series})
    return [panel for panel in panels if any(series["points"] for series in panel["series"])]


def _panel(
    title: str, rows: History, training: tuple[str, ...], validation: tuple[str, ...] | None, *, what: str = ""
) -> dict[str, Any]:
    series = [{"name": "training", "points": _points(rows, training)}]
    if validation is not None:
        series.append({"name": "validation", "points": _points(rows, validation)})
    return {
        "title": title, "subtitle": f"{what}{_UNIT}", "unit": _UNIT,
        "series": [one for one in series if one["points"]],
    }  # fmt: skip


def _points(rows: History, keys: tuple[str, ...]) -> list[Any]:
    """Return epochs and values, counted from epoch 1; epochs without a finite value are left out."""
    points = []
    for row in rows:
        value: Any = row
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float) and math.isfinite(value):
            points.append([int(row["epoch"]) + 1, *rounded([value], 8)])
    return points


def compared_panels(histories: Mapping[str, History], groups: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the facets of several trainings, with one line per run, of figures of validation items.

    Args:
        histories: The metrics of each epoch by the name of the run.
        groups: The row that each run belongs to, by the name of the run; its runs share a colour.
    """
    keys: dict[str, tuple[str, ...]] = {
        "Validation evidence lower bound": ("val", "elbo"),
        "Validation KL divergence": ("val", "kl"),
    }
    for rows in histories.values():
        for name in rows[0].get("log_likelihood", {}) if rows else ():
            keys.setdefault(name, ("val", "log_likelihood", name))
    panels = []
    for title, path in keys.items():
        series = [
            {"name": name, "group": groups[name], "points": _points(rows, path)} for name, rows in histories.items()
        ]
        what = "validation log likelihood of its reconstructions, " if len(path) > 2 else ""
        series = [one for one in series if one["points"]]
        if series:
            panels.append({"title": title, "subtitle": f"{what}{_UNIT}", "unit": _UNIT, "series": series})
    return panels
