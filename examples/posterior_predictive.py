"""Posterior predictive checks and calibration of a guide: two sensors measure one position."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_mmvae import BarycentricGuide, Experts
from pyro_mmvae.evaluation.calibration import calibrate
from pyro_mmvae.evaluation.ppc import predictive_check
from pyro_mmvae.evaluation.psis import khat_threshold, psis_khat
from pyro_mmvae.evaluation.sbc import calibrate_by_simulation
from pyro_mmvae.inference.importance import importance_weights

NOISE = (0.4, 0.8)


def model(left: Tensor, right: Tensor, present: Tensor) -> None:
    """Draw a position in the plane, and five noisy readings of both coordinates by each of two sensors."""
    with pyro.plate("data", len(present)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        for m, (name, readings) in enumerate((("left", left), ("right", right))):
            likelihood = dist.Normal(z.repeat_interleave(5, -1), NOISE[m]).to_event(1)
            pyro.sample(name, likelihood.mask(present[:, m]), obs=readings)


class Encode(nn.Module):
    """A module with one linear encoder per sensor."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.ModuleList([nn.Linear(10, 2) for _ in NOISE])
        self.log_scale = nn.Parameter(torch.zeros(2, 2))

    def forward(self, left: Tensor, right: Tensor, present: Tensor) -> Experts:
        """Return experts `(item, sensor, 2)` of readings `(item, 10)` with a mask `(item, sensor)`."""
        loc = torch.stack([linear(x) for linear, x in zip(self.loc, (left, right), strict=True)], 1)
        return Experts(loc, self.log_scale.exp().expand_as(loc), present)


def check(guide: BarycentricGuide, left: Tensor, right: Tensor) -> dict[str, float]:
    """Check the predictions of the right sensor given the left one, the PSIS k̂ of the guide, and its calibration."""
    items = len(left)
    everything, only_left = torch.tensor([[True, True], [True, False]])[:, None].expand(2, items, 2)
    result = predictive_check(
        model, guide, left, right, everything, guide_args=(left, right, only_left), given=["left"], samples=99
    )
    results = {}
    print(f"{result.protocol}, {items} items, given {', '.join(result.given)}")
    for row in calibrate(result):
        results[row.statistic] = row.p_value if row.pit_p_value is None else row.pit_p_value
        coverage = {c.level: c for c in row.coverage}[0.9]
        print(f"{row.statistic:<15} p = {row.p_value:.2f}   90 % interval covers {coverage.value:.2f}   {row.verdict}")

    weights = importance_weights(model, guide, left, right, everything, samples=1000)
    results["khat"] = float(np.median(psis_khat(weights)))
    print(f"PSIS k-hat given both: median {results['khat']:.2f}, threshold {khat_threshold(1000):.2f}")

    def condition(simulated: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        return (simulated["left"], simulated["right"], everything), {}

    ranks = calibrate_by_simulation(model, guide, condition, left, right, everything, seed=1)
    for quantity, p_value in zip(ranks.quantities, ranks.p_values(), strict=True):
        results[quantity] = float(p_value)
        print(f"SBC of {quantity:<8} p = {p_value:.2g}")
    return results


def main(steps: int = 500, items: int = 200) -> dict[str, dict[str, float]]:
    """Train with sensors missing at random, check the guide, and check it again after changing it on purpose."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    z = torch.randn(items, 1, 2).repeat_interleave(5, -1)
    left, right = (z[:, 0] + noise * torch.randn(items, 10) for noise in NOISE)
    # With its prior expert, poe contains the exact posterior of this model, so the guide can be calibrated.
    encode = Encode()
    guide = BarycentricGuide(encode, "poe")
    svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.03, "lrd": 0.05 ** (1 / steps)}), Trace_ELBO())
    for _ in range(steps):
        svi.step(left, right, torch.rand(items, 2) < 0.7)

    print("the guide as trained")
    trained = check(guide, left, right)
    with torch.no_grad():  # too narrow, and shifted to one side
        encode.log_scale -= 1.2
        encode.loc[0].bias += 0.3
    print("\nthe guide made wrong on purpose: narrower by a factor of 3.3, and the left expert shifted by 0.3")
    return {"trained": trained, "wrong": check(guide, left, right)}


if __name__ == "__main__":
    main()
