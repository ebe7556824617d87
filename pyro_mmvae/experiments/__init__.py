"""Experiments over several runs, each a function of configurations."""

from pyro_mmvae.experiments.claims import claim_cells as claim_cells
from pyro_mmvae.experiments.compare import Cell as Cell
from pyro_mmvae.experiments.compare import make_cells as make_cells
from pyro_mmvae.experiments.compare import parse_variants as parse_variants
from pyro_mmvae.experiments.compare import run_cell as run_cell
from pyro_mmvae.experiments.readings import is_read as is_read
from pyro_mmvae.experiments.readings import read_cell as read_cell
from pyro_mmvae.experiments.readings import reading_options as reading_options
from pyro_mmvae.experiments.sweep import SweepPoint as SweepPoint
from pyro_mmvae.experiments.sweep import parse_sweeps as parse_sweeps
from pyro_mmvae.experiments.sweep import sweep_variants as sweep_variants
