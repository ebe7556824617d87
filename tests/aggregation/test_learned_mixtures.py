"""Gradients of learned mixture weights, against exact enumeration of the components and quadrature of the latent."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pyro_mmvae import BarycentricGuide, Experts, SubsetMixture, aggregate
from pyro_mmvae.aggregation.weights import LearnedSubsetWeights
from pyro_mmvae.training import RecordingELBO

X = 0.8
START = {"loc": [-1.0, 0.2, 1.5], "log_scale": [-0.5, 0.3, -1.0], "logits": [0.4, -0.3, 0.1]}


def parameters() -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in START.items()}


def mixture(p: dict[str, Tensor], items: int = 1) -> SubsetMixture:
    components = dist.Normal(p["loc"][:, None], p["log_scale"].exp()[:, None]).to_event(1)
    return SubsetMixture(p["logits"].expand(items, 3), components.expand((items, 3)))


def log_joint(z: Tensor) -> Tensor:
    """Return the log density of a model that is not conjugate: z ~ N(0, 1), x ~ N(z², 1)."""
    one = torch.ones((), dtype=torch.float64)
    prior, likelihood = dist.Normal(0 * one, one), dist.Normal(z.square(), one)
    return prior.log_prob(z) + likelihood.log_prob(X * one)


def exact_gradients() -> dict[str, Tensor]:
    """Return gradients of -ELBO = -Σ_k π_k ∫ q_k(z) (log p(x, z) - log q(z)) dz, by the trapezoid rule."""
    p = parameters()
    z = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    q = mixture(p)
    components = dist.Normal(p["loc"], p["log_scale"].exp()).log_prob(z[:, None]).exp()
    density = (p["logits"].softmax(-1) * components).sum(-1)
    loss = -torch.trapezoid(density * (log_joint(z) - q.log_prob(z[:, None])), z)
    loss.backward()
    return {name: value.grad for name, value in p.items() if value.grad is not None}


def model(items: int) -> None:
    one = torch.ones((), dtype=torch.float64)
    with pyro.plate("data", items):
        z = pyro.sample("z", dist.Normal(torch.zeros(1).double(), one).to_event(1))
        pyro.sample("x", dist.Normal(z.square().squeeze(-1), one), obs=torch.full((items,), X).double())


@pytest.mark.parametrize("estimator", [Trace_ELBO, RecordingELBO])
@pytest.mark.parametrize("masked", [False, True])
def test_mixture_gradient_matches_exact_enumeration(estimator: Any, masked: bool) -> None:
    """Compare the mean gradient over many items, within five standard errors."""
    wanted = exact_gradients()
    found: dict[str, list[Tensor]] = {name: [] for name in START}
    items, batches = 4000, 25
    for seed in range(batches):
        p = parameters()

        def guide(items: int, p: dict[str, Tensor] = p) -> None:
            q: Any = mixture(p, items)
            with pyro.plate("data", items):
                pyro.sample("z", q.mask(torch.ones(items, dtype=torch.bool)) if masked else q)

        torch.manual_seed(seed)
        estimator(max_plate_nesting=1).differentiable_loss(model, guide, items).backward()
        for name, value in p.items():
            assert value.grad is not None
            found[name].append(value.grad / items)
    for name, values in found.items():
        stacked = torch.stack(values)
        error = stacked.std(0) / batches**0.5
        assert ((stacked.mean(0) - wanted[name]).abs() < 5 * error).all(), (name, stacked.mean(0), wanted[name], error)
        assert (error < 0.2 * wanted[name].abs().max()).all()


def test_score_parts_keep_the_pathwise_gradient() -> None:
    q = mixture(parameters(), 5)
    with pyro.plate("data", 5):
        trace = poutine.trace(lambda: pyro.sample("z", q)).get_trace()
    value = trace.nodes["z"]["value"]
    assert value.requires_grad
    parts = q.score_parts(value)
    torch.testing.assert_close(parts.log_prob, q.log_prob(value))
    torch.testing.assert_close(parts.score_function, q.log_prob(value))  # in value; only its gradient is of π alone
    loc, logits = q.components.base_dist.loc, q.logits
    of_loc, of_logits = torch.autograd.grad(parts.score_function.sum(), [loc, logits], allow_unused=True)
    assert of_loc is None
    assert of_logits.abs().sum() > 0


def test_mean_field_elbo_refuses_learned_subset_weights() -> None:
    p = parameters()

    def guide(items: int) -> None:
        with pyro.plate("data", items):
            pyro.sample("z", mixture(p, items))

    with pytest.raises(NotImplementedError, match="fully reparameterized"):
        TraceMeanField_ELBO().loss(model, guide, 3)


def test_svi_learns_subset_weights() -> None:
    """Check that the mixture comes to the subset of a alone, since modality b is noise."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(400, 1, generator=generator)
    a = z + 0.3 * torch.randn(400, 1, generator=generator)

    def sensor(a: Tensor, _: Tensor) -> None:
        with pyro.plate("data", len(a)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("a", dist.Normal(z, 0.3).to_event(1), obs=a)

    def encode(a: Tensor, noise: Tensor) -> Experts:
        variance = 1 / (1 + 1 / 0.3**2)
        loc = torch.stack([variance * a / 0.3**2, noise], 1)
        return Experts(loc, torch.full_like(loc, variance**0.5))

    weights = LearnedSubsetWeights(3)
    guide = BarycentricGuide(encode, "mwb", subset_weights=weights)
    svi = SVI(sensor, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    noise = torch.randn(400, 1, generator=generator)
    for _ in range(60):
        svi.step(a, noise)
    with torch.no_grad():
        posterior = aggregate(encode(a, noise), "mwb", subset_weights=weights)
    only_a, only_b, both = posterior.probs[0].tolist()
    assert only_a > 0.9
    assert only_b < 0.05
    assert both < 0.1
