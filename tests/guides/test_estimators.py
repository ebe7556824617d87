"""Every estimator of Pyro with every aggregation and both bounds: values and gradients against quadrature.

The model is linear and Gaussian, with one latent dimension and two modalities, and the experts are parameters that all
items share: each item is a replicate of one Monte-Carlo estimate.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeAlias, cast

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    JitTrace_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from torch import Tensor

from pyro_mmvae import BarycentricGuide, Experts, aggregations, make_aggregation
from pyro_mmvae.guides import stratified

RULES = ("poe", "moe", "mopoe", "wb", "mwb", "pool", "moment", "reverse_kl", "forward_kl", "jeffreys", "hellinger",
         "renyi:0.5", "alpha:0.5", "w2", "w1", "fisher_rao", "entropic_w2", "mixture:renyi:0.5",
         "mixture:w1", "pairs", "code", "helvae")  # fmt: skip
MIXTURES = ("moe", "mopoe", "mwb", "mixture:renyi:0.5", "pairs")
LEARNED = (("wb", "expert_weights"), ("mwb", "expert_weights"), ("mwb", "subset_weights"), ("moe", "expert_weights"),
           ("holder", None))  # fmt: skip
X, GAIN, NOISE = (1.2, -0.4), (1.0, 0.7), (0.8, 0.6)
STEP = 0.1  # the trapezoid rule converges exponentially: halving it changes no figure
GRID = torch.arange(-12.0, 12.0, STEP, dtype=torch.float64)
HALF = torch.tensor(0.5, dtype=torch.float64)
CALLS = 8

Figures: TypeAlias = dict[str, Tensor]
"""The loss per item under "loss", and its gradient in each parameter under the name of the parameter."""


@pytest.fixture(autouse=True)
def _empty_store() -> Iterator[None]:
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


class Encoder(torch.nn.Module):
    """Two trainable experts, which may depend on a group, and the logit of that group."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.tensor([[0.5], [-0.6]], dtype=torch.float64))
        self.log_scale = torch.nn.Parameter(torch.tensor([[-0.3], [0.1]], dtype=torch.float64))

    def forward(self, shift: Tensor) -> Experts:
        shift = shift[..., None, None]
        return Experts(self.loc + 0.4 * shift, self.log_scale.exp() * (1 + 0.1 * shift))


class WithGroup(torch.nn.Module):
    """A guide that draws a group of its own, which its experts depend on."""

    def __init__(self, guide: BarycentricGuide) -> None:
        super().__init__()
        self.guide = guide
        self.logit = torch.nn.Parameter(torch.tensor(0.4, dtype=torch.float64))

    def forward(self, zeros: Tensor) -> None:
        pyro.module("encoder", self)
        with pyro.plate("data", len(zeros)):
            group = pyro.sample("group", dist.Bernoulli(logits=self.logit.expand(zeros.shape)))
            pyro.sample("z", self.guide.posterior(self.guide.encode(2 * group - 1)))


def make_guide(rule: str, bound: str, grouped: bool = False, learned: str | None = None) -> torch.nn.Module:
    """Return a guide that is called with a zero per item, in float64."""
    options = {}
    if learned == "expert_weights":
        options["expert_weights"] = torch.nn.Parameter(torch.tensor([1.0, 0.6], dtype=torch.float64))
    if learned == "subset_weights":
        options["subset_weights"] = "learned"
    aggregation = make_aggregation(rule, **options)
    aggregation.build_weights(2, 1)
    encoder = Encoder()
    if grouped:
        return WithGroup(BarycentricGuide(encoder, aggregation.double(), bound=bound))
    return BarycentricGuide(encoder, aggregation.double(), bound=bound)


def log_likelihood(z: Tensor) -> Tensor:
    return sum((dist.Normal(a * z, s).log_prob(torch.full_like(z, x)) for a, s, x in zip(GAIN, NOISE, X, strict=True)),
               start=torch.zeros_like(z))  # fmt: skip


def observe(z: Tensor) -> None:
    for m, (gain, noise, x) in enumerate(zip(GAIN, NOISE, X, strict=True)):
        pyro.sample(f"x{m}", dist.Normal(gain * z[..., 0], noise), obs=torch.tensor(x, dtype=torch.float64))


def model(zeros: Tensor) -> None:
    with pyro.plate("data", len(zeros)):
        observe(pyro.sample("z", dist.Normal(torch.zeros(1, dtype=torch.float64), 1.0).to_event(1)))


def grouped_model(zeros: Tensor) -> None:
    with pyro.plate("data", len(zeros)):
        group = pyro.sample("group", dist.Bernoulli(HALF))
        observe(pyro.sample("z", dist.Normal((2 * group - 1).unsqueeze(-1), 1.0).to_event(1)))


@config_enumerate
def enumerated_model(zeros: Tensor) -> None:
    grouped_model(zeros)


