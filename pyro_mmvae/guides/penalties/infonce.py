"""The contrastive loss of subsets and their complements in the Wasserstein geometry, as a penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pyro_mmvae._shards import gather_items, own_items
from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.mixtures import MixtureOfExperts
from pyro_mmvae.aggregation.subsets import draw_subset
from pyro_mmvae.aggregation.values import weighted_mask
from pyro_mmvae.experts import Experts
from pyro_mmvae.guides.penalties.base import PENALTIES, Penalty, check_positive, check_several

if TYPE_CHECKING:
    from pyro_mmvae.guides.barycentric import BarycentricGuide


class WassersteinInfoNCE(Penalty):
    r"""The contrastive loss between the posterior of a subset and that of the modalities outside of it.

    .. math::
        -\frac{\eta}{2} \left( \log \operatorname{softmax}_j(-W_2^2(q_S^i, q_C^j) / \tau)_{j=i}
        + \log \operatorname{softmax}_j(-W_2^2(q_S^j, q_C^i) / \tau)_{j=i} \right), \qquad C = P \setminus S

    for item i, with the items j of the batch as candidates: an item's subset S has to be nearer to its own complement
    C than to those of others, and the other way round. P is everything present. It does not use labels; it does use
    that modalities are paired. Items whose C is empty get no penalty and are not candidates. Summed over the items of a
    batch it is the mean over the items with a complement times their number, so that it scales as the ELBO does, also
    under a plate that is subsampled.

    S is the subset that the bound draws. With the bound ``"mixture"``, or with ``"component"`` for aggregations of one
    component such as ``wb`` and ``poe``, a non-empty subset of P is drawn uniformly for the penalty alone.
    :math:`q_S` and :math:`q_C` are the posteriors given everything in S and C; for ``moe`` they are one expert of S and
    one of C, drawn uniformly. :math:`W_2^2` is exact within one location-scale family, such as Gaussians, and is that
    of means and standard deviations for other posteriors.

    Args:
        eta: The weight η of the penalty, a positive number, 1 by default.
        tau: The temperature τ, in squared units of the latent space, a positive number, 1 by default.

    Raises:
        ValueError: If η or τ is not a positive number.

    References:
        van den Oord et al., 2018. Representation learning with contrastive predictive coding. arXiv 1807.03748.
        Radford et al., 2021. Learning transferable visual models from natural language supervision. ICML (both
        directions of the softmax).

    Example:
        >>> from pyro_mmvae import BarycentricGuide
        >>> penalty = WassersteinInfoNCE(eta=0.5, tau=2.0)
        >>> BarycentricGuide(lambda x: x, "mwb", bound="component", penalties=[penalty]).penalties[0].tau
        2.0
    """

    name = "infonce"

    def __init__(self, eta: float = 1.0, tau: float = 1.0) -> None:
        super().__init__()
        self.eta = check_positive(self.name, "eta", eta)
        self.tau = check_positive(self.name, "tau", tau)

    def check(
        self, aggregation: Aggregation, *, expert_kind: str | None = None, num_modalities: int | None = None
    ) -> None:
        """Check that distances between all pairs of posteriors are cheap, and that there are two modalities."""
        check_several(self.name, num_modalities)
        if expert_kind == "full":
            raise ValueError(
                f"penalty {self.name!r} must have experts with independent dimensions, since distances between all "
                "pairs of full covariances would each cost a singular value decomposition, got kind 'full'"
            )

    def forward(
        self, experts: Experts, members: Bool[Tensor, "*batch modality"] | None, guide: BarycentricGuide
    ) -> Float[Tensor, "*batch"]:
        """Return the penalty of each item, with the items along the guide's plate as candidates."""
        aggregation: Aggregation = guide.aggregation
        self.check(aggregation, expert_kind=experts.kind)
        with aggregation.prepared(experts) as ready:
            present = weighted_mask(ready, aggregation.expert_weights_for(ready))
            if members is None:
                members = draw_subset("powerset", present)
            rest = present & ~members
            has_pair = (members.any(-1) & rest.any(-1)).movedim(guide.dim, -1)
            one, other = (_points(aggregation, ready, subset).movedim(guide.dim - 1, -2) for subset in (members, rest))
            # The candidates are the items of the whole batch, which several processes may share.
            one, other, has_pair = gather_items(one, -2), gather_items(other, -2), gather_items(has_pair, -1)
            # The distances are differences of the points and not of their products, which cancel in float32.
            distance = torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist").square()
            terms = own_items(_contrast(-distance / self.tau, has_pair), -1)
            return self.eta * terms.movedim(-1, guide.dim)


PENALTIES.register(WassersteinInfoNCE.name, WassersteinInfoNCE, built_in=True)


def _points(aggregation: Aggregation, experts: Experts, members: Tensor) -> Float[Tensor, "*batch two_latent"]:
    """Return mean and standard deviation of the posterior given a subset: the point whose square distance is W₂²."""
    if isinstance(aggregation, MixtureOfExperts):
        posterior = aggregation.over_members(experts, draw_subset("singletons", experts.mask & members))
    else:
        posterior = aggregation.joint(experts.condition_on(members))
    return torch.cat([posterior.mean, posterior.stddev], -1)


def _contrast(logits: Tensor, has_pair: Bool[Tensor, "*batch item"]) -> Float[Tensor, "*batch item"]:
    """Return the mean cross-entropy of both directions of each item, 0 for items without a pair.

    Args:
        logits: The similarity of each item to each candidate, `(*batch, item, item)`.
        has_pair: True for each item that counts, as itself and as a candidate.
    """
    own = torch.eye(has_pair.shape[-1], dtype=torch.bool, device=logits.device)
    # An item without a pair keeps itself as a candidate, since a softmax over nothing is NaN.
    is_candidate = own | (has_pair.unsqueeze(-1) & has_pair.unsqueeze(-2))
    logits = logits.masked_fill(~is_candidate, -torch.inf)
    both = sum(logits.log_softmax(axis).diagonal(dim1=-2, dim2=-1) for axis in (-1, -2))
    return torch.where(has_pair, -both / 2, 0.0)
