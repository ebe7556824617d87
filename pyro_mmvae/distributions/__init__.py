"""Distributions that Pyro has not."""

from pyro_mmvae.distributions.gaussian import MultivariateNormal as MultivariateNormal
from pyro_mmvae.distributions.mixture import SubsetMixture as SubsetMixture
