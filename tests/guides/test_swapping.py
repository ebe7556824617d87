"""BarycentricGuide as a Pyro guide: in guide lists, under enumeration, and with every estimator."""

from __future__ import annotations

import copy
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoNormal
from torch import Tensor

from pyro_mmvae import BarycentricGuide, Experts
from pyro_mmvae.aggregation.weights import LearnedSubsetWeights

ITEMS, LATENT, SIGMA = 12, 2, 0.7
VECTORISED: dict[str, Any] = {"vectorize_particles": True, "max_plate_nesting": 1}


def exact(x: Tensor, _size: int | None = None) -> Experts:
    """Return the likelihood term of :func:`model`; its product with the prior is the posterior of z where b is 0."""
    return Experts(x.unsqueeze(-2), torch.full_like(x, SIGMA).unsqueeze(-2))


def two(x: Tensor, _size: int | None = None) -> Experts:
    """Return experts that no aggregation turns into the posterior."""
    return Experts(torch.stack([x - 0.5, x + 0.3], -2), x.new_tensor([[0.4], [1.1]]).expand(len(x), 2, LATENT))


def local(x: Tensor, shift: Tensor | float = 0.0) -> None:
    z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z + shift, SIGMA).to_event(1), obs=x)


def model(x: Tensor, size: int | None = None) -> None:
    with pyro.plate("data", size or len(x), subsample_size=len(x)):
        local(x)


def with_global(x: Tensor, size: int | None = None) -> None:
    """Draw an offset b ~ N(0, 1) that all items share."""
    b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", size or len(x), subsample_size=len(x)):
        local(x, b[..., None])


def evidence(x: Tensor, shift: float = 0.0) -> float:
    """Return log p(x) of all items given b."""
    return float(dist.Normal(x.new_zeros(()), (1 + SIGMA**2) ** 0.5).log_prob(x - shift).sum())


def list_of(model: Any, guide: BarycentricGuide, **options: Any) -> AutoGuideList:
    guides = AutoGuideList(model, **options)
    guides.append(AutoNormal(poutine.block(model, hide=["z"])))
    guides.append(guide)
    return guides


def held_at_zero(guides: AutoGuideList, x: Tensor, *args: Any) -> float:
    """Return the local part of the ELBO: b is held at 0 and its terms are left out."""
    trace = poutine.trace(poutine.condition(guides, data={"b_unconstrained": x.new_zeros(())})).get_trace(x, *args)
    replayed = poutine.trace(poutine.replay(poutine.condition(with_global, {"b": x.new_zeros(())}), trace=trace))
    found = replayed.get_trace(x, *args)
    found.compute_log_prob()
    trace.compute_log_prob()
    sums = [found.nodes[name]["log_prob_sum"] for name in ("z", "x")]
    return float(sum(sums) - trace.nodes["z"]["log_prob_sum"])


@pytest.fixture
def x() -> Tensor:
    return torch.randn(ITEMS, LATENT, dtype=torch.float64)


def test_guide_in_list_has_the_density_and_plate_it_has_alone(x: Tensor) -> None:
    guide = BarycentricGuide(two, "mwb")
    guides = list_of(with_global, guide)
    trace = poutine.trace(guides).get_trace(x)
    assert [name for name in trace.nodes if name == "data"] == ["data"]
    assert trace.nodes["z"]["cond_indep_stack"][0].name == "data"
    trace.compute_log_prob()
    alone = BarycentricGuide(two, "mwb").posterior(two(x))
    expected = alone.log_prob(trace.nodes["z"]["value"])
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], expected, rtol=1e-12, atol=1e-12)
    draws = guides(x)
    assert set(draws) == {"b", "z"}
    assert draws["z"].shape == (ITEMS, LATENT)
    assert isinstance(BarycentricGuide(two, "mwb")(x), Tensor)


def test_guide_in_list_has_the_evidence_as_local_elbo(x: Tensor) -> None:
    assert held_at_zero(list_of(with_global, BarycentricGuide(exact, "poe")), x) == pytest.approx(evidence(x), rel=1e-9)


