"""The rules that are one product of a matrix of weights with the experts, for one subset or for many at once.

A rule has one row of the matrix W per subset, a column per expert and a last one for the prior. All subsets of all
items are one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.kinds import MOMENT, PRODUCT, SELECTION, WASSERSTEIN, FusionRules
from pyro_mmvae.aggregation.subsets import SubsetFamily, members_of
from pyro_mmvae.aggregation.values import shared_mask, weighted_mask
from pyro_mmvae.experts import EXPERT_KINDS, Experts


class MatrixRule(Aggregation):
    """A rule that is a product of a matrix of weights with the experts; the base class of the built-in rules.

    The keywords are those of :class:`Aggregation`.
    """

    subsets = "all"
    fusion_rules: FusionRules = {}
    normalised: ClassVar[bool] = True
    """If True, the weights of the members of a subset are divided by their sum."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.accepts = tuple(kind for kind in EXPERT_KINDS if kind in self.fusion_rules)

    def forward(self, experts: Experts) -> TorchDistribution:
        """Return the posterior of everything present."""
        view = self.with_values(self.values_for(experts))  # λ is computed once
        return view.fuse(experts, view._rows_of_present(experts), single=True)

    def draw(self, experts: Experts) -> Bool[Tensor, "*batch modality"]:
        """Return everything present with a positive weight, the one subset there is."""
        return weighted_mask(experts, self.expert_weights_for(experts))

    def over_members(self, experts: Experts, members: Bool[Tensor, "*batch modality"]) -> TorchDistribution:
        """Return the posterior of one subset per item."""
        rows = self.rows(experts, members.unsqueeze(-2), members.any(-1, keepdim=True))
        return self.fuse(experts, rows, single=True)

    def over_subsets(
        self,
        experts: Experts,
        members: Bool[Tensor, "*#batch component modality"],
        live: Bool[Tensor, "*#batch component"],
    ) -> TorchDistribution:
        """Return the posteriors of many subsets at once, as one matrix product."""
        return self.fuse(experts, self.rows(experts, members, live), single=False)

    def posterior_family(self, expert_kind: str) -> str:
        """Return the family of the posterior for experts of a kind."""
        rule = self.fusion_rules.get(expert_kind)
        return super().posterior_family(expert_kind) if rule is None else rule.family

    def fuse(
        self, experts: Experts, rows: Float[Tensor, "*#batch component modality_or_prior"], *, single: bool
    ) -> TorchDistribution:
        """Return the components of a matrix W, see :class:`~pyro_mmvae.aggregation.kinds.FusionRule`."""
        loc, scale = self.prior_for(experts)
        prior = (loc.unsqueeze(-2), scale.unsqueeze(-2))
        return self.fusion_rules[experts.kind](experts, prior, rows, single=single)

    def rows(
        self,
        experts: Experts,
        members: Bool[Tensor, "*#batch component modality"],
        live: Bool[Tensor, "*#batch component"],
    ) -> Float[Tensor, "*#batch component modality_and_prior"]:
        """Return the matrix W, its last column the prior's; the row of a dead subset is the prior alone.

        Args:
            experts: The unimodal posteriors of the items.
            members: The subsets, one row per subset, without batch dimensions where they are equal for all items.
            live: The subsets that count for an item. Those without a member of positive weight do not, either.
        """
        values = self.values_for(experts)
        rows = members.to(experts.loc)
        if values.expert_weights is not None:
            rows = rows * values.expert_weights.to(rows).unsqueeze(-2)
            members = rows.detach() > 0  # rows keep the others for the gradient of a weight that is 0
            live = live & members.any(-1)
        has_prior = ~live
        if values.prior_expert == "all":
            has_prior = torch.ones_like(live)
        elif values.prior_expert == "joint_only":
            count = shared_mask(experts, values.expert_weights).sum(-1, keepdim=True)
            has_prior = has_prior | (members.sum(-1) == count)
        elif values.prior_expert == "complete":
            has_prior = has_prior | members.all(-1)
        rows = torch.where(live.unsqueeze(-1), rows, 0.0).expand(*has_prior.shape, -1)
        rows = torch.cat([rows, has_prior.unsqueeze(-1).to(rows)], -1)
        return rows / rows.sum(-1, keepdim=True) if self.normalised else rows

    def rows_of_complete(self, experts: Experts, subsets: SubsetFamily) -> Tensor:
        """Return the matrix W of items that have every modality, without a column for a prior that has no weight.

        Args:
            experts: Experts of which nothing is missing, without expert weights.
            subsets: The family of subsets that the rows are for.
        """
        members, live = members_of(subsets, experts.mask.new_ones(experts.num_modalities))
        rows = self.rows(experts, members, live)
        return rows[..., :-1].contiguous() if self.values_for(experts).prior_expert == "none" else rows

    def _rows_of_present(self, experts: Experts) -> Tensor:
        values = self.values_for(experts)
        if experts.complete and values.expert_weights is None:
            return keep(self, experts, values.prior_expert, lambda: (self.rows_of_complete(experts, "all"),))[0]
        # What is equal for all items, since nothing is missing, has no batch dimensions: W is then one matrix.
        present = experts.mask.new_ones(experts.num_modalities) if experts.complete else experts.mask
        return self.rows(experts, *members_of("all", present))


