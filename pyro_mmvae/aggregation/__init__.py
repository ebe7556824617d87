"""Aggregations: rules that turn several experts into one posterior, as objects, by name, and over subsets."""

from pyro_mmvae.aggregation.barycenter import DivergenceBarycenter as DivergenceBarycenter
from pyro_mmvae.aggregation.barycenter import barycenter as barycenter
from pyro_mmvae.aggregation.base import Aggregation as Aggregation
from pyro_mmvae.aggregation.custom import FunctionAggregation as FunctionAggregation
from pyro_mmvae.aggregation.dependent import ConsensusOfExperts as ConsensusOfExperts
from pyro_mmvae.aggregation.functional import aggregate as aggregate
from pyro_mmvae.aggregation.functional import draw_component as draw_component
from pyro_mmvae.aggregation.functional import make_aggregation as make_aggregation
from pyro_mmvae.aggregation.holder import HellingerMoments as HellingerMoments
from pyro_mmvae.aggregation.holder import HolderPool as HolderPool
from pyro_mmvae.aggregation.mixtures import MixtureOfBarycenters as MixtureOfBarycenters
from pyro_mmvae.aggregation.mixtures import MixtureOfExperts as MixtureOfExperts
from pyro_mmvae.aggregation.mixtures import MixtureOfPairs as MixtureOfPairs
from pyro_mmvae.aggregation.mixtures import MixtureOfProducts as MixtureOfProducts
from pyro_mmvae.aggregation.mixtures import MixtureOverSubsets as MixtureOverSubsets
from pyro_mmvae.aggregation.names import aggregation_options as aggregation_options
from pyro_mmvae.aggregation.names import aggregations as aggregations
from pyro_mmvae.aggregation.names import describe_aggregation as describe_aggregation
from pyro_mmvae.aggregation.registration import register_aggregation as register_aggregation
from pyro_mmvae.aggregation.registration import unregister_aggregation as unregister_aggregation
from pyro_mmvae.aggregation.rules import LogLinearPool as LogLinearPool
from pyro_mmvae.aggregation.rules import MomentMatching as MomentMatching
from pyro_mmvae.aggregation.rules import ProductOfExperts as ProductOfExperts
from pyro_mmvae.aggregation.rules import WassersteinBarycenter as WassersteinBarycenter
