"""The terms that a guide adds to the loss: penalties, and the entropy of expert weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import pyro
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.aggregation.draws import SubsetDraws
from pyro_mmvae.aggregation.weights import weights_entropy
from pyro_mmvae.experts import Experts
from pyro_mmvae.guides.penalties import PenaltyLike, make_penalties, site_names

if TYPE_CHECKING:
    from pyro_mmvae.guides.barycentric import BarycentricGuide


class Penalized:
    """The part of a guide that adds terms to the loss of each item."""

    penalties: Any
    training: bool
    _penalty_sites: tuple[str, ...] = ()

    def set_penalties(self, penalties: Sequence[PenaltyLike]) -> None:
        """Set the penalties of the guide, in place of those that it has.

        Args:
            penalties: A list of names, mappings with a name and options, or penalties.

        Raises:
            ValueError: If one is unknown, or does not have a meaning for the aggregation of the guide.
            TypeError: If it is not a list, or an entry is not a penalty.
        """
        made, guide = make_penalties(penalties), cast("BarycentricGuide", self)
        for penalty in made:
            penalty.check(guide.aggregation)
        self.penalties = nn.ModuleList(made)
        self._penalty_sites = tuple(site_names(guide.site, made))

    @property
    def is_penalized(self) -> bool:
        """If True, the guide has penalties and is in training mode, so that they act."""
        return bool(self._penalty_sites) and self.training

    def penalty_terms(
        self, experts: Experts, members: Bool[Tensor, "*batch modality"] | None = None
    ) -> dict[str, Tensor]:
        """Return the terms that the guide adds to the loss, for objectives that do not run the guide.

        Args:
            experts: The unimodal posteriors of the items.
            members: The subset that was drawn for each item, `(*batch, modality)`; None if no subset was drawn.

        Returns:
            Name of the site, such as ``z_frechet``, to the term of each item, of the batch shape of the experts, in
            nats, weighted, to be added to the loss. Penalties are left out unless the guide is in training mode.
        """
        penalties = self.penalties_of(experts, members) if self.is_penalized else {}
        return {**self.entropy_term(experts), **penalties}

    def penalties_of(self, experts: Experts, members: Bool[Tensor, "*batch modality"] | None) -> dict[str, Tensor]:
        """Return the penalties of some items, whatever the mode of the guide.

        Args:
            experts: The unimodal posteriors of the items.
            members: The subset that was drawn for each item; None if no subset was drawn.

        Raises:
            ValueError: If a penalty does not return one number per item.
        """
        result = {}
        for site, penalty in zip(self._penalty_sites, self.penalties, strict=True):
            value = penalty(experts, members, self)
            if not isinstance(value, Tensor) or value.shape != experts.batch_shape:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(
                    f"penalty {site!r} must return one number per item, a tensor of shape "
                    f"{tuple(experts.batch_shape)}, got {got}"
                )
            result[site] = value
        return result

    def entropy_term(self, experts: Experts) -> dict[str, Tensor]:
        """Return the negative entropy of the expert weights times its coefficient, by the name of its site.

        Args:
            experts: The unimodal posteriors of the items.

        Returns:
            One entry of the batch shape of the experts; none without a coefficient or without weights.
        """
        guide = cast("BarycentricGuide", self)
        weights = guide.expert_weights(experts) if guide.expert_weights_entropy else None
        if weights is None:
            return {}
        entropy = weights_entropy(weights.expand(experts.mask.shape) * experts.mask)
        return {f"{guide.site}_weights_entropy": -guide.expert_weights_entropy * entropy}

    def add_factors(self, terms: Mapping[str, Tensor]) -> None:
        """Make a ``pyro.factor`` statement per term, which an ELBO subtracts since it is in the guide.

        Args:
            terms: Name of the site to the term of each item.
        """
        for name, value in terms.items():
            pyro.factor(name, value, has_rsample=True)

    def _posterior_with_draws(self, experts: Experts) -> tuple[TorchDistribution, SubsetDraws | None]:
        """Return the posterior, with the drawn subsets if penalties need them."""
        guide = cast("BarycentricGuide", self)
        if not (self.is_penalized and guide.draws_subsets()):
            return guide.posterior(experts), None
        draws = guide.subset_aggregation().draws(experts)
        return draws.posterior(), draws
