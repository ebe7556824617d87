"""Hölder pooling of experts with exponent one half, and the Gaussian with its moments."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.mixtures import MixtureOverSubsets
from pyro_mmvae.aggregation.rules import LogLinearPool
from pyro_mmvae.aggregation.subsets import SubsetFamily, SubsetWeights, check_components, members_of
from pyro_mmvae.aggregation.values import ExpertWeights, Prior, Values, shared_mask, weighted_mask
from pyro_mmvae.barycenters import diagonal
from pyro_mmvae.barycenters.bhattacharyya import pair_log_affinities
from pyro_mmvae.distributions import SubsetMixture, location_scale
from pyro_mmvae.experts import Experts


class HolderPool(MixtureOverSubsets):
    r"""The Hölder pool with exponent ½ (``holder``), the barycenter of the squared Hellinger distance.

    .. math::
        q \propto \Big( \sum_m \lambda_m \sqrt{q_m} \Big)^2
        = \sum_m \lambda_m^2 q_m + 2 \sum_{i < j} \lambda_i \lambda_j S_{ij} \, q_{ij}, \qquad
        q_{ij} = \sqrt{q_i q_j} / S_{ij}

    Among all densities it minimises :math:`\sum_m \lambda_m H^2(q, q_m)`, of all latent dimensions together. It is a
    mixture of single experts and of the log-linear pools :math:`q_{ij}` of two, with the Bhattacharyya coefficients
    :math:`S_{ij} = \int \sqrt{q_i q_j}`. These are small in many dimensions, unless experts agree: the result is then
    close to the mixture of experts.

    The weights of the mixture depend on the experts, and their gradient is that of the score function, see
    :meth:`pyro_mmvae.SubsetMixture.score_parts`: ``Trace_ELBO``, ``TraceGraph_ELBO``, ``TraceEnum_ELBO`` and the
    objectives of this package add it, while ``TraceMeanField_ELBO`` and ``RenyiELBO`` refuse such a mixture. A single
    expert or pair is never drawn for the training, since the draw would lose this gradient: the pool of everything
    present is one posterior, as that of ``wb``, with the bounds ``"mixture"`` and ``"component"`` alike. With the bound
    ``"subsets"`` it is the pool of a drawn subset.

    Args:
        expert_weights: The weights λ of the roots of the experts, in any form that :class:`Aggregation` takes. All 1 by
            default.
        subset_weights: The weights π of subsets for the bound ``"subsets"`` and for objectives that draw subsets
            themselves, see :class:`Aggregation`; the pool does not use them. "uniform" by default.
        prior: The pair ``(loc, scale)`` of the latent's prior, see :class:`Aggregation`; by default (0, 1).
        prior_expert: The rule of the prior expert, which must be "none", the default.

    Attributes:
        component_family: The family of subsets that the components of the mixture belong to.

    Raises:
        ValueError: If a prior expert is asked for.

    References:
        Vo, Martínez-García and Valera, 2026. Hölder++: improving the quality-coherence trade-off in multimodal VAEs.
        ICML, arXiv 2606.13381.
        Koliander, El-Laham, Djurić and Hlawatsch, 2022. Fusion of probability density functions. Proceedings of the
        IEEE 110(4).
    """

    component_family: SubsetFamily = "pairs"

    def __init__(
        self,
        *,
        expert_weights: ExpertWeights | None = None,
        subset_weights: SubsetWeights = "uniform",
        prior: Prior | None = None,
        prior_expert: str | None = None,
    ) -> None:
        super().__init__(
            LogLinearPool(), "all", expert_weights=expert_weights, subset_weights=subset_weights, prior=prior,
            prior_expert=prior_expert,
        )  # fmt: skip
        _check_prior_expert(self)
        self.name = type(self).__name__
        self.accepts = ("normal",)

    def forward(self, experts: Experts) -> TorchDistribution:
        """Return the mixture of single experts and pairs."""
        return self._mix(experts)

    def over_members(self, experts: Experts, members: Bool[Tensor, "*batch modality"]) -> TorchDistribution:
        """Return the pool of one subset per item."""
        return self(experts.condition_on(members))

    def joint(self, experts: Experts) -> TorchDistribution:
        """Return the pool of everything present, which is the whole mixture."""
        return self(experts)

    def check_bound(self, bound: str, num_modalities: int | None = None) -> None:
        """Check that there are not too many components; the whole mixture is computed with every bound."""
        if num_modalities is not None:
            check_components(self.component_family, num_modalities, self.name)

    @property
    def divergence(self) -> None:
        """None, since the squared Hellinger distance of all dimensions together is not a divergence by dimension."""
        return

    def _mix(self, experts: Experts) -> SubsetMixture:
        self.check_bound("mixture", experts.num_modalities)
        values = self.values_for(experts)
        weights = values.expert_weights
        members, live = members_of(self.component_family, shared_mask(experts, weights))
        # The pool of two experts has equal weights whatever λ is.
        rule = self.rule.with_values(Values(None, values.prior, "none"))
        logits = self._log_weights(members, live, weights, experts)
        return SubsetMixture(logits, rule.over_subsets(experts, members, live))

    def _log_weights(self, members: Tensor, live: Tensor, weights: Tensor | None, experts: Experts) -> Tensor:
        """Return the logarithms of λ_m² and 2 λ_i λ_j S_ij; all 0 where nothing is present."""
        pairs = pair_log_affinities(experts.loc, experts.scale) + math.log(2)
        logits = torch.cat([pairs.new_zeros(experts.mask.shape), pairs], -1)
        if weights is not None:
            log_weights = torch.where(weights > 0, weights, 1.0).log()
            exponents = torch.where(members.sum(-1) == 1, 2.0, 1.0).to(logits)
            logits = logits + exponents * (log_weights @ members.to(log_weights).mT)
        logits = torch.where(live, logits, -torch.inf)
        return torch.where(live.any(-1, keepdim=True), logits, 0.0)


class HellingerMoments(Aggregation):
    """The Gaussian with the moments of the Hölder pool (``helvae``, the aggregation of HELVAE).

    In each latent dimension it has mean and variance of :class:`HolderPool`, in closed form and with pathwise
    gradients. Its weights λ are those of the Hölder pool.

    Args:
        expert_weights: The weights λ of the roots of the experts, in any form that :class:`Aggregation` takes. All 1 by
            default.
        subset_weights: The weights π of subsets for objectives that draw subsets themselves, see :class:`Aggregation`;
            "uniform" by default.
        prior: The pair ``(loc, scale)`` of the latent's prior, see :class:`Aggregation`; by default (0, 1).
        prior_expert: The rule of the prior expert, which must be "none", the default.

    Raises:
        ValueError: If a prior expert is asked for.

    References:
        Vo and Valera, 2026. Hellinger multimodal variational autoencoders. AISTATS, arXiv 2601.06572.
    """

    subsets = "all"

    def __init__(
        self,
        *,
        expert_weights: ExpertWeights | None = None,
        subset_weights: SubsetWeights = "uniform",
        prior: Prior | None = None,
        prior_expert: str | None = None,
    ) -> None:
        super().__init__(
            expert_weights=expert_weights, subset_weights=subset_weights, prior=prior, prior_expert=prior_expert
        )
        _check_prior_expert(self)

    def forward(self, experts: Experts) -> TorchDistribution:
        """Return the Gaussian with the moments of the Hölder pool of everything present."""
        mixture = HolderPool().with_values(self.values_for(experts))._mix(experts)
        base = cast("Any", mixture.components).base_dist
        loc, scale = diagonal.moment(mixture.probs.unsqueeze(-2), base.loc, base.scale)
        return location_scale("normal", loc.squeeze(-2), scale.squeeze(-2))

    def draw(self, experts: Experts) -> Bool[Tensor, "*batch modality"]:
        """Return everything present with a positive weight, the one subset there is."""
        return weighted_mask(experts, self.expert_weights_for(experts))


def _check_prior_expert(aggregation: Aggregation) -> None:
    if aggregation.prior_expert not in {None, "none"}:
        raise ValueError(
            "prior_expert must be 'none' for a Hölder pool, whose exactness as a barycenter of the experts a prior "
            f"expert would end, got {aggregation.prior_expert!r}"
        )
