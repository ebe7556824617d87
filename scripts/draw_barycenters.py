"""The pictures of the page on barycenters: two Gaussian experts, and what each aggregation makes of them.

``python -m scripts.draw_barycenters docs/learn`` draws them again, in a few seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_mmvae import Experts, aggregate, aggregations
from pyro_mmvae.reports.styles import OKABE_ITO, STYLE

LOC, SCALE = (-1.5, 1.5), (0.6, 1.0)
"""Means and standard deviations of the two experts."""

GRID = torch.linspace(-7, 7.5, 361, dtype=torch.float64)
PATHS = ("pool", "moment", "wb", "w1", "fisher_rao", "moe")
PLANE = ("poe", "pool", "wb", "moment", "moe", "mwb")
APART = ("poe", "wb", "fisher_rao", "mwb", "hellinger", "moment")
EXPERT = {"color": "0.45", "linewidth": 0.9, "linestyle": "--"}


def experts(loc: tuple[float, float] = LOC, scale: tuple[float, float] = SCALE) -> Experts:
    """Return two experts of one latent dimension, in float64."""
    return Experts(*(torch.tensor(values, dtype=torch.float64).unsqueeze(-1) for values in (loc, scale)))


def density(name: str, **options: Any) -> Tensor:
    """Return the density of an aggregation of both experts on the grid.

    Args:
        name: Name of the aggregation, such as ``wb``.
        **options: Options of the aggregation, such as ``expert_weights``.
    """
    with torch.no_grad():
        return aggregate(experts(), name, **options).log_prob(GRID.unsqueeze(-1)).exp()


def moments(curve: Tensor) -> tuple[float, float]:
    """Return mean and standard deviation of a density on the grid, by the trapezoidal rule."""
    mean = torch.trapezoid(curve * GRID, GRID)
    return float(mean), float(torch.trapezoid(curve * (GRID - mean) ** 2, GRID).sqrt())


def _draw_experts(axes: Axes) -> None:
    for loc, scale in zip(LOC, SCALE, strict=True):
        curve = torch.distributions.Normal(loc, scale).log_prob(GRID).exp()
        axes.plot(GRID, curve, **EXPERT)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["left"].set_visible(False)


def draw_aggregations() -> Figure:
    """Return a panel per registered aggregation: the experts dashed, the posterior filled."""
    names = aggregations()
    rows = -(-len(names) // 4)
    figure, axes = plt.subplots(rows, 4, figsize=(7.4, 1.25 * rows), sharex=True, sharey=True, layout="constrained")
    axes[0, 0].set_xlim(-5, 6)
    for panel, name in zip(axes.flat, names, strict=False):  # the last row may have panels without a name
        curve = density(name)
        _draw_experts(panel)
        panel.fill_between(GRID, curve, color=OKABE_ITO[0], alpha=0.3, linewidth=0)
        panel.plot(GRID, curve, color=OKABE_ITO[0])
        mean, deviation = moments(curve)
        panel.set_title(f"{name}   {mean + 1e-6:.2f} ± {deviation:.2f}".replace("-", "−"), loc="left", fontsize=8)
    for panel in axes.flat[len(names) :]:
        panel.set_axis_off()
    return figure


def draw_paths() -> Figure:
    """Return the way from one expert to the other as its weight λ grows from 0 to 1, under several rules."""
    figure, axes = plt.subplots(2, 3, figsize=(7.4, 3.4), sharex=True, sharey=True, layout="constrained")
    axes[0, 0].set_xlim(-5, 6)
    colors = matplotlib.colormaps["viridis"]
    for panel, name in zip(axes.flat, PATHS, strict=True):
        for step in range(9):
            weight = step / 8
            curve = density(name, expert_weights=[1 - weight, weight])
            panel.plot(GRID, curve, color=colors(0.9 * weight), linewidth=1)
        _draw_experts(panel)
        panel.set_title(name, loc="left")
    return figure


def draw_plane() -> Figure:
    """Return contours of posteriors of two experts with full covariances in the plane."""
    loc = torch.tensor([[-1.0, 0.0], [1.0, 0.6]], dtype=torch.float64)
    covariance = torch.tensor([[[1.2, 0.9], [0.9, 0.9]], [[0.5, -0.45], [-0.45, 1.4]]], dtype=torch.float64)
    both = Experts(loc, scale_tril=torch.linalg.cholesky(covariance))
    x, y = (torch.linspace(-4, 4, 161, dtype=torch.float64) for _ in range(2))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    figure, axes = plt.subplots(2, 3, figsize=(7.4, 4.9), sharex=True, sharey=True, layout="constrained")
    for panel, name in zip(axes.flat, PLANE, strict=True):
        with torch.no_grad():
            values = aggregate(both, name).log_prob(grid).exp()
        panel.contourf(x, y, values, levels=8, cmap="Blues")
        for mean, matrix in zip(loc, covariance, strict=True):
            expert = torch.distributions.MultivariateNormal(mean, matrix)
            shapes = expert.log_prob(grid) - expert.log_prob(mean)
            panel.contour(x, y, shapes, levels=[-2.0, -0.5], colors=EXPERT["color"], linestyles="--", linewidths=0.9)
        panel.set_title(name, loc="left")
        panel.set_aspect("equal")
        panel.grid(False)
    return figure


def draw_disagreement() -> Figure:
    """Return the standard deviation of the posterior as two experts of scale 1 move apart."""
    figure, axes = plt.subplots(figsize=(4.6, 2.8), layout="constrained")
    distances = torch.linspace(0, 6, 25, dtype=torch.float64)
    loc = torch.stack([-distances / 2, distances / 2], -1).unsqueeze(-1)
    apart = Experts(loc, torch.ones_like(loc))
    styles = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
    for name, style, color in zip(APART, styles, OKABE_ITO[:6], strict=True):
        with torch.no_grad():
            posterior = aggregate(apart, name)
            axes.plot(distances, posterior.variance.sqrt().squeeze(-1), color=color, linestyle=style, label=name)
    axes.set_xlabel("distance of the experts' means")
    axes.set_ylabel("standard deviation of the posterior")
    figure.legend(loc="outside right center")
    return figure


FIGURES = {
    "aggregations": draw_aggregations,
    "paths": draw_paths,
    "plane": draw_plane,
    "disagreement": draw_disagreement,
}
"""The functions that draw, by the name of the file without its suffix."""


def main(folder: Path) -> None:
    """Draw all pictures into a folder, as PNG files."""
    for name, draw in FIGURES.items():
        with matplotlib.rc_context(STYLE):
            figure = draw()
            figure.savefig(folder / f"{name}.png", dpi=150)
            plt.close(figure)
            print(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
