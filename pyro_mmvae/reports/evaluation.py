"""Pictures and the terminal table of an evaluation, from ``evaluation/`` alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyro_mmvae.reports.plots import save_figure

_LABELS = {
    "probe": "linear probe, accuracy",
    "coherence": "conditional coherence",
    "log_likelihood": "log likelihood, nats an item",
    "ess": "effective sample size",
}


def draw_evaluation(path: Path) -> list[Path]:
    """Draw what there is of a run's evaluation into ``plots/``.

    Args:
        path: a run directory.

    Returns:
        The files drawn: ``views.png``, and ``latent.png`` where there are classes.
    """
    summary = json.loads((path / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    plots = path / "plots"
    plots.mkdir(exist_ok=True)
    drawn = [_by_views(summary["means_by_views"], plots / "views.png")]
    with np.load(path / "evaluation" / "arrays.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if "latent" in arrays and "labels" in arrays:
        drawn.append(_latent_map(arrays, plots / "latent.png"))
    return drawn


def table(path: Path) -> str:
    """The means by number of views, as text.

    Args:
        path: a run directory.
    """
    summary = json.loads((path / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    rows = []
    most = 0
    for metric, protocols in summary["means_by_views"].items():
        for protocol, means in protocols.items():
            values = {int(views): value for views, value in means.items()}
            most = max(most, *values)
            rows.append((metric, protocol, values))
    first = max(len(f"{metric} ({protocol})") for metric, protocol, _ in rows)
    lines = [" " * first + "  views " + "".join(f"{views:>10}" for views in range(most + 1))]
    for metric, protocol, values in rows:
        cells = "".join(f"{values[v]:>10.3f}" if v in values else " " * 10 for v in range(most + 1))
        lines.append(f"{f'{metric} ({protocol})':<{first}}        {cells}".rstrip())
    accuracy = summary["classifier_accuracy"]
    if accuracy:
        lines.append("classifiers' test accuracy: " + ", ".join(f"{n} {a:.3f}" for n, a in accuracy.items()))
    return "\n".join(lines)


def _by_views(means: dict[str, dict[str, dict[str, float]]], file: Path) -> Path:
    shown = [metric for metric in _LABELS if metric in means]
    figure = Figure(figsize=(4.2 * max(len(shown), 1), 3.4), layout="constrained")
    for axis, metric in zip(np.atleast_1d(figure.subplots(1, max(len(shown), 1))), shown, strict=False):
        for protocol, values in means[metric].items():
            axis.plot([int(v) for v in values], list(values.values()), "o-", ms=4, label=protocol)
        axis.set(xlabel="modalities given", ylabel=_LABELS[metric])
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6)
    return save_figure(figure, file)


def _latent_map(arrays: dict[str, NDArray[Any]], file: Path) -> Path:
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axis = figure.subplots()
    x, y = arrays["latent"].T
    points = axis.scatter(x, y, c=arrays["labels"], cmap="tab10", s=5, linewidths=0)
    first, second = (100 * share for share in arrays["explained"])
    axis.set(
        title="posterior means given everything, test items",
        xlabel=f"principal component 1 ({first:.0f} % of the variance)",
        ylabel=f"principal component 2 ({second:.0f} %)",
    )
    figure.colorbar(points, ax=axis, label="class")
    return save_figure(figure, file)
