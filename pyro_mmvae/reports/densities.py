"""Kernel density estimates of the statistics of a posterior predictive check, drawn into single panels."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.stats import gaussian_kde

_POINTS = 200  # the number of points at which a density is evaluated
_MAX_CURVES = 25  # the largest number of replicates that are drawn as curves of their own


def draw_densities(axis: Axes, draws: NDArray[Any], observed: NDArray[Any]) -> None:
    """Draw the density over items of the observations, of single replicates, and of all replicates together.

    Args:
        axis: The panel to draw into.
        draws: The replicated statistic, of shape `(sample, item)`; no replicate may be constant.
        observed: The observed statistic, of shape `(item,)`, not constant.
    """
    grid = np.linspace(min(draws.min(), observed.min()), max(draws.max(), observed.max()), _POINTS)
    for row in draws[:_MAX_CURVES]:
        axis.plot(grid, _density(row, grid), color="C0", lw=0.7, alpha=0.3)
    axis.plot(grid, _density(draws.ravel(), grid), color="C1", lw=1.2, ls="--")
    axis.plot(grid, _density(observed, grid), color="black", lw=1.2)
    axis.set(yticks=[], ylim=(0, None))


def draw_mean_density(axis: Axes, draws: NDArray[Any], observed: NDArray[Any]) -> None:
    """Draw the density of the replicated mean over items, and the observed mean as a dot below it.

    Args:
        axis: The panel to draw into.
        draws: The replicated statistic, of shape `(sample, item)`; its means over items may not all be equal.
        observed: The observed statistic, of shape `(item,)`.
    """
    means = draws.mean(-1)
    margin = 0.1 * np.ptp(means)
    grid = np.linspace(means.min() - margin, means.max() + margin, _POINTS)
    axis.plot(grid, _density(means, grid), color="C0", lw=1.2)
    axis.plot(observed.mean(), 0, "o", color="black", ms=5, clip_on=False, zorder=3)
    axis.set(yticks=[], ylim=(0, None))


def _density(values: NDArray[Any], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the kernel density estimate of values that are not all equal, at the points of a grid."""
    center, width = values.mean(), float(np.ptp(values))
    # In units of the range, since the variance of very small values would underflow.
    estimate: NDArray[np.float64] = gaussian_kde((values - center) / width)((grid - center) / width)
    return estimate / width
