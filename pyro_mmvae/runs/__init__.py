"""Runs: their configuration, their directories, their checkpoints, and what is drawn from them."""

from pyro_mmvae.files import read_metrics as read_metrics
from pyro_mmvae.files import write_text as write_text
from pyro_mmvae.runs.resolution import load_split as load_split
from pyro_mmvae.runs.resolution import read_specs as read_specs
from pyro_mmvae.runs.resolution import resolve as resolve
from pyro_mmvae.runs.resolution import resolve_modalities as resolve_modalities
from pyro_mmvae.runs.run import CHECKPOINTS as CHECKPOINTS
from pyro_mmvae.runs.run import CONFIG as CONFIG
from pyro_mmvae.runs.run import ENVIRONMENT as ENVIRONMENT
from pyro_mmvae.runs.run import SAMPLES as SAMPLES
from pyro_mmvae.runs.run import Run as Run
from pyro_mmvae.runs.run import RunError as RunError
from pyro_mmvae.runs.run import append_metrics as append_metrics
from pyro_mmvae.runs.run import build_vae as build_vae
from pyro_mmvae.runs.run import create as create
from pyro_mmvae.runs.run import import_plugins as import_plugins
from pyro_mmvae.runs.run import load as load
from pyro_mmvae.runs.run import read_config as read_config
from pyro_mmvae.runs.run import write_arrays as write_arrays
from pyro_mmvae.runs.run import write_evaluation as write_evaluation
from pyro_mmvae.runs.run import write_table as write_table
