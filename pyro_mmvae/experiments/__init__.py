"""Experiments over several runs, each a function of configurations."""

from pyro_mmvae.experiments.claims import claim_cells as claim_cells
from pyro_mmvae.experiments.claims import run_here as run_here
from pyro_mmvae.experiments.compare import Cell as Cell
from pyro_mmvae.experiments.compare import make_cells as make_cells
from pyro_mmvae.experiments.compare import parse_variants as parse_variants
from pyro_mmvae.experiments.compare import run_cell as run_cell
from pyro_mmvae.experiments.failures import Failure as Failure
from pyro_mmvae.experiments.failures import FailureBook as FailureBook
from pyro_mmvae.experiments.jobs import run_in_processes as run_in_processes
from pyro_mmvae.experiments.ray_engine import run_on_ray as run_on_ray
from pyro_mmvae.experiments.readings import is_read as is_read
from pyro_mmvae.experiments.readings import read_cell as read_cell
from pyro_mmvae.experiments.readings import reading_options as reading_options
from pyro_mmvae.experiments.sweep import SweepPoint as SweepPoint
from pyro_mmvae.experiments.sweep import parse_sweeps as parse_sweeps
from pyro_mmvae.experiments.sweep import sweep_variants as sweep_variants
from pyro_mmvae.experiments.tasks import Evaluating as Evaluating
from pyro_mmvae.experiments.tasks import Reading as Reading
from pyro_mmvae.experiments.tasks import Task as Task
from pyro_mmvae.experiments.tasks import find_failure as find_failure
from pyro_mmvae.experiments.tasks import is_settled as is_settled
