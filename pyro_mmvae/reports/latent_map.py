"""The map of the latent space of a run: posterior means in their first two principal components."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from pyro_mmvae.reports.evaluation_files import read_arrays
from pyro_mmvae.reports.panels import RunLike, run_path
from pyro_mmvae.reports.styles import OKABE_ITO, class_style, styled
from pyro_mmvae.reports.texts import legend_label

_LEGEND_ROWS, _LEGEND_LETTERS = 25, 24
_MAX_CLASSES = 75  # the largest number of classes in a legend


@styled
def plot_latent(run: RunLike, *, color: ArrayLike | None = None, label: str = "") -> Figure:
    """Plot the first two principal components of the posterior means of the test items, given all modalities.

    Args:
        run: The run, or the path of its directory, which was evaluated.
        color: The values that the items are coloured by, of shape `(item,)`, in the order of the test items that have
            all modalities: floats with a colour bar, or names or numbers of classes with a legend. By default the
            labels of the data set, or one colour if there are none.
        label: The title of the colour bar or legend; by default ``class`` or the name of the label.

    Returns:
        The figure. Up to 75 classes are told apart by colour and marker; the smallest of more classes are grey.

    Raises:
        FileNotFoundError: If the run was not evaluated.
        ValueError: If the evaluation did not store the means, or ``color`` does not have one value per item.
    """
    path = run_path(run)
    arrays = read_arrays(path)
    if "latent" not in arrays:
        raise ValueError(f"{path}: the evaluation must contain posterior means, got none: evaluate the run again")
    points = arrays["latent"]
    values, names = _default_color(arrays) if color is None else (np.asarray(color), {})
    if values.shape != (len(points),):
        raise ValueError(f"color must have one value per item, of shape ({len(points)},), got shape {values.shape}")
    title = label or (str(arrays["label_name"]) if color is None and "label_name" in arrays else "")
    figure = Figure(figsize=(4.2, 4.0), layout="constrained")
    axis = figure.subplots()
    if values.dtype.kind == "f":
        drawn = axis.scatter(points[:, 0], points[:, 1], c=values, s=6, linewidths=0, cmap="viridis")
        figure.colorbar(drawn, ax=axis, label=title)
    elif color is None and "labels" not in arrays:
        axis.scatter(points[:, 0], points[:, 1], s=6, linewidths=0, color=OKABE_ITO[0])
    else:
        _draw_classes(figure, axis, points, values, names, title or ("class" if color is None else ""))
    first, second = (100 * share for share in arrays["explained"])
    axis.set(
        title="posterior means given all modalities,\ntest items",
        xlabel=f"principal component 1 ({first:.0f} % of the variance)",
        ylabel=f"principal component 2 ({second:.0f} %)",
    )
    return figure


def _default_color(arrays: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], dict[Any, str]]:
    """Return the labels of the items, and the names of the classes by label."""
    if "labels" not in arrays:
        return np.zeros(len(arrays["latent"]), dtype=np.int64), {}
    names = ("no", "yes") if "label_name" in arrays else arrays.get("class_names", ())
    return arrays["labels"], dict(enumerate(map(str, names)))


def _draw_classes(
    figure: Figure, axis: Axes, points: NDArray[Any], labels: NDArray[Any], names: dict[Any, str], title: str
) -> None:
    """Draw the points of each class, and a legend outside of the axes; items with a negative label are left out."""
    if labels.dtype.kind == "i":
        points, labels = points[labels >= 0], labels[labels >= 0]
    classes, counts = np.unique(labels, return_counts=True)
    shown = np.sort(classes[np.argsort(-counts, kind="stable")[:_MAX_CLASSES]])
    columns = max(-(-len(shown) // _LEGEND_ROWS), 1)
    texts = {code: legend_label(str(names.get(code, code)), _LEGEND_LETTERS) for code in shown.tolist()}
    lines = sum(text.count("\n") + 1 for text in texts.values()) / columns
    figure.set_size_inches(4.2 + 1.2 * columns, max(4.0, 0.14 * lines + 0.6))
    x, y = points.T
    others = ~np.isin(labels, shown)
    if others.any():
        rest = f"{len(classes) - len(shown)} smaller classes"
        axis.scatter(x[others], y[others], color="0.8", s=4, linewidths=0, label=rest)
    size = 5 if len(shown) <= len(OKABE_ITO) else 14  # markers of different shape must be large enough to be seen
    for number, (code, text) in enumerate(texts.items()):
        style = class_style(number, len(shown))
        axis.scatter(x[labels == code], y[labels == code], s=size, linewidths=0, alpha=0.8, label=text, **style)
    legend = figure.legend(loc="outside right upper", title=title, ncols=columns)
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([24])
