"""Data sets of several modalities, loaded by name."""

from __future__ import annotations

from pyro_mmvae.data.arrays import from_arrays, from_items
from pyro_mmvae.data.batch import Batch, make_batch
from pyro_mmvae.data.celeba import load_celeba
from pyro_mmvae.data.characters import ALPHABET, decode_texts, encode_texts
from pyro_mmvae.data.column import MappedTensor
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.embedded import cache_folder, load_polymnist_mini
from pyro_mmvae.data.folder import load_folder, load_npz
from pyro_mmvae.data.infer import complete_traits, infer_traits
from pyro_mmvae.data.loading import (
    data_names,
    format_names,
    load_data,
    register_data,
    register_format,
    resolve_options,
)
from pyro_mmvae.data.missing import Missing
from pyro_mmvae.data.omics import load_omics
from pyro_mmvae.data.polymnist import make_polymnist
from pyro_mmvae.data.traits import Traits

__all__ = [
    "ALPHABET",
    "Batch",
    "MappedTensor",
    "Missing",
    "MultimodalDataset",
    "Traits",
    "cache_folder",
    "complete_traits",
    "data_names",
    "decode_texts",
    "encode_texts",
    "format_names",
    "from_arrays",
    "from_items",
    "infer_traits",
    "load_celeba",
    "load_data",
    "load_folder",
    "load_npz",
    "load_omics",
    "load_polymnist_mini",
    "make_batch",
    "make_polymnist",
    "register_data",
    "register_format",
    "resolve_options",
]