def test_guide_in_list_scales_minibatches_as_the_model(x: Tensor) -> None:
    for part in (x[:3], x[4:8]):  # a list whose plate follows the batch
        guides = list_of(
            with_global,
            BarycentricGuide(exact, "poe", plate_size=ITEMS),
            create_plates=lambda x, size: pyro.plate("data", size, subsample_size=len(x), dim=-1),
        )
        for batch in (part, x[:5]):
            expected = ITEMS / len(batch) * evidence(batch)
            assert held_at_zero(guides, batch, ITEMS) == pytest.approx(expected, rel=1e-9)


def test_guide_in_list_subsamples_the_items_of_the_model(x: Tensor) -> None:
    drawn: list[Tensor] = []

    def subsampling(x: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", ITEMS, subsample_size=4) as index:
            drawn.append(index)
            local(x[index], 0 * b)

    guides = list_of(subsampling, BarycentricGuide(exact, "poe", plate_size=ITEMS, subsample_size=4))
    guides(x)  # the first call looks at the model, which draws too
    elbo = Trace_ELBO()
    for _ in range(3):
        seed = torch.get_rng_state()
        loss = elbo.loss(subsampling, guides, x)
        torch.set_rng_state(seed)
        b = guides(x)["b"].detach()
        posterior = dist.Normal(guides[0].locs.b.detach(), guides[0].scales.b.detach())
        expected = ITEMS / 4 * evidence(x[drawn[-1]]) + float(dist.Normal(0.0, 1.0).log_prob(b) - posterior.log_prob(b))
        assert -loss == pytest.approx(expected, rel=1e-6)
    assert len({tuple(index.tolist()) for index in drawn[-3:]}) == 3


@pytest.mark.parametrize(
    ("options", "batch", "size", "message"),
    [
        ({"plate": "items"}, 5, None, r"the AutoGuideList has no plate 'items', only \['data'\]"),
        ({}, 5, ITEMS, r"are \(12, 5, -1\) in the AutoGuideList and \(5, 5, -1\) in the guide: pass plate_size"),
        ({"plate_size": ITEMS + 1}, 5, ITEMS, r"\(12, 5, -1\) in the AutoGuideList and \(13, 5, -1\)"),
    ],
)
def test_guide_in_list_refuses_a_plate_that_does_not_fit(
    x: Tensor, options: dict[str, Any], batch: int, size: int | None, message: str
) -> None:
    guides = list_of(with_global, BarycentricGuide(two, "wb", **options))
    with pytest.raises(ValueError, match=message) as error:
        guides(x[:batch], size)
    assert "\n" not in str(error.value)


def test_guide_in_list_asks_for_create_plates_if_items_change(x: Tensor) -> None:
    guides = list_of(with_global, BarycentricGuide(two, "wb"))
    guides(x)
    with pytest.raises(ValueError, match="create_plates to the list if the number of items changes"):
        guides(x[:5])


def test_guide_list_trains_copies_and_has_no_median(x: Tensor) -> None:
    class Encode(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(LATENT, LATENT).double()

        def forward(self, x: Tensor) -> Experts:
            return exact(self.linear(x))

    guides = list_of(with_global, BarycentricGuide(Encode(), "wb"))
    svi = SVI(with_global, guides, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    names = {f"AutoGuideList.1.encode$$$linear.{name}" for name in ("weight", "bias")}
    assert names < set(pyro.get_param_store().keys())
    with pytest.raises(NotImplementedError, match=r"BarycentricGuide has no median\(\)"):
        guides.median(x)
    twin = copy.deepcopy(guides)
    torch.manual_seed(1)
    first = guides(x)["z"]
    torch.manual_seed(1)
    torch.testing.assert_close(twin(x)["z"], first)


def test_guide_beside_autodelta_matches_closed_form(x: Tensor) -> None:
    delta = AutoDelta(poutine.block(with_global, expose=["b"]), init_loc_fn=lambda site: x.new_tensor(0.4))
    inner = BarycentricGuide(lambda x: exact(x - 0.4), "poe")

    def guide(x: Tensor) -> None:
        delta(x)
        inner(x)

    expected = evidence(x, 0.4) + float(dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.4)))
    assert -Trace_ELBO().loss(with_global, guide, x) == pytest.approx(expected, rel=1e-6)


def test_block_hides_the_site_of_the_guide(x: Tensor) -> None:
    guide = BarycentricGuide(exact, "poe")
    assert set(poutine.trace(poutine.block(guide, hide=["z"])).get_trace(x).stochastic_nodes) == {"data"}
    assert set(poutine.trace(poutine.block(guide, expose=["z"])).get_trace(x).stochastic_nodes) == {"z"}
    trace = poutine.trace(poutine.block(guide, expose=["z"])).get_trace(x)
    assert trace.nodes["z"]["cond_indep_stack"][0].size == ITEMS
    blocked = poutine.block(guide, hide=["data"])
    assert -Trace_ELBO().loss(model, blocked, x) == pytest.approx(evidence(x), rel=1e-12)


SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)
CENTRES = torch.tensor([-1.0, 1.5], dtype=torch.float64)


