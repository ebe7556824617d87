"""The Fréchet variance of the experts about their barycenter, as a penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import Independent, Normal, kl_divergence

from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.holder import HolderPool
from pyro_mmvae.aggregation.kinds import distribution_of
from pyro_mmvae.aggregation.mixtures import MixtureOfExperts
from pyro_mmvae.barycenters import Divergence, get_divergence
from pyro_mmvae.barycenters.bures import squared_distance
from pyro_mmvae.distributions import SubsetMixture
from pyro_mmvae.experts import Experts, standard_deviation
from pyro_mmvae.guides.penalties.base import PENALTIES, Penalty, check_positive, check_several

if TYPE_CHECKING:
    from pyro_mmvae.guides.barycentric import BarycentricGuide

DivergenceLike: TypeAlias = str | Callable[[Normal, Normal], Tensor]

_KL = ("reverse_kl", "forward_kl")


class FrechetVariance(Penalty):
    r"""The Fréchet variance: the weighted mean divergence of the experts from their own barycenter.

    .. math:: \gamma \sum_{m \in S} \lambda_m D(q_S, q_m), \qquad \sum_{m \in S} \lambda_m = 1

    It draws the experts of an item together. :math:`D` is the divergence of the aggregation, of which :math:`q_S` is
    the barycenter: the squared 2-Wasserstein distance for ``wb`` and ``mwb``,
    :math:`\sum_m \lambda_m (\lVert loc_S - loc_m \rVert^2 + \lVert scale_S - scale_m \rVert^2)` for Gaussians with
    independent dimensions; :math:`KL(q_S \| q_m)` for ``pool``, ``poe`` and ``mopoe``; :math:`KL(q_m \| q_S)` for
    ``moment`` and ``moe``; and that of any aggregation by a divergence. The exponents of ``poe`` are divided by their
    sum here. With :math:`KL(q_S \| q_m)`, equal weights and everything present it is the last term of MVTCAE (Hwang et
    al., 2021), :math:`\frac{\beta \alpha}{M} \sum_m KL(q \| q_m)`, with :math:`\gamma = \beta \alpha`.

    :math:`S` is the subset that the bound draws, and everything present with the bound ``"mixture"``, or with
    ``"component"`` for aggregations of one component such as ``wb``.
    For ``moe``, whose drawn subsets are single experts, :math:`q_S` is the mixture of everything present with both
    bounds, and the penalty, a generalised Jensen–Shannon divergence, is estimated from one draw per expert.

    Args:
        gamma: The weight γ of the penalty, a positive number, 1 by default.
        scale_free: If True, divide the squared 2-Wasserstein distance in each latent dimension by the weighted mean
            variance of the experts, so that the penalty does not change when the latent space is rescaled. False by
            default; divergences other than ``w2`` have no such form.
        divergence: The divergence, a name in :func:`pyro_mmvae.divergences` or a callable of two elementwise Normals;
            by default that of the aggregation. It is needed for a user-defined aggregation without the attribute
            ``divergence``.

    Raises:
        ValueError: If γ is not a positive number, the divergence is unknown, or ``scale_free`` is combined with another
            divergence than ``w2``.

    References:
        Fréchet, 1948. Les éléments aléatoires de nature quelconque dans un espace distancié. Annales de l'institut
        Henri Poincaré 10(4).
        Hwang et al., 2021. Multi-view representation learning via total correlation objective. NeurIPS.

    Example:
        >>> from pyro_mmvae import BarycentricGuide
        >>> experts = Experts(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]])).map(lambda t, _: t[None])
        >>> guide = BarycentricGuide(lambda: experts, "wb", penalties=[FrechetVariance(0.5)])
        >>> guide.penalty_terms(experts)
        {'z_frechet': tensor([1.])}
    """

    name = "frechet"

    def __init__(self, gamma: float = 1.0, scale_free: bool = False, divergence: DivergenceLike | None = None) -> None:
        super().__init__()
        self.gamma = check_positive(self.name, "gamma", gamma)
        self.scale_free, self.divergence = scale_free, divergence
        if divergence is not None:
            self._check_form(get_divergence(divergence))

    def check(
        self, aggregation: Aggregation, *, expert_kind: str | None = None, num_modalities: int | None = None
    ) -> None:
        """Check that the divergence of the aggregation is known, and can be computed for posterior and experts."""
        check_several(self.name, num_modalities)
        if isinstance(aggregation, HolderPool):
            raise ValueError(
                f"penalty {self.name!r} must have an aggregation whose posterior has one loc and scale, from which the "
                f"divergence of an expert is computed, got {aggregation.name!r}, which is a mixture: use the penalty "
                "'infonce', or the aggregation 'helvae' with divergence='w2'"
            )
        divergence = self._divergence_for(aggregation)
        self._check_form(divergence)
        if isinstance(aggregation, MixtureOfExperts) and divergence.name != "forward_kl":
            raise ValueError(
                f"penalty {self.name!r}: divergence must be 'forward_kl' for the mixture of experts, from which no "
                f"other divergence of an expert can be computed, got {divergence.name!r}"
            )
        if expert_kind in {None, "normal"}:
            return
        if divergence.name not in {"w2", *_KL}:
            raise ValueError(
                f"penalty {self.name!r}: the divergence must be w2, reverse_kl or forward_kl for experts of kind "
                f"{expert_kind!r}, got {divergence.name!r}"
            )
        if expert_kind == "full" and self.scale_free:
            raise ValueError(
                f"penalty {self.name!r}: scale_free must be False for experts of full covariance, since it divides in "
                "each latent dimension, got True"
            )

    def forward(
        self, experts: Experts, members: Bool[Tensor, "*batch modality"] | None, guide: BarycentricGuide
    ) -> Float[Tensor, "*batch"]:
        """Return γ times the Fréchet variance of each item; 0 for an item of which nothing is present."""
        aggregation: Aggregation = guide.aggregation
        self.check(aggregation, expert_kind=experts.kind)
        with aggregation.prepared(experts) as ready:
            if isinstance(aggregation, MixtureOfExperts):
                return self.gamma * _divergence_from_mixture(aggregation(ready))
            if members is None or aggregation.subsets == "singletons":
                members, posterior = ready.mask, aggregation.joint(ready)
            else:
                posterior = aggregation.component(ready, members)
            return self.gamma * self._variance(aggregation, posterior, ready, members)

    def _variance(
        self, aggregation: Aggregation, posterior: TorchDistribution, experts: Experts, members: Tensor
    ) -> Tensor:
        """Return the weighted mean divergence of the members from the posterior."""
        weights = members.to(experts.loc)
        expert_weights = aggregation.expert_weights_for(experts)
        if expert_weights is not None:
            weights = weights * expert_weights
        total = weights.sum(-1, keepdim=True)
        weights = weights / torch.where(total > 0, total, 1.0)
        loc, scale = _parameters(posterior, experts)
        filled = _filled(experts, members, loc, scale)
        if self.scale_free:
            squares = _squared_w2(posterior, filled, loc, scale)  # (*batch, modality, latent)
            share = weights.unsqueeze(-1)
            variance = (share * filled.stddev.square()).sum(-2)
            variance = torch.where(total > 0, variance, 1.0)
            return ((share * squares).sum(-2) / variance).sum(-1)
        return (weights * _divergences(self._divergence_for(aggregation), posterior, filled, loc, scale)).sum(-1)

    def _divergence_for(self, aggregation: Aggregation) -> Divergence:
        divergence = aggregation.divergence if self.divergence is None else self.divergence
        if divergence is None:
            raise ValueError(
                f"penalty {self.name!r} must have a divergence, which aggregation {aggregation.name!r} does not name: "
                f"pass one, as in FrechetVariance({self.gamma:g}, divergence='w2'), or set the attribute divergence of "
                "the aggregation"
            )
        return get_divergence(divergence)

    def _check_form(self, divergence: Divergence) -> None:
        if self.scale_free and divergence.name != "w2":
            raise ValueError(
                f"penalty {self.name!r}: scale_free must be False for the divergence {divergence.name!r}, since only "
                "the squared 2-Wasserstein distance has a scale-free form, got True"
            )


PENALTIES.register(FrechetVariance.name, FrechetVariance, built_in=True)


def _parameters(posterior: TorchDistribution, experts: Experts) -> tuple[Tensor, Tensor]:
    """Return loc and scale parameter of a posterior, with one more dimension for the modalities."""
    base: Any = posterior.base_dist if isinstance(posterior, Independent) else posterior
    name, event_dim = ("scale_tril", 2) if experts.kind == "full" else ("scale", 1)
    if not hasattr(base, "loc") or not hasattr(base, name):
        raise TypeError(
            f"penalty 'frechet': the posterior must have loc and {name}, got a {type(base).__name__}, from which no "
            "divergence of an expert can be computed"
        )
    return base.loc.unsqueeze(-2), getattr(base, name).unsqueeze(-event_dim - 1)


def _filled(experts: Experts, members: Tensor, loc: Tensor, scale: Tensor) -> Experts:
    """Return the experts with those outside of the subset replaced by the posterior, from which they do not diverge.

    A divergence that is not finite would make the gradient NaN, whatever its weight.
    """
    is_full = experts.kind == "full"
    inside = members.unsqueeze(-1)
    parameter = cast("Tensor", experts.scale_tril) if is_full else experts.scale
    own = torch.where(inside.unsqueeze(-1) if is_full else inside, parameter, scale.detach())
    return experts.like(torch.where(inside, experts.loc, loc.detach()), own, None)


def _squared_w2(posterior: TorchDistribution, experts: Experts, loc: Tensor, scale: Tensor) -> Tensor:
    """Return the squared 2-Wasserstein distance within one location-scale family, in each latent dimension."""
    family: Any = posterior.base_dist if isinstance(posterior, Independent) else posterior
    expert: Any = distribution_of(experts)
    if type(family) is not type(expert.base_dist):
        raise ValueError(
            f"penalty 'frechet': the divergence w2 must have posterior and experts of one family, got "
            f"{type(family).__name__} and {type(expert.base_dist).__name__}"
        )
    factor = standard_deviation(experts.family, experts.df)
    return (loc - experts.loc).square() + (factor * (scale - experts.scale)).square()


def _divergences(
    divergence: Divergence, posterior: TorchDistribution, experts: Experts, loc: Tensor, scale: Tensor
) -> Float[Tensor, "*batch modality"]:
    """Return the divergence of each expert from the posterior, the sum over latent dimensions where it is one."""
    if experts.kind == "full":
        if divergence.name == "w2":
            own = cast("Tensor", experts.scale_tril)
            return squared_distance(loc.expand_as(experts.loc), scale.expand_as(own), experts.loc, own)
        whole = torch.distributions.MultivariateNormal(loc, scale_tril=scale, validate_args=False)
        return _kl(divergence.name, whole, distribution_of(experts))
    base: Any = posterior.base_dist if isinstance(posterior, Independent) else posterior
    if divergence.name == "w2":
        return _squared_w2(posterior, experts, loc, scale).sum(-1)
    if not isinstance(base, Normal):
        raise ValueError(
            f"penalty 'frechet': the posterior must be Gaussian for the divergence {divergence.name!r}, got "
            f"{type(base).__name__}"
        )
    q = Normal(loc, scale, validate_args=False)
    if experts.kind == "normal":
        return divergence(q, Normal(experts.loc, experts.scale, validate_args=False)).sum(-1)
    each: Any = distribution_of(experts)
    return _kl(divergence.name, q, each.base_dist).sum(-1)


def _kl(name: str, posterior: Any, experts: Any) -> Tensor:
    return kl_divergence(posterior, experts) if name == "reverse_kl" else kl_divergence(experts, posterior)


def _divergence_from_mixture(mixture: TorchDistribution) -> Float[Tensor, "*batch"]:
    r"""Return an unbiased estimate of :math:`\sum_m \pi_m KL(q_m \| \sum_k \pi_k q_k)`, from one draw per expert."""
    if not isinstance(mixture, SubsetMixture):
        raise TypeError(f"penalty 'frechet': the mixture of experts must be a SubsetMixture, got {mixture!r}")
    z = mixture.components.rsample()  # (*batch, modality, latent)
    log_mixture = mixture.log_prob(z.movedim(-2, 0)).movedim(0, -1)
    return (mixture.probs * (mixture.components.log_prob(z) - log_mixture)).sum(-1)
