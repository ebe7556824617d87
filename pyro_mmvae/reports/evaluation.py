"""The pictures and the terminal table of an evaluation, drawn from the folder ``evaluation/`` alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyro_mmvae.reports.files import save_figure
from pyro_mmvae.reports.styles import OKABE_ITO, class_style, line_style
from pyro_mmvae.reports.texts import break_lines, legend_label, plain_text, protocol_label
from pyro_mmvae.run_files import RunFiles, split_names

_LEGEND_ROWS, _LEGEND_LETTERS = 25, 24
_MAX_CLASSES = 75  # the largest number of classes in a legend
_LABELS = {
    "probe": "linear probe",
    "coherence": "conditional coherence",
    "log_likelihood": "log likelihood, nats per item",
    "ess": "effective sample size",
}
_PANEL_COLUMNS = 4
_NAME_LETTERS, _MAX_NAMES = 15, 5  # the letters in a line below a column, and the largest number of names there
_TABLE = (
    "probe", "coherence", "joint_coherence", "log_likelihood", "log_likelihood_se", "ess",
    "log_likelihood_samples", "khat", "khat_share", "mse", "ssim", "exact_match", "frechet_classifier",
    "frechet_conditional", "diversity", "fid", "kl", "active_units",
    "expert_kl",
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
    stands = summary["means_by_views"].get("log_likelihood_stands", {})
    for metric in _TABLE:
        for protocol, means in summary["means_by_views"].get(metric, {}).items():
            values = {int(views): value for views, value in means.items()}
            max_views = max(max_views, *values)
            note = protocol_label(metric, protocol)
            notes += [] if note in notes else [note]
            open_ends = stands.get(protocol, {}) if metric == "log_likelihood" else {}
            texts = {v: "≥ " * (open_ends.get(str(v), 1) < 1) + f"{value:.3f}" for v, value in values.items()}
            rows.append((f"{metric} [{notes.index(note) + 1}]", texts))
    first = max((len(name) for name, _ in rows), default=0)
    lines = [f"{'modalities given':<{first}}" + "".join(f"{views:>11}" for views in range(max_views + 1))]
    for name, values in rows:
        cells = "".join(f"{values.get(v, ''):>11}" for v in range(max_views + 1))
        lines.append(f"{name:<{first}}{cells}".rstrip())
    lines += [f"[{number}] {protocol}" for number, protocol in enumerate(notes, 1)]
    if any(name.startswith("log_likelihood ") for name, _ in rows):
        lines.append("log_likelihood: nats per item; pixels in [0, 1], not dequantised; vectors in their own units")
    if any("≥" in value for _, values in rows for value in values.values()):
        lines.append("≥: does not stand with --max-samples for some subset; such bounds do not rank models")
    options = summary["options"]
    lines.append(f"seed {options['seed']}; means over subsets and targets, whose single rows are in metrics.csv")
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
        axis.scatter(
            column + generator.uniform(-0.25, 0.25, len(finite)),
            finite,
            s=6,
            linewidths=0,
            alpha=0.6,
            color=OKABE_ITO[0],
        )
        infinite = len(values) - len(finite)
        axis.text(
            column, 1.01, f"{infinite} infinite" if infinite else "", transform=axis.get_xaxis_transform(), fontsize=6
        )
    axis.axhline(float(arrays["khat_threshold"]), color="0.3", lw=0.8, ls="--")
    axis.set_xticks(range(len(names)), [_subset_label(name) for name in names], fontsize=7)
    axis.set_yscale("symlog", linthresh=1.0)
    axis.yaxis.set_major_formatter("{x:g}")  # the default one of this scale writes formulas
    axis.set(xlabel="modalities given", ylabel="PSIS k-hat per item")
    axis.set_title(
        f"PSIS k-hat: above {float(arrays['khat_threshold']):.2f} importance weights are unreliable\n"
        f"S = {options['khat_samples']} draws, seed {options['seed']}", fontsize=8,
    )  # fmt: skip
    axis.grid(alpha=0.3, axis="y")
    return save_figure(figure, file)


def _subset_label(subset: str) -> str:
    """Return the names of a subset on a line each, or their number if they are many."""
    names = split_names(subset)
    if len(names) > _MAX_NAMES:
        return f"{len(names)} modalities"
    return "\n".join(line for name in names for line in break_lines(name, _NAME_LETTERS))


def _by_views(means: dict[str, dict[str, dict[str, float]]], file: Path) -> Path:
    """Plot each metric by number of modalities given, one line per protocol.

    Log likelihoods of the modalities given and of all modalities differ by orders of magnitude and have panels of their
    own.
    """
    panels: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for metric in (metric for metric in _LABELS if metric in means):
        for label, values in means[metric].items():
            protocol, _, target = label.partition(", of ") if metric == "log_likelihood" else (label, "", "")
            panels.setdefault((metric, target), {})[protocol_label(metric, protocol)] = values
    columns = min(max(len(panels), 1), _PANEL_COLUMNS)
    height = -(-max(len(panels), 1) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * height), layout="constrained")
    axes = figure.subplots(height, columns, squeeze=False).ravel()
    for axis, ((metric, target), protocols) in zip(axes, panels.items(), strict=False):
        for number, (protocol, values) in enumerate(protocols.items()):
            axis.plot(
                [int(v) for v in values], list(values.values()), ms=4, label=legend_label(protocol, 60),
                **line_style(number),
            )  # fmt: skip
        axis.set(xlabel="modalities given", ylabel=_LABELS[metric])
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        title = "\n".join(break_lines(f"of {target}", 60)) if target else ""
        axis.legend(
            fontsize=6, loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False, title=title, title_fontsize=7,
            alignment="left",
        )  # fmt: skip
    for axis in axes[len(panels) :]:
        axis.axis("off")
    return save_figure(figure, file)


def _latent_map(arrays: dict[str, NDArray[Any]], file: Path) -> Path:
    """Plot the first two principal components of the posterior means, with colours and markers by class."""
    labelled = arrays["labels"] >= 0
    x, y = arrays["latent"][labelled].T
    labels = arrays["labels"][labelled]
    attribute = str(arrays["label_name"]) if "label_name" in arrays else None
    names: dict[int, str] = {0: "no", 1: "yes"} if attribute else dict(enumerate(arrays.get("class_names", ())))
    classes, counts = np.unique(labels, return_counts=True)
    shown = np.sort(classes[np.argsort(-counts, kind="stable")[:_MAX_CLASSES]])
    legend_columns = -(-len(shown) // _LEGEND_ROWS)
    labels_shown = {code: legend_label(str(names.get(code, code)), _LEGEND_LETTERS) for code in shown.tolist()}
    lines = sum(label.count("\n") + 1 for label in labels_shown.values()) / legend_columns
    figure = Figure(figsize=(4.2 + 1.2 * legend_columns, max(4.4, 0.13 * lines + 0.6)), layout="constrained")
    axis = figure.subplots()
    others = ~np.isin(labels, shown)
    if others.any():
        rest = f"{len(classes) - len(shown)} smaller classes"
        axis.scatter(x[others], y[others], color="0.8", s=4, linewidths=0, label=rest)
    size = 5 if len(shown) <= len(OKABE_ITO) else 14  # markers of different shape must be large enough to be seen
    for number, (code, label) in enumerate(labels_shown.items()):
        style = class_style(number, len(shown))
        axis.scatter(x[labels == code], y[labels == code], s=size, linewidths=0, alpha=0.8, label=label, **style)
    first, second = (100 * share for share in arrays["explained"])
    axis.set_title("posterior means given all modalities, test items", fontsize=9)
    axis.set(
        xlabel=f"principal component 1 ({first:.0f} % of the variance)",
        ylabel=f"principal component 2 ({second:.0f} %)",
    )
    legend = figure.legend(
        loc="outside right upper", title=attribute or "class", fontsize=6, title_fontsize=7, ncols=legend_columns
    )
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([24])
    return save_figure(figure, file)