def groups(x: Tensor, size: int | None = None) -> None:
    with pyro.plate("data", size or len(x), subsample_size=len(x)):
        c = pyro.sample("c", dist.Categorical(SHARES), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(CENTRES[c][..., None], x.new_ones(LATENT)).to_event(1))
        pyro.sample("x", dist.Normal(z, SIGMA).to_event(1), obs=x)


def by_hand(x: Tensor, z: Tensor) -> Tensor:
    """Return log p(x, z) of each item with the group summed out."""
    terms = [s.log() + dist.Normal(c, 1.0).log_prob(z).sum(-1) for s, c in zip(SHARES, CENTRES, strict=True)]
    return torch.stack(terms).logsumexp(0) + dist.Normal(z, SIGMA).log_prob(x).sum(-1)


@pytest.mark.parametrize("aggregation", ["poe", "wb", "mwb"])
@pytest.mark.parametrize("bound", ["mixture", "component"])
@pytest.mark.parametrize("particles", [1, 7])
def test_trace_enum_elbo_matches_hand_summation(x: Tensor, aggregation: str, bound: str, particles: int) -> None:
    guide = BarycentricGuide(two, aggregation, bound=bound)
    elbo = TraceEnum_ELBO(num_particles=particles, **VECTORISED)
    nodes: list[Any] = []

    def kept(x: Tensor) -> None:
        nodes.append(poutine.trace(guide).get_trace(x).nodes["z"])

    loss = elbo.loss(groups, kept, x)
    z, q = nodes[-1]["value"], nodes[-1]["fn"]
    expected = (by_hand(x, z) - q.log_prob(z)).sum() / particles
    assert z.numel() == particles * ITEMS * LATENT
    assert -loss == pytest.approx(float(expected), rel=1e-10)


def test_trace_enum_elbo_scales_minibatches_as_the_model(x: Tensor) -> None:
    guide = BarycentricGuide(two, "wb", plate_size=ITEMS)
    torch.manual_seed(3)
    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(groups, guide, x[:4], ITEMS)
    torch.manual_seed(3)
    trace = poutine.trace(guide).get_trace(x[:4])
    z, q = trace.nodes["z"]["value"], trace.nodes["z"]["fn"]
    assert -loss == pytest.approx(float(ITEMS / 4 * (by_hand(x[:4], z) - q.log_prob(z)).sum()), rel=1e-10)


