"""What the rules do with experts that are not diagonal Gaussians: for each kind, a table from charts to its own.

A rule names the chart of diagonal Gaussians that it averages in. Here stands which chart, if any, does the same for
Gaussians of full covariance and for other families of densities, and what distribution comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeAlias, cast

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.barycenters import diagonal, full_covariance
from pyro_mmvae.distributions import MultivariateNormal, location_scale
from pyro_mmvae.experts import EXPERT_KINDS, FAMILIES, Experts

Chart: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Spread: TypeAlias = Callable[[Experts], Tensor]
Make: TypeAlias = Callable[[Tensor, Tensor, float | None, bool | None], TorchDistribution]


@dataclass(frozen=True)
class Merging:
    """How experts of one kind become components.

    Attributes:
        chart: from weights, loc and spread of experts to loc and spread of components.
        make: from those, df and validate_args to distributions.
        spread: what of the experts stands beside loc in the chart.
        family: of the components, and of the prior among them: a name in ``FAMILIES``.
        matrix: whether the spread is a matrix.
    """

    chart: Chart
    make: Make
    spread: Spread
    family: str = "normal"
    matrix: bool = False

    def __call__(
        self,
        experts: Experts,
        prior: tuple[Float[Tensor, "*batch one latent"], Float[Tensor, "*batch one latent"]],
        rows: Float[Tensor, "*#batch component modality_or_prior"],
        *,
        single: bool,
    ) -> TorchDistribution:
        """The components, with the prior as the last expert of each item.

        Args:
            experts: of the kind.
            prior: loc and scale of it.
            rows: W, the last column the prior's, which may be left out where it is 0.
            single: whether the one component of each item is the posterior itself, without a dimension for it. Those
                of a mixture are not checked once more: they follow from experts that were.

        Returns:
            Distributions of batch shape `(*batch, component)` or, of a single one, `batch`.
        """
        axis = -3 if self.matrix else -2
        locs, spreads = experts.loc, self.spread(experts)
        if rows.shape[-1] > experts.num_modalities:
            loc, scale = prior
            wide = torch.diag_embed(scale) if self.matrix else scale
            locs, spreads = torch.cat([locs, loc], -2), torch.cat([spreads, wide], axis)
        merged, spread = self.chart(rows, locs, spreads)
        if single:
            merged, spread = merged.squeeze(-2), spread.squeeze(axis)
        return self.make(merged, spread, experts.df, None if single else False)


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


def _full(chart: Chart) -> Merging:
    return Merging(chart, _multivariate, _scale_tril, matrix=True)


def _family(family: str) -> dict[Chart | None, Merging]:
    """Quantiles of one family average to quantiles of that family: locs and scales do, as those of Gaussians."""
    average = Merging(diagonal.wasserstein, partial(location_scale, family), _scale, family)
    moments = Merging(diagonal.moment, partial(location_scale, "normal"), _stddev)
    return {None: average, diagonal.wasserstein: average, diagonal.moment: moments}


# A mixture of the experts themselves averages in no chart: each of its rows selects one.
_TABLE: dict[str, Mapping[Chart | None, Merging]] = {
    "full": {
        None: _full(full_covariance.select),
        diagonal.natural: _full(full_covariance.natural),
        diagonal.wasserstein: _full(full_covariance.wasserstein),
        diagonal.moment: _full(full_covariance.moment),
    },
    **{family: _family(family) for family in FAMILIES[1:]},
}


@cache
def merging_of(kind: str, chart: Chart, *, selects: bool = False) -> Merging | None:
    """How a rule merges experts of a kind.

    Args:
        kind: of the experts, one of ``EXPERT_KINDS``.
        chart: the rule's chart of diagonal Gaussians.
        selects: whether each row of weights selects one expert and does nothing else.

    Returns:
        None where the rule has no meaning, or no closed form, for the kind.
    """
    if kind == "normal":
        return Merging(chart, partial(location_scale, "normal"), _scale)
    return _TABLE.get(kind, {}).get(None if selects else chart)


def check_kind(name: str, kind: str, accepted: tuple[str, ...]) -> None:
    """Refuse experts of a kind that an aggregation has no rule for.

    Raises:
        ValueError: which says what the aggregation accepts.
    """
    if kind in accepted:
        return
    hint = ""
    if kind in FAMILIES[1:] and "full" in accepted:
        hint = f". A product of {kind} densities is none of the family; moe, wb, mwb and moment are defined for them"
    raise ValueError(
        f"aggregation {name!r} has no rule for experts of kind {kind!r}, it has for {', '.join(accepted)}{hint}"
    )


def distribution_of(experts: Experts) -> TorchDistribution:
    """The experts themselves.

    Returns:
        A distribution of batch shape `(*batch, modality)` and event shape `(latent,)`; N(0, I) or the like where one is
        absent.
    """
    if experts.kind == "full":
        return _multivariate(experts.loc, _scale_tril(experts))
    return location_scale(experts.family, experts.loc, experts.scale, experts.df)


__all__ = ["EXPERT_KINDS", "Merging", "check_kind", "distribution_of", "merging_of"]
