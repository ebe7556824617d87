"""Pyro guides whose latent follows an aggregation of several encoders."""

from pyro_mmvae.guides.barycentric import BOUNDS as BOUNDS
from pyro_mmvae.guides.barycentric import BarycentricGuide as BarycentricGuide
from pyro_mmvae.guides.stratified import stratified as stratified
