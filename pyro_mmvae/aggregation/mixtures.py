"""Mixtures of a rule over subsets of the modalities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.custom import FunctionAggregation, as_rule
from pyro_mmvae.aggregation.rules import MatrixRule, ProductOfExperts, Selection, WassersteinBarycenter, keep
from pyro_mmvae.aggregation.subsets import (
    SubsetFamily,
    SubsetWeights,
    check_components,
    check_subsets,
    draw_subset,
    members_of,
    subset_probabilities,
)
from pyro_mmvae.aggregation.values import ExpertWeights, Prior, Values, shared_mask, weighted_mask
from pyro_mmvae.distributions import SubsetMixture
from pyro_mmvae.experts import Experts


class MixtureOverSubsets(Aggregation):
    r"""The mixture :math:`\sum_S \pi_S q_S` of a rule over subsets of the modalities.

    Expert weights, prior and prior expert may be given to the rule or here, but not to both. A modality of weight 0 is
    as good as absent: a subset with it is dead. Nothing else of the weights reaches a rule that is a callable.

    Args:
        rule: The rule for one subset: an :class:`Aggregation`, or any module or callable from experts to a
            distribution. A rule without a matrix is called with one more batch dimension for the subsets.
        subsets: The family of subsets: ``"powerset"``, every non-empty subset of the present modalities, by default;
            ``"singletons"``; ``"pairs"``, single modalities and pairs of them; ``"all"``, which is one subset and hence
            not a mixture; a bool membership matrix `(component, modality)`; or a function from the number of modalities
            to one.
        **options: The keywords of :class:`Aggregation`, of which ``subset_weights`` are the weights π.

    Raises:
        ValueError: If ``subsets`` is not a family, or an option is given to the rule as well.
        TypeError: If the rule is not callable.

    Example:
        >>> experts = Experts(torch.zeros(8, 3, 2), torch.ones(8, 3, 2))
        >>> MixtureOverSubsets(WassersteinBarycenter(), subset_weights="by_size")(experts).num_components
        7
    """

    default_prior_expert = ""  # the rule's default

    def __init__(
        self,
        rule: Callable[[Experts], TorchDistribution],
        subsets: SubsetFamily = "powerset",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_subsets(subsets)
        inner = as_rule(rule)
        if isinstance(inner, MixtureOverSubsets):
            raise ValueError(f"rule must be a rule for one subset, got the mixture {inner.name!r}")
        for option, other in (("expert_weights", inner.expert_weights), ("prior", inner.prior),
                              ("prior_expert", inner.prior_expert)):  # fmt: skip
            if options.get(option) is not None and other is not None:
                raise ValueError(f"{option} must be given to MixtureOverSubsets or to its rule, got both")
        if self.prior_expert is not None and isinstance(inner, FunctionAggregation):
            raise ValueError("prior_expert must be left out for a rule that is a callable: make it an Aggregation")
        self.rule, self.subsets, self.accepts = inner, subsets, inner.accepts
        self.name = f"{type(self).__name__}({inner.name})"

    def forward(self, experts: Experts) -> TorchDistribution:
        """Return the mixture over the subsets."""
        self.check_bound("mixture", experts.num_modalities)
        if isinstance(self.subsets, str) and self.subsets == "all":
            return self.joint(experts)
        rule, weights = self._resolve(experts)
        is_constant = experts.complete and weights is None and isinstance(self.subset_weights, str)
        if is_constant and isinstance(rule, MatrixRule):
            options = (rule.values_for(experts).prior_expert, self.subset_weights)
            rows, logits = keep(self, experts, options, lambda: self._constants(experts, rule))
            return SubsetMixture(logits.expand(*experts.batch_shape, -1), rule.fuse(experts, rows, single=False))
        # What is equal for all items, since nothing is missing, has no batch dimensions: W is then one matrix.
        members, live = members_of(self._family, shared_mask(experts, weights))
        if callable(self.subset_weights):
            live = live.expand(*experts.batch_shape, -1)
        logits = self._logits(members, live, weights, experts).expand(*experts.batch_shape, -1)
        return SubsetMixture(logits, rule.over_subsets(self._for_rule(experts, weights), members, live))

    def draw(self, experts: Experts) -> Bool[Tensor, "*batch modality"]:
        """Draw one subset per item with its weight."""
        self.check_bound("component")
        weights = self.expert_weights_for(experts)
        return draw_subset(self._family, weighted_mask(experts, weights), self._weights, self._factor(weights))

    def over_members(self, experts: Experts, members: Bool[Tensor, "*batch modality"]) -> TorchDistribution:
        """Return the rule's posterior of one subset per item."""
        rule, weights = self._resolve(experts)
        return rule.over_members(self._for_rule(experts, weights), members)

    def joint(self, experts: Experts) -> TorchDistribution:
        """Return the rule's posterior of everything present."""
        with self.prepared(experts) as ready:
            rule, weights = self._resolve(ready)
            if weights is not None and not isinstance(rule, MatrixRule):
                return rule(ready.condition_on(weights.detach() > 0))
            return rule(ready)

    def check_bound(self, bound: str, num_modalities: int | None = None) -> None:
        """Check that there are not too many components to mix, and that drawing one loses no gradient."""
        if bound == "mixture" and num_modalities is not None:
            check_components(self._family, num_modalities, self.name)
        if bound == "component" and self.subset_weights == "learned":
            raise ValueError(
                "subset_weights='learned' needs bound='mixture': a drawn component has no gradient for them"
            )

    def with_subsets(self, subsets: SubsetFamily) -> MixtureOverSubsets:
        """Return a view of this mixture that shares its parameters, but has another family of subsets.

        Args:
            subsets: The family, as for the constructor.
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__, subsets=subsets)
        return view

    def posterior_family(self, expert_kind: str) -> str:
        """Return the family of the components for experts of a kind."""
        return self.rule.posterior_family(expert_kind)

    @property
    def divergence(self) -> Any:
        """The divergence whose barycenters are mixed, that of the rule; None if it is unknown."""
        return self.rule.divergence

    @property
    def prior(self) -> Prior | None:
        """The pair ``(loc, scale)`` of the prior, given here or to the rule."""
        own = super().prior
        return self.rule.prior if own is None else own

    def expert_weights_for(self, experts: Experts) -> Tensor | None:
        """Return the weights λ, given here or to the rule."""
        own = super().expert_weights_for(experts)
        return self.rule.expert_weights_for(experts) if own is None else own

    @property
    def learns_expert_weights(self) -> bool:
        """If True, λ, given here or to the rule, is a parameter or a module."""
        return super().learns_expert_weights or self.rule.learns_expert_weights

    def build_weights(self, num_modalities: int, latent_size: int) -> None:
        """Turn weights that were given by name, here or to the rule, into modules."""
        super().build_weights(num_modalities, latent_size)
        self.rule.build_weights(num_modalities, latent_size)

    def values_for(self, experts: Experts) -> Values:
        """Return λ, prior and prior expert for some experts, given here or to the rule."""
        if self._values is not None:
            return self._values
        prior_expert = self.prior_expert or self.rule.prior_expert or self.default_prior_expert
        return Values(self.expert_weights_for(experts), self.prior, prior_expert or self.rule.default_prior_expert)

    @property
    def _family(self) -> SubsetFamily:
        return cast("SubsetFamily", self.subsets)

    @property
    def _weights(self) -> SubsetWeights:
        return cast("SubsetWeights", self.subset_weights)

    def _resolve(self, experts: Experts) -> tuple[Aggregation, Tensor | None]:
        """Return a view of the rule with the values in force, and λ."""
        values = self.values_for(experts)
        return self.rule.with_values(values), values.expert_weights

    def _for_rule(self, experts: Experts, _weights: Tensor | None) -> Experts:
        """Return the experts that the rule gets; all, since it has λ itself."""
        return experts

    def _factor(self, _weights: Tensor | None) -> Tensor | None:
        """Return the weights of modalities that multiply those of subsets; none, since λ is the rule's."""
        return None

    def _logits(self, members: Tensor, live: Tensor, weights: Tensor | None, experts: Experts) -> Tensor:
        factor = self._factor(weights)
        by_component = None if factor is None else factor @ members.to(factor).mT
        probabilities = subset_probabilities(self._weights, members, live, by_component, dtype=experts.loc.dtype)
        alive = probabilities > 0
        return torch.where(alive, torch.where(alive, probabilities, 1.0).log(), -torch.inf)

    def _constants(self, experts: Experts, rule: MatrixRule) -> tuple[Tensor, ...]:
        """Return W and log π of items that have every modality."""
        members, live = members_of(self._family, experts.mask.new_ones(experts.num_modalities))
        return rule.rows_of_complete(experts, self._family), self._logits(members, live, None, experts)


