"""Fusion rules: which barycenter function and which distribution belong to each kind of experts.

A fusion rule turns experts of one kind, and a matrix of weights, into distributions. The tables ``PRODUCT``,
``WASSERSTEIN``, ``MOMENT`` and ``SELECTION`` map the kinds that have a closed form to their fusion rule; an aggregation
accepts the kinds that stand in its table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, cast

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.barycenters import diagonal, full_covariance
from pyro_mmvae.distributions import MultivariateNormal, location_scale
from pyro_mmvae.experts import FAMILIES, Experts

BarycenterFn: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
MakeDistribution: TypeAlias = Callable[[Tensor, Tensor, float | None, bool | None], TorchDistribution]


@dataclass(frozen=True)
class FusionRule:
    """A description of how experts of one kind are fused into components.

    Attributes:
        barycenter_fn: The function from weights, loc and scale parameter of the experts to those of the components.
        make_distribution: The function from loc, scale parameter, df and validate_args to distributions.
        scale_parameter: The function that reads the scale parameter, whatever stands beside loc, off the experts.
        family: The family of densities of the components, and hence of the prior: a name in ``FAMILIES``.
        is_matrix: If True, the scale parameter is a matrix.
    """

    barycenter_fn: BarycenterFn
    make_distribution: MakeDistribution
    scale_parameter: Callable[[Experts], Tensor]
    family: str = "normal"
    is_matrix: bool = False

    def __call__(
        self,
        experts: Experts,
        prior: tuple[Float[Tensor, "*batch one latent"], Float[Tensor, "*batch one latent"]],
        rows: Float[Tensor, "*#batch component modality_or_prior"],
        *,
        single: bool,
    ) -> TorchDistribution:
        """Return the components, with the prior as the last expert of each item.

        Args:
            experts: Experts of the kind that the rule is for.
            prior: Loc and scale of the prior, each `(*batch, 1, latent)`.
            rows: The matrix W, one row per component; its last column is the prior's and may be left out if it is 0.
            single: If True, the one component of each item is the posterior itself and gets no dimension of its own.
                The components of a mixture are not validated again, since they follow from validated experts.

        Returns:
            Distributions of batch shape `(*batch, component)` or, for a single component, `batch`.
        """
        axis = -3 if self.is_matrix else -2
        locs, scales = experts.loc, self.scale_parameter(experts)
        if rows.shape[-1] > experts.num_modalities:
            loc, scale = prior
            locs = torch.cat([locs, loc], -2)
            scales = torch.cat([scales, torch.diag_embed(scale) if self.is_matrix else scale], axis)
        joint_loc, joint_scale = self.barycenter_fn(rows, locs, scales)
        if single:
            joint_loc, joint_scale = joint_loc.squeeze(-2), joint_scale.squeeze(axis)
        return self.make_distribution(joint_loc, joint_scale, experts.df, None if single else False)


FusionRules: TypeAlias = Mapping[str, FusionRule]


def _multivariate(
    loc: Tensor, scale_tril: Tensor, df: float | None = None, validate_args: bool | None = None
) -> TorchDistribution:
    return cast("TorchDistribution", MultivariateNormal(loc, scale_tril=scale_tril, validate_args=validate_args))


def _scale(experts: Experts) -> Tensor:
    return experts.scale


def _stddev(experts: Experts) -> Tensor:
    return experts.stddev


def _scale_tril(experts: Experts) -> Tensor:
    return cast("Tensor", experts.scale_tril)


def diagonal_rule(barycenter_fn: BarycenterFn) -> FusionRule:
    """Return the fusion rule of diagonal Gaussians for a barycenter function of loc and standard deviation."""
    return FusionRule(barycenter_fn, partial(location_scale, "normal"), _scale)


def _full_rule(barycenter_fn: BarycenterFn) -> FusionRule:
    return FusionRule(barycenter_fn, _multivariate, _scale_tril, is_matrix=True)


# Quantiles within one location-scale family average to quantiles of that family, so locs and scales average as those
# of Gaussians do.
_AVERAGES = {
    family: FusionRule(diagonal.wasserstein, partial(location_scale, family), _scale, family) for family in FAMILIES[1:]
}
_MOMENTS = FusionRule(diagonal.moment, partial(location_scale, "normal"), _stddev)

PRODUCT: FusionRules = {"normal": diagonal_rule(diagonal.natural), "full": _full_rule(full_covariance.natural)}
WASSERSTEIN: FusionRules = {
    "normal": diagonal_rule(diagonal.wasserstein),
    "full": _full_rule(full_covariance.wasserstein),
    **_AVERAGES,
}
MOMENT: FusionRules = {
    "normal": diagonal_rule(diagonal.moment),
    "full": _full_rule(full_covariance.moment),
    **dict.fromkeys(FAMILIES[1:], _MOMENTS),
}
SELECTION: FusionRules = {
    "normal": diagonal_rule(diagonal.natural),
    "full": _full_rule(full_covariance.select),
    **_AVERAGES,
}
"""Fusion rules for weights that select one expert per row, so that nothing is averaged."""


def check_kind(name: str, expert_kind: str, accepted: tuple[str, ...]) -> None:
    """Check that an aggregation accepts experts of a kind.

    Args:
        name: The name of the aggregation, for the message.
        expert_kind: The kind of the experts, one of ``EXPERT_KINDS``.
        accepted: The kinds that the aggregation accepts.

    Raises:
        ValueError: If the kind is not accepted; the message says which kinds are.
    """
    if expert_kind in accepted:
        return
    hint = ""
    if expert_kind in FAMILIES[1:] and "full" in accepted:
        hint = (
            f". A product of {expert_kind} densities is not a member of the family; moe, wb, mwb and moment are "
            "defined for them"
        )
    raise ValueError(
        f"aggregation {name!r} has no rule for experts of kind {expert_kind!r}; it accepts {', '.join(accepted)}{hint}"
    )


def distribution_of(experts: Experts) -> TorchDistribution:
    """Return the experts themselves as distributions.

    Args:
        experts: Experts of any kind.

    Returns:
        A distribution of batch shape `(*batch, modality)` and event shape `(latent,)`. An absent slot holds the
        standard member of the family, N(0, I) for Gaussians.
    """
    if experts.kind == "full":
        return _multivariate(experts.loc, _scale_tril(experts))
    return location_scale(experts.family, experts.loc, experts.scale, experts.df)
