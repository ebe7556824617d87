"""A barycentric guide in a Pyro model: three noisy sensors of one position, some of whose readings are missing.

The guide encodes each sensor separately and aggregates the experts; the aggregation is one argument. The model is
linear and Gaussian, so the evidence is known, and the ELBO of every guide can be compared with it.
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
    """Draw positions z ~ N(0, I) in the plane, and a reading of z with independent noise from each sensor."""
    with pyro.plate("data", len(readings)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        for m, noise in enumerate(NOISE):
            sensor = dist.Normal(z, noise).to_event(1).mask(present[:, m])
            pyro.sample(f"sensor_{m}", sensor, obs=readings[:, m].nan_to_num())
    return z


class Encode(nn.Module):
    """A module with one linear encoder per sensor."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.ModuleList(nn.Linear(2, 2) for _ in NOISE)
        self.log_scale = nn.Parameter(torch.zeros(len(NOISE), 2))

    def forward(self, readings: Tensor, present: Tensor) -> Experts:
        """Return experts of shape (item, sensor, 2)."""
        filled = readings.nan_to_num()  # before arithmetic: NaN times a zero gradient is NaN
        loc = torch.stack([encode(filled[:, m]) for m, encode in enumerate(self.loc)], 1)
        return Experts(loc, self.log_scale.exp().expand_as(loc), present)


def evidence(readings: Tensor, present: Tensor) -> float:
    """Return the exact log evidence in nats per item.

    Under the prior N(0, 1) of each coordinate of z, the observed readings have the covariance 11ᵀ + diag(noise²).
    """
    total = 0.0
    for row, mask in zip(readings, present, strict=True):
        noise = NOISE[mask]
        covariance = torch.ones(len(noise), len(noise)) + noise.square().diag()
        density = dist.MultivariateNormal(torch.zeros(len(noise)), covariance)
        total += sum(float(density.log_prob(row[mask, axis])) for axis in range(2))
    return total / len(readings)


def main(steps: int = 600) -> dict[str, float]:
    """Train one guide per aggregation, and print each ELBO next to the evidence."""
    torch.manual_seed(0)
    z = torch.randn(200, 1, 2)
    readings = z + NOISE[:, None] * torch.randn(200, 3, 2)
    present = torch.rand(200, 3) < 0.7
    present[~present.any(1), 0] = True
    readings[~present] = torch.nan
    exact = evidence(readings, present)
    print(f"log evidence   {exact:8.4f} nats per item")
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
