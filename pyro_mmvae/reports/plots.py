"""The curves of a run, its weights, and grids of its items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pyro_mmvae._metric_rows import check_plotted
from pyro_mmvae.files import read_npz
from pyro_mmvae.reports.files import DPI, save_pictures
from pyro_mmvae.reports.grid import Row, plot_grid
from pyro_mmvae.reports.panels import RunLike, label_line_ends, make_panels, run_path, shared_legend
from pyro_mmvae.reports.styles import line_style, styled
from pyro_mmvae.reports.texts import break_lines
from pyro_mmvae.run_files import RunFiles, read_metrics, split_names

_PANEL = (2.9, 2.3)  # the width and the height of a panel with curves in inches
_TITLE_LETTERS = 40  # the number of letters in a line of a panel's title
_MANY = 6  # the number of modalities above which each one is generated for fewer items
_FEW_ITEMS = 5
_MAX_GIVEN = 12  # the largest number of modalities in the grid of cross-generation
_WEIGHTS = {"expert_weights", "subset_weights"}  # the learned weights in the metrics of an epoch


def draw_run(path: Path, formats: Sequence[str] = ("png",), dpi: int = DPI) -> list[Path]:
    """Draw the pictures of a run directory into ``plots/``.

    Args:
        path: The path of the run directory.
        formats: The formats of the pictures, such as ``("pdf", "png")``; PNG by default.
        dpi: The number of pixels per inch, 150 by default.

    Returns:
        The files drawn: ``curves.png``, ``weights.png`` if weights were learned, and, if there are samples,
        ``reconstructions.png`` and ``cross_generation.png``.
    """
    files = RunFiles(path)
    files.plots.mkdir(exist_ok=True)
    rows = read_metrics(path)
    parts = {
        "curves": (plot_training, bool(rows)),
        "weights": (plot_weights, bool(rows and _WEIGHTS & set(rows[-1]))),
        "reconstructions": (plot_reconstructions, files.samples.exists()),
        "cross_generation": (plot_cross_generation, files.samples.exists()),
    }
    drawn = []
    for name, (plot, exists) in parts.items():
        if exists:
            drawn += save_pictures(plot(path), files.plots / name, formats, dpi)
    return drawn


@styled
def plot_training(run: RunLike) -> Figure:
    """Plot the curves of a training: objective, KL divergence, log likelihood of each modality, and penalties.

    Log likelihoods of modalities, and penalties, differ by orders of magnitude, so that each has a panel of its own.

    Args:
        run: The run, or the path of its directory.

    Returns:
        The figure, with one point per epoch.

    Raises:
        FileNotFoundError: If the run has not trained for an epoch.
        ValueError: If its metrics lack a figure that is drawn.
    """
    rows = _metrics(run)
    for row in rows:
        try:
            check_plotted(row)
        except ValueError as error:
            raise ValueError(f"{RunFiles(run_path(run)).metrics}: epoch {row['epoch']} {error}") from None
    epochs = [row["epoch"] + 1 for row in rows]
    names = list(rows[0]["log_likelihood"])
    penalties = list(dict.fromkeys(name for row in rows for name in row.get("penalties", {})))
    figure, axes = make_panels(2 + len(names) + len(penalties), _PANEL)
    bound = f"evidence lower bound;\ntraining: objective with β = {rows[0]['beta']:g}"
    panels: list[tuple[str, list[float], list[float] | None]] = [
        (bound, [row["objective"] for row in rows], [row["val"]["elbo"] for row in rows]),
        ("KL(q(z|x) ‖ p(z)), one-draw estimate", [row["kl"] for row in rows], [row["val"]["kl"] for row in rows]),
    ]
    for name in names:
        validation = [row["val"].get("log_likelihood", {}).get(name, np.nan) for row in rows]
        title = "\n".join(break_lines(f"reconstruction of {name}, log p(x | z)", _TITLE_LETTERS))
        panels.append((title, [row["log_likelihood"].get(name, np.nan) for row in rows], validation))
    for name in penalties:
        title = "\n".join(break_lines(f"penalty {name}, added to the loss", _TITLE_LETTERS))
        panels.append((title, [row.get("penalties", {}).get(name, np.nan) for row in rows], None))
    for axis, (title, training, held_out) in zip(axes, panels, strict=True):
        axis.plot(epochs, training, ms=3, label="training", **line_style(0))
        if held_out is not None and np.isfinite(held_out).any():
            axis.plot(epochs, held_out, ms=3, label="validation", **line_style(1))
        axis.set(title=title, xlabel="epoch", ylabel="nats per item")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    shared_legend(figure, axes)
    return figure


def _metrics(run: RunLike) -> list[dict[str, Any]]:
    """Return the training metrics of a run, at least one row."""
    path = run_path(run)
    rows = read_metrics(path)
    if not rows:
        raise FileNotFoundError(f"{path}: a run must have trained for an epoch, got no {RunFiles(path).metrics.name}")
    return rows


@styled
def plot_weights(run: RunLike) -> Figure:
    """Plot the learned expert weights by epoch, and the learned subset weights after the training.

    Args:
        run: The run, or the path of its directory.

    Returns:
        The figure, with a panel for each kind of weight that was learned.

    Raises:
        ValueError: If no weights were learned.
    """
    rows = _metrics(run)
    last = rows[-1]
    panels = [key for key in ("expert_weights", "subset_weights") if key in last]
    if not panels:
        raise ValueError(f"{run_path(run)}: expert or subset weights must be learned to be plotted, got fixed ones")
    width = {"expert_weights": 4.0, "subset_weights": 1.5 + 0.2 * len(last.get("subset_weights", {}))}
    figure = Figure(figsize=(sum(width[key] for key in panels), 3.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels), width_ratios=[width[key] for key in panels]))
    for axis, key in zip(axes, panels, strict=True):
        if key == "expert_weights":
            logged = [row for row in rows if key in row]
            epochs = [row["epoch"] + 1 for row in logged]
            for number, name in enumerate(last[key]):
                axis.plot(epochs, [row[key].get(name, np.nan) for row in logged], ms=3, **line_style(number))
            axis.set(title="expert weights λ, mean over validation items", xlabel="epoch")
            axis.set_ylabel("λ (1: none is preferred)")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            colors = [line_style(number)["color"] for number in range(len(last[key]))]
            ends = zip(last[key].items(), colors, strict=True)
            label_line_ends(axis, {name: (epochs[-1], value, color) for (name, value), color in ends})
        else:
            values = last["subset_weights"]
            axis.bar(range(len(values)), list(values.values()))
            axis.axhline(1 / len(values), color="0.3", lw=0.8, ls="--")
            axis.set_xticks(range(len(values)), [" + ".join(split_names(name)) for name in values], rotation=90)
            axis.grid(visible=False, axis="x")
            axis.set(title="subset weights π after training\n(dashed: uniform)", ylabel="probability")
    return figure


def _samples(run: RunLike) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Return the arrays of a run's samples, and the names of its modalities."""
    file = RunFiles(run_path(run)).samples
    if not file.exists():
        raise FileNotFoundError(f"{file}: a run must have samples to draw, which training writes, got none")
    arrays = read_npz(file)
    return arrays, [name.removeprefix("observed.") for name in arrays if name.startswith("observed.")]


