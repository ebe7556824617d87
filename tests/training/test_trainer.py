"""The steps and epochs of a trainer, the recorded terms of the ELBO, and its value on a data set."""

from __future__ import annotations

import copy
import math
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from pyro_mmvae import Batch, Modality, MultimodalDataset, MultimodalVAE, aggregations
from pyro_mmvae.guides import stratified
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.runs.train_settings import TrainConfig
from pyro_mmvae.training import NonFiniteError, RecordingELBO, Trainer, evaluate_elbo
from pyro_mmvae.training.elbo import local_pyro
from pyro_mmvae.training.trainer import batches

ITEMS, LATENT = 16, 3
SETTINGS = TrainConfig(lr=1e-2, schedule="constant", device="cpu", precision="fp32", threads=1)


def make(aggregation: str = "wb", network: str = "auto", **options: Any) -> MultimodalVAE:
    torch.manual_seed(0)
    weights = options.pop("modality_weights", {})
    kinds: dict[str, dict[str, Any]] = {
        "a": {"shape": (3, 8, 8)},
        "b": {"shape": (3, 8, 8), "scale": "learned"},
        "v": {"shape": (5,), "likelihood": "normal", "scale": "learned"},
    }
    modalities = [
        Modality(name, network=network if name != "v" else "mlp", reconstruction_weight=weights.get(name, 1.0), **kind)
        for name, kind in kinds.items()
    ]
    options = {"bound": "mixture", "network": NetworkOptions(width=4, hidden=8)} | options
    return MultimodalVAE(modalities, LATENT, aggregation, **options)


def trainer_of(vae: MultimodalVAE, **options: Any) -> Trainer:
    return Trainer(vae, SETTINGS, total_steps=100, **options)


@pytest.fixture
def dataset() -> MultimodalDataset:
    present = torch.rand(ITEMS, 3) < 0.7
    present[:3] = torch.tensor([[True, True, True], [False, False, False], [False, True, False]])
    values = {
        "a": torch.randint(0, 256, (ITEMS, 3, 8, 8), dtype=torch.uint8),
        "b": torch.rand(ITEMS, 3, 8, 8),
        "v": torch.randn(ITEMS, 5),
    }
    return MultimodalDataset(values, None, present, "gaps", "train")


