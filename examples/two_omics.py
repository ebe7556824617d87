"""Two views of one cell as counts, like transcripts and surface proteins, with a negative binomial likelihood.

Half of the cells have one view only. The posterior means are held against the factors the data were simulated from,
and the view that was not given is predicted. Which aggregation the guide uses is one argument.
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
    """Negative binomial counts of a given log mean."""
    return dist.NegativeBinomial(torch.tensor(DISPERSION), logits=log_rate - torch.tensor(DISPERSION).log())


class Omics(nn.Module):
    """Views are negative binomial counts whose log rate is linear in z ~ N(0, I)."""

    def __init__(self) -> None:
        super().__init__()
        self.decode = nn.ModuleList(nn.Linear(LATENT, size) for size in SIZES)

    def forward(self, views: list[Tensor], present: Tensor) -> None:
        """The Pyro model."""
        pyro.module("omics", self)
        with pyro.plate("data", len(present)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            for m, (view, decode) in enumerate(zip(views, self.decode, strict=True)):
                pyro.sample(f"view_{m}", counts(decode(z)).to_event(1).mask(present[:, m]), obs=view)


class Encode(nn.Module):
    """A small network a view, on log(1 + count)."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(size, 32), nn.SiLU(), nn.Linear(32, 2 * LATENT)) for size in SIZES
        )

    def forward(self, views: list[Tensor], present: Tensor) -> Experts:
        """Experts `(cell, view, 2)`."""
        out = torch.stack([net(view.log1p()) for net, view in zip(self.nets, views, strict=True)], 1)
        loc, log_scale = out.chunk(2, -1)
        return Experts(loc, log_scale.exp(), present)


def simulate(cells: int) -> tuple[Tensor, list[Tensor]]:
    """Latent factors, and the counts of both views."""
    z = torch.randn(cells, LATENT)
    generator = torch.Generator().manual_seed(7)  # the same loadings for every set of cells
    loadings = [0.7 * torch.randn(LATENT, size, generator=generator) for size in SIZES]
    base = [1.0 + torch.randn(size, generator=generator) for size in SIZES]
    return z, [counts(z @ a + b).sample() for a, b in zip(loadings, base, strict=True)]


def recovery(mean: Tensor, z: Tensor) -> float:
    """R² of a linear regression of the true factors on posterior means: factors are known up to a linear map only."""
    design = torch.cat([mean, torch.ones(len(mean), 1)], 1)
    residual = z - design @ torch.linalg.lstsq(design, z).solution
    return float(1 - residual.square().sum() / (z - z.mean(0)).square().sum())


def evaluate(
    model: Omics, guide: BarycentricGuide, z: Tensor, views: list[Tensor], average: Tensor
) -> dict[str, float]:
    """On new cells: R² given both and given the second view, and the log score of the first given the second."""
    with torch.no_grad():
        experts = guide.encode(views, torch.ones(len(z), 2, dtype=torch.bool))
        both, second = guide.posterior(experts), guide.posterior(experts.condition_on([1]))
        draws = counts(model.decode[0](second.sample((200,)))).log_prob(views[0]).sum(-1)
    score = float((draws.logsumexp(0) - torch.tensor(200.0).log()).mean())
    baseline = float(counts(average.log()).log_prob(views[0]).sum(-1).mean())
    return {"both": recovery(both.mean, z), "second": recovery(second.mean, z), "score": score, "baseline": baseline}


def main(steps: int = 300, aggregations: tuple[str, ...] = ("poe", "wb", "mwb")) -> dict[str, dict[str, float]]:
    """Train one model an aggregation and print what it recovers."""
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
        found = results[aggregation] = evaluate(model, guide, z_new, new, average)
        scores = f"{found['score']:.2f}  {found['baseline']:.2f}"
        print(f"{aggregation:<5} {found['both']:.3f}  {found['second']:.3f}  {scores}")
    return results


if __name__ == "__main__":
    main()
