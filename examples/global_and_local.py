"""Several latent sites: a noise scale and gains that all items share, and a position per item.

``AutoGuideList`` combines guides of parts of a model: an ``AutoNormal`` for the global sites and a ``BarycentricGuide``
for the local one. The list creates the plates, and the guide uses them.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from torch import Tensor, nn

from pyro_mmvae import BarycentricGuide, Experts

VIEWS, READINGS = 3, 6
GAIN = torch.tensor([1.0, -0.5, 2.0])
NOISE = 0.8


def model(x: Tensor, present: Tensor) -> None:
    """Observe readings x `(item, view, reading)`: gain of the view × position + noise, with gain and noise unknown."""
    noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
    with pyro.plate("views", VIEWS - 1):
        gain = pyro.sample("gain", dist.Normal(0.0, 2.0))
    gain = torch.cat([torch.ones_like(gain[..., :1]), gain], -1)  # the first fixes the scale of z, and its sign
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        for m in range(VIEWS):
            readings = dist.Normal((gain[..., m, None] * z).expand(*z.shape[:-1], READINGS), noise[..., None])
            pyro.sample(f"x_{m}", readings.to_event(1).mask(present[:, m]), obs=x[:, m])


class Encode(nn.Module):
    """A module with one linear encoder per view."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.ModuleList(nn.Linear(READINGS, 1) for _ in range(VIEWS))
        self.log_scale = nn.Parameter(torch.zeros(VIEWS, 1))

    def forward(self, x: Tensor, present: Tensor) -> Experts:
        """Return experts `(item, view, 1)`."""
        loc = torch.stack([linear(x[:, m]) for m, linear in enumerate(self.loc)], 1)
        return Experts(loc, self.log_scale.exp().expand_as(loc), present)


def exact(x: Tensor, present: Tensor) -> Tensor:
    """Return the posterior mean of each position for known gain and noise, which has the smallest possible error."""
    precision = READINGS * (present * GAIN.square()).sum(1) / NOISE**2
    return (present * GAIN * x.sum(2)).sum(1) / NOISE**2 / (1 + precision)


def main(steps: int = 300, aggregations: tuple[str, ...] = ("poe", "wb", "mwb")) -> dict[str, dict[str, float]]:
    """Train one composed guide per aggregation, and print its estimates next to the true values."""
    torch.manual_seed(0)
    z = torch.randn(200)
    x = z[:, None, None] * GAIN[:, None] + NOISE * torch.randn(200, VIEWS, READINGS)
    present = torch.rand(200, VIEWS) < 0.7
    present[~present.any(1), 0] = True
    best = (exact(x, present) - z).square().mean().sqrt()
    print(f"truth: noise {NOISE:.3f}, gains {GAIN[1]:.3f} and {GAIN[2]:.3f}; RMSE of the exact posterior {best:.3f}")
    results = {}
    for aggregation in aggregations:
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        guide = AutoGuideList(model)
        guide.append(AutoNormal(poutine.block(model, hide=["z"])))
        local = BarycentricGuide(Encode(), aggregation)
        guide.append(local)
        rate = {"lr": 0.05, "lrd": 0.05 ** (1 / steps)}
        svi = SVI(model, guide, pyro.optim.ClippedAdam(rate), Trace_ELBO())
        for _ in range(steps):
            svi.step(x, present)
        with torch.no_grad():
            median = guide[0].median()
            mean = local.posterior(local.encode(x, present)).mean[:, 0]
            elbo = -sum(svi.evaluate_loss(x, present) for _ in range(50)) / 50 / len(x)
        estimates = {
            "noise": float(median["noise"]),
            "gain_1": float(median["gain"][0]),
            "gain_2": float(median["gain"][1]),
        }
        estimates |= {"rmse": float((mean - z).square().mean().sqrt()), "best": float(best), "elbo": elbo}
        results[aggregation] = estimates
        print(
            f"{aggregation:<5}  noise {estimates['noise']:.3f}, "
            f"gains {estimates['gain_1']:.3f} and {estimates['gain_2']:.3f}; "
            f"RMSE {estimates['rmse']:.3f}; ELBO {elbo:.3f} nats per item"
        )
    return results


if __name__ == "__main__":
    main()