def test_trace_enum_elbo_gradients_match_hand_summation(x: Tensor) -> None:
    scale = torch.nn.Parameter(x.new_tensor(0.6))
    guide = BarycentricGuide(lambda x: Experts(two(x).loc, scale.expand(len(x), 2, LATENT)), "wb")
    torch.manual_seed(3)
    TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(groups, guide, x).backward()
    found, scale.grad = scale.grad, None
    torch.manual_seed(3)
    node = poutine.trace(guide).get_trace(x).nodes["z"]
    (node["fn"].log_prob(node["value"]) - by_hand(x, node["value"])).sum().backward()
    torch.testing.assert_close(found, scale.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("aggregation", ["wb", "mwb"])
def test_vectorized_particles_have_the_mean_of_sequential_ones(x: Tensor, aggregation: str) -> None:
    guide = BarycentricGuide(two, aggregation)
    losses = {go: [] for go in (False, True)}
    for go, values in losses.items():
        for _ in range(10):
            options = VECTORISED if go else {}
            values.append(Trace_ELBO(num_particles=30, **options).loss(model, guide, x))
    first, second = (torch.tensor(values) for values in losses.values())
    assert abs(first.mean() - second.mean()) < 4 * ((first.var() + second.var()) / 10).sqrt()


def test_mean_field_elbo_matches_the_closed_form(x: Tensor) -> None:
    guide = BarycentricGuide(two, "wb")
    q = guide.posterior(two(x)).base_dist
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(q.loc, q.scale), torch.distributions.Normal(0, 1))
    torch.manual_seed(4)
    loss = TraceMeanField_ELBO().loss(model, guide, x)
    torch.manual_seed(4)
    z = guide(x)
    expected = dist.Normal(z, SIGMA).log_prob(x).sum() - kl.sum()
    assert -loss == pytest.approx(float(expected), rel=1e-10)
    part = BarycentricGuide(two, "wb", plate_size=ITEMS)
    torch.manual_seed(4)
    loss = TraceMeanField_ELBO().loss(model, part, x[:3], ITEMS)
    torch.manual_seed(4)
    expected = dist.Normal(part(x[:3]), SIGMA).log_prob(x[:3]).sum() - kl[:3].sum()
    assert -loss == pytest.approx(float(ITEMS / 3 * expected), rel=1e-10)


@pytest.mark.parametrize("vectorised", [False, True])
def test_renyi_elbo_is_the_log_mean_of_importance_weights(x: Tensor, vectorised: bool) -> None:
    guide, particles = BarycentricGuide(two, "mwb"), 6
    drawn: list[Any] = []

    def kept(x: Tensor) -> None:
        drawn.append(poutine.trace(guide).get_trace(x).nodes["z"])

    options = VECTORISED if vectorised else {}
    loss = RenyiELBO(alpha=0, num_particles=particles, **options).loss(model, kept, x)
    weights = []
    for node in drawn[-1:] if vectorised else drawn[-particles:]:
        z = node["value"]
        prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        weights.append((prior + dist.Normal(z, SIGMA).log_prob(x).sum(-1) - node["fn"].log_prob(z)).reshape(-1, ITEMS))
    log_weights = torch.cat(weights)
    assert log_weights.shape == (particles, ITEMS)
    expected = (log_weights.logsumexp(0) - math.log(particles)).sum()
    assert -loss == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_with_guide_list_uses_joint_draws(x: Tensor, parallel: bool) -> None:
    def generate(x: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
            pyro.deterministic("total", z + b[..., None], event_dim=1)

    guides = list_of(generate, BarycentricGuide(two, "wb"))
    guides(x)
    draws = Predictive(generate, guide=guides, num_samples=300, parallel=parallel, return_sites=("b", "z", "total"))(x)
    z, b, total = draws["z"].squeeze(), draws["b"].reshape(300, 1, 1), draws["total"].squeeze()
    assert z.shape == (300, ITEMS, LATENT)
    torch.testing.assert_close(total, z + b)
    q = BarycentricGuide(two, "wb").posterior(two(x))
    torch.testing.assert_close(z.mean(0), q.mean, atol=5 * float(q.stddev.max()) / 300**0.5, rtol=0)
    torch.testing.assert_close(z.std(0), q.stddev, atol=0.2, rtol=0)


def test_estimators_without_score_term_refuse_learned_subset_weights(x: Tensor) -> None:
    class Encode(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.nn.Parameter(x.new_zeros(()))

        def forward(self, x: Tensor) -> Experts:
            return two(x + self.shift)

    guide = BarycentricGuide(Encode(), "mwb", subset_weights=LearnedSubsetWeights(3).double())
    with pytest.raises(NotImplementedError, match="must be fully reparameterized"):
        TraceMeanField_ELBO().loss_and_grads(model, guide, x)
    with pytest.raises(NotImplementedError):
        RenyiELBO(alpha=0, num_particles=2).loss_and_grads(model, guide, x)
    Trace_ELBO().loss_and_grads(model, guide, x)
    assert guide.aggregation.subset_weights.logits.grad is not None
    assert guide.aggregation.subset_weights.logits.grad.abs().sum() > 0