class Exact:
    """The loss of a guide by quadrature, as a differentiable function of the guide's parameters."""

    def __init__(self, guide: Any, grouped: bool) -> None:
        inner: BarycentricGuide = guide.guide if isinstance(guide, WithGroup) else guide
        self.shifts = torch.tensor([-1.0, 1.0] if isinstance(guide, WithGroup) else [0.0], dtype=torch.float64)
        posterior: Any = inner.aggregation(inner.encode(self.shifts))
        points = GRID[:, None, None]
        if inner.bound == "component" and hasattr(posterior, "components"):
            self.weights = posterior.probs.T  # (component, group)
            self.log_q = posterior.components.log_prob(points[..., None, :]).permute(2, 1, 0)
        else:
            self.weights = torch.ones(1, len(self.shifts), dtype=torch.float64)
            self.log_q = posterior.log_prob(points).T.unsqueeze(0)  # (component, group, point)
        self.log_p = log_likelihood(GRID) + self._log_prior(guide, grouped)

    def _log_prior(self, guide: Any, grouped: bool) -> Tensor:
        if not grouped:
            return dist.Normal(0.0, 1.0).log_prob(GRID)
        each = dist.Normal(torch.tensor([[-1.0], [1.0]], dtype=torch.float64), 1.0).log_prob(GRID) + HALF.log()
        return each if isinstance(guide, WithGroup) else each.logsumexp(0)

    def negative_elbo(self, guide: Any) -> Tensor:
        """Return the negative ELBO."""
        inside = (self.log_q.exp() * (self.log_q - self.log_p)).sum(-1) * STEP
        each = (self.weights * inside).sum(0)
        if not isinstance(guide, WithGroup):
            return each.squeeze()
        group = dist.Bernoulli(logits=guide.logit)
        log_q = group.log_prob(torch.tensor([0.0, 1.0], dtype=torch.float64))
        return (log_q.exp() * (log_q + each)).sum()

    def negative_iwae(self, _guide: Any) -> Tensor:
        """Return the negative importance-weighted bound of two independent draws, by quadrature over both."""
        density = self.weights.unsqueeze(-1) * self.log_q.exp() * STEP
        log_weight = self.log_p - self.log_q
        density, log_weight = density.flatten(), log_weight.flatten()
        pairs = torch.logaddexp(log_weight.unsqueeze(0), log_weight.unsqueeze(1)) - math.log(2)
        return -(density @ pairs @ density)

    def wake_phi(self, _guide: Any) -> Tensor:
        """Return the cross entropy of the exact posterior and the guide, the limit of the wake-phi loss."""
        posterior = (self.log_p - self.log_p.logsumexp(-1, keepdim=True)).exp()
        return -(self.weights * (posterior * self.log_q).sum(-1)).sum()


def figures_of(guide: torch.nn.Module, loss: Tensor) -> Figures:
    """Return a loss and the gradients that its backward pass left."""
    gradients = {name: cast("Tensor", p.grad) for name, p in guide.named_parameters()}
    return {"loss": loss.detach(), **gradients}


@cache
def exact(what: str, rule: str, bound: str, kind: str, learned: str | None) -> Figures:
    guide = make_guide(rule, bound, kind == "group in the guide", learned)
    loss = getattr(Exact(guide, kind != "no group"), what)(guide)
    loss.backward()
    return figures_of(guide, loss)


def estimate(
    elbo: Any, program: Callable[[Tensor], None], guide: Any, wrap: Any, items: int, loss_of: Any
) -> dict[str, Tensor]:
    """Return figures of several calls, stacked."""
    calls: list[Figures] = []
    zeros, wrapped = torch.zeros(items, dtype=torch.float64), wrap(guide)
    for seed in range(CALLS):
        torch.manual_seed(seed)
        guide.zero_grad()
        loss = torch.tensor(loss_of(elbo.loss_and_grads(program, wrapped, zeros)), dtype=torch.float64)
        calls.append({name: value.clone() / items for name, value in figures_of(guide, loss).items()})
    return {name: torch.stack([call[name] for call in calls]) for name in calls[0]}


