"""Penalties under every estimator of Pyro, in plates of every kind, and in training only."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    JitTraceMeanField_ELBO,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import AutoDelta, AutoGuideList
from torch import Tensor, nn

from pyro_mmvae import BarycentricGuide, Experts, FrechetVariance, Modality, MultimodalVAE, Penalty
from pyro_mmvae.data import from_arrays
from pyro_mmvae.guides import stratified
from pyro_mmvae.inference.importance import importance_weights
from pyro_mmvae.training import ELBOObjective, evaluate_elbo
from pyro_mmvae.training.elbo import RecordingELBO

ITEMS = 6
X = torch.linspace(-1.0, 1.0, ITEMS)


class Encoder(nn.Module):
    """Experts that depend on the item, of three modalities."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.loc = nn.Parameter(torch.randn(3, 2, generator=generator))
        self.log_scale = nn.Parameter(0.3 * torch.randn(3, 2, generator=generator))

    def forward(self, x: Tensor) -> Experts:
        return Experts(self.loc + x[..., None, None], self.log_scale.exp().expand(*x.shape, 3, 2))


class Recording(FrechetVariance):
    """The Fréchet variance, which keeps what it was given and what it returned."""

    def forward(self, experts: Experts, members: Tensor | None, guide: BarycentricGuide) -> Tensor:
        self.members, self.value = members, super().forward(experts, members, guide)
        return self.value


class Difference(Penalty):
    """A penalty without any draw: the squared difference of the first two experts."""

    def forward(self, experts: Experts, members: Tensor | None, guide: BarycentricGuide) -> Tensor:
        return (experts.loc[..., 0, :] - experts.loc[..., 1, :]).square().sum(-1)


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def make_guide(rule: str = "wb", bound: str = "mixture", penalties: Any = (), **options: Any) -> BarycentricGuide:
    return BarycentricGuide(Encoder(), rule, bound=bound, penalties=penalties, **options)


def loss_and_gradients(elbo: Any, guide: Any, program: Callable[..., Any] = model) -> tuple[float, list[Tensor]]:
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler of torch warns of what it traces
        loss = elbo.loss_and_grads(program, guide, X)
    return loss, [p.grad.clone() for p in guide.parameters()]


ESTIMATORS: dict[str, Callable[[], Any]] = {
    "Trace_ELBO": Trace_ELBO,
    "Trace_ELBO, two particles": lambda: Trace_ELBO(num_particles=2),
    "Trace_ELBO, vectorised": lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "TraceGraph_ELBO": TraceGraph_ELBO,
    "TraceMeanField_ELBO": TraceMeanField_ELBO,
    "TraceEnum_ELBO": lambda: TraceEnum_ELBO(max_plate_nesting=1),
    "JitTrace_ELBO": lambda: JitTrace_ELBO(ignore_jit_warnings=True),
    "JitTraceMeanField_ELBO": lambda: JitTraceMeanField_ELBO(ignore_jit_warnings=True),
    "RenyiELBO": lambda: RenyiELBO(alpha=0, num_particles=2),
    "RecordingELBO": lambda: _Loss(RecordingELBO(max_plate_nesting=1)),
}


class _Loss:
    """The interface of Pyro's estimators for one with a differentiable loss."""

    def __init__(self, elbo: Any) -> None:
        self.elbo = elbo

    def loss_and_grads(self, program: Any, guide: Any, *args: Any) -> float:
        loss = self.elbo.differentiable_loss(program, guide, *args)
        loss.backward()
        return float(loss.detach())


@pytest.mark.parametrize(("rule", "bound"), [("wb", "mixture"), ("mwb", "mixture"), ("mwb", "component")])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_with_a_penalty_adds_it_to_the_loss_and_its_gradient(name: str, rule: str, bound: str) -> None:
    plain, plain_gradients = loss_and_gradients(ESTIMATORS[name](), make_guide(rule, bound))
    guide = make_guide(rule, bound, [Difference()])
    loss, gradients = loss_and_gradients(ESTIMATORS[name](), guide)
    term = Difference()(guide.encode(X), None, guide).sum()
    assert loss == pytest.approx(plain + float(term.detach()), rel=1e-5)
    expected = torch.autograd.grad(term, list(guide.parameters()), allow_unused=True)
    for found, before, added in zip(gradients, plain_gradients, expected, strict=True):
        torch.testing.assert_close(found, before if added is None else before + added, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["Trace_ELBO", "Trace_ELBO, vectorised", "TraceMeanField_ELBO", "TraceGraph_ELBO"])
def test_penalty_in_the_component_bound_gets_the_subsets_that_z_is_drawn_from(name: str) -> None:
    penalty, seen = Recording(), []
    guide = make_guide("mwb", "component", [penalty])
    over_members = guide.aggregation.over_members
    guide.aggregation.over_members = lambda experts, members: seen.append(members) or over_members(experts, members)
    plain, _ = loss_and_gradients(ESTIMATORS[name](), make_guide("mwb", "component"))
    loss, _ = loss_and_gradients(ESTIMATORS[name](), guide)
    assert penalty.members is not None
    assert any(penalty.members is members for members in seen)
    particles = 3 if "vectorised" in name else 1
    assert penalty.members.shape == ((3, ITEMS, 3) if particles == 3 else (ITEMS, 3))
    assert loss == pytest.approx(plain + float(penalty.value.detach().sum()) / particles, rel=1e-5)


