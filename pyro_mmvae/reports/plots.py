"""The curves of a run, and grids of its items."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyro_mmvae.files import read_npz
from pyro_mmvae.reports.files import save_figure
from pyro_mmvae.reports.grid import Row, image_grid
from pyro_mmvae.reports.styles import line_style
from pyro_mmvae.reports.texts import break_lines, legend_label, plain_text
from pyro_mmvae.run_files import RunFiles, read_metrics, split_names

_CURVE_COLUMNS = 3
_TITLE_LETTERS = 40  # the number of letters in a line of a panel's title
_MANY = 6  # the number of modalities above which each one is generated for fewer items
_FEW_ITEMS = 5
_MAX_GIVEN = 12  # the largest number of modalities in the grid of cross-generation


@plain_text
def draw_run(path: Path) -> list[Path]:
    """Draw the pictures of a run directory into ``plots/``.

    Args:
        path: The path of the run directory.

    Returns:
        The files drawn: ``curves.png``, ``weights.png`` if weights were learned, and, if there are samples,
        ``reconstructions.png`` and ``cross_generation.png``.
    """
    files = RunFiles(path)
    plots = files.plots
    plots.mkdir(exist_ok=True)
    drawn = []
    rows = read_metrics(path)
    if rows:
        drawn.append(_curves(rows, plots / "curves.png"))
        if {"expert_weights", "subset_weights"} & set(rows[-1]):
            drawn.append(_weights(rows, plots / "weights.png"))
    if files.samples.exists():
        arrays = read_npz(files.samples)
        names = [name.removeprefix("observed.") for name in arrays if name.startswith("observed.")]
        drawn.append(_reconstructions(arrays, names, plots / "reconstructions.png"))
        drawn.append(_cross_generation(arrays, names, plots / "cross_generation.png"))
    return drawn


def _curves(rows: list[dict[str, Any]], file: Path) -> Path:
    """Plot the objective, the KL divergence, the log likelihood of each modality and the penalties, a panel for each.

    Log likelihoods of modalities differ by orders of magnitude, so that one axis would show only one of them.
    """
    epochs = [row["epoch"] + 1 for row in rows]
    names = list(rows[0]["log_likelihood"])
    penalties = list(dict.fromkeys(name for row in rows for name in row.get("penalties", {})))
    height = -(-(2 + len(names) + bool(penalties)) // _CURVE_COLUMNS)
    figure = Figure(figsize=(3.4 * _CURVE_COLUMNS, 3.2 * height), layout="constrained")
    left, middle, *others = figure.subplots(height, _CURVE_COLUMNS, squeeze=False).ravel()
    beta = f"training objective, β = {rows[0]['beta']:g}"
    left.plot(epochs, [row["objective"] for row in rows], ms=3, label=beta, **line_style(0))
    left.plot(epochs, [row["val"]["elbo"] for row in rows], ms=3, label="validation ELBO", **line_style(1))
    left.set(title="evidence lower bound", ylabel="nats per item")
    middle.plot(epochs, [row["kl"] for row in rows], ms=3, label="training", **line_style(0))
    middle.plot(epochs, [row["val"]["kl"] for row in rows], ms=3, label="validation", **line_style(1))
    middle.set(title="KL(q(z|x) ‖ p(z)), one-draw estimate", ylabel="nats per item")
    for axis, name in zip(others, names, strict=False):
        axis.plot(epochs, [row["log_likelihood"][name] for row in rows], ms=3, label="training", **line_style(0))
        if all(name in row["val"].get("log_likelihood", {}) for row in rows):
            values = [row["val"]["log_likelihood"][name] for row in rows]
            axis.plot(epochs, values, ms=3, label="validation", **line_style(1))
        axis.set_title("\n".join(break_lines(f"reconstruction of {name}", _TITLE_LETTERS)))
        axis.set_ylabel("log p(x_m | z), nats per item")
    used = len(names) + bool(penalties)
    if penalties:
        axis = others[len(names)]
        for number, name in enumerate(penalties):
            values = [row.get("penalties", {}).get(name, np.nan) for row in rows]
            axis.plot(epochs, values, ms=3, label=legend_label(name), **line_style(number))
        axis.set(title="penalties, added to the loss", ylabel="nats per item")
    for axis in others[used:]:
        axis.axis("off")
    for axis in (left, middle, *others[:used]):
        axis.set_xlabel("epoch")
        axis.title.set_fontsize(9)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    return save_figure(figure, file)


def _weights(rows: list[dict[str, Any]], file: Path) -> Path:
    """Plot the expert weights by epoch, and the final subset weights."""
    last = rows[-1]
    panels = [key for key in ("expert_weights", "subset_weights") if key in last]
    width = {"expert_weights": 4.5, "subset_weights": 2.5 + 0.25 * len(last.get("subset_weights", {}))}
    figure = Figure(figsize=(sum(width[key] for key in panels), 3.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels), width_ratios=[width[key] for key in panels]))
    for axis, key in zip(axes, panels, strict=True):
        if key == "expert_weights":
            logged = [row for row in rows if key in row]
            for number, name in enumerate(last[key]):
                axis.plot(
                    [row["epoch"] + 1 for row in logged],
                    [row[key][name] for row in logged],
                    ms=3,
                    label=legend_label(name),
                    **line_style(number),
                )
            axis.set(title="λ, mean over validation items", xlabel="epoch", ylabel="1 where none is preferred")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.legend(fontsize=7)
        else:
            values = last["subset_weights"]
            axis.bar(range(len(values)), list(values.values()))
            axis.axhline(1 / len(values), color="0.3", lw=0.8, ls="--")
            axis.set_xticks(
                range(len(values)), [" + ".join(split_names(name)) for name in values], rotation=90, fontsize=6
            )
            axis.set(title="π after training; dashed: uniform")
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3, axis="y")
    return save_figure(figure, file)


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


def _reconstructions(arrays: Mapping[str, NDArray[Any]], names: list[str], file: Path) -> Path:
    """Draw each modality and its reconstruction given all modalities."""
    rows = [*_class_row(arrays), ("", None)]
    for name in names:
        rows += [
            _picture_row(arrays, name, f"observed.{name}", name),
            _picture_row(arrays, "reconstructed", f"reconstruction.{name}", name),
            ("", None),
        ]
    return image_grid(rows, file, title="Reconstructions given every modality", note=_note(arrays))


def _cross_generation(arrays: Mapping[str, NDArray[Any]], names: list[str], file: Path) -> Path:
    """Draw all modalities generated from each one, of many modalities the first twelve."""
    shown = names[:_MAX_GIVEN]
    items = slice(None if len(names) <= _MANY else _FEW_ITEMS)
    rows: list[Row] = []
    for given in shown:
        group = [*_class_row(arrays), _picture_row(arrays, f"given {given}", f"observed.{given}", given)]
        group += [_picture_row(arrays, f"→ {name}", f"generated.{given}.{name}", name) for name in shown]
        rows += [*((label, values[items]) for label, values in group if values is not None), ("", None)]
    note = _note(arrays) + (f"; {len(shown)} of {len(names)} modalities" if len(shown) < len(names) else "")
    return image_grid(rows, file, title="Each modality generated from each one", note=note)


def _note(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the note below a picture of validation items."""
    has_units = any(name.startswith("spread.") for name in arrays)
    return "validation items" + ("; s.d.: standard deviations from the training mean" if has_units else "")
