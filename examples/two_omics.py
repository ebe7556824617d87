"""Two views of a cell as counts, such as transcripts and surface proteins, with a negative binomial likelihood.

Half of the cells have one view only. The posterior means are compared with the factors of the simulation, and the
missing view is predicted. The aggregation of the guide is one argument.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_mmvae import BarycentricGuide, Experts

SIZES = (40, 15)  # features of each view
LATENT = 2
DISPERSION = 5.0  # variance = mean + mean² / DISPERSION


def counts(log_rate: Tensor) -> dist.NegativeBinomial:
    """Return the distribution of negative binomial counts with a given log mean."""
    return dist.NegativeBinomial(torch.tensor(DISPERSION), logits=log_rate - torch.tensor(DISPERSION).log())


class Omics(nn.Module):
    """A model with negative binomial counts whose log rate is linear in z ~ N(0, I)."""

    def __init__(self) -> None:
        super().__init__()
        self.decode = nn.ModuleList(nn.Linear(LATENT, size) for size in SIZES)

    def forward(self, views: list[Tensor], present: Tensor) -> None:
        """Draw z and observe the views of each cell."""
        pyro.module("omics", self)
        with pyro.plate("data", len(present)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            for m, (view, decode) in enumerate(zip(views, self.decode, strict=True)):
                pyro.sample(f"view_{m}", counts(decode(z)).to_event(1).mask(present[:, m]), obs=view)


class Encode(nn.Module):
    """A module with one small network per view, on log(1 + count)."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(size, 32), nn.SiLU(), nn.Linear(32, 2 * LATENT)) for size in SIZES
        )

    def forward(self, views: list[Tensor], present: Tensor) -> Experts:
        """Return experts `(cell, view, 2)`."""
        out = torch.stack([net(view.log1p()) for net, view in zip(self.nets, views, strict=True)], 1)
        loc, log_scale = out.chunk(2, -1)
        return Experts(loc, log_scale.exp(), present)


def simulate(cells: int) -> tuple[Tensor, list[Tensor]]:
    """Return latent factors, and the counts of both views."""
    z = torch.randn(cells, LATENT)
    generator = torch.Generator().manual_seed(7)  # the loadings do not depend on the set of cells
    loadings = [0.7 * torch.randn(LATENT, size, generator=generator) for size in SIZES]
    base = [1.0 + torch.randn(size, generator=generator) for size in SIZES]
    return z, [counts(z @ a + b).sample() for a, b in zip(loadings, base, strict=True)]


def recovery(mean: Tensor, z: Tensor) -> float:
    """Return R² of a linear regression of the true factors on posterior means.

    The factors are identified up to a linear map only.
    """
    design = torch.cat([mean, torch.ones(len(mean), 1)], 1)
    residual = z - design @ torch.linalg.lstsq(design, z).solution
    return float(1 - residual.square().sum() / (z - z.mean(0)).square().sum())


def evaluate(
    model: Omics, guide: BarycentricGuide, z: Tensor, views: list[Tensor], average: Tensor
) -> dict[str, float]:
    """Return R² given both views and given the second, and the log score of the first given the second, on new data."""
    with torch.no_grad():
        experts = guide.encode(views, torch.ones(len(z), 2, dtype=torch.bool))
        both, second = guide.posterior(experts), guide.posterior(experts.condition_on([1]))
        draws = counts(model.decode[0](second.sample((200,)))).log_prob(views[0]).sum(-1)
    score = float((draws.logsumexp(0) - torch.tensor(200.0).log()).mean())
    baseline = float(counts(average.log()).log_prob(views[0]).sum(-1).mean())
    return {"both": recovery(both.mean, z), "second": recovery(second.mean, z), "score": score, "baseline": baseline}


def main(steps: int = 300, aggregations: tuple[str, ...] = ("poe", "wb", "mwb")) -> dict[str, dict[str, float]]:
    """Train one model per aggregation, and print how well it recovers the factors and the missing view."""
    torch.manual_seed(0)
    _, views = simulate(600)
    present = torch.ones(600, 2, dtype=torch.bool)
    present[:150, 0] = present[150:300, 1] = False
    z_new, new = simulate(200)
    average = views[0][present[:, 0]].mean(0)
    results = {}
    print("      R² of z given both, given the second view; log p(first | second) in nats, that of the average cell")
    for aggregation in aggregations:
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        model, guide = Omics(), BarycentricGuide(Encode(), aggregation)
        svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.1 ** (1 / steps)}), Trace_ELBO())
        for _ in range(steps):
            batch = torch.randint(600, (100,))
            svi.step([view[batch] for view in views], present[batch])
        scores = results[aggregation] = evaluate(model, guide, z_new, new, average)
        log_scores = f"{scores['score']:.2f}  {scores['baseline']:.2f}"
        print(f"{aggregation:<5} {scores['both']:.3f}  {scores['second']:.3f}  {log_scores}")
    return results


if __name__ == "__main__":
    main()