def _class_row(arrays: Mapping[str, NDArray[Any]]) -> list[Row]:
    """Return a row with the classes of the items, or none if they do not have classes."""
    return [("class", arrays["classes"])] if "classes" in arrays else []


def _picture_row(arrays: Mapping[str, NDArray[Any]], label: str, key: str, name: str) -> Row:
    """Return the values of a modality as a row: absent items masked, and standardized vectors in their own unit.

    Features of different units, such as kelvin and pascal, could not be seen beside each other on one axis otherwise.
    """
    values, present = arrays[key], arrays.get(f"present.{name}")
    if f"spread.{name}" in arrays and values.dtype.kind == "f":
        values, label = (values - arrays[f"center.{name}"]) / arrays[f"spread.{name}"], f"{label} (s.d.)"
    if key.startswith("observed.") and present is not None and not present.all():
        absent = np.broadcast_to(~present.reshape(-1, *[1] * (values.ndim - 1)), values.shape)
        values = np.ma.masked_array(values, absent)
    return label, values


def plot_reconstructions(run: RunLike) -> Figure:
    """Draw each modality of a few validation items, and its reconstruction given all modalities.

    Args:
        run: The run, or the path of its directory.

    Raises:
        FileNotFoundError: If the run does not have samples.
    """
    arrays, names = _samples(run)
    rows = [*_class_row(arrays), ("", None)]
    for name in names:
        rows += [
            _picture_row(arrays, name, f"observed.{name}", name),
            _picture_row(arrays, "reconstructed", f"reconstruction.{name}", name),
            ("", None),
        ]
    return plot_grid(rows, title="Reconstructions given every modality", note=_note(arrays))


def plot_cross_generation(run: RunLike) -> Figure:
    """Draw all modalities of a few validation items generated from each one, of many modalities the first twelve.

    Args:
        run: The run, or the path of its directory.

    Raises:
        FileNotFoundError: If the run does not have samples.
    """
    arrays, names = _samples(run)
    shown = names[:_MAX_GIVEN]
    items = slice(None if len(names) <= _MANY else _FEW_ITEMS)
    rows: list[Row] = []
    for given in shown:
        group = [*_class_row(arrays), _picture_row(arrays, f"given {given}", f"observed.{given}", given)]
        group += [_picture_row(arrays, f"→ {name}", f"generated.{given}.{name}", name) for name in shown]
        rows += [*((label, values[items]) for label, values in group if values is not None), ("", None)]
    note = _note(arrays) + (f"; {len(shown)} of {len(names)} modalities" if len(shown) < len(names) else "")
    return plot_grid(rows, title="Each modality generated from each one", note=note)


def _note(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the note below a picture of validation items."""
    has_units = any(name.startswith("spread.") for name in arrays)
    return "validation items" + ("; s.d.: standard deviations from the training mean" if has_units else "")
