"""Linear-Gaussian models, whose posterior and evidence are known: x_m = A_m z + b_m + noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO
from torch import Tensor

from pyro_mmvae import BarycentricGuide, Experts, aggregations

LATENT, ITEMS = 2, 8
SIZES = (4, 3, 5)
NOISE = (0.5, 1.5, 0.9)
PRESENT = torch.tensor(
    [[1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.bool
)

OTHERS = [name for name in aggregations() if name != "poe"]


@dataclass
class Linear:
    """A linear model whose columns of A_m are orthogonal, so that the experts are diagonal."""

    a: list[Tensor]
    b: list[Tensor]
    x: list[Tensor]
    present: Tensor

    def model(self) -> None:
        with pyro.plate("data", len(self.present)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT, dtype=torch.float64), 1.0).to_event(1))
            for m, (a, b, x) in enumerate(zip(self.a, self.b, self.x, strict=True)):
                likelihood = dist.Normal(z @ a.T + b, NOISE[m]).to_event(1)
                pyro.sample(f"x{m}", likelihood.mask(self.present[:, m]), obs=x)

    def experts(self) -> Experts:
        """Return experts proportional to the likelihood of their modality, as a function of z."""
        locs, scales = [], []
        for m, (a, b, x) in enumerate(zip(self.a, self.b, self.x, strict=True)):
            squares = a.square().sum(0)
            locs.append((x - b) @ a / squares)
            scales.append((NOISE[m] / squares.sqrt()).expand(len(x), LATENT))
        return Experts(torch.stack(locs, 1), torch.stack(scales, 1), self.present)

    def exact(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, covariance and log evidence of each item, by dense linear algebra."""
        means, covariances, evidence = [], [], []
        for i, row in enumerate(self.present):
            members = [m for m in range(len(SIZES)) if row[m]]
            a = torch.cat([self.a[m] for m in members] or [torch.zeros(0, LATENT, dtype=torch.float64)])
            noise = torch.tensor([NOISE[m] ** 2 for m in members for _ in range(SIZES[m])], dtype=torch.float64)
            residual = torch.cat([self.x[m][i] - self.b[m] for m in members] or [noise])
            covariance = torch.linalg.inv(torch.eye(LATENT, dtype=torch.float64) + a.T @ torch.diag(1 / noise) @ a)
            marginal = torch.diag(noise) + a @ a.T
            means.append(covariance @ a.T @ (residual / noise))
            covariances.append(covariance)
            energy = residual @ torch.linalg.inv(marginal) @ residual
            evidence.append(-0.5 * (energy + marginal.logdet() + len(noise) * math.log(2 * math.pi)))
        return torch.stack(means), torch.stack(covariances), torch.stack(evidence)


@pytest.fixture
def linear() -> Linear:
    a, b, x = [], [], []
    z = torch.randn(ITEMS, LATENT, dtype=torch.float64)
    for size, noise in zip(SIZES, NOISE, strict=True):
        columns, _ = torch.linalg.qr(torch.randn(size, LATENT, dtype=torch.float64))
        a.append(columns * torch.tensor([1.3, 0.6], dtype=torch.float64))
        b.append(torch.randn(size, dtype=torch.float64))
        x.append(z @ a[-1].T + b[-1] + noise * torch.randn(ITEMS, size, dtype=torch.float64))
    return Linear(a, b, x, PRESENT)


def joint_and_guide(linear: Linear, aggregation: str, draws: int, bound: str = "mixture") -> tuple[Tensor, Tensor]:
    """Return log p(x, z) and log q(z), `(draw, item)`; each draw of the component bound has its own subset."""
    tiled = Linear(linear.a, linear.b, [x.repeat(draws, 1) for x in linear.x], linear.present.repeat(draws, 1))
    guide_trace = poutine.trace(BarycentricGuide(tiled.experts, aggregation, bound=bound)).get_trace()
    model_trace = poutine.trace(poutine.replay(tiled.model, trace=guide_trace)).get_trace()
    model_trace.compute_log_prob()
    guide_trace.compute_log_prob()
    joint: Tensor = sum(model_trace.nodes[name]["log_prob"] for name in ("z", "x0", "x1", "x2"))  # type: ignore[assignment]
    return joint.reshape(draws, -1), guide_trace.nodes["z"]["log_prob"].reshape(draws, -1)


