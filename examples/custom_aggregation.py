"""An aggregation of one's own, registered from outside the package and held against the contract.

The rule for one subset: locations and scales are medians over its members, which one wild expert cannot move far.
With ``subsets="powerset"`` the package makes the mixture of it over every subset, and serves the component bound too.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae import Experts, aggregate, aggregations, draw_component, register_aggregation
from pyro_mmvae.testing import check_aggregation


def median_rule(experts: Experts) -> TorchDistribution:
    """The median of the present experts, coordinate by coordinate."""
    absent = ~experts.mask.unsqueeze(-1)
    present = experts.mask.any(-1)[..., None]

    def median(values: torch.Tensor, otherwise: float) -> torch.Tensor:
        middle = values.masked_fill(absent, torch.nan).nanmedian(-2).values
        return torch.where(present, middle, otherwise)  # nothing present: the prior N(0, 1)

    return dist.Normal(median(experts.loc, 0.0), median(experts.scale, 1.0)).to_event(1)


def main() -> None:
    """Register the rule by itself and over all subsets, check both, and use them."""
    register_aggregation("median")(median_rule)
    register_aggregation("mixture_of_medians", subsets="powerset")(median_rule)
    for name in ("median", "mixture_of_medians"):
        check_aggregation(name)
        print(f"{name}: keeps the contract")

    loc = torch.tensor([[0.0], [0.2], [9.0]])  # the third expert is wild
    experts = Experts(loc, torch.ones(3, 1))
    print("posterior mean by aggregation, experts at 0, 0.2 and 9:")
    for name in aggregations():
        print(f"  {name:<20} {aggregate(experts, name).mean.item():6.3f}")
    torch.manual_seed(0)
    print("one component of mixture_of_medians:", draw_component(experts, "mixture_of_medians").mean.item())


if __name__ == "__main__":
    main()