class ProductOfExperts(MatrixRule):
    """The product of the present experts and the prior (``poe``, the posterior of MVAE).

    The objective of MVAE's paper is another one: it adds the ELBOs of single modalities and of random subsets to that
    of all modalities.

    Its expert weights are raw exponents. The keywords are those of :class:`Aggregation`.

    References:
        Wu and Goodman, 2018. Multimodal generative models for scalable weakly-supervised learning. NeurIPS.
    """

    fusion_rules = PRODUCT
    divergence = "reverse_kl"
    normalised = False
    default_prior_expert = "all"


class LogLinearPool(MatrixRule):
    r"""The log-linear pool of the present experts (``pool``), the barycenter of :math:`KL(q \\| q_m)`.

    The keywords are those of :class:`Aggregation`.
    """

    fusion_rules = PRODUCT
    divergence = "reverse_kl"


class WassersteinBarycenter(MatrixRule):
    """The 2-Wasserstein barycenter of the present experts (``wb``): locs and standard deviations average.

    The keywords are those of :class:`Aggregation`.

    References:
        Qiu et al., 2025. Multimodal variational autoencoder: a barycentric view. AAAI 39(19), arXiv 2412.20487.

    Example:
        >>> experts = Experts(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]]))
        >>> posterior = WassersteinBarycenter(expert_weights=[3.0, 1.0])(experts)
        >>> posterior.mean.item(), posterior.stddev.item()
        (0.5, 1.5)
    """

    fusion_rules = WASSERSTEIN
    divergence = "w2"


class MomentMatching(MatrixRule):
    r"""The Gaussian with the moments of the mixture (``moment``), the Gaussian barycenter of :math:`KL(q_m \\| q)`.

    The keywords are those of :class:`Aggregation`.
    """

    fusion_rules = MOMENT
    divergence = "forward_kl"


class Selection(MatrixRule):
    """The expert of a single modality, as it is."""

    normalised = False
    fusion_rules = SELECTION


def keep(
    aggregation: Aggregation, experts: Experts, options: Any, make: Callable[[], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Return constants of an aggregation for complete experts, made once per number of modalities, dtype and device.

    Args:
        aggregation: The aggregation that keeps them.
        experts: Experts of which nothing is missing.
        options: The options that the constants depend on, hashable.
        make: The function that makes the constants.
    """
    if torch.compiler.is_compiling():
        return make()
    key = (experts.num_modalities, experts.loc.dtype, experts.loc.device, options)
    constants = aggregation._complete.get(key)
    if constants is None:
        with torch.inference_mode(False), torch.no_grad():  # so that they serve in any mode
            constants = make()
        if all(map(_is_plain, constants)):
            aggregation._complete[key] = constants
    return constants


def _is_plain(tensor: Tensor) -> bool:
    """Return False for tensors without storage, such as those of FakeTensorMode and torch.func, which must not stay."""
    try:
        tensor.untyped_storage()
    except NotImplementedError:
        return False
    return type(tensor) is Tensor