class MixtureOfProducts(MixtureOverSubsets):
    """The mixture of products of experts over subsets (``mopoe``, MoPoE).

    The prior is by default an expert of the subset of all M modalities only, as in the authors' code: an item that
    lacks a modality, or is conditioned on fewer, has no subset with the prior. An absent modality is therefore not as
    good as a removed one.

    Args:
        subsets: The family of subsets, the powerset by default.
        **options: The keywords of :class:`Aggregation`.

    References:
        Sutter et al., 2021. Generalized multimodal ELBO. ICLR, arXiv 2105.02470.
    """

    default_prior_expert = "complete"

    def __init__(self, subsets: SubsetFamily = "powerset", **options: Any) -> None:
        super().__init__(ProductOfExperts(), subsets, **options)


class MixtureOfBarycenters(MixtureOverSubsets):
    """The mixture of Wasserstein barycenters over subsets (``mwb``).

    Args:
        subsets: The family of subsets, the powerset by default.
        **options: The keywords of :class:`Aggregation`.

    References:
        Qiu et al., 2025. Multimodal variational autoencoder: a barycentric view. AAAI 39(19), arXiv 2412.20487.
    """

    def __init__(self, subsets: SubsetFamily = "powerset", **options: Any) -> None:
        super().__init__(WassersteinBarycenter(), subsets, **options)