def assert_agree(found: dict[str, Tensor], expected: Figures) -> None:
    """Check that means agree within standard errors, which are small themselves."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = found[name].std(0) / CALLS**0.5
        mean = found[name].mean(0)
        message = f"{name}: {mean.flatten().tolist()} with errors {error.flatten().tolist()}, not {value.tolist()}"
        size = 1 + value.abs()
        assert ((mean - value).abs() < 4 * error + 0.01 * size).all(), message  # the errors are of a few calls
        assert (error < 0.05 * size).all(), message


ESTIMATORS: dict[str, tuple[Callable[[], Any], str, str, int]] = {
    "Trace_ELBO": (Trace_ELBO, "group in the guide", "negative_elbo", 1000),
    "Trace_ELBO, vectorised": (
        lambda: Trace_ELBO(num_particles=10, vectorize_particles=True, max_plate_nesting=1),
        "no group", "negative_elbo", 100,
    ),
    "TraceGraph_ELBO": (TraceGraph_ELBO, "group in the guide", "negative_elbo", 1000),
    "TraceMeanField_ELBO": (TraceMeanField_ELBO, "no group", "negative_elbo", 1000),
    "TraceEnum_ELBO": (lambda: TraceEnum_ELBO(max_plate_nesting=1), "group in the model", "negative_elbo", 1000),
    "JitTrace_ELBO": (lambda: JitTrace_ELBO(ignore_jit_warnings=True), "no group", "negative_elbo", 1000),
    "RenyiELBO": (lambda: RenyiELBO(alpha=0, num_particles=2), "no group", "negative_iwae", 1000),
    "RenyiELBO, vectorised": (
        lambda: RenyiELBO(alpha=0, num_particles=2, vectorize_particles=True, max_plate_nesting=1),
        "no group", "negative_iwae", 1000,
    ),
    "ReweightedWakeSleep": (
        lambda: ReweightedWakeSleep(num_particles=4000, max_plate_nesting=1), "no group", "wake_phi", 1,
    ),
}  # fmt: skip
PROGRAMS = {"no group": model, "group in the guide": grouped_model, "group in the model": enumerated_model}


def check(name: str, rule: str, bound: str, learned: str | None = None, wrap: Callable[..., Any] | None = None) -> None:
    """Check the figures of an estimator against quadrature."""
    make, kind, what, items = ESTIMATORS[name]
    guide = make_guide(rule, bound, kind == "group in the guide", learned)
    # Optimisations take most of the time of the compiler, and a few calls do not gain it back.
    with warnings.catch_warnings(), torch.jit.optimized_execution(False):
        warnings.simplefilter("ignore")  # the compiler of torch warns of what it traces
        loss_of = (lambda pair: pair[1]) if name == "ReweightedWakeSleep" else float
        found = estimate(make(), PROGRAMS[kind], guide, wrap or (lambda guide: guide), items, loss_of)
    assert_agree(found, exact(what, rule, bound, kind, learned))


def is_mixture(rule: str) -> bool:
    return rule in MIXTURES or rule.startswith("mixture:")


def test_rules_name_every_aggregation() -> None:
    assert {rule.removeprefix("mixture:").split(":")[0] for rule in RULES} == set(aggregations()) - {"holder"}


# Particles are expanded along a dimension of their own, which concerns the draws of subsets only. The bounds of a rule
# that is not a mixture are one, which a single estimator shows.
CASES = [
    (name, rule, bound)
    for name in ESTIMATORS
    for rule in (MIXTURES if "vectorised" in name else RULES)
    for bound in (("mixture", "component") if name == "Trace_ELBO" or is_mixture(rule) else ("mixture",))
]


@pytest.mark.parametrize(("name", "rule", "bound"), CASES)
def test_estimator_agrees_with_quadrature(name: str, rule: str, bound: str) -> None:
    check(name, rule, bound)


@pytest.mark.parametrize("rule", MIXTURES)
@pytest.mark.parametrize("name", ["Trace_ELBO", "Trace_ELBO, vectorised", "JitTrace_ELBO"])
def test_estimator_of_stratified_guide_agrees_with_quadrature(name: str, rule: str) -> None:
    check(name, rule, "mixture", wrap=stratified)


@pytest.mark.parametrize(("rule", "learned"), LEARNED)
@pytest.mark.parametrize("name", ["Trace_ELBO", "TraceGraph_ELBO", "TraceEnum_ELBO", "JitTrace_ELBO",
                                  "ReweightedWakeSleep"])  # fmt: skip
def test_estimator_of_learned_weights_agrees_with_quadrature(name: str, rule: str, learned: str | None) -> None:
    check(name, rule, "mixture", learned)


@pytest.mark.parametrize("bound", ["mixture", "component"])
@pytest.mark.parametrize("rule", ["wb", "mwb"])
@pytest.mark.parametrize("name", ["TraceMeanField_ELBO", "RenyiELBO"])
def test_estimator_without_score_function_learns_weights_of_barycenters(name: str, rule: str, bound: str) -> None:
    check(name, rule, bound, "expert_weights")


@pytest.mark.parametrize(("rule", "learned"), LEARNED[2:])
@pytest.mark.parametrize("validate", [False, True])
def test_mean_field_elbo_refuses_learned_mixture_weights(rule: str, learned: str | None, validate: bool) -> None:
    guide = make_guide(rule, "mixture", learned=learned)
    error: Any = NotImplementedError if validate else ValueError
    with pyro.validation_enabled(validate), pytest.raises(error, match="fully reparameterized|use Trace_ELBO"):
        TraceMeanField_ELBO().loss_and_grads(model, guide, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize(("rule", "learned"), LEARNED[2:])
def test_renyi_elbo_refuses_learned_mixture_weights(rule: str, learned: str | None) -> None:
    guide = make_guide(rule, "mixture", learned=learned)
    with pytest.raises(NotImplementedError):
        RenyiELBO(num_particles=2).loss_and_grads(model, guide, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize(("rule", "learned"), [case for case in LEARNED[2:] if case[0] != "holder"])
def test_component_bound_refuses_learned_mixture_weights(rule: str, learned: str | None) -> None:
    with pytest.raises(ValueError, match="bound='mixture'"):  # noqa: PT012
        make_guide(rule, "component", learned=learned)(torch.zeros(3, dtype=torch.float64))
