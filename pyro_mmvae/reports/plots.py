"""The curves of a run, and grids of its images and texts."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from pyro_mmvae.files import write_atomically
from pyro_mmvae.reports.texts import CHARACTER, break_lines, cell_size, legend_label, plain_text, write_lines
from pyro_mmvae.run_files import RunFiles, read_metrics, split_names

_ZOOM = 2  # screen pixels per pixel of a small image
_CURVE_COLUMNS = 3
_DPI, _LABEL_POINTS = 100, 7
_MARGIN = 92  # the least width of the labels of rows in screen pixels
_LARGEST_SIDE = 128  # images with longer sides are drawn smaller, so that a strip of ten fits a screen
_ZOOMED_SIDE = 64  # images up to this side are drawn larger
_TEXT_WIDTH = 48  # the width of an item in pixels if there are no images


@plain_text
def draw_run(path: Path) -> list[Path]:
    """Draw the pictures of a run directory into ``plots/``.

    Args:
        path: The path of the run directory.

    Returns:
        The files drawn: ``curves.png``, ``weights.png`` if weights were learned, and for images and text
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
        with np.load(files.samples, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        names = [name.removeprefix("observed.") for name in arrays if name.startswith("observed.")]
        drawn.append(_reconstructions(arrays, names, plots / "reconstructions.png"))
        drawn.append(_cross_generation(arrays, names, plots / "cross_generation.png"))
    return drawn


@plain_text
def image_grid(rows: Sequence[tuple[str, NDArray[Any] | None]], file: Path, *, title: str = "", note: str = "") -> Path:
    """Draw labelled rows of images and texts.

    Args:
        rows: Pairs of a label and either uint8 images `(item, channel, height, width)`, strings `(item,)`, or None for
            a gap. Strings are broken into lines as wide as the images, or wider if a text is long.
        file: The file, which is written atomically: PDF or SVG by its suffix, else PNG.
        title: The title above the grid; left out by default.
        note: The note below the grid; left out by default.

    Returns:
        The argument ``file``.
    """
    rows = [(label, _bounded(row)) for label, row in rows]
    images = [image for _, image in rows if image is not None and image.ndim == 4]
    count = max(len(image) for _, image in rows if image is not None)
    zoom = _ZOOM if max((max(i.shape[2:]) for i in images), default=0) <= _ZOOMED_SIDE else 1
    texts = [str(text) for _, row in rows if row is not None and row.ndim == 1 for text in row]
    cell, letters = cell_size(texts, max((i.shape[3] for i in images), default=_TEXT_WIDTH) * zoom)
    pad, gap, head, foot = 2, 8, 26 if title else 6, 20 if note else 6
    margin = max(_MARGIN, 12 + max(_label_width(label) for label, _ in rows))
    tops, y = [], head
    for _, image in rows:
        tops.append(y)
        y += gap if image is None else (_row_height(image, zoom, letters) + pad)
    total_width, total_height = margin + count * (cell + pad) + 6, y + foot
    dpi = _DPI
    figure = Figure(figsize=(total_width / dpi, total_height / dpi), dpi=dpi, facecolor="white")
    for (label, image), top in zip(rows, tops, strict=True):
        if image is None:
            continue
        figure.text(
            (margin - 6) / total_width, 1 - (top + _row_height(image, zoom, letters) / 2) / total_height, label,
            ha="right", va="center", fontsize=_LABEL_POINTS, parse_math=False,
        )  # fmt: skip
        for column, item in enumerate(image):
            x = margin + column * (cell + pad)
            if image.ndim == 1:
                write_lines(figure, break_lines(str(item), letters), (x / total_width, 1 - top / total_height))
                continue
            zoomed = np.repeat(np.repeat(np.moveaxis(_rgb(item), 0, -1), zoom, 0), zoom, 1)
            figure.figimage(zoomed, x, total_height - top - zoomed.shape[0])
    figure.text(0.5, 1 - 8 / total_height, title, ha="center", va="top", fontsize=9)
    figure.text(0.5, 5 / total_height, note, ha="center", va="bottom", fontsize=7, color="0.35")
    return save_figure(figure, file)


def _label_width(label: str) -> int:
    """Return the width of a label in screen pixels, of which nothing may be cut off."""
    box = TextPath((0, 0), label, size=_LABEL_POINTS, usetex=False).get_extents() if label.strip() else None
    return 0 if box is None else math.ceil(box.width * _DPI / 72)


def _bounded(row: NDArray[Any] | None) -> NDArray[Any] | None:
    """Return images whose sides are at most ``_LARGEST_SIDE`` pixels, by averaging blocks; texts as they are."""
    if row is None or row.ndim != 4 or max(row.shape[2:]) <= _LARGEST_SIDE:
        return row
    block = -(-max(row.shape[2:]) // _LARGEST_SIDE)
    height, width = (max(side // block, 1) for side in row.shape[2:])
    cut = row[:, :, : height * block, : width * block].astype(np.float32)
    blocks = cut.reshape(*row.shape[:2], height, cut.shape[2] // height, width, cut.shape[3] // width)
    return blocks.mean((3, 5)).round().astype(np.uint8)


def _row_height(row: NDArray[Any], zoom: int, letters: int) -> int:
    """Return the height of a row of images or texts in screen pixels."""
    if row.ndim == 4:
        return int(row.shape[2]) * zoom
    return CHARACTER[1] * max((len(break_lines(str(text), letters)) for text in row), default=1) + 4


def _rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image with three channels."""
    return np.repeat(image, 3, 0) if image.shape[0] == 1 else image


def save_figure(figure: Figure, file: Path) -> Path:
    """Write a figure atomically, in the format of the file's suffix: PDF, SVG, or else PNG."""
    buffer = io.BytesIO()
    suffix = file.suffix.lower().removeprefix(".")
    figure.savefig(buffer, format=suffix if suffix in {"pdf", "svg"} else "png")
    write_atomically(file, buffer.getvalue())
    return file


def _curves(rows: list[dict[str, Any]], file: Path) -> Path:
    """Plot the objective, the KL divergence and the log likelihood of each modality by epoch, a panel for each.

    Log likelihoods of modalities differ by orders of magnitude, so that one axis would show only one of them.
    """
    epochs = [row["epoch"] + 1 for row in rows]
    names = list(rows[0]["log_likelihood"])
    height = -(-(2 + len(names)) // _CURVE_COLUMNS)
    figure = Figure(figsize=(3.4 * _CURVE_COLUMNS, 3.2 * height), layout="constrained")
    left, middle, *others = figure.subplots(height, _CURVE_COLUMNS, squeeze=False).ravel()
    left.plot(
        epochs, [row["objective"] for row in rows], "o-", ms=3, label=f"training objective, β = {rows[0]['beta']:g}"
    )
    left.plot(epochs, [row["val"]["elbo"] for row in rows], "o-", ms=3, label="validation ELBO")
    left.set(title="evidence lower bound", ylabel="nats per item")
    middle.plot(epochs, [row["kl"] for row in rows], "o-", ms=3, label="training")
    middle.plot(epochs, [row["val"]["kl"] for row in rows], "o-", ms=3, label="validation")
    middle.set(title="KL(q(z|x) ‖ p(z)), one-draw estimate", ylabel="nats per item")
    for axis, name in zip(others, names, strict=False):
        axis.plot(epochs, [row["log_likelihood"][name] for row in rows], "o-", ms=3, label="training")
        if all(name in row["val"].get("log_likelihood", {}) for row in rows):
            axis.plot(epochs, [row["val"]["log_likelihood"][name] for row in rows], "o-", ms=3, label="validation")
        axis.set_title(f"reconstruction of {name}", parse_math=False)
        axis.set_ylabel("log p(x_m | z), nats per item")
    for axis in others[len(names) :]:
        axis.axis("off")
    for axis in (left, middle, *others[: len(names)]):
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
            for name in last[key]:
                axis.plot(
                    [row["epoch"] + 1 for row in logged],
                    [row[key][name] for row in logged],
                    "o-",
                    ms=3,
                    label=legend_label(name),
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


def _reconstructions(arrays: Mapping[str, NDArray[Any]], names: list[str], file: Path) -> Path:
    """Draw each modality and its reconstruction given all modalities."""
    rows: list[tuple[str, NDArray[Any] | None]] = []
    for name in names:
        rows += [(name, arrays[f"observed.{name}"]), ("reconstructed", arrays[f"reconstruction.{name}"]), ("", None)]
    return image_grid(rows[:-1], file, title="Reconstructions given every modality", note="validation items")


def _cross_generation(arrays: Mapping[str, NDArray[Any]], names: list[str], file: Path) -> Path:
    """Draw all modalities generated from each one."""
    rows: list[tuple[str, NDArray[Any] | None]] = []
    for given in names:
        rows.append((f"given {given}", arrays[f"observed.{given}"]))
        rows += [(f"{given} → {name}", arrays[f"generated.{given}.{name}"]) for name in names]
        rows.append(("", None))
    return image_grid(rows[:-1], file, title="Each modality generated from each one", note="validation items")
