"""Leave-one-out routing: the gradient of a decoder does not reach the encoder of its own modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, cast

from torch import nn

from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.aggregation.barycenter import DivergenceBarycenter
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.mixtures import MixtureOverSubsets
from pyro_mmvae.aggregation.rules import MatrixRule, WassersteinBarycenter
from pyro_mmvae.aggregation.weights import LearnedWeights
from pyro_mmvae.barycenters import get_divergence
from pyro_mmvae.experts import Experts

Routing: TypeAlias = Literal["all", "leave_one_out"]
"""The encoders that the gradient of a decoder reaches through the latent: all, or those of the other modalities."""

ROUTINGS = ("all", "leave_one_out")

_ATTRIBUTE = "_pyro_mmvae_cuts"


def check_routing(
    routing: str,
    aggregation: Aggregation,
    bound: str,
    *,
    expert_kind: str = "normal",
    num_modalities: int | None = None,
) -> None:
    """Check that the contribution of each modality to the latent can be separated from the others.

    Args:
        routing: The routing, one of ``ROUTINGS``.
        aggregation: The aggregation of the guide.
        bound: The training bound of the guide.
        expert_kind: The kind of the experts, one of ``EXPERT_KINDS``; ``"normal"`` by default.
        num_modalities: The number of modalities; None if it is not known yet.

    Raises:
        ValueError: If the routing is unknown, or the latent is not a sum with one term per modality.
    """
    if routing not in ROUTINGS:
        raise ValueError(f"routing must be one of {', '.join(ROUTINGS)}, got {routing!r}")
    if routing == "all":
        return
    rule = _rule_of(aggregation)
    is_barycenter = isinstance(rule, WassersteinBarycenter) or (
        isinstance(rule, DivergenceBarycenter) and get_divergence(rule.divergence).name == "w2"
    )
    reason = None
    if not is_barycenter:
        reason = (
            f"a Wasserstein barycenter (wb, mwb), in which loc and scale are averages with one term per modality, got "
            f"the aggregation {aggregation.name!r}"
        )
    elif expert_kind == "full":
        reason = (
            "experts with independent dimensions, since the barycenter of full covariances does not have one term per "
            "modality, got kind 'full'"
        )
    elif bound == "mixture" and aggregation.subsets != "all":
        reason = (
            f"bound='component' for a mixture, where the subset of a draw is known, got bound={bound!r} for "
            f"{aggregation.name!r}"
        )
    elif _depends_on_experts(aggregation, rule):
        reason = (
            "expert weights that are numbers or 'learned', since weights that depend on the experts reach an encoder "
            "by every term of the latent, got weights computed from the experts"
        )
    elif num_modalities == 1:
        reason = "at least two modalities, since an encoder is trained by the others only, got one"
    if reason is not None:
        raise ValueError(f"routing 'leave_one_out' must have {reason}")


def attach_cuts(
    z: Float[Tensor, "*batch latent"],
    names: Sequence[str],
    aggregation: Aggregation,
    experts: Experts,
    members: Bool[Tensor, "*#batch modality"],
) -> None:
    r"""Attach to latents what cuts each modality's own path out of their gradient.

    A draw from the barycenter of a subset is :math:`z = \sum_m c_m` with :math:`c_m = \lambda_m (loc_m + scale_m
    \epsilon)`, since loc and scale are averages. Modality m is decoded from :math:`z - c_m` with the value of
    :math:`c_m` added as a constant: its value is z, and its gradient reaches the other experts of the subset only.

    Args:
        z: The latents, drawn from the posterior of the subsets.
        names: The names of all modalities, in the order of the experts.
        aggregation: The aggregation of the guide.
        experts: The unimodal posteriors that z was drawn from.
        members: The subset of each item.
    """
    with aggregation.prepared(experts) as ready:
        view = _rule_of(aggregation).with_values(aggregation.values_for(ready))
        rows = cast("MatrixRule", view).rows(ready, members.unsqueeze(-2), members.any(-1, keepdim=True)).detach()
        share, prior_share = rows.squeeze(-2)[..., :-1, None], rows.squeeze(-2)[..., -1:]
        prior_loc, prior_scale = view.prior_for(ready)
        loc = (share * ready.loc).sum(-2) + prior_share * prior_loc
        scale = (share * ready.scale).sum(-2) + prior_share * prior_scale
        noise = ((z - loc) / scale).detach().unsqueeze(-2)
        contribution = share * (ready.loc + ready.scale * noise)
        # The difference is 0 to the last bit, so that the values of the latents do not change.
        cuts = (contribution.detach() - contribution).to(z.dtype)
    setattr(z, _ATTRIBUTE, dict(zip(names, cuts.unbind(-2), strict=True)))


def cuts_of(z: Tensor) -> Mapping[str, Tensor] | None:
    """Return what :func:`attach_cuts` attached: modality name to a tensor of zeros to add to z; None if nothing was.

    Args:
        z: The latents, the very tensor that was drawn; a model that replays its guide has it.
    """
    return getattr(z, _ATTRIBUTE, None)


def _rule_of(aggregation: Aggregation) -> Aggregation:
    return aggregation.rule if isinstance(aggregation, MixtureOverSubsets) else aggregation


def _depends_on_experts(aggregation: Aggregation, rule: Aggregation) -> bool:
    weights = aggregation.expert_weights
    if weights is None:
        weights = rule.expert_weights
    if isinstance(weights, str):
        return weights != "learned"
    return callable(weights) and not isinstance(weights, (LearnedWeights, nn.Parameter))
