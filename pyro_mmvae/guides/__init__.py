"""Pyro guides whose latent follows an aggregation of several encoders, and penalties of such guides."""

from pyro_mmvae._shards import gather_items as gather_items
from pyro_mmvae._shards import own_items as own_items
from pyro_mmvae.guides.barycentric import BOUNDS as BOUNDS
from pyro_mmvae.guides.barycentric import BarycentricGuide as BarycentricGuide
from pyro_mmvae.guides.penalties import FrechetVariance as FrechetVariance
from pyro_mmvae.guides.penalties import Penalty as Penalty
from pyro_mmvae.guides.penalties import WassersteinInfoNCE as WassersteinInfoNCE
from pyro_mmvae.guides.penalties import describe_penalty as describe_penalty
from pyro_mmvae.guides.penalties import make_penalty as make_penalty
from pyro_mmvae.guides.penalties import penalty_names as penalty_names
from pyro_mmvae.guides.penalties import penalty_options as penalty_options
from pyro_mmvae.guides.penalties import register_penalty as register_penalty
from pyro_mmvae.guides.penalties import unregister_penalty as unregister_penalty
from pyro_mmvae.guides.stratified import stratified as stratified
