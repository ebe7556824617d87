"""Data sets of several modalities, loaded by name or from files."""

from __future__ import annotations

from pyro_mmvae.data.batch import Batch, make_batch
from pyro_mmvae.data.cache import cache_folder
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.embedded import load_polymnist_mini
from pyro_mmvae.data.loading import (
    DataSource,
    data_names,
    find_data,
    format_names,
    load_data,
    register_data,
    register_format,
)
from pyro_mmvae.data.polymnist import make_polymnist
from pyro_mmvae.data.polymnist_build import build_polymnist
from pyro_mmvae.data.polymnist_built import load_polymnist_built
from pyro_mmvae.data.polymnist_files import load_polymnist_png, load_polymnist_pt

__all__ = [
    "Batch",
    "DataSource",
    "MultimodalDataset",
    "build_polymnist",
    "cache_folder",
    "data_names",
    "find_data",
    "format_names",
    "load_data",
    "load_polymnist_built",
    "load_polymnist_mini",
    "load_polymnist_png",
    "load_polymnist_pt",
    "make_batch",
    "make_polymnist",
    "register_data",
    "register_format",
]
