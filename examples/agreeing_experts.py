"""Penalties in a user's Pyro model: experts that agree with each other, so that items can be matched across views.

Two views show the same four factors of an item. The Wasserstein barycenter of both experts is trained as the posterior
of both views. Nothing asks an expert alone to be a posterior, so that an item of one view is not found by its expert
among those of the other view. The penalties of the guide ask for it: the Fréchet variance draws the two experts of an
item together, and the contrastive penalty draws them nearer to each other than to those of other items. They are
``pyro.factor`` statements of the guide, and act in training mode only, so that ``guide.eval()`` gives the plain ELBO.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_mmvae import BarycentricGuide, Experts, FrechetVariance, Penalty, WassersteinInfoNCE

FACTORS, FEATURES, NOISE = 4, 8, 0.5


class Decode(nn.Module):
    """A module with one linear decoder per view."""

    def __init__(self) -> None:
        super().__init__()
        self.views = nn.ModuleList(nn.Linear(FACTORS, FEATURES) for _ in range(2))

    def forward(self, x: Tensor) -> None:
        """Draw the factors of each item, and observe both views, `(item, view, feature)`."""
        pyro.module("decode", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(FACTORS), 1.0).to_event(1))
            for m, view in enumerate(self.views):
                pyro.sample(f"view_{m}", dist.Normal(view(z), NOISE).to_event(1), obs=x[:, m])


class Encode(nn.Module):
    """A module with one encoder per view."""

    def __init__(self) -> None:
        super().__init__()
        self.views = nn.ModuleList(
            nn.Sequential(nn.Linear(FEATURES, 32), nn.Tanh(), nn.Linear(32, 2 * FACTORS)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Experts:
        """Return experts of shape `(item, view, factor)`."""
        loc, log_scale = torch.stack([view(x[:, m]) for m, view in enumerate(self.views)], 1).chunk(2, -1)
        return Experts(loc, log_scale.exp())


def make_views(count: int, seed: int) -> Tensor:
    """Return two linear views of random factors, with noise."""
    loadings = torch.randn(2, FACTORS, FEATURES, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(count, FACTORS, generator=generator)
    noise = torch.randn(count, 2, FEATURES, generator=generator)
    return torch.einsum("if,vfd->ivd", factors, loadings) + NOISE * noise


def matched(experts: Experts) -> float:
    """Return the share of items whose first view is nearest, in the 2-Wasserstein distance, to its own second view."""
    first, second = torch.cat([experts.loc, experts.scale], -1).unbind(1)
    return float((torch.cdist(first, second).argmin(1) == torch.arange(len(first))).float().mean())


def fit(penalties: Sequence[Penalty], steps: int) -> dict[str, float]:
    """Train model and guide, and return the figures of items that were not seen."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    x, unseen = make_views(500, seed=1), make_views(200, seed=2)
    model, guide = Decode(), BarycentricGuide(Encode(), "wb", penalties=penalties)
    elbo = Trace_ELBO()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
    for _ in range(steps):
        svi.step(x)
    guide.eval()
    with torch.no_grad():
        bound = -sum(elbo.loss(model, guide, unseen) for _ in range(20)) / 20 / len(unseen)
        return {"elbo": bound, "matched": matched(guide.encode(unseen))}


def main(steps: int = 300) -> dict[str, dict[str, float]]:
    """Train without penalties and with each of them, and print the ELBO and the share of items that are matched."""
    result = {
        "no penalty": fit([], steps),
        "Fréchet variance": fit([FrechetVariance(1.0)], steps),
        "contrastive": fit([WassersteinInfoNCE(eta=1.0, tau=1.0)], steps),
    }
    for name, figures in result.items():
        print(f"{name:<17} ELBO {figures['elbo']:.2f} nats per item, {figures['matched']:.1%} of the items matched")
    return result


if __name__ == "__main__":
    main()
