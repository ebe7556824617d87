"""Runs: their configurations, directories, checkpoints and samples."""

from pyro_mmvae.files import write_text as write_text
from pyro_mmvae.run_files import CHECKPOINTS as CHECKPOINTS
from pyro_mmvae.run_files import RunFiles as RunFiles
from pyro_mmvae.run_files import read_metrics as read_metrics
from pyro_mmvae.runs.config import adapt_recipe as adapt_recipe
from pyro_mmvae.runs.config import dump_config as dump_config
from pyro_mmvae.runs.config import make_config as make_config
from pyro_mmvae.runs.config import without_recipe as without_recipe
from pyro_mmvae.runs.creation import NewRun as NewRun
from pyro_mmvae.runs.creation import locked_run as locked_run
from pyro_mmvae.runs.creation import new_run as new_run
from pyro_mmvae.runs.data_record import DataChangedError as DataChangedError
from pyro_mmvae.runs.data_record import check_splits as check_splits
from pyro_mmvae.runs.data_record import make_record as make_record
from pyro_mmvae.runs.layout import RunError as RunError
from pyro_mmvae.runs.layout import RunWriter as RunWriter
from pyro_mmvae.runs.layout import check_new as check_new
from pyro_mmvae.runs.layout import create as create
from pyro_mmvae.runs.layout import read_config as read_config
from pyro_mmvae.runs.layout import write_arrays as write_arrays
from pyro_mmvae.runs.layout import write_evaluation as write_evaluation
from pyro_mmvae.runs.layout import write_table as write_table
from pyro_mmvae.runs.plugins import import_plugins as import_plugins
from pyro_mmvae.runs.plugins import require_plugins as require_plugins
from pyro_mmvae.runs.resolution import UNKEPT_DATA as UNKEPT_DATA
from pyro_mmvae.runs.resolution import load_split as load_split
from pyro_mmvae.runs.resolution import read_specs as read_specs
from pyro_mmvae.runs.resolution import resolve as resolve
from pyro_mmvae.runs.resolution import resolve_modalities as resolve_modalities
from pyro_mmvae.runs.run import Run as Run
from pyro_mmvae.runs.run import build_vae as build_vae
from pyro_mmvae.runs.run import load_run as load_run
from pyro_mmvae.runs.upkeep import append_metrics as append_metrics

load = load_run  # the public name, pyro_mmvae.load