class MixtureOfPairs(MixtureOverSubsets):
    """The mixture of single experts and Wasserstein barycenters of two experts (``pairs``).

    It has M (M + 1) / 2 components for M modalities, where ``mwb`` has 2^M - 1, so that its whole density can be
    computed for up to 90 modalities. With three modalities or more no component uses everything present:
    :meth:`joint` is then the barycenter of all, which the mixture itself does not contain.

    Args:
        subsets: The family of subsets, single modalities and pairs by default.
        **options: The keywords of :class:`Aggregation`.
    """

    def __init__(self, subsets: SubsetFamily = "pairs", **options: Any) -> None:
        super().__init__(WassersteinBarycenter(), subsets, **options)


class MixtureOfExperts(MixtureOverSubsets):
    """The mixture of the present experts (``moe``, the posterior of MMVAE).

    The objective of MMVAE's paper is another one: an importance-weighted bound with Laplace experts.

    Args:
        expert_weights: The weights of the mixture, one per modality, in any form that :class:`Aggregation` takes. All 1
            by default.
        subset_weights: Further weights of the single modalities, see :class:`Aggregation`; "uniform" by default.
        prior: The pair ``(loc, scale)`` of the latent's prior, see :class:`Aggregation`; by default (0, 1).
        prior_expert: In which subsets the prior is one more expert, see :class:`Aggregation`; "none" by default.

    References:
        Shi et al., 2019. Variational mixture-of-experts autoencoders for multi-modal deep generative models. NeurIPS.
    """

    def __init__(
        self,
        *,
        expert_weights: ExpertWeights | None = None,
        subset_weights: SubsetWeights = "uniform",
        prior: Prior | None = None,
        prior_expert: str | None = None,
    ) -> None:
        alone = prior_expert in {None, "none"}  # otherwise the prior is multiplied in
        super().__init__(
            Selection() if alone else ProductOfExperts(),
            "singletons",
            expert_weights=expert_weights,
            subset_weights=subset_weights,
            prior=prior,
            prior_expert=prior_expert,
        )
        self.name = type(self).__name__

    @property
    def divergence(self) -> str:
        """The divergence whose barycenter the mixture is among all distributions."""
        return "forward_kl"

    def draw(self, experts: Experts) -> Bool[Tensor, "*batch modality"]:
        """Draw one modality per item with its weight."""
        weights = self.expert_weights_for(experts)
        if weights is not None and weights.requires_grad:
            raise ValueError(
                f"aggregation {self.name!r} with expert_weights that require a gradient has no component bound: the "
                "gradient of its mixture weights would be lost in the draw. Use bound='mixture'"
            )
        return super().draw(experts)

    def joint(self, experts: Experts) -> TorchDistribution:
        """Raise an error: no component uses everything present."""
        raise ValueError(f"aggregation {self.name!r} has no component of everything present")

    def _resolve(self, experts: Experts) -> tuple[Aggregation, Tensor | None]:
        values = self.values_for(experts)
        return self.rule.with_values(values._replace(expert_weights=None)), values.expert_weights

    def _for_rule(self, experts: Experts, weights: Tensor | None) -> Experts:
        # The rule does not have λ, and only this prior expert asks which modalities are present.
        if weights is None or self.values_for(experts).prior_expert != "joint_only":
            return experts
        return experts.condition_on(weights.detach() > 0)

    def _factor(self, weights: Tensor | None) -> Tensor | None:
        return weights
