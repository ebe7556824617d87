"""A discrete latent variable that is enumerated, and bounds that approach the evidence.

Items belong to one of three groups, a site of the model only: ``TraceEnum_ELBO`` sums over it, and the guide has the
continuous latent alone. The model with the groups summed out by hand has the same ELBO, and the importance-weighted
bound (``RenyiELBO`` with alpha 0) increases with the number of particles to the exact evidence.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO
from torch import Tensor, nn

from pyro_mmvae import BarycentricGuide, Experts

SHARES = torch.tensor([0.5, 0.3, 0.2])
CENTRES = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [0.0, -3.0]])
SPREAD = 0.5
NOISE = torch.tensor([1.0, 1.5])


def observe(z: Tensor, x: Tensor) -> None:
    """Observe the readings of z by two sensors, x `(item, sensor, 2)`."""
    for m, noise in enumerate(NOISE):
        pyro.sample(f"x_{m}", dist.Normal(z, noise).to_event(1), obs=x[:, m])


def model(x: Tensor) -> None:
    """Draw a group c, a position z around its centre, and two readings of z."""
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(SHARES), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(CENTRES[c], SPREAD).to_event(1))
        observe(z, x)


def summed_out(x: Tensor) -> None:
    """Draw z from a mixture of Gaussians, which is the model with c summed out."""
    with pyro.plate("data", len(x)):
        groups = dist.Normal(CENTRES, SPREAD).to_event(1)
        observe(pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(SHARES), groups)), x)


def evidence(x: Tensor) -> float:
    """Return the exact log evidence in nats per item.

    It is that of a mixture of Gaussians over groups, in which the readings of both sensors share the variance of z.
    """
    covariance = SPREAD**2 * torch.ones(2, 2) + NOISE.square().diag()
    axes = x.transpose(1, 2)[:, None]  # (item, 1, axis, sensor)
    centred = dist.MultivariateNormal(CENTRES[..., None].expand(-1, -1, 2), covariance)
    return float((SHARES.log() + centred.log_prob(axes).sum(-1)).logsumexp(-1).mean())


class Encode(nn.Module):
    """A module with one small network per sensor."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 4)) for _ in NOISE)

    def forward(self, x: Tensor) -> Experts:
        """Return experts `(item, sensor, 2)`."""
        loc, log_scale = torch.stack([net(x[:, m]) for m, net in enumerate(self.nets)], 1).chunk(2, -1)
        return Experts(loc, log_scale.exp())


def main(steps: int = 400, aggregation: str = "mwb") -> dict[str, float]:
    """Train with enumeration, then print the bounds next to the evidence, in nats per item."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    z = CENTRES[dist.Categorical(SHARES).sample((100,))] + SPREAD * torch.randn(100, 2)
    x = z[:, None] + NOISE[:, None] * torch.randn(100, len(NOISE), 2)
    guide = BarycentricGuide(Encode(), aggregation)
    rate = {"lr": 0.03, "lrd": 0.1 ** (1 / steps)}
    svi = SVI(model, guide, pyro.optim.ClippedAdam(rate), TraceEnum_ELBO(max_plate_nesting=1))
    for _ in range(steps):
        svi.step(x)

    def bound(elbo: Trace_ELBO | RenyiELBO | TraceEnum_ELBO, program: object) -> float:
        pyro.set_rng_seed(2)  # the same draws for both models
        with torch.no_grad():
            return -elbo.loss(program, guide, x) / len(x)

    many = {"num_particles": 500, "vectorize_particles": True, "max_plate_nesting": 1}
    results = {"enumerated": bound(TraceEnum_ELBO(**many), model), "by_hand": bound(Trace_ELBO(**many), summed_out)}
    print(f"ELBO, groups enumerated    {results['enumerated']:.4f}")
    print(f"ELBO, summed out by hand   {results['by_hand']:.4f}")
    for particles in (1, 4, 16, 64, 256):
        elbo = RenyiELBO(alpha=0, **many | {"num_particles": particles})
        repeats = [-elbo.loss(summed_out, guide, x) / len(x) for _ in range(max(1, 256 // particles))]
        results[f"iwae_{particles}"] = sum(repeats) / len(repeats)
        print(f"IWAE, {particles:>3} particles        {results[f'iwae_{particles}']:.4f}")
    results["evidence"] = evidence(x)
    print(f"log evidence               {results['evidence']:.4f}")
    return results


if __name__ == "__main__":
    main()