def test_penalty_in_a_subsampled_plate_is_scaled_as_the_elbo_is() -> None:
    def program(x: Tensor) -> None:
        with pyro.plate("data", 3 * ITEMS, subsample_size=ITEMS):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    for options in ({"plate_size": 3 * ITEMS}, {"plate_size": 3 * ITEMS, "subsample_size": ITEMS}):
        plain, _ = loss_and_gradients(Trace_ELBO(), make_guide(**options), program)
        guide = make_guide(penalties=[Difference()], **options)
        loss, _ = loss_and_gradients(Trace_ELBO(), guide, program)
        term = Difference()(guide.encode(X), None, guide).sum()
        assert loss == pytest.approx(plain + 3 * float(term.detach()), rel=1e-5)


def test_penalty_of_a_part_of_a_list_of_guides_is_in_the_plate_of_the_list() -> None:
    def program(x: Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1) + shift, 1.0), obs=x)

    losses = []
    for penalties in ([], [Difference()]):
        pyro.clear_param_store()
        guides = AutoGuideList(program, create_plates=lambda x: pyro.plate("data", len(x), dim=-1))
        guides.append(AutoDelta(pyro.poutine.block(program, expose=["shift"])))
        guides.append(make_guide(penalties=penalties))
        torch.manual_seed(1)
        losses.append(Trace_ELBO().loss(program, guides, X))
    guide = make_guide()
    term = Difference()(guide.encode(X), None, guide).sum()
    assert losses[1] == pytest.approx(losses[0] + float(term.detach()), rel=1e-5)


def test_penalty_acts_in_training_mode_only() -> None:
    guide = make_guide(penalties=["frechet", "infonce"])
    plain, _ = loss_and_gradients(Trace_ELBO(), make_guide())
    loss, _ = loss_and_gradients(Trace_ELBO(), guide.eval())
    assert loss == plain
    assert loss_and_gradients(Trace_ELBO(), guide.train())[0] > plain


def test_svi_with_a_frechet_variance_draws_the_experts_together() -> None:
    spread = []
    for gamma in (1e-6, 20.0):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        guide = make_guide(penalties=[FrechetVariance(gamma)])
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        for _ in range(40):
            svi.step(X)
        spread.append(float(Difference()(guide.encode(X), None, guide).mean().detach()))
    assert spread[1] < 0.1 * spread[0]


def test_stratified_guide_keeps_its_penalty() -> None:
    guide = make_guide("mwb", penalties=[Difference()])
    trace = pyro.poutine.trace(stratified(guide)).get_trace(X)
    assert "z_Difference" in trace.nodes


def test_predictive_with_a_penalized_guide_returns_draws_of_the_latent() -> None:
    guide = make_guide("mwb", "component", ["frechet", "infonce"])
    for parallel in (False, True):
        draws = Predictive(guide, num_samples=4, return_sites=["z"], parallel=parallel)(X)["z"]
        assert draws.shape[0] == 4
        assert draws.shape[-2:] == (ITEMS, 2)


def make_vae(**options: Any) -> MultimodalVAE:
    torch.manual_seed(0)
    return MultimodalVAE([Modality(name, (3,)) for name in "abc"], 2, "mwb", **options)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [True, True, True]])
    return {**{name: torch.randn(4, 3) for name in "abc"}, "present": present}


@pytest.mark.parametrize("bound", ["mixture", "component"])
def test_objective_records_penalties_and_does_not_weight_them_by_beta(batch: dict[str, Tensor], bound: str) -> None:
    vae = make_vae(bound=bound, beta=3.0, penalties=[{"name": "frechet", "gamma": 0.5}, "infonce"])
    loss, terms = ELBOObjective(vae)(batch)
    assert set(terms.penalties) == {"z_frechet", "z_infonce"}
    assert all(value > 0 for value in terms.penalties.values())
    expected = 3.0 * terms.kl - sum(terms.log_likelihood.values()) + sum(terms.penalties.values())
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.guide.parameters())


def test_penalties_leave_evaluation_and_importance_weights_as_they_are(batch: dict[str, Tensor]) -> None:
    figures = []
    for penalties in ([], ["frechet"]):
        vae = make_vae(bound="mixture", penalties=penalties)
        torch.manual_seed(2)
        loss = Trace_ELBO().loss(vae.model, vae.guide, batch, weighted=False)
        weights = importance_weights(vae.model, vae.guide, batch, samples=2)
        figures.append((loss, weights, list(vae.state_dict())))
    assert figures[0][0] == figures[1][0]
    torch.testing.assert_close(figures[0][1], figures[1][1], rtol=0, atol=0)
    assert figures[0][2] == figures[1][2]


def test_evaluate_elbo_leaves_penalties_out() -> None:
    data = from_arrays({name: np.random.default_rng(0).normal(size=(8, 3)) for name in "abc"}, name="small")
    elbos = [evaluate_elbo(make_vae(penalties=p), data)["elbo"] for p in ([], ["frechet", "infonce"])]
    assert elbos[0] == elbos[1]
