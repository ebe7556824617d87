"""Multimodal data sets: loaders by name or path, and data sets made of arrays and items."""

from __future__ import annotations

from pyro_mmvae.data.dataset import MultimodalDataset, make_batch, select_items
from pyro_mmvae.data.description import DataDescription, describe_data
from pyro_mmvae.data.infer import complete_specs, find_moments, infer_specs, range_problems
from pyro_mmvae.data.matching import MatchedData, match_data
from pyro_mmvae.data.missing import Missing
from pyro_mmvae.data.own.arrays import from_arrays
from pyro_mmvae.data.own.folder import load_folder, load_npz
from pyro_mmvae.data.own.image_folders import load_images
from pyro_mmvae.data.own.items import from_items
from pyro_mmvae.data.own.manifest import load_manifest
from pyro_mmvae.data.own.omics import load_omics
from pyro_mmvae.data.own.shards.loader import load_shards
from pyro_mmvae.data.own.shards.writing import write_shards
from pyro_mmvae.data.own.values import to_dataset
from pyro_mmvae.data.own.writing import write_folder
from pyro_mmvae.data.registry import (
    DataSource,
    data_names,
    data_options,
    find_data,
    format_names,
    load_data,
    register_data,
    register_format,
    resolve_options,
    shared_observations,
)
from pyro_mmvae.data.sets.celeba import load_celeba
from pyro_mmvae.data.sets.mnist_svhn_text import load_mnist_svhn_text
from pyro_mmvae.data.sets.polymnist_build import build_polymnist
from pyro_mmvae.data.sets.polymnist_built import load_polymnist_built
from pyro_mmvae.data.sets.polymnist_mini import load_polymnist_mini
from pyro_mmvae.data.sets.polymnist_published import load_polymnist_png, load_polymnist_pt
from pyro_mmvae.data.sets.polymnist_recipe import make_polymnist
from pyro_mmvae.data.shard_order import Shards
from pyro_mmvae.data.storage.cache import cache_folder
from pyro_mmvae.data.storage.indexed import IndexedTensor
from pyro_mmvae.data.storage.mapped import MappedTensor
from pyro_mmvae.data.storage.selected import SelectedFeatures
from pyro_mmvae.data.text import ALPHABET, decode_texts, encode_texts
from pyro_mmvae.modality_spec import ModalitySpec

__all__ = [
    "ALPHABET",
    "DataDescription",
    "DataSource",
    "IndexedTensor",
    "MappedTensor",
    "MatchedData",
    "Missing",
    "ModalitySpec",
    "MultimodalDataset",
    "SelectedFeatures",
    "Shards",
    "build_polymnist",
    "cache_folder",
    "complete_specs",
    "data_names",
    "data_options",
    "find_data",
    "find_moments",
    "decode_texts",
    "describe_data",
    "encode_texts",
    "format_names",
    "from_arrays",
    "from_items",
    "infer_specs",
    "load_celeba",
    "load_data",
    "load_folder",
    "load_images",
    "load_manifest",
    "load_mnist_svhn_text",
    "load_npz",
    "load_omics",
    "load_polymnist_built",
    "load_polymnist_mini",
    "load_polymnist_png",
    "load_shards",
    "load_polymnist_pt",
    "make_batch",
    "match_data",
    "make_polymnist",
    "range_problems",
    "register_data",
    "register_format",
    "resolve_options",
    "select_items",
    "shared_observations",
    "to_dataset",
    "write_folder",
    "write_shards",
]
