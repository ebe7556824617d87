"""A check that an aggregation keeps the contract that guides and evaluation rely on."""

from pyro_mmvae.testing.contract import check_aggregation as check_aggregation
