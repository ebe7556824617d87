"""MultimodalVAE: missing modalities, weights of terms, and generation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pyro_mmvae import Batch, Modality, MultimodalVAE, aggregations
from pyro_mmvae.networks import NetworkOptions

ITEMS, LATENT = 6, 3
NAMES = ("a", "v", "b", "c", "s")
MODALITIES = [
    Modality("a", (1, 8, 8)),
    Modality("v", (5,), likelihood="normal", scale="learned"),
    Modality("b", (1, 8, 8)),
    Modality("c", (2,), likelihood="categorical", classes=4),
    Modality("s", (1, 8, 8), network="mlp", likelihood="bernoulli"),
]
EACH = pytest.mark.parametrize("aggregation", aggregations())


def make(aggregation: str = "wb", weights: dict[str, float] | None = None, **options: Any) -> MultimodalVAE:
    torch.manual_seed(0)
    modalities = [replace(m, reconstruction_weight=(weights or {}).get(m.name, 1.0)) for m in MODALITIES]
    options = {"bound": "mixture", "network": NetworkOptions(width=4, hidden=8)} | options
    return MultimodalVAE(modalities, LATENT, aggregation, **options)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    values = {m.name: torch.rand(ITEMS, *m.shape) for m in MODALITIES}
    return {**values, "c": torch.randint(0, 4, (ITEMS, 2))}


def loss_of(vae: MultimodalVAE, batch: Any, elbo: Any = None, **keywords: Any) -> Tensor:
    torch.manual_seed(7)
    return (elbo or Trace_ELBO)()(vae.model, vae.guide)(batch, **keywords)


def loss_and_gradients(vae: MultimodalVAE, batch: Any) -> tuple[float, dict[str, Tensor]]:
    vae.zero_grad()
    loss = loss_of(vae, batch)
    loss.backward()
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in vae.named_parameters()}
    return float(loss.detach()), gradients


def agree(one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient, other[1][name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def mask_without(*names: str) -> Tensor:
    return torch.tensor([name not in names for name in NAMES]).expand(ITEMS, len(NAMES)).clone()


ABSENT: dict[str, Callable[[dict[str, Tensor], tuple[str, ...]], Any]] = {
    "a mask": lambda batch, names: {**batch, "present": mask_without(*names)},
    "masks of a Batch": lambda batch, names: Batch(batch, {n: torch.zeros(ITEMS, dtype=torch.bool) for n in names}),
    "a mask over NaN": lambda batch, names: {
        **batch,
        **{n: torch.full_like(batch[n], torch.nan if batch[n].is_floating_point() else 99) for n in names},
        "present": mask_without(*names),
    },
    "a mask over inf": lambda batch, names: {
        **batch,
        **{n: torch.full_like(batch[n], torch.inf if batch[n].is_floating_point() else -1) for n in names},
        "present": mask_without(*names),
    },
}


@pytest.mark.parametrize("how", ABSENT)
@pytest.mark.parametrize("names", [("a",), ("v",), ("c", "s"), ("a", "b"), NAMES[1:], NAMES])
@pytest.mark.parametrize("options", [{}, {"aggregation": "mopoe"}, {"aggregation": "mwb", "bound": "component"}])
def test_loss_masked_modality_equals_that_without_it(
    batch: dict[str, Tensor], how: str, names: tuple[str, ...], options: dict[str, Any]
) -> None:
    vae = make(**options)
    left = {name: value for name, value in batch.items() if name not in names}
    masked = loss_and_gradients(vae, ABSENT[how](batch, names))
    if left:
        agree(masked, loss_and_gradients(vae, left))
    else:  # all that remains is the prior
        assert masked[0] == pytest.approx(0, abs=1e-4)
        assert all((gradient == 0).all() for gradient in masked[1].values())


@EACH
def test_loss_modalities_missing_for_some_items_ignores_their_values(
    batch: dict[str, Tensor], aggregation: str
) -> None:
    vae = make(aggregation)
    present = torch.rand(ITEMS, len(NAMES)) < 0.5
    present[0], present[1] = True, False
    poisoned = {
        name: value.masked_fill(~present[:, i].reshape(-1, *[1] * (value.dim() - 1)), torch.nan)
        for i, (name, value) in enumerate(batch.items())
        if value.is_floating_point()
    }
    clean = loss_and_gradients(vae, {**batch, "present": present})
    agree(clean, loss_and_gradients(vae, {**batch, **poisoned, "present": present}))
    posterior = vae.posterior({**batch, "present": present})
    for i in range(ITEMS):
        own = {name: batch[name][i : i + 1] for j, name in enumerate(NAMES) if present[i, j]}
        if own:
            alone = vae.posterior(own)
            torch.testing.assert_close(posterior.mean[i], alone.mean[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(posterior.variance[i], alone.variance[0], rtol=1e-4, atol=1e-5)


@EACH
def test_loss_mask_of_true_changes_nothing(batch: dict[str, Tensor], aggregation: str) -> None:
    vae = make(aggregation)
    plain = loss_and_gradients(vae, batch)
    agree(plain, loss_and_gradients(vae, {**batch, "present": mask_without()}))
    agree(plain, loss_and_gradients(vae, Batch(batch)))


def test_beta_weighs_the_kl_term_in_model_and_guide(batch: dict[str, Tensor]) -> None:
    one, four = make(beta=1.0), make(beta=4.0)
    posterior = one.posterior(batch)
    kl = torch.distributions.kl_divergence(posterior, one.model.prior().expand([ITEMS])).sum()
    plain, weighted = (loss_of(vae, batch, TraceMeanField_ELBO) for vae in (one, four))
    torch.testing.assert_close(weighted - plain, 3 * kl, rtol=1e-4, atol=1e-3)
    trace = poutine.trace(four.guide).get_trace(batch)
    trace.compute_log_prob()
    joint = poutine.trace(poutine.replay(four.model, trace=trace)).get_trace(batch)
    joint.compute_log_prob()
    draw = trace.nodes["z"]["log_prob_sum"] - joint.nodes["z"]["log_prob_sum"]
    z = trace.nodes["z"]["value"]
    torch.testing.assert_close(draw, 4 * (posterior.log_prob(z) - one.model.prior().log_prob(z)).sum())
    torch.testing.assert_close(loss_of(four, batch, weighted=False), loss_of(one, batch))


def test_reconstruction_weights_scale_the_terms_of_their_modalities(batch: dict[str, Tensor]) -> None:
    plain, weighted = make(), make(weights={"v": 2.5, "b": 0.0})

    def terms(vae: MultimodalVAE, **keywords: Any) -> dict[str, Tensor]:
        torch.manual_seed(3)
        guide = poutine.trace(vae.guide).get_trace(batch, **keywords)
        model = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(batch, **keywords)
        model.compute_log_prob()
        return {name: model.nodes[name]["log_prob_sum"] for name in model.observation_nodes}

    before, after, unweighted = terms(plain), terms(weighted), terms(weighted, weighted=False)
    assert set(before) == set(unweighted) == set(NAMES)
    assert set(after) == set(NAMES) - {"b"}
    for name, term in after.items():
        torch.testing.assert_close(term, before[name] * (2.5 if name == "v" else 1.0))
    for name, term in unweighted.items():
        torch.testing.assert_close(term, before[name])
    loss_and_gradients(weighted, batch)
    for parameter in weighted.model.decoders.networks[0].parameters():  # of a and b
        assert parameter.grad is not None
        of_a, of_b = parameter.grad.reshape(2, -1)
        assert (of_a != 0).any()
        assert (of_b == 0).all()


@pytest.mark.parametrize("aggregation", ["wb", "mwb"])
def test_model_and_guide_without_observations_draw_from_the_prior(aggregation: str) -> None:
    vae = make(aggregation, weights={"b": 0.0})
    for run in (vae.model, vae.guide):
        assert run(num_items=4).shape == (4, LATENT)
    trace = poutine.trace(vae.model).get_trace(num_items=4, weighted=False)
    assert [trace.nodes[name]["value"].shape for name in NAMES] == [(4, *m.shape) for m in MODALITIES]
    assert not trace.observation_nodes
    draws = torch.cat([vae.guide(num_items=500), vae.model(num_items=500), vae.guide({}, num_items=500)])
    for part in draws.split(500):
        torch.testing.assert_close(part.mean(0), torch.zeros(LATENT), atol=0.2, rtol=0)
        torch.testing.assert_close(part.std(0), torch.ones(LATENT), atol=0.15, rtol=0)
    for run in (vae.model, vae.guide):
        with pytest.raises(ValueError, match="num_items must be given if nothing is observed, got None"):
            run()


def test_model_modality_of_weight_zero_is_generated_on_request(batch: dict[str, Tensor]) -> None:
    vae = make(weights={"b": 0.0})
    assert set(poutine.trace(vae.model).get_trace(num_items=4).stochastic_nodes) == {"data", "z", *NAMES}
    given = {name: batch[name] for name in ("a", "v")}
    draws = Predictive(vae.model, guide=vae.guide, num_samples=2)(given, generate=("b",))
    assert draws["b"].shape == (2, ITEMS, 1, 8, 8)


@pytest.mark.parametrize("generate", [("a",), "a", ["a", "v"], True])
def test_model_generate_draws_and_observes_the_rest(batch: dict[str, Tensor], generate: Any) -> None:
    vae = make()
    drawn = NAMES if generate is True else tuple(generate)
    trace = poutine.trace(vae.model).get_trace(batch, generate=generate)
    assert set(trace.observation_nodes) == set(NAMES) - set(drawn)
    for name in drawn:
        assert trace.nodes[name]["value"].shape == batch[name].shape
        assert not torch.equal(trace.nodes[name]["value"], batch[name])
    given = {name: batch[name] for name in ("v", "b")}
    trace = poutine.trace(vae.model).get_trace(given, generate=("a",))
    assert set(trace.stochastic_nodes) == {"data", "z", "a"}
    assert set(trace.observation_nodes) == {"v", "b"}


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("bound", ["mixture", "component"])
def test_predictive_generate_draws_given_the_rest(batch: dict[str, Tensor], bound: str, parallel: bool) -> None:
    vae = make("mwb", bound=bound)
    given = {name: batch[name] for name in ("v", "b")}
    predictive = Predictive(vae.model, guide=vae.guide, num_samples=5, parallel=parallel)
    draws = predictive(given, generate=("a", "c"))
    assert {"a", "c"} <= set(draws) <= {"a", "c", "z", *given}
    assert draws["a"].shape == (5, ITEMS, 1, 8, 8)
    assert draws["c"].shape == (5, ITEMS, 2)
    assert len(draws["a"].reshape(5, -1).unique(dim=0)) == 5


@pytest.mark.parametrize("local", [False, True])
def test_torch_optimiser_changes_every_parameter(batch: dict[str, Tensor], local: bool) -> None:
    vae = make()
    before = {name: value.detach().clone() for name, value in vae.named_parameters()}
    losses = []
    with pyro.settings.context(module_local_params=local):
        elbo = Trace_ELBO()(vae.model, vae.guide)
        elbo(batch)
        optimizer = torch.optim.Adam(elbo.parameters(), lr=1e-2)
        for _ in range(15):
            optimizer.zero_grad()
            loss = elbo(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not [name for name, value in vae.named_parameters() if torch.equal(value, before[name])]


def test_svi_changes_every_parameter(batch: dict[str, Tensor]) -> None:
    vae = make()
    before = {name: value.detach().clone() for name, value in vae.named_parameters()}
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(batch) for _ in range(15)]
    assert losses[-1] < losses[0]
    assert not [name for name, value in vae.named_parameters() if torch.equal(value, before[name])]
