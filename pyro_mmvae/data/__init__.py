"""Data sets of several modalities, loaded by name."""

from __future__ import annotations

from pyro_mmvae.data.batch import Batch, make_batch
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.embedded import cache_folder, load_polymnist_mini
from pyro_mmvae.data.loading import data_names, format_names, load_data, register_data, register_format
from pyro_mmvae.data.polymnist import make_polymnist

__all__ = [
    "Batch",
    "MultimodalDataset",
    "cache_folder",
    "data_names",
    "format_names",
    "load_data",
    "load_polymnist_mini",
    "make_batch",
    "make_polymnist",
    "register_data",
    "register_format",
]
