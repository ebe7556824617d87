"""AnnData and MuData: single-cell modalities, each a matrix of observations and variables."""

from pyro_mmvae.data.own.omics.loader import load_omics as load_omics
from pyro_mmvae.data.own.omics.loader import read_omics as read_omics
from pyro_mmvae.data.own.omics.objects import find_columns as find_columns
from pyro_mmvae.data.own.omics.objects import is_omics_object as is_omics_object
from pyro_mmvae.data.own.omics.objects import split_omics_object as split_omics_object
