"""The pictures and the terminal table of an evaluation, drawn from the folder ``evaluation/`` alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyro_mmvae.reports.plots import save_figure
from pyro_mmvae.reports.texts import legend_label, plain_text
from pyro_mmvae.run_files import RunFiles, split_names

_LABELS = {
    "probe": "linear probe",
    "coherence": "conditional coherence",
    "log_likelihood": "log likelihood, nats per item",
    "ess": "effective sample size",
}
_TABLE = (
    "probe", "coherence", "joint_coherence", "log_likelihood", "log_likelihood_se", "ess", "khat", "khat_share",
    "mse", "ssim", "exact_match", "frechet_classifier", "fid", "kl", "active_units", "expert_kl",
)  # fmt: skip


@plain_text
def draw_evaluation(path: Path) -> list[Path]:
    """Draw the pictures of a run's evaluation into ``plots/``.

    Args:
        path: The path of the run directory.

    Returns:
        The files drawn: ``views.png``, ``khat.png`` if PSIS k̂ was computed, ``latent.png`` if there are labels.
    """
    summary = json.loads(RunFiles(path).evaluation_summary.read_text(encoding="utf-8"))
    plots = RunFiles(path).plots
    plots.mkdir(exist_ok=True)
    drawn = [_by_views(summary["means_by_views"], plots / "views.png")]
    with np.load(RunFiles(path).evaluation_arrays, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if "khat_threshold" in arrays:
        drawn.append(_khat(arrays, summary["options"], plots / "khat.png"))
    if "latent" in arrays and "labels" in arrays:
        drawn.append(_latent_map(arrays, plots / "latent.png"))
    return drawn


def table(path: Path) -> str:
    """Return the means by number of modalities given as text, with protocols as notes below, and the findings.

    Args:
        path: The path of the run directory.

    Returns:
        The table as several lines.
    """
    summary = json.loads(RunFiles(path).evaluation_summary.read_text(encoding="utf-8"))
    rows, notes, max_views = [], list[str](), 0
    for metric in _TABLE:
        for protocol, means in summary["means_by_views"].get(metric, {}).items():
            values = {int(views): value for views, value in means.items()}
            max_views = max(max_views, *values)
            notes += [] if protocol in notes else [protocol]
            rows.append((f"{metric} [{notes.index(protocol) + 1}]", values))
    first = max((len(name) for name, _ in rows), default=0)
    lines = [f"{'modalities given':<{first}}" + "".join(f"{views:>11}" for views in range(max_views + 1))]
    for name, values in rows:
        cells = "".join(f"{values[v]:>11.3f}" if v in values else " " * 11 for v in range(max_views + 1))
        lines.append(f"{name:<{first}}{cells}".rstrip())
    lines += [f"[{number}] {protocol}" for number, protocol in enumerate(notes, 1)]
    if any(name.startswith("log_likelihood ") for name, _ in rows):
        lines.append("log_likelihood: nats per item; pixels in [0, 1], not dequantised; vectors in their own units")
    options = summary["options"]
    lines.append(f"seed {options['seed']}; means over subsets and targets, whose single rows are in metrics.csv")
    if any(name.startswith("log_likelihood ") for name, _ in rows):
        lines.append("log_likelihood: nats per item, of pixels the density of values in [0, 1], not dequantised")
    if any(name.startswith("log_likelihood_se ") for name, _ in rows):
        lines.append(
            "log_likelihood_se: standard error over the test items, which another seed on them does not reduce"
        )
    accuracy = summary["classifier_accuracy"]
    frequency = summary.get("attribute_frequency", {}).values()
    if accuracy:
        figure = "mean average precision" if frequency else "accuracy"
        lines.append(f"classifiers' test {figure}: " + ", ".join(f"{n} {a:.3f}" for n, a in accuracy.items()))
    if frequency:
        lines.append(
            f"{len(frequency)} attributes, whose single rows are in metrics.csv; the mean average precision of an "
            f"uninformative score is {sum(frequency) / len(frequency):.3f}"
        )
    return "\n".join([*lines, *_warnings(summary.get("warnings", []))])


def _warnings(warnings: list[dict[str, str]]) -> list[str]:
    """Return one line per failure mode: its gravest case, the number of further cases, and the advice.

    A finding without advice is a note on other figures, and not a warning.
    """
    modes: dict[str, list[dict[str, str]]] = {}
    for warning in warnings:
        modes.setdefault(warning["mode"], []).append(warning)
    return [
        ("warning" if cases[0]["advice"] else "note")
        + f": {cases[0]['what']}" + (f" (and {len(cases) - 1} more)" if cases[1:] else "")
        + (f"; try: {cases[0]['advice']}" if cases[0]["advice"] else "")
        for cases in modes.values()
    ]  # fmt: skip


def _khat(arrays: dict[str, NDArray[Any]], options: dict[str, Any], file: Path) -> Path:
    """Plot k̂ of every item, one column per subset."""
    names = [name.removeprefix("khat.") for name in arrays if name.startswith("khat.")]
    figure = Figure(figsize=(1.6 + 0.9 * len(names), 3.6), layout="constrained")
    axis = figure.subplots()
    generator = np.random.default_rng(0)
    for column, name in enumerate(names):
        values = arrays[f"khat.{name}"]
        finite = values[np.isfinite(values)]
        axis.scatter(column + generator.uniform(-0.25, 0.25, len(finite)), finite, s=6, linewidths=0, alpha=0.6)
        infinite = len(values) - len(finite)
        axis.text(
            column, 1.01, f"{infinite} infinite" if infinite else "", transform=axis.get_xaxis_transform(), fontsize=6
        )
    axis.axhline(float(arrays["khat_threshold"]), color="0.3", lw=0.8, ls="--")
    axis.set_xticks(range(len(names)), ["\n".join(split_names(name)) for name in names], fontsize=7)
    axis.set_yscale("symlog", linthresh=1.0)
    axis.yaxis.set_major_formatter("{x:g}")  # the default one of this scale writes formulas
    axis.set(xlabel="modalities given", ylabel="PSIS k-hat per item")
    axis.set_title(
        f"PSIS k-hat: above {float(arrays['khat_threshold']):.2f} importance weights are unreliable\n"
        f"S = {options['khat_samples']} draws, seed {options['seed']}", fontsize=8,
    )  # fmt: skip
    axis.grid(alpha=0.3, axis="y")
    return save_figure(figure, file)


def _by_views(means: dict[str, dict[str, dict[str, float]]], file: Path) -> Path:
    """Plot each metric by number of modalities given, one line per protocol."""
    metrics = [metric for metric in _LABELS if metric in means]
    figure = Figure(figsize=(4.2 * max(len(metrics), 1), 3.4), layout="constrained")
    for axis, metric in zip(np.atleast_1d(figure.subplots(1, max(len(metrics), 1))), metrics, strict=False):
        for protocol, values in means[metric].items():
            axis.plot([int(v) for v in values], list(values.values()), "o-", ms=4, label=protocol)
        axis.set(xlabel="modalities given", ylabel=_LABELS[metric])
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6, loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False)
    return save_figure(figure, file)


def _palette(classes: int) -> str:
    """Return the name of a colour map with a colour of its own for each of so many classes."""
    return "tab10" if classes <= 10 else "tab20" if classes <= 20 else "turbo"


def _latent_map(arrays: dict[str, NDArray[Any]], file: Path) -> Path:
    """Plot the first two principal components of the posterior means."""
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axis = figure.subplots()
    labelled = arrays["labels"] >= 0
    x, y = arrays["latent"][labelled].T
    attribute = str(arrays["label_name"]) if "label_name" in arrays else None
    labels = arrays["labels"][labelled]
    classes, codes = np.unique(labels, return_inverse=True)
    names = arrays.get("class_names")
    if attribute:
        colors = matplotlib.colormaps["coolwarm"]([0.0, 1.0])[classes.astype(int)]
    else:  # one colour per class
        colors = matplotlib.colormaps[_palette(len(classes))].resampled(max(len(classes), 2))(range(len(classes)))
    for number, (code, color) in enumerate(zip(classes, colors, strict=True)):
        class_name = str(code) if names is None else legend_label(str(names[int(code)]))
        label = ("no", "yes")[int(code)] if attribute else class_name
        axis.scatter(x[codes == number], y[codes == number], color=[color], s=5, linewidths=0, label=label)
    first, second = (100 * share for share in arrays["explained"])
    axis.set(
        title="posterior means given all modalities, test items",
        xlabel=f"principal component 1 ({first:.0f} % of the variance)",
        ylabel=f"principal component 2 ({second:.0f} %)",
    )
    figure.legend(
        loc="outside right upper", title=attribute or "class", fontsize=6, title_fontsize=7, markerscale=2.5,
        ncols=1 + len(classes) // 25,
    )  # fmt: skip
    return save_figure(figure, file)
