"""Aggregations: rules that make one posterior of several experts, by name, as objects, and over subsets."""

from pyro_mmvae.aggregation.barycenter import barycenter as barycenter
from pyro_mmvae.aggregation.functional import aggregate as aggregate
from pyro_mmvae.aggregation.functional import aggregations as aggregations
from pyro_mmvae.aggregation.functional import draw_component as draw_component
from pyro_mmvae.aggregation.functional import draw_members as draw_members
from pyro_mmvae.aggregation.functional import full_component as full_component
from pyro_mmvae.aggregation.functional import get_aggregation as get_aggregation
from pyro_mmvae.aggregation.functional import register_aggregation as register_aggregation
from pyro_mmvae.aggregation.functional import unregister_aggregation as unregister_aggregation
