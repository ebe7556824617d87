"""Multimodal variational autoencoders as barycenters, in Pyro.

Names are imported when they are first used (PEP 562), so that the command line and the pure parts start quickly.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from pyro_mmvae._version import __version__ as __version__

if TYPE_CHECKING:
    from pyro_mmvae.aggregation import Aggregation as Aggregation
    from pyro_mmvae.aggregation import ConsensusOfExperts as ConsensusOfExperts
    from pyro_mmvae.aggregation import DivergenceBarycenter as DivergenceBarycenter
    from pyro_mmvae.aggregation import HellingerMoments as HellingerMoments
    from pyro_mmvae.aggregation import HolderPool as HolderPool
    from pyro_mmvae.aggregation import LogLinearPool as LogLinearPool
    from pyro_mmvae.aggregation import MixtureOfBarycenters as MixtureOfBarycenters
    from pyro_mmvae.aggregation import MixtureOfExperts as MixtureOfExperts
    from pyro_mmvae.aggregation import MixtureOfPairs as MixtureOfPairs
    from pyro_mmvae.aggregation import MixtureOfProducts as MixtureOfProducts
    from pyro_mmvae.aggregation import MixtureOverSubsets as MixtureOverSubsets
    from pyro_mmvae.aggregation import MomentMatching as MomentMatching
    from pyro_mmvae.aggregation import ProductOfExperts as ProductOfExperts
    from pyro_mmvae.aggregation import WassersteinBarycenter as WassersteinBarycenter
    from pyro_mmvae.aggregation import aggregate as aggregate
    from pyro_mmvae.aggregation import aggregations as aggregations
    from pyro_mmvae.aggregation import barycenter as barycenter
    from pyro_mmvae.aggregation import draw_component as draw_component
    from pyro_mmvae.aggregation import make_aggregation as make_aggregation
    from pyro_mmvae.aggregation import register_aggregation as register_aggregation
    from pyro_mmvae.aggregation import unregister_aggregation as unregister_aggregation
    from pyro_mmvae.barycenters import divergences as divergences
    from pyro_mmvae.barycenters import register_divergence as register_divergence
    from pyro_mmvae.barycenters import unregister_divergence as unregister_divergence
    from pyro_mmvae.batch import Batch as Batch
    from pyro_mmvae.data import MultimodalDataset as MultimodalDataset
    from pyro_mmvae.data import load_data as load_data
    from pyro_mmvae.data import register_data as register_data
    from pyro_mmvae.distributions import SubsetMixture as SubsetMixture
    from pyro_mmvae.estimator import MultimodalVAETransformer as MultimodalVAETransformer
    from pyro_mmvae.evaluation import evaluate as evaluate
    from pyro_mmvae.experts import Experts as Experts
    from pyro_mmvae.guides import BarycentricGuide as BarycentricGuide
    from pyro_mmvae.guides import FrechetVariance as FrechetVariance
    from pyro_mmvae.guides import Penalty as Penalty
    from pyro_mmvae.guides import WassersteinInfoNCE as WassersteinInfoNCE
    from pyro_mmvae.guides import register_penalty as register_penalty
    from pyro_mmvae.likelihoods import Likelihood as Likelihood
    from pyro_mmvae.likelihoods import register_likelihood as register_likelihood
    from pyro_mmvae.modality_spec import ModalitySpec as ModalitySpec
    from pyro_mmvae.networks import NetworkOptions as NetworkOptions
    from pyro_mmvae.networks import register_network as register_network
    from pyro_mmvae.runs import Run as Run
    from pyro_mmvae.runs import load as load
    from pyro_mmvae.runs import make_config as make_config
    from pyro_mmvae.training import Objective as Objective
    from pyro_mmvae.training import fit as fit
    from pyro_mmvae.training import register_objective as register_objective
    from pyro_mmvae.training import resume as resume
    from pyro_mmvae.training import train as train
    from pyro_mmvae.vae import MixturePrior as MixturePrior
    from pyro_mmvae.vae import Modality as Modality
    from pyro_mmvae.vae import MultimodalVAE as MultimodalVAE
    from pyro_mmvae.vae import register_decoder as register_decoder
    from pyro_mmvae.vae import register_encoder as register_encoder
    from pyro_mmvae.vae import with_aggregation as with_aggregation

# Programs that do not configure logging see no messages.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_HOMES = {
    "Aggregation": "aggregation",
    "ConsensusOfExperts": "aggregation",
    "DivergenceBarycenter": "aggregation",
    "HellingerMoments": "aggregation",
    "HolderPool": "aggregation",
    "LogLinearPool": "aggregation",
    "MixtureOfBarycenters": "aggregation",
    "MixtureOfExperts": "aggregation",
    "MixtureOfPairs": "aggregation",
    "MixtureOfProducts": "aggregation",
    "MixtureOverSubsets": "aggregation",
    "MomentMatching": "aggregation",
    "ProductOfExperts": "aggregation",
    "WassersteinBarycenter": "aggregation",
    "aggregate": "aggregation",
    "aggregations": "aggregation",
    "draw_component": "aggregation",
    "make_aggregation": "aggregation",
    "register_aggregation": "aggregation",
    "unregister_aggregation": "aggregation",
    "divergences": "barycenters",
    "register_divergence": "barycenters",
    "unregister_divergence": "barycenters",
    "barycenter": "aggregation",
    "Batch": "batch",
    "MultimodalDataset": "data",
    "load_data": "data",
    "SubsetMixture": "distributions",
    "Experts": "experts",
    "BarycentricGuide": "guides",
    "FrechetVariance": "guides",
    "Penalty": "guides",
    "WassersteinInfoNCE": "guides",
    "register_penalty": "guides",
    "Likelihood": "likelihoods",
    "register_likelihood": "likelihoods",
    "ModalitySpec": "modality_spec",
    "NetworkOptions": "networks",
    "MixturePrior": "vae",
    "Modality": "vae",
    "MultimodalVAE": "vae",
    "register_decoder": "vae",
    "register_encoder": "vae",
    "with_aggregation": "vae",
    "Run": "runs",
    "load": "runs",
    "train": "training",
    "fit": "training",
    "MultimodalVAETransformer": "estimator",
    "evaluate": "evaluation",
    "register_network": "networks",
    "make_config": "runs",
    "Objective": "training",
    "register_objective": "training",
    "resume": "training",
    "register_data": "data",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604  (strings, built from the table)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
