"""The pictures and the terminal table of an evaluation, drawn from the folder ``evaluation/`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, SymmetricalLogLocator
from numpy.typing import NDArray

from pyro_mmvae.reports.evaluation_files import read_arrays, read_summary
from pyro_mmvae.reports.files import DPI, save_pictures
from pyro_mmvae.reports.latent_map import plot_latent
from pyro_mmvae.reports.metric_names import metric_label
from pyro_mmvae.reports.panels import RunLike, make_panels, mark_bounds, run_path
from pyro_mmvae.reports.styles import OKABE_ITO, line_style, styled
from pyro_mmvae.reports.texts import break_lines, legend_label, protocol_label
from pyro_mmvae.run_files import RunFiles, split_names

_PLOTTED = ("probe", "coherence", "log_likelihood", "ess")  # the metrics that are plotted by number of modalities
_PANEL = (3.6, 2.9)  # the width and the height of a panel in inches
_LEGEND_LETTERS = 42  # the number of letters in a line of a legend
_NAME_LETTERS, _MAX_NAMES = 15, 5  # the letters in a line below a column, and the largest number of names there
_TABLE = (
    "probe", "coherence", "agreement", "agreement_pairs", "agreement_label", "joint_coherence", "log_likelihood",
    "log_likelihood_se", "ess", "log_likelihood_samples", "khat", "khat_share", "khat_draws", "khat_joint",
    "khat_joint_share", "khat_joint_draws", "proposal_log_likelihood", "proposal_elbo", "proposal_ess", "proposal_khat",
    "proposal_khat_share", "proposal_kl", "reference_rhat", "mse", "ssim", "exact_match", "frechet_classifier",
    "frechet_conditional", "precision", "recall", "density", "coverage", "diversity", "fid", "kl", "active_units",
    "expert_kl",
)  # fmt: skip


def draw_evaluation(path: Path, formats: Sequence[str] = ("png",), dpi: int = DPI) -> list[Path]:
    """Draw the pictures of a run's evaluation into ``plots/``.

    Args:
        path: The path of the run directory.
        formats: The formats of the pictures, such as ``("pdf", "png")``; PNG by default.
        dpi: The number of pixels per inch, 150 by default.

    Returns:
        The files drawn: ``views.png``, ``khat.png`` if PSIS k̂ was computed, ``latent.png`` if there are labels.
    """
    plots, names = RunFiles(path).plots, set(read_arrays(path))
    plots.mkdir(exist_ok=True)
    drawn = save_pictures(plot_views(path), plots / "views", formats, dpi)
    if "khat_threshold" in names:
        drawn += save_pictures(plot_khat(path), plots / "khat", formats, dpi)
    if {"latent", "labels"} <= names:
        drawn += save_pictures(plot_latent(path), plots / "latent", formats, dpi)
    return drawn


def table(path: Path) -> str:
    """Return the means by number of modalities given as text, with protocols as notes below, and the findings.

    Args:
        path: The path of the run directory.

    Returns:
        The table as several lines.
    """
    summary = read_summary(path)
    rows, notes, max_views = [], list[str](), 0
    stands = summary["means_by_views"].get("log_likelihood_stands", {})
    for metric in _TABLE:
        for protocol, means in summary["means_by_views"].get(metric, {}).items():
            values = {int(views): value for views, value in means.items()}
            max_views = max(max_views, *values)
            note = protocol_label(metric, protocol)
            notes += [] if note in notes else [note]
            open_ends = stands.get(protocol, {}) if metric == "log_likelihood" else {}
            texts = {v: "≥ " * (open_ends.get(str(v), 1) < 1) + _cell(value) for v, value in values.items()}
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
    if any(name.startswith("khat_draws ") for name, _ in rows):
        lines.append("khat_draws: draws per item that the median k-hat asks for; no number suffices from k-hat = 1 on")
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


def _cell(value: float | str) -> str:
    """Return the text of a cell of the table; large numbers, such as numbers of draws, have an exponent."""
    return value if isinstance(value, str) else f"{value:.3g}" if value >= 1e7 else f"{value:.3f}"


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


@styled
def plot_khat(run: RunLike) -> Figure:
    """Plot the diagnostic PSIS k̂ of every test item, one column per subset.

    Where the posterior is a mixture, k̂ of its joint component is beside that of the whole.

    Args:
        run: The run, or the path of its directory, which was evaluated.

    Raises:
        FileNotFoundError: If the run was not evaluated.
        ValueError: If the evaluation left out k̂.
    """
    path = run_path(run)
    arrays, options = read_arrays(path), read_summary(path)["options"]
    if "khat_threshold" not in arrays:
        raise ValueError(f"{path}: the evaluation must contain k-hat, got none: evaluate with --khat-items 25")
    names = [name.removeprefix("khat.") for name in arrays if name.startswith("khat.")]
    has_joint = any(name.startswith("khat_joint.") for name in arrays)
    figure = Figure(figsize=(1.6 + 0.9 * len(names), 3.4), layout="constrained")
    axis = figure.subplots()
    generator = np.random.default_rng(0)
    for column, name in enumerate(names):
        joint = arrays.get(f"khat_joint.{name}")
        shift = 0.0 if joint is None else 0.2
        _plot_items(axis, column - shift, arrays[f"khat.{name}"], OKABE_ITO[0], "o", generator)
        if joint is not None:
            _plot_items(axis, column + shift, joint, OKABE_ITO[1], "^", generator)
    axis.axhline(float(arrays["khat_threshold"]), color="0.3", lw=0.8, ls="--")
    axis.set_xticks(range(len(names)), [_subset_label(name) for name in names])
    axis.grid(visible=False, axis="x")
    axis.set_yscale("symlog", linthresh=1.0)
    axis.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1.0, subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter("{x:g}")  # the default one of this scale writes formulas
    axis.set(xlabel="modalities given", ylabel="PSIS k-hat (one dot per item)")
    threshold = float(arrays["khat_threshold"])
    title = f"PSIS k-hat: importance weights are unreliable above {threshold:.2f} (dashed)"
    draws = f"S = {options['khat_samples']} draws, seed {options['seed']}"
    figure.suptitle("\n".join([*break_lines(title, max(int(13 * figure.get_figwidth()), 30)), draws]))
    if has_joint:
        markers = [Line2D([], [], linestyle="none", marker=m, color=c) for m, c in zip("o^", OKABE_ITO, strict=False)]
        labels = ["whole posterior", "its joint component"]
        figure.legend(markers, labels, loc="outside lower center", ncols=2)
    return figure


def _plot_items(
    axis: Axes, place: float, values: NDArray[Any], color: str, marker: str, generator: np.random.Generator
) -> None:
    """Plot the k̂ of items around a place, and write above it how many are infinite."""
    finite = values[np.isfinite(values)]
    places = place + generator.uniform(-0.15, 0.15, len(finite))
    axis.scatter(places, finite, s=6, linewidths=0, alpha=0.6, color=color, marker=marker)
    if len(finite) < len(values):
        note, height = f"{len(values) - len(finite)} infinite", 1.01 if marker == "o" else 1.05
        axis.text(place, height, note, transform=axis.get_xaxis_transform(), fontsize=6, ha="center")


def _subset_label(subset: str) -> str:
    """Return the names of a subset on a line each, or their number if they are many."""
    names = split_names(subset)
    if len(names) > _MAX_NAMES:
        return f"{len(names)} modalities"
    return "\n".join(line for name in names for line in break_lines(name, _NAME_LETTERS))


@styled
def plot_views(run: RunLike) -> Figure:
    """Plot the metrics of an evaluation by number of modalities given, one line per protocol.

    Log likelihoods of the modalities given and of all modalities differ by orders of magnitude and have panels of their
    own, in which the markers of those that do not stand, which are bounds, are hollow.

    Args:
        run: The run, or the path of its directory, which was evaluated.

    Raises:
        FileNotFoundError: If the run was not evaluated.
    """
    summary = read_summary(run_path(run))
    means, attributes = summary["means_by_views"], bool(summary.get("attribute_frequency"))
    standing = means.get("log_likelihood_stands", {})
    panels: dict[tuple[str, str], dict[str, tuple[dict[str, float], list[str]]]] = {}
    for metric in (metric for metric in _PLOTTED if metric in means):
        for label, values in means[metric].items():
            protocol, _, target = label.partition(", of ") if metric == "log_likelihood" else (label, "", "")
            stands = standing.get(label, {}) if metric == "log_likelihood" else {}
            bounds = [views for views in values if stands.get(views, 1) < 1]
            panels.setdefault((metric, target), {})[protocol_label(metric, protocol)] = values, bounds
    figure, axes = make_panels(max(len(panels), 1), _PANEL)
    for axis, ((metric, target), protocols) in zip(axes, panels.items(), strict=False):
        axis.set(xlabel="modalities given", ylabel=metric_label(metric, attributes=attributes))
        for number, (protocol, (values, bounds)) in enumerate(protocols.items()):
            label = legend_label(protocol, _LEGEND_LETTERS)
            axis.plot([int(v) for v in values], list(values.values()), label=label, **line_style(number))
            mark_bounds(axis, [int(v) for v in bounds], [values[v] for v in bounds], line_style(number))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        title = "\n".join(break_lines(f"of {target}", _LEGEND_LETTERS)) if target else ""
        # Protocols differ between panels, so that each has a legend of its own, outside of the axes.
        axis.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), title=title, alignment="left")
    return figure
