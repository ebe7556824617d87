"""The distributions of posteriors that Pyro does not provide."""

from pyro_mmvae.distributions.families import Logistic as Logistic
from pyro_mmvae.distributions.families import location_scale as location_scale
from pyro_mmvae.distributions.gaussian import MultivariateNormal as MultivariateNormal
from pyro_mmvae.distributions.mixture import SubsetMixture as SubsetMixture