@pytest.fixture
def batch(dataset: MultimodalDataset) -> Batch:
    return Batch(dataset.modalities)


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize(("aggregation", "bound"), [("poe", "mixture"), ("mwb", "mixture"), ("mopoe", "component")])
def test_step_equals_a_step_of_pyros_svi(batch: Batch, network: str, aggregation: str, bound: str) -> None:
    ours = make(aggregation, network, bound=bound, beta=2.0, modality_weights={"v": 3.0})
    theirs = copy.deepcopy(ours)
    trainer = trainer_of(ours)
    svi = SVI(
        theirs.model,
        stratified(theirs.guide),
        pyro.optim.Adam({"lr": SETTINGS.lr, "betas": SETTINGS.betas}),
        Trace_ELBO(),
    )
    for seed in range(3):
        torch.manual_seed(seed)
        with local_pyro():
            loss = trainer.step(batch).item()
        torch.manual_seed(seed)
        assert svi.step(batch) == pytest.approx(loss, rel=1e-5)
    reference = dict(theirs.named_parameters())
    for name, value in ours.named_parameters():
        torch.testing.assert_close(value, reference[name], rtol=1e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize(
    ("aggregation", "options"),
    [(name, {}) for name in aggregations()]
    + [("mwb", {"bound": "component"}), ("moe", {"expert_weights": torch.nn.Parameter(torch.tensor([1.0, 2.0, 0.5]))})],
)
def test_recording_elbo_has_the_loss_and_gradient_of_trace_elbo(
    batch: Batch, aggregation: str, options: dict[str, Any], particles: int
) -> None:
    vae = make(aggregation, **{name: value for name, value in options.items() if name != "expert_weights"})
    if "expert_weights" in options:
        vae.guide.aggregation.expert_weights = options["expert_weights"]
    results = []
    for kind in (Trace_ELBO, RecordingELBO):
        vae.zero_grad()
        torch.manual_seed(5)
        with local_pyro():
            loss = kind(num_particles=particles)(vae.model, vae.guide)(batch)
        loss.backward()
        results.append((loss.detach(), [p.grad.clone() for p in vae.parameters() if p.grad is not None]))
    torch.testing.assert_close(results[1][0], results[0][0], check_dtype=False)
    assert len(results[1][1]) == len(list(vae.parameters()))
    for ours, theirs in zip(results[1][1], results[0][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_recording_elbo_terms_sum_to_the_loss_and_are_unweighted(batch: Batch) -> None:
    plain = make()
    weighted = make(beta=2.5, modality_weights={"a": 0.5, "v": 3.0})
    terms = []
    for vae, beta, weights in ((plain, 1.0, {}), (weighted, 2.5, {"a": 0.5, "v": 3.0})):
        elbo = RecordingELBO(max_plate_nesting=1)
        torch.manual_seed(5)
        with local_pyro():
            loss = elbo(vae.model, vae.guide)(batch)
        log_likelihood, kl = elbo.terms.log_likelihood, elbo.terms.kl
        assert set(log_likelihood) == {"a", "b", "v"}
        assert elbo.terms.penalties == {}
        assert not any(term.requires_grad for term in (*log_likelihood.values(), kl))
        objective = sum(weights.get(name, 1.0) * term for name, term in log_likelihood.items()) - beta * kl
        torch.testing.assert_close(loss.detach(), -torch.as_tensor(objective))
        terms.append(elbo.terms)
    torch.testing.assert_close(terms[1].kl, terms[0].kl)
    for name, term in terms[0].log_likelihood.items():
        torch.testing.assert_close(terms[1].log_likelihood[name], term)


@pytest.mark.parametrize("name", ["kl", "loss", "elbo", "seconds"])
def test_evaluate_elbo_and_epoch_with_a_modality_named_like_a_term_equal_any_other_name(name: str) -> None:
    results = []
    for one in (Modality(name, (5,)), Modality("harmless", (5,))):
        torch.manual_seed(0)
        vae = MultimodalVAE([one], LATENT, network=NetworkOptions(hidden=8))
        data = MultimodalDataset({one.name: torch.ones(4, 5)}, None, torch.ones(4, 1, dtype=torch.bool), "one", "train")
        val = evaluate_elbo(vae, data)
        with local_pyro():
            averages = trainer_of(vae).epoch(data, 0).read()
        assert set(averages.log_likelihood) == set(val["log_likelihood"]) == {one.name}
        log_likelihoods = (averages.log_likelihood[one.name], val["log_likelihood"][one.name])
        results.append((val["elbo"], val["kl"], averages.loss, averages.kl, *log_likelihoods))
    assert results[0] == pytest.approx(results[1], rel=1e-5)


@pytest.mark.parametrize("aggregation", ["wb", "mopoe", "moe"])
def test_evaluate_elbo_ignores_the_weights_of_the_objective(dataset: MultimodalDataset, aggregation: str) -> None:
    vae = make(aggregation, bound="component", beta=4.0, modality_weights={"a": 0.0, "v": 3.0})
    vae.train()
    before = torch.get_rng_state()
    result = evaluate_elbo(vae, dataset, seed=11)
    assert torch.equal(torch.get_rng_state(), before)
    assert vae.training
    batch = Batch(dataset.modalities, dict(zip(dataset.names, dataset.present.unbind(1), strict=True)))
    with torch.no_grad():
        torch.manual_seed(11)
        z = vae.guide(batch, bound="mixture", weighted=False)
        kl = (vae.posterior(batch, "mixture").log_prob(z) - vae.model.prior().log_prob(z)).mean()
        parameters = vae.model.decoders(z, vae.names)
        likelihoods = {name: vae.model.likelihoods[name](parameters[name]) for name in vae.names}
        terms = {n: (d.log_prob(batch.values[n]) * batch.present[n]).mean() for n, d in likelihoods.items()}
    for name, term in terms.items():
        assert result["log_likelihood"][name] == pytest.approx(term.item(), rel=1e-5)
    assert result["kl"] == pytest.approx(kl.item(), rel=1e-5)
    assert result["elbo"] == pytest.approx(sum(t.item() for t in terms.values()) - kl.item(), rel=1e-5)
    assert evaluate_elbo(vae, dataset, seed=11) | {"seconds": 0} == result | {"seconds": 0}
    assert evaluate_elbo(vae, dataset, seed=12)["kl"] != result["kl"]
    in_parts = evaluate_elbo(vae.eval(), dataset, seed=11, batch_size=5)
    assert not vae.training
    assert in_parts["elbo"] == pytest.approx(result["elbo"], rel=0.2)


def test_evaluate_elbo_with_too_many_components_uses_drawn_ones() -> None:
    names = [f"m{i}" for i in range(13)]
    vae = MultimodalVAE(
        [Modality(name, (2,)) for name in names], 2, "mwb", bound="component", network=NetworkOptions(hidden=4)
    )
    data = MultimodalDataset(
        {name: torch.rand(5, 2) for name in names}, None, torch.ones(5, 13, dtype=torch.bool), "many", "val"
    )
    estimate = evaluate_elbo(vae, data)
    assert math.isfinite(estimate["elbo"])
    assert estimate["density"] == "component"


def rates(config: TrainConfig, count: int) -> list[float]:
    """Return the learning rates before each of so many steps, of which the model is left alone."""
    trainer = Trainer(make(), config, total_steps=100)
    result = []
    for _ in range(count):
        result.append(trainer.schedule.rate)
        trainer.optimizer.step()
        trainer.schedule.after_step()
    return result


def test_schedule_cosine_warms_up_and_follows_half_a_cosine() -> None:
    found = rates(TrainConfig(lr=0.1, warmup=0.1, schedule="cosine"), 120)
    assert found[:10] == pytest.approx([0.1 * (i + 1) / 11 for i in range(10)])
    assert found[10] == pytest.approx(0.1)
    assert found[55] == pytest.approx(0.05)
    assert found[100:] == pytest.approx([0.0] * 20, abs=1e-12)
    assert found[10:101] == sorted(found[10:101], reverse=True)


def test_schedule_constant_keeps_the_rate() -> None:
    assert set(rates(TrainConfig(lr=0.1, schedule="constant"), 120)) == {0.1}


def test_batches_contain_every_item_once_in_an_order_per_seed_and_epoch() -> None:
    orders = [torch.cat(batches(10, 4, seed, epoch)).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3
    assert [len(part) for part in batches(10, 4, 0, 0)] == [4, 4, 2]


def test_epoch_returns_means_over_items_and_skips_batches(dataset: MultimodalDataset) -> None:
    seen: list[int] = []
    vae = make()
    config = SETTINGS.model_copy(update={"batch_size": 5})
    trainer = Trainer(vae, config, total_steps=4)
    losses: list[Tensor] = []
    step = trainer.step

    def spy(batch: Batch) -> Tensor:
        losses.append(step(batch))
        return losses[-1]

    trainer.step = spy  # type: ignore[method-assign]
    with local_pyro():
        averages = trainer.epoch(dataset, 0, after_step=lambda done, _: seen.append(done))
        assert seen == [1, 2, 3, 4]
        assert averages.items == ITEMS
        assert averages.read().loss == pytest.approx(sum(loss.item() for loss in losses) / ITEMS, rel=1e-5)
        rest = trainer.epoch(dataset, 0, skip=3, after_step=lambda done, _: seen.append(done))
    assert seen[4:] == [4]
    assert rest.items == 1
    assert trainer.steps == 5


def test_step_on_batches_of_different_modalities_is_finite(batch: Batch) -> None:
    trainer = trainer_of(make())
    with local_pyro():
        for names in (("a", "b", "v"), ("a",), ("v", "b"), ("a", "b", "v")):
            assert trainer.step(batch.select(names)).isfinite()


def test_step_in_bf16_keeps_parameters_and_loss_in_float32(batch: Batch) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        vae = make("mwb")
        trainer = trainer_of(vae, precision=precision)
        torch.manual_seed(3)
        with local_pyro():
            losses.append(trainer.step(batch))
        assert {p.dtype for p in vae.parameters()} == {torch.float32}
    assert losses[1].dtype == torch.float32
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.05)
    assert not torch.equal(losses[1], losses[0])


def test_step_makes_no_param_statements(batch: Batch) -> None:
    trainer = trainer_of(make())
    with local_pyro(), pyro.poutine.trace(param_only=True) as capture:
        trainer.step(batch)
    assert not capture.trace.nodes
    with local_pyro(), pyro.poutine.trace(param_only=True) as capture:
        RecordingELBO()(trainer.vae.model, trainer.vae.guide)(batch)  # as Pyro's own SVI calls it
    assert capture.trace.nodes


@pytest.mark.parametrize("values", [[math.nan], [math.inf], [-math.inf], [math.inf, -math.inf]])
def test_step_with_a_gradient_that_is_not_finite_raises_and_names_it(batch: Batch, values: list[float]) -> None:
    trainer = trainer_of(make())
    name, parameter = list(trainer.vae.named_parameters())[3]
    before = parameter.detach().clone()

    def spoilt(gradient: Tensor) -> Tensor:
        flat = gradient.flatten().clone()
        flat[-len(values) :] = torch.tensor(values)
        return flat.reshape(gradient.shape)

    parameter.register_hook(spoilt)
    with local_pyro(), pytest.raises(NonFiniteError, match=f"step 0: the gradient of {name} not finite"):
        trainer.step(batch)
    assert torch.equal(parameter, before)


def one_step(batch: Batch, **settings: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters before one step of a training with these settings, and after it."""
    trainer = Trainer(make(), TrainConfig(lr=1e-2, schedule="constant", **settings), total_steps=10)
    before = [parameter.detach().clone() for parameter in trainer.parameters]
    torch.manual_seed(3)
    with local_pyro():
        trainer.step(batch)
    return before, [parameter.detach() for parameter in trainer.parameters]


def test_step_with_clip_norm_bounds_the_update_of_sgd(batch: Batch) -> None:
    norms = {}
    for clip_norm in (None, 0.5, 1e9):
        before, after = one_step(batch, optimizer="SGD", clip_norm=clip_norm)
        differences = [new - old for new, old in zip(after, before, strict=True)]
        norms[clip_norm] = float(torch.nn.utils.get_total_norm(differences))
    assert norms[0.5] == pytest.approx(1e-2 * 0.5, rel=1e-3)
    assert norms[None] > 10 * norms[0.5]
    assert norms[1e9] == pytest.approx(norms[None], rel=1e-5)


def test_step_with_weight_decay_of_adam_is_decoupled(batch: Batch) -> None:
    before, plain = one_step(batch)
    _, decayed = one_step(batch, weight_decay=0.3)
    for start, without, with_decay in zip(before, plain, decayed, strict=True):
        torch.testing.assert_close(with_decay, without - 1e-2 * 0.3 * start, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(plain, one_step(batch, weight_decay=0.0)[1], strict=True))


def test_step_with_weight_decay_of_sgd_is_added_to_the_gradient(batch: Batch) -> None:
    settings: dict[str, Any] = {"optimizer": {"name": "SGD", "momentum": 0.9}, "clip_norm": 1.0}
    before, plain = one_step(batch, **settings)
    _, decayed = one_step(batch, **settings, weight_decay=0.3)
    for start, without, with_decay in zip(before, plain, decayed, strict=True):
        torch.testing.assert_close(with_decay, without - 1e-2 * 0.3 * start, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("beta_warmup", "steps"), [(0.5, 4), (3, 6)])  # 4 epochs of 2 steps
def test_step_with_beta_warmup_weights_the_kl_term(batch: Batch, beta_warmup: float, steps: int) -> None:
    config = SETTINGS.model_copy(update={"epochs": 4, "beta_warmup": beta_warmup, "beta_start": 0.25})
    trainer = Trainer(make(beta=2.0), config, total_steps=8)
    for step in range(8):
        expected = 0.25 + 1.75 * min((step + 1) / (steps + 1), 1.0)
        assert trainer.beta == pytest.approx(expected)
        with local_pyro():
            loss = trainer.step(batch)
        terms = trainer.terms
        weighted = expected * terms.kl - sum(terms.log_likelihood.values())
        torch.testing.assert_close(loss, torch.as_tensor(weighted), rtol=1e-5, atol=1e-3)
