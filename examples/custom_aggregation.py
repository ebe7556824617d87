"""A custom aggregation with a learned parameter: in a user's guide, over subsets, and on the command line.

The aggregation is the Wasserstein barycenter with its scale multiplied by a temperature τ, which is learned. The
encoders here are frozen and overconfident, so training τ is what makes the posterior right: the model is linear and
Gaussian, and at the optimum the ELBO is the evidence. As a plugin the module serves the command line:

    pyro-mmvae train --plugin custom_aggregation --agg mixture_of_tempered --set model.aggregation.tau=0.5
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.infer import SVI, Trace_ELBO

from pyro_mmvae import Aggregation, BarycentricGuide, Experts, MixtureOverSubsets, aggregate, register_aggregation
from pyro_mmvae.testing import check_aggregation

NOISE = 0.5  # standard deviation of each of the two sensors
CONFIDENCE = 0.1  # standard deviation that the encoders claim


class Tempered(Aggregation):
    """The Wasserstein barycenter of diagonal Gaussians, its scale multiplied by a learned temperature.

    Args:
        tau: The temperature before training, 1 by default.
        **options: The keywords of :class:`pyro_mmvae.Aggregation`.
    """

    def __init__(self, tau: float = 1.0, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.log_tau = torch.nn.Parameter(torch.tensor(tau).log())

    def forward(self, experts: Experts) -> TorchDistribution:
        """Return the tempered barycenter of the present experts, and the prior where nothing is present."""
        weights = experts.mask.to(experts.loc)
        expert_weights = self.expert_weights_for(experts)
        if expert_weights is not None:
            weights = weights * expert_weights
        total = weights.sum(-1, keepdim=True)
        nothing = total == 0
        share = (weights / torch.where(nothing, 1.0, total)).unsqueeze(-1)
        loc = (share * experts.loc).sum(-2)
        scale = self.log_tau.exp() * (share * experts.scale).sum(-2)
        prior_loc, prior_scale = self.prior_for(experts)
        return dist.Normal(torch.where(nothing, prior_loc, loc), torch.where(nothing, prior_scale, scale)).to_event(1)


# Names are for configurations and the command line; Python takes the objects.
register_aggregation("tempered", Tempered)
register_aggregation("mixture_of_tempered", Tempered, subsets="powerset")


def model(x: torch.Tensor) -> None:
    """Draw z ~ N(0, 1), and two sensors of it, for each item."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.expand(-1, 2), NOISE).to_event(1), obs=x)


def encode(x: torch.Tensor) -> Experts:
    """Return experts whose mean is the exact posterior mean, and whose scale is too small."""
    return Experts(2 / (NOISE**2 + 2) * x.unsqueeze(-1), torch.full((len(x), 2, 1), CONFIDENCE))


def main(steps: int = 300) -> dict[str, float]:
    """Check the contract, train the temperature, and print it beside the exact one."""
    for rule in (Tempered(tau=2.0), MixtureOverSubsets(Tempered(tau=2.0))):
        check_aggregation(rule)
        print(f"{rule.name}: keeps the contract")

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 1, generator=generator) + NOISE * torch.randn(200, 2, generator=generator)
    covariance = torch.ones(2, 2) + NOISE**2 * torch.eye(2)
    evidence = float(dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(x).mean())

    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    rule = Tempered()
    guide = BarycentricGuide(encode, rule)
    elbo = Trace_ELBO()
    before = -elbo.loss(model, guide, x) / len(x)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    for _ in range(steps):
        svi.step(x)
    after = -sum(elbo.loss(model, guide, x) for _ in range(20)) / 20 / len(x)
    tau, exact = rule.log_tau.exp().item(), NOISE / (NOISE**2 + 2) ** 0.5 / CONFIDENCE
    print(f"ELBO {before:.3f} → {after:.3f}, evidence {evidence:.3f} nats per item")
    print(f"temperature {tau:.3f}, exact {exact:.3f}; in the state dict: {', '.join(guide.state_dict())}")

    with torch.no_grad():
        stddev = float(aggregate(encode(x), {"name": "mixture_of_tempered", "tau": tau}).stddev.mean())
    print(f"standard deviation of the mixture over subsets {stddev:.3f}")
    return {"before": before, "after": after, "evidence": evidence, "tau": tau, "exact": exact, "stddev": stddev}


if __name__ == "__main__":
    main()