def elbos(linear: Linear, aggregation: str, draws: int, bound: str = "mixture") -> Tensor:
    """Return the ELBO of each item, `(draw, item)`."""
    joint, guide = joint_and_guide(linear, aggregation, draws, bound)
    return joint - guide


def test_product_of_experts_is_the_exact_posterior(linear: Linear) -> None:
    mean, covariance, _ = linear.exact()
    posterior = BarycentricGuide(linear.experts, "poe").posterior(linear.experts())
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.diag_embed(posterior.variance), covariance, rtol=1e-10, atol=1e-10)
    assert posterior.mean[-1].abs().max() == 0  # nothing present: the prior
    assert (posterior.variance[-1] == 1).all()


def test_elbo_of_exact_posterior_equals_the_evidence(linear: Linear) -> None:
    *_, evidence = linear.exact()
    guide = BarycentricGuide(linear.experts, "poe")
    for seed in range(5):
        torch.manual_seed(seed)
        assert -Trace_ELBO().loss(linear.model, guide) == pytest.approx(evidence.sum().item(), rel=1e-11)
    each = elbos(linear, "poe", 20)
    torch.testing.assert_close(each, evidence.expand(20, ITEMS), rtol=1e-10, atol=1e-10)


def test_elbo_given_fewer_modalities_equals_their_evidence(linear: Linear) -> None:
    guide = BarycentricGuide(linear.experts, "poe")
    losses = []
    for members in ([0], [0, 1], [0, 1, 2]):
        linear.present = torch.zeros(ITEMS, 3, dtype=torch.bool).index_fill(1, torch.tensor(members), True)
        losses.append(Trace_ELBO().loss(linear.model, guide))
        assert -losses[-1] == pytest.approx(linear.exact()[2].sum().item(), rel=1e-11)
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize("aggregation", OTHERS)
@pytest.mark.parametrize("bound", ["mixture", "component"])
def test_elbo_of_other_aggregations_is_below_the_evidence(linear: Linear, aggregation: str, bound: str) -> None:
    *_, evidence = linear.exact()
    draws = elbos(linear, aggregation, 4000, bound)
    error = draws.std(0) / len(draws) ** 0.5
    assert (draws.mean(0) <= evidence + 4 * error + 1e-9).all()
    assert draws.mean(0)[0] < evidence[0] - 5 * error[0]  # the item that has everything
    torch.testing.assert_close(draws[:, -1], evidence[-1:].expand(len(draws)))  # nothing there: exact, and 0
    importance = draws.logsumexp(0) - math.log(len(draws))
    torch.testing.assert_close(importance, evidence, atol=0.1, rtol=0)  # each is a density that covers the posterior


@pytest.mark.parametrize("aggregation", ["moe", "mopoe", "mwb"])
def test_mixture_bound_is_tighter_than_component_bound(linear: Linear, aggregation: str) -> None:
    # z has the same distribution under both, so the bounds differ by log q(z) alone, which has little noise.
    joint, component = joint_and_guide(linear, aggregation, 4000, "component")
    joint_of_mixture, mixture = joint_and_guide(linear, aggregation, 4000)
    error = (joint.var(0) + joint_of_mixture.var(0)).div(4000).sqrt()
    assert ((joint.mean(0) - joint_of_mixture.mean(0)).abs() <= 5 * error).all()
    gain, error = component.mean(0) - mixture.mean(0), (component.var(0) + mixture.var(0)).div(4000).sqrt()
    several = PRESENT.sum(1) > 1
    assert (gain - 5 * error)[several].gt(0).all()
    assert (gain.abs() <= 5 * error)[~several].all()  # one subset only: the same


def test_importance_weighted_bound_increases_to_the_evidence(linear: Linear) -> None:
    linear.present = torch.ones_like(PRESENT)
    linear.x, linear.present = [x[:1] for x in linear.x], linear.present[:1]
    evidence = linear.exact()[2].sum().item()
    guide = BarycentricGuide(linear.experts, "wb")
    bounds = []
    for particles, repeats in ((1, 80), (4, 80), (64, 30), (2000, 3)):
        elbo = RenyiELBO(alpha=0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
        bounds.append(-sum(elbo.loss(linear.model, guide) for _ in range(repeats)) / repeats)
    assert bounds[0] < bounds[1] < bounds[2] < evidence
    assert bounds[3] == pytest.approx(evidence, abs=0.05)
