"""BarycentricGuide and plates: scales under subsampling, nested plates, particles, and the check of plate sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from pyro_mmvae import BarycentricGuide, Experts

SIGMA = 0.7
ITEMS, LATENT = 12, 3


def exact(x: Tensor, _size: int | None = None) -> Experts:
    """Return the likelihood term of :func:`model`, whose product with the prior is the posterior."""
    return Experts(x.unsqueeze(-2), torch.full_like(x, SIGMA).unsqueeze(-2))


def draw(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z, SIGMA).to_event(1), obs=x)


def model(x: Tensor, size: int | None = None) -> None:
    """Run on some of ``size`` items, or on all of them."""
    with pyro.plate("data", size or len(x), subsample_size=len(x)):
        draw(x)


def evidence(x: Tensor) -> float:
    """Return log p(x) of all items under :func:`model`."""
    return float(dist.Normal(x.new_zeros(()), (1 + SIGMA**2) ** 0.5).log_prob(x).sum())


@pytest.fixture
def x() -> Tensor:
    return torch.randn(ITEMS, LATENT, dtype=torch.float64)


def test_guide_scales_minibatches_as_the_model(x: Tensor) -> None:
    full = -Trace_ELBO().loss(model, BarycentricGuide(exact, "poe"), x)
    assert full == pytest.approx(evidence(x), rel=1e-12)
    guide = BarycentricGuide(exact, "poe", plate_size=ITEMS)
    parts = [-Trace_ELBO().loss(model, guide, part, ITEMS) for part in x.split(3)]
    assert parts[0] == pytest.approx(ITEMS / 3 * evidence(x[:3]), rel=1e-12)
    assert sum(parts) / len(parts) == pytest.approx(full, rel=1e-12)
    assert poutine.trace(guide).get_trace(x[:3]).nodes["z"]["scale"] == ITEMS / 3


def test_subsampling_model_draws_the_items_of_the_guide(x: Tensor) -> None:
    drawn: list[tuple[int, ...]] = []

    def subsampling(x: Tensor) -> None:
        with pyro.plate("data", ITEMS, subsample_size=4) as index:
            drawn.append(tuple(index.tolist()))
            draw(x[index])

    guide = BarycentricGuide(exact, "poe", plate_size=ITEMS, subsample_size=4)
    for _ in range(4):
        elbo = -Trace_ELBO().loss(subsampling, guide, x)
        assert elbo == pytest.approx(ITEMS / 4 * evidence(x[list(drawn[-1])]), rel=1e-12)
    assert len(set(drawn)) == 4


def test_encode_with_subsample_gets_the_indices(x: Tensor) -> None:
    asked: list[Tensor] = []

    def encode(x: Tensor, subsample: Tensor | None = None) -> Experts:
        assert subsample is not None
        asked.append(subsample)
        return exact(x[subsample])

    guide = BarycentricGuide(encode, "poe", plate_size=ITEMS, subsample_size=4)
    trace = poutine.trace(guide).get_trace(x)
    assert torch.equal(trace.nodes["data"]["value"], asked[0])
    assert trace.nodes["z"]["value"].shape == (4, LATENT)

    class Encode(torch.nn.Module):
        def forward(self, x: Tensor, subsample: Tensor | None = None) -> Experts:
            return encode(x, subsample)

    BarycentricGuide(Encode(), "poe", plate_size=ITEMS, subsample_size=4)(x)
    assert len(asked) == 2
    with pytest.raises(AssertionError):  # a guide that does not subsample hands over nothing
        BarycentricGuide(encode, "poe")(x)


def test_subsample_of_all_items_equals_the_full_elbo(x: Tensor) -> None:
    guide = BarycentricGuide(exact, "poe", plate_size=ITEMS, subsample_size=ITEMS)
    assert -Trace_ELBO().loss(model, guide, x) == pytest.approx(evidence(x), rel=1e-12)


@pytest.mark.parametrize("plate_size", [None, ITEMS + 1, ITEMS - 1])
def test_other_plate_size_than_the_models_is_refused(x: Tensor, plate_size: int | None) -> None:
    guide = BarycentricGuide(exact, "poe", plate_size=plate_size)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"size 12 in the model and {plate_size or 4} .* pass plate_size=12"):
            SVI(model, guide, pyro.optim.Adam({}), Trace_ELBO()).loss(model, guide, x[:4], ITEMS)
        assert not _PYRO_STACK
    right = BarycentricGuide(exact, "poe", plate_size=ITEMS)
    assert -Trace_ELBO().loss(model, right, x[:4], ITEMS) == pytest.approx(3 * evidence(x[:4]), rel=1e-12)


def test_other_plate_size_is_refused_with_vectorized_particles(x: Tensor) -> None:
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    with pytest.raises(ValueError, match="pass plate_size=12"):
        elbo.loss(model, BarycentricGuide(exact, "poe"), x[:4], ITEMS)


@pytest.mark.parametrize("x_of_model", [3, ITEMS, 2 * ITEMS])
def test_unrelated_model_with_equal_plate_name_is_not_checked(x: Tensor, x_of_model: int) -> None:
    guide = BarycentricGuide(exact, "poe")
    kept = poutine.trace(guide).get_trace(x)
    other = torch.zeros(x_of_model, LATENT)
    trace = poutine.trace(model).get_trace(other)  # no replay at all
    assert trace.nodes["z"]["value"].shape == (x_of_model, LATENT)
    poutine.replay(model, trace=trace)(other)  # a replay of something else
    Trace_ELBO().loss(model, BarycentricGuide(exact, "poe", plate_size=x_of_model), other)
    SVI(model, guide, pyro.optim.Adam({}), Trace_ELBO()).evaluate_loss(x)
    assert kept.nodes["z"]["value"].shape == (ITEMS, LATENT)
    del kept
    assert not _PYRO_STACK


def test_guide_without_model_leaves_no_handler(x: Tensor) -> None:
    guide = BarycentricGuide(exact, "poe")
    guide(x)
    assert not _PYRO_STACK
    draws = Predictive(guide, num_samples=5)(x)
    assert not _PYRO_STACK
    assert draws["z"].shape == (5, ITEMS, LATENT)


def test_failing_model_leaves_no_handler(x: Tensor) -> None:
    def broken(x: Tensor) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Trace_ELBO().loss(broken, BarycentricGuide(exact, "poe"), x)
    assert not _PYRO_STACK


def test_plate_size_is_not_checked_without_validation(x: Tensor) -> None:
    with pyro.validation_enabled(False):
        Trace_ELBO().loss(model, BarycentricGuide(exact, "poe"), x[:4], ITEMS)


ESTIMATORS: list[tuple[str, Callable[[], Any]]] = [
    ("particles", lambda: Trace_ELBO(num_particles=3)),
    ("vectorised", lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)),
    ("renyi", lambda: RenyiELBO(alpha=0, num_particles=3)),
    ("renyi vectorised", lambda: RenyiELBO(alpha=0, num_particles=3, vectorize_particles=True, max_plate_nesting=1)),
]


@pytest.mark.parametrize("make", [make for _, make in ESTIMATORS], ids=[name for name, _ in ESTIMATORS])
@pytest.mark.parametrize("subsampling", [False, True])
def test_estimators_are_exact_at_the_exact_posterior(x: Tensor, make: Callable[[], Any], subsampling: bool) -> None:
    part, size = (x[:4], ITEMS) if subsampling else (x, None)
    guide = BarycentricGuide(exact, "poe", plate_size=size)
    expected = evidence(part) * (ITEMS / 4 if subsampling else 1)
    assert -make().loss(model, guide, part, size) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bound", ["mixture", "component"])
def test_mean_field_elbo_of_normal_posterior_equals_the_evidence(x: Tensor, bound: str) -> None:
    guide = BarycentricGuide(exact, "poe", bound=bound)
    elbo = TraceMeanField_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    assert -elbo.loss(model, guide, x) == pytest.approx(evidence(x), abs=0.5)


@pytest.mark.parametrize("aggregation", ["poe", "mwb"])
@pytest.mark.parametrize("bound", ["mixture", "component"])
@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_draws_from_the_guide(x: Tensor, aggregation: str, bound: str, parallel: bool) -> None:
    def generate(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, SIGMA).to_event(1))

    guide = BarycentricGuide(exact, aggregation, bound=bound)
    draws = Predictive(generate, guide=guide, num_samples=60, parallel=parallel)(x)
    assert draws["x"].squeeze().shape == (60, ITEMS, LATENT)
    shrink = 1 / (1 + SIGMA**2) if aggregation == "poe" else 1.0
    torch.testing.assert_close(draws["x"].squeeze().mean(0), shrink * x, atol=0.6, rtol=0)


@pytest.mark.parametrize("bound", ["mixture", "component"])
def test_guide_inside_outer_plate_equals_the_evidence(x: Tensor, bound: str) -> None:
    both = torch.stack([x, -x + 1, 2 * x])
    inner = BarycentricGuide(exact, "poe", bound=bound)

    def outer_model(x: Tensor) -> None:
        with pyro.plate("group", 3, dim=-2), pyro.plate("data", ITEMS, dim=-1):
            draw(x)

    def outer_guide(x: Tensor) -> None:
        with pyro.plate("group", 3, dim=-2):
            inner(x)

    assert -Trace_ELBO().loss(outer_model, outer_guide, both) == pytest.approx(evidence(both), rel=1e-12)
    elbo = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=2)
    assert -elbo.loss(outer_model, outer_guide, both) == pytest.approx(evidence(both), rel=1e-12)


@pytest.mark.parametrize("aggregation", ["poe", "mopoe"])
@pytest.mark.parametrize("subsample_size", [None, 5])
def test_guide_with_plate_in_other_dimension_equals_the_evidence(
    x: Tensor, aggregation: str, subsample_size: int | None
) -> None:
    rows = torch.stack([x, x + 1], 1)  # (item, time, latent)
    seen: list[Tensor] = []
    size = None if subsample_size is None else ITEMS
    options: dict[str, Any] = {"plate_size": size, "subsample_size": subsample_size, "dim": -2}
    inner = BarycentricGuide(exact, aggregation, prior_expert="all", **options)

    def rows_model(rows: Tensor) -> None:
        with pyro.plate("data", ITEMS, subsample_size=subsample_size, dim=-2) as index:
            seen.append(index)
            with pyro.plate("time", 2, dim=-1):
                draw(rows[index])

    def rows_guide(rows: Tensor) -> None:
        with pyro.plate("time", 2, dim=-1):
            inner(rows)

    elbo = -Trace_ELBO().loss(rows_model, rows_guide, rows)
    scale = 1 if subsample_size is None else ITEMS / subsample_size
    assert elbo == pytest.approx(scale * evidence(rows[seen[-1]]), rel=1e-12)


def test_model_without_the_site_of_the_guide_is_named() -> None:
    def other(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            w = pyro.sample("w", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(w, 1.0).to_event(1), obs=x)

    def encode(x: Tensor) -> Experts:
        return Experts(torch.zeros(len(x), 2, 1), torch.ones(len(x), 2, 1))

    with pytest.raises(ValueError, match="must have the latent site 'z' of the guide, got 'w' instead, .*: pass site="):
        Trace_ELBO().loss(other, BarycentricGuide(encode), torch.zeros(5, 1))
    assert _PYRO_STACK == []
    Trace_ELBO().loss(other, BarycentricGuide(encode, site="w"), torch.zeros(5, 1))


def test_model_with_an_enumerated_site_before_that_of_the_guide_is_accepted() -> None:
    @config_enumerate
    def mixture(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("side", dist.Normal(k.float(), 1.0), obs=x[:, 0])
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    guide = BarycentricGuide(lambda x: Experts(torch.zeros(len(x), 2, 1), torch.ones(len(x), 2, 1)))
    assert math.isfinite(TraceEnum_ELBO(max_plate_nesting=1).loss(mixture, guide, torch.zeros(5, 1)))


def test_model_without_the_plate_of_the_guide_is_named() -> None:
    def other(x: Tensor) -> None:
        with pyro.plate("cells", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def encode(x: Tensor) -> Experts:
        return Experts(torch.zeros(len(x), 2, 1), torch.ones(len(x), 2, 1))

    with pytest.raises(ValueError, match="site 'z' of the model is not in a plate 'data', but in 'cells': pass plate="):
        Trace_ELBO().loss(other, BarycentricGuide(encode), torch.zeros(5, 1))
    Trace_ELBO().loss(other, BarycentricGuide(encode, plate="cells"), torch.zeros(5, 1))


def test_experts_with_the_modality_axis_first_are_named() -> None:
    def simple(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    guide = BarycentricGuide(lambda x: Experts(torch.zeros(2, len(x), 1), torch.ones(2, len(x), 1)))
    with pytest.raises(ValueError, match="may have their modality axis first, which must be second to last"):
        Trace_ELBO().loss(simple, guide, torch.zeros(5, 1))


def test_posterior_of_data_says_to_encode_first() -> None:
    guide = BarycentricGuide(lambda x: Experts(x, torch.ones_like(x)))
    with pytest.raises(TypeError, match=r"must be Experts, got Tensor: encode data first, as in guide.posterior\("):
        guide.posterior(torch.zeros(3, 2, 1))  # type: ignore[arg-type]
