"""Reports as one HTML file that opens from disk: a run with its items, or several runs side by side."""

from pyro_mmvae.reports.html.page import comparison_page as comparison_page
from pyro_mmvae.reports.html.page import run_page as run_page
from pyro_mmvae.reports.html.runs_page import find_runs as find_runs
