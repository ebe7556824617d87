"""Figures of runs and comparisons for papers: each function returns a matplotlib figure, drawn from files alone.

The commands draw their pictures by these functions. A figure is shown by a notebook when it is the value of a cell, and
written by ``figure.savefig("name.pdf")``. Runs are given as :class:`pyro_mmvae.Run` or as the path of their directory.
"""

from __future__ import annotations

from pyro_mmvae.reports.comparison_plots import plot_comparison, plot_differences
from pyro_mmvae.reports.evaluation import plot_khat, plot_views
from pyro_mmvae.reports.grid import plot_grid
from pyro_mmvae.reports.imputation import plot_imputation
from pyro_mmvae.reports.latent_map import plot_latent
from pyro_mmvae.reports.panels import fit_width
from pyro_mmvae.reports.plots import plot_cross_generation, plot_reconstructions, plot_training, plot_weights
from pyro_mmvae.reports.ppc import plot_calibration, plot_ppc
from pyro_mmvae.reports.readings import plot_matrix
from pyro_mmvae.reports.sweep import plot_sweep

__all__ = [
    "fit_width",
    "plot_calibration",
    "plot_comparison",
    "plot_cross_generation",
    "plot_differences",
    "plot_grid",
    "plot_imputation",
    "plot_khat",
    "plot_latent",
    "plot_matrix",
    "plot_ppc",
    "plot_reconstructions",
    "plot_sweep",
    "plot_training",
    "plot_views",
    "plot_weights",
]
