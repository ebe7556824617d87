"""Penalties: terms that a guide adds to the training loss of each item."""

from pyro_mmvae.guides.penalties.base import PENALTIES as PENALTIES
from pyro_mmvae.guides.penalties.base import Penalty as Penalty
from pyro_mmvae.guides.penalties.base import PenaltyLike as PenaltyLike
from pyro_mmvae.guides.penalties.base import describe_penalty as describe_penalty
from pyro_mmvae.guides.penalties.base import make_penalties as make_penalties
from pyro_mmvae.guides.penalties.base import make_penalty as make_penalty
from pyro_mmvae.guides.penalties.base import penalty_names as penalty_names
from pyro_mmvae.guides.penalties.base import penalty_options as penalty_options
from pyro_mmvae.guides.penalties.base import register_penalty as register_penalty
from pyro_mmvae.guides.penalties.base import site_names as site_names
from pyro_mmvae.guides.penalties.base import unregister_penalty as unregister_penalty
from pyro_mmvae.guides.penalties.frechet import FrechetVariance as FrechetVariance
from pyro_mmvae.guides.penalties.infonce import WassersteinInfoNCE as WassersteinInfoNCE
