"""Private latents in training: auxiliary priors, drawn subsets, and posteriors that depend on the shared latent."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pyro
import pyro.distributions as dist
import pytest
import torch
from click.testing import CliRunner
from pyro import poutine
from pyro.infer import JitTrace_ELBO, Predictive, Trace_ELBO, TraceMeanField_ELBO

from pyro_mmvae import Batch, Modality, MultimodalVAE, load, resume, train
from pyro_mmvae.cli import main
from pyro_mmvae.distributions.auxiliary import AuxiliaryNormal
from pyro_mmvae.evaluation import reconstruction
from pyro_mmvae.evaluation.sbc import simulation_calibration
from pyro_mmvae.inference.importance import importance_weights, log_mean_exp, sample_importance
from pyro_mmvae.inference.posteriors import encode_dataset
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import evaluate_elbo
from pyro_mmvae.training.elbo import RecordingELBO

ITEMS = 8
BETA = 2.0
SIZES = {"a": 2, "b": 3}
LOG_2PI = math.log(2 * math.pi)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]), pyro.settings.context(module_local_params=True):
        torch.manual_seed(0)
        yield


def make_vae(aggregation: str = "wb", **options: Any) -> MultimodalVAE:
    modalities = [
        Modality("a", (4,), private_size=2, likelihood="normal", scale=1.0),
        Modality("b", (6,), private_size=3, likelihood="normal", scale=1.0),
        Modality("c", (4,), likelihood="normal", scale=1.0),
    ]
    options = {"private_subsets": "drawn", **options}
    vae = MultimodalVAE(modalities, 3, aggregation, beta=BETA, network=NetworkOptions(hidden=8), **options)
    return vae.double()


def make_batch(present: torch.Tensor | None = None) -> Batch:
    values = {name: torch.randn(ITEMS, size, dtype=torch.float64) for name, size in {"a": 4, "b": 6, "c": 4}.items()}
    return Batch.of(values if present is None else {**values, "present": present}, tuple("abc"))


def set_heads(vae: MultimodalVAE) -> None:
    """Give the heads that depend on z an effect, which they do not have at first."""
    for head in vae.guide.private_latents.heads.values():
        torch.nn.init.normal_(cast("Any", head).network[-1].weight, std=0.3)


def log_scale(vae: MultimodalVAE, name: str) -> torch.nn.Parameter:
    return cast("torch.nn.Parameter", vae.guide.private_latents.auxiliary[name].log_scale)


def trace_both(vae: MultimodalVAE, batch: Batch) -> tuple[Any, Any]:
    guide = poutine.trace(vae.guide).get_trace(batch)
    return poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(batch), guide


def is_seen(site: Any) -> torch.Tensor:
    """Return the items whose private latent is inferred; the density of the others is that of the prior."""
    return ~((site["fn"].mean == 0) & (site["fn"].stddev == 1)).all(-1)


@pytest.mark.parametrize("encoder", ["own", "with_z"])
@pytest.mark.parametrize(("aggregation", "bound"), [("wb", "component"), ("mwb", "component"), ("mopoe", "mixture")])
def test_objective_auxiliary_priors_is_the_sum_by_hand(aggregation: str, bound: str, encoder: str) -> None:
    vae, batch = make_vae(aggregation, bound=bound, private_encoder=encoder), make_batch(torch.rand(ITEMS, 3) < 0.7)
    set_heads(vae)
    model, guide = trace_both(vae, batch)
    z = guide.nodes["z"]["value"]
    drawn = {name: guide.nodes[f"{name}_private"]["value"] for name in SIZES}
    decoded = vae.decode(z, private=drawn)
    prior = (-0.5 * z.square() - 0.5 * LOG_2PI).sum()
    wanted = BETA * (prior - guide.nodes["z"]["fn"].log_prob(z).sum())
    posterior = vae.private_posterior(batch, z)
    for name in "abc":
        squares = (batch.values[name] - decoded[name]).square().sum(-1) + batch.values[name].shape[-1] * LOG_2PI
        wanted = wanted - 0.5 * squares[batch.present[name]].sum()
    for name, u in drawn.items():
        inferred = is_seen(guide.nodes[f"{name}_private"])
        assert not inferred[~batch.present[name]].any()
        q = posterior[name].base_dist
        terms = dist.Normal(0.0, 1.0).log_prob(u) - dist.Normal(q.loc, q.scale).log_prob(u)
        wanted = wanted + BETA * terms[inferred].sum()
    torch.testing.assert_close(model.log_prob_sum() - guide.log_prob_sum(), wanted, rtol=1e-10, atol=0)


def test_recorded_terms_of_auxiliary_draws_are_left_out_of_the_divergence() -> None:
    vae, batch, estimator = make_vae("wb"), make_batch(), RecordingELBO(max_plate_nesting=1)
    torch.manual_seed(1)
    estimator.differentiable_loss(vae.model, vae.guide, batch)
    torch.manual_seed(1)
    guide = trace_both(vae, batch)[1]
    wanted = torch.zeros((), dtype=torch.float64)
    for site in (guide.nodes[name] for name in ("z", "a_private", "b_private")):
        standard = dist.Normal(0.0, 1.0).log_prob(site["value"]).sum(-1)
        terms = site["fn"].log_prob(site["value"]) - standard
        wanted = wanted + (terms if site["name"] == "z" else terms[is_seen(site)]).sum()
    torch.testing.assert_close(estimator.terms.kl, wanted.detach())
    assert not estimator.terms.penalties


def test_auxiliary_scale_gradient_comes_from_the_decoder_alone() -> None:
    vae, batch = make_vae("wb"), make_batch()
    parameter = log_scale(vae, "b")
    model, guide = trace_both(vae, batch)
    loss = guide.log_prob_sum() - model.log_prob_sum()
    model.compute_log_prob()
    (found,) = torch.autograd.grad(loss, parameter, retain_graph=True)
    u, outside = guide.nodes["b_private"]["value"], ~is_seen(guide.nodes["b_private"])
    assert outside.any()
    assert not outside.all()
    (by_u,) = torch.autograd.grad(-model.nodes["b"]["log_prob"].sum(), u)
    wanted = (by_u * u)[outside].sum(0)  # du / dlog s = u for u = s ε
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-8, atol=1e-10)
    assert found.abs().min() > 1e-6


def test_auxiliary_draws_have_the_learned_scale_and_only_in_training() -> None:
    vae = make_vae("wb")
    with torch.no_grad():
        log_scale(vae, "a").copy_(torch.tensor([0.01, 5.0]).log())
    values = {name: torch.randn(3000, size, dtype=torch.float64) for name, size in {"a": 4, "b": 6, "c": 4}.items()}
    for options, wanted in (({}, [0.01, 5.0]), ({"generate": ("c",)}, None), ({"weighted": False}, None)):
        site = poutine.trace(vae.guide).get_trace(values, **options).nodes["a_private"]
        inferred = is_seen(site)
        if wanted is None:
            assert inferred.all()
            continue
        torch.testing.assert_close(site["value"][~inferred].std(0), torch.tensor(wanted).double(), rtol=0.1, atol=0)
        assert 0.5 < inferred.double().mean() < 0.65  # 4 of the 7 subsets


@pytest.mark.parametrize("aggregation", ["wb", "poe", "pool", "moment"])
def test_guide_one_subset_aggregation_draws_every_subset_equally_often(aggregation: str) -> None:
    vae, count = make_vae(aggregation), 7 * 40
    values = {name: torch.randn(count, size, dtype=torch.float64) for name, size in {"a": 4, "b": 6, "c": 4}.items()}
    guide = poutine.trace(vae.guide).get_trace(values)
    seen = torch.stack([is_seen(guide.nodes[f"{name}_private"]) for name in "ab"], -1)
    pairs = {pair: int((seen == torch.tensor(pair)).all(-1).sum()) for pair in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    assert pairs == {(0, 0): 40, (0, 1): 80, (1, 0): 80, (1, 1): 80}  # stratified; c alone is one of the seven
    torch.testing.assert_close(guide.nodes["z"]["fn"].mean, vae.posterior(values, "joint").mean)


@pytest.mark.parametrize(
    ("aggregation", "bound", "wanted"),
    [("mwb", "component", "drawn"), ("mwb", "mixture", "all"), ("wb", "component", "all"), ("poe", "mixture", "all")],
)
def test_guide_auto_private_subsets_draws_where_z_comes_from_a_drawn_subset(
    aggregation: str, bound: str, wanted: str
) -> None:
    vae = make_vae(aggregation, bound=bound, private_subsets="auto")
    inferred = is_seen(poutine.trace(vae.guide).get_trace(make_batch()).nodes["b_private"])
    assert bool(inferred.all()) == (wanted == "all")
    assert bool(list(vae.guide.private_latents.parameters())) == (wanted == "drawn")


def test_guide_all_private_subsets_infers_everything_present() -> None:
    for aggregation in ("wb", "mwb"):
        vae, present = make_vae(aggregation, private_subsets="all"), torch.rand(ITEMS, 3) < 0.6
        guide = poutine.trace(vae.guide).get_trace(make_batch(present))
        for m, name in enumerate(SIZES):
            assert torch.equal(is_seen(guide.nodes[f"{name}_private"]), present[:, m])
        assert not list(vae.guide.private_latents.parameters())  # nothing is drawn from an auxiliary prior


def test_guide_prior_as_auxiliary_draws_from_the_prior() -> None:
    vae, batch = make_vae("mwb", private_auxiliary="prior"), make_batch()
    guide = poutine.trace(vae.guide).get_trace(batch)
    assert type(guide.nodes["a_private"]["fn"].base_dist) is dist.Normal
    assert not list(vae.guide.private_latents.parameters())


@pytest.mark.parametrize("encoder", ["own", "with_z"])
def test_objective_absent_values_change_neither_value_nor_gradient(encoder: str) -> None:
    vae, present = make_vae("wb", private_encoder=encoder), torch.rand(ITEMS, 3) < 0.6
    set_heads(vae)
    batch, found = make_batch(present), []
    garbage = {n: torch.where(present[:, m, None], v, 9.0) for m, (n, v) in enumerate(batch.values.items())}
    for values in (batch.values, garbage):
        torch.manual_seed(1)
        loss = Trace_ELBO()(vae.model, vae.guide)(Batch(values, batch.present))
        vae.zero_grad()
        loss.backward()
        found.append([loss.detach(), *[p.grad.clone() for p in vae.parameters() if p.grad is not None]])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Trace_ELBO(num_particles=300, vectorize_particles=True, max_plate_nesting=1),
        lambda: TraceMeanField_ELBO(num_particles=300, vectorize_particles=True, max_plate_nesting=1),
        lambda: JitTrace_ELBO(
            ignore_jit_warnings=True, num_particles=300, vectorize_particles=True, max_plate_nesting=1
        ),
    ],
)
def test_objective_every_estimator_has_the_mean_of_single_particles(make: Callable[[], Any]) -> None:
    vae = make_vae("wb", private_encoder="with_z")
    set_heads(vae)
    estimator = make()

    def program(part: Any) -> Callable[..., Any]:
        return lambda a, b, c, present: part({"a": a, "b": b, "c": c, "present": present})

    present = torch.rand(ITEMS, 3) < 0.8
    values = (*make_batch().values.values(), present)
    is_jit = isinstance(estimator, JitTrace_ELBO)  # which needs parameters in Pyro's store
    with (
        pyro.validation_enabled(False),
        pyro.settings.context(module_local_params=not is_jit),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        plain = Trace_ELBO()
        losses = [plain.differentiable_loss(program(vae.model), program(vae.guide), *values) for _ in range(100)]
        found = estimator.differentiable_loss(program(vae.model), program(vae.guide), *values).detach()
    single = torch.stack(losses).detach()
    assert abs(found - single.mean()) < 5 * single.std() / math.sqrt(75)  # of means of 100 and 300 particles


def test_private_posterior_with_z_depends_on_it_and_needs_it() -> None:
    vae, present = make_vae("wb", private_encoder="with_z"), torch.ones(ITEMS, 3, dtype=torch.bool)
    present[2, 0] = False
    batch, z = make_batch(present), torch.randn(5, ITEMS, 3, dtype=torch.float64)
    before = vae.private_posterior(batch, z)["a"]  # the heads start without effect
    torch.testing.assert_close(before.mean[0], before.mean[4])
    set_heads(vae)
    after = vae.private_posterior(batch, z)["a"]
    assert after.batch_shape == (5, ITEMS)
    assert (after.mean[0] - after.mean[4]).abs().max() > 1e-3
    assert (after.mean[:, 2] == 0).all()
    assert (after.stddev[:, 2] == 1).all()
    with pytest.raises(ValueError, match="z must be given, since private_encoder is 'with_z'"):
        vae.private_posterior(batch)


def test_importance_weights_with_z_give_the_evidence_of_a_linear_model() -> None:
    modalities = [
        Modality("a", (2,), private_size=1, likelihood="normal", scale=1.0),
        Modality("b", (3,), likelihood="normal", scale=1.0),
    ]
    vae = MultimodalVAE(modalities, 1, "wb", network=NetworkOptions(depth=0), private_encoder="with_z").double()
    set_heads(vae)
    batch = Batch.of({"a": torch.randn(4, 2).double(), "b": torch.randn(4, 3).double()}, ("a", "b"))
    with torch.no_grad():  # experts about as wide as the prior, so that the weights are tame
        for network in cast("Any", vae.guide.encode).networks:
            network.head.linear.weight.mul_(0.1)
            network.head.linear.bias.zero_()
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    base = vae.decode(zero, private={"a": zero})["a"]
    columns = [vae.decode(one, private={"a": zero})["a"] - base, vae.decode(zero, private={"a": one})["a"] - base]
    matrix = torch.stack(columns, -1).detach()
    covariance = torch.eye(2, dtype=torch.float64) + matrix @ matrix.T
    wanted = dist.MultivariateNormal(base.detach(), covariance).log_prob(batch.values["a"])
    drawn = sample_importance(vae, vae.guide.experts(batch), batch, [0], 8000)
    torch.testing.assert_close(log_mean_exp(drawn.log_weights(("a",))), wanted, atol=0.1, rtol=0)
    alone = batch.select(("a",))
    with pyro.validation_enabled(False):
        weights = importance_weights(
            lambda b: vae.model(b, weighted=False), lambda b: vae.guide(b, weighted=False), alone, samples=250
        )
    torch.testing.assert_close(log_mean_exp(weights), wanted, atol=0.4, rtol=0)


def test_predictive_generated_modality_uses_the_prior_of_private_latents() -> None:
    vae, batch = make_vae("wb"), make_batch()
    with torch.no_grad():
        log_scale(vae, "b").fill_(-9.0)
        found = Predictive(vae.model, guide=vae.guide, num_samples=80, return_sites=["b_private"])(
            batch.select(("a", "c")), generate=("b",)
        )["b_private"]
    assert (found.std((0, 1)) - 1).abs().max() < 0.1


@pytest.mark.parametrize("option", ["private_auxiliary", "private_subsets", "private_encoder"])
def test_multimodal_vae_unknown_private_option_lists_those_there_are(option: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{option} must be one of ([\w:]+, )+\w+( with a positive number)?, got 'nothing'"
    ):
        make_vae(**{option: "nothing"})


@pytest.mark.parametrize("value", ["learned:", "learned:0", "learned:-1", "learned:inf", "learned:nan", "prior:1"])
def test_multimodal_vae_wrong_auxiliary_scale_fails(value: str) -> None:
    with pytest.raises(ValueError, match=rf"private_auxiliary must be one of .* positive number, got '{value}'"):
        make_vae(private_auxiliary=value)


@pytest.mark.parametrize(("value", "scale"), [("learned", 0.1), ("learned:1", 1.0), ("learned:0.25", 0.25)])
def test_multimodal_vae_auxiliary_priors_start_from_the_scale(value: str, scale: float) -> None:
    vae = make_vae(private_auxiliary=value)
    for name, size in SIZES.items():
        torch.testing.assert_close(log_scale(vae, name).exp(), torch.full((size,), scale), check_dtype=False)


def test_auxiliary_normal_expanded_draws_with_its_own_scale_and_scores_as_a_normal() -> None:
    q = AuxiliaryNormal(torch.zeros(2), torch.ones(2), torch.tensor([0.1, 3.0]))
    value = torch.tensor([0.3, -2.0])
    assert torch.equal(q.log_prob(value), dist.Normal(0.0, 1.0).log_prob(value))
    drawn = q.expand([2000, 2]).sample()
    torch.testing.assert_close(drawn.std(0), torch.tensor([0.1, 3.0]), rtol=0.1, atol=0)
    assert not q.sample((3,)).requires_grad
    assert torch.equal(torch.distributions.kl_divergence(q, dist.Normal(torch.zeros(2), torch.ones(2))), torch.zeros(2))


def test_train_auxiliary_priors_run_is_resumed_and_answers(toy_config: Callable[..., Config], elsewhere: Path) -> None:
    config = toy_config(
        train__epochs=1,
        model__aggregation="wb",
        model__private_size=2,
        model__private_encoder="with_z",
        model__private_subsets="drawn",
    )
    run = train(config, elsewhere / "run", progress=False)
    before = {name: log_scale(run.vae, name).clone() for name in run.names}
    again = resume(run.path, epochs=2, progress=False)
    after = load(again.path, device="cpu", checkpoint="last").vae
    assert all(not torch.equal(log_scale(after, name), before[name]) for name in run.names)
    assert evaluate_elbo(again.vae, again.data("val"))["elbo"] == pytest.approx(again.state["best"], rel=1e-4)
    table = again.encode(private=True, statistic="loc_scale", items=range(6))
    assert table.arrays["m0_private"].shape == table.arrays["m0_private_scale"].shape == (6, 2)
    data = again.data("test").subset(range(12))
    experts = encode_dataset(again.vae, data)
    assert {row.target for row in reconstruction(again.vae, experts, data, subsets=[(0,)])} == set(run.names)
    assert len(again.score(data).ids) == 12
    assert simulation_calibration(again.vae, ("m0",), simulations=100, draws=19).ranks.shape[0] == 100
    words = ["ppc", str(run.path), "--quiet", "--device", "cpu", "--threads", "1", "--num-samples", "10"]
    result = CliRunner().invoke(main, [*words, "--items", "8", "--given", "m0"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
