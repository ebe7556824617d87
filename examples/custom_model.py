"""Our guide in a Pyro model of one's own: three noisy sensors of one position, some of them silent.

The model is plain Pyro. The guide encodes each sensor by itself and aggregates the experts; which aggregation is one
argument. The model is linear and Gaussian, so the evidence is known and every guide can be held against it.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_mmvae import BarycentricGuide, Experts

NOISE = torch.tensor([0.5, 1.0, 2.0])  # standard deviation of each sensor


def model(readings: Tensor, present: Tensor) -> Tensor:
    """Positions z ~ N(0, I) in the plane; each sensor reads z plus noise of its own."""
    with pyro.plate("data", len(readings)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        for m, noise in enumerate(NOISE):
            sensor = dist.Normal(z, noise).to_event(1).mask(present[:, m])
            pyro.sample(f"sensor_{m}", sensor, obs=readings[:, m].nan_to_num())
    return z


class Encode(nn.Module):
    """One linear encoder a sensor."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.ModuleList(nn.Linear(2, 2) for _ in NOISE)
        self.log_scale = nn.Parameter(torch.zeros(len(NOISE), 2))

    def forward(self, readings: Tensor, present: Tensor) -> Experts:
        """Experts of shape (item, sensor, 2)."""
        filled = readings.nan_to_num()  # before arithmetic: NaN times a zero gradient is NaN
        loc = torch.stack([encode(filled[:, m]) for m, encode in enumerate(self.loc)], 1)
        return Experts(loc, self.log_scale.exp().expand_as(loc), present)


def evidence(readings: Tensor, present: Tensor) -> float:
    """The exact log evidence: given z's prior N(0, 1), present readings have covariance 11ᵀ + diag(noise²)."""
    total = 0.0
    for row, mask in zip(readings, present, strict=True):
        noise = NOISE[mask]
        covariance = torch.ones(len(noise), len(noise)) + noise.square().diag()
        density = dist.MultivariateNormal(torch.zeros(len(noise)), covariance)
        total += sum(float(density.log_prob(row[mask, axis])) for axis in range(2))
    return total / len(readings)


def main(steps: int = 600) -> dict[str, float]:
    """Train one guide an aggregation and print each ELBO beside the evidence."""
    torch.manual_seed(0)
    z = torch.randn(200, 1, 2)
    readings = z + NOISE[:, None] * torch.randn(200, 3, 2)
    present = torch.rand(200, 3) < 0.7
    present[~present.any(1), 0] = True
    readings[~present] = torch.nan
    exact = evidence(readings, present)
    print(f"log evidence   {exact:8.4f} nats an item")
    results = {}
    for aggregation in ("poe", "wb", "mwb"):
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        guide = BarycentricGuide(Encode(), aggregation)
        rate = {"lr": 0.05, "lrd": 0.05 ** (1 / steps)}
        svi = SVI(model, guide, pyro.optim.ClippedAdam(rate), Trace_ELBO())
        for _ in range(steps):
            svi.step(readings, present)
        elbo = -Trace_ELBO(num_particles=200, vectorize_particles=True, max_plate_nesting=1).loss(
            model, guide, readings, present
        )
        results[aggregation] = elbo / len(readings)
        print(f"{aggregation:<14} {results[aggregation]:8.4f}   gap {exact - results[aggregation]:.4f}")
    return {"evidence": exact, **results}


if __name__ == "__main__":
    main()
