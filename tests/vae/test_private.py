"""Private latents: densities, the guide, and generation, for every aggregation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from click.testing import CliRunner
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyro_mmvae import Batch, Modality, MultimodalVAE, aggregations, load, train
from pyro_mmvae.cli import main
from pyro_mmvae.evaluation.ppc import posterior_predictive
from pyro_mmvae.evaluation.sbc import calibrate_by_simulation, simulation_calibration
from pyro_mmvae.inference.importance import importance_weights, log_mean_exp, sample_importance
from pyro_mmvae.networks import NETWORKS, NetworkOptions, make_networks
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.sampling import draw_samples, training_samples
from pyro_mmvae.runs.train_settings import TrainConfig
from pyro_mmvae.training import Trainer, evaluate_elbo

ITEMS = 12
PLAIN = [name for name in aggregations() if name in {"poe", "moe", "mopoe", "wb", "mwb"}]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]), pyro.settings.context(module_local_params=True):
        torch.manual_seed(0)
        yield


def make_vae(aggregation: str = "mwb", bound: str = "mixture", **options: object) -> MultimodalVAE:
    modalities = [
        Modality("a", (4,), private_size=2, likelihood="normal", scale=1.0),
        Modality("b", (6,), private_size=3, likelihood="normal", scale=1.0),
        Modality("c", (4,), likelihood="normal", scale=1.0),
        Modality("d", (4,), private_size=2, likelihood="normal", scale=1.0),
    ]
    network = NetworkOptions(hidden=8)
    return MultimodalVAE(modalities, 3, aggregation, bound=bound, network=network, **options).double()  # type: ignore[arg-type]


def make_batch(present: torch.Tensor | None = None) -> Batch:
    sizes = {"a": 4, "b": 6, "c": 4, "d": 4}
    values = {name: torch.randn(ITEMS, size, dtype=torch.float64) for name, size in sizes.items()}
    present = torch.rand(ITEMS, 4) < 0.7 if present is None else present
    return Batch.of({**values, "present": present}, tuple("abcd"))


@pytest.mark.parametrize("bound", ["mixture", "component"])
@pytest.mark.parametrize("aggregation", PLAIN)
def test_private_latents_objective_is_the_sum_over_all_sites(aggregation: str, bound: str) -> None:
    vae, batch = make_vae(aggregation, bound, beta=2.0), make_batch()
    guide = poutine.trace(vae.guide).get_trace(batch)
    model = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(batch)
    latents = ("z", "a_private", "b_private", "d_private")
    assert [name for name in guide.nodes if name in latents] == list(latents)
    value = {name: guide.nodes[name]["value"] for name in latents}
    decoded = vae.decode(value["z"], private={n: value[f"{n}_private"] for n in "abd"})
    wanted = torch.zeros((), dtype=torch.float64)
    for name in "abcd":
        there = batch.present[name] if name in batch.present else torch.ones(ITEMS, dtype=torch.bool)
        squares = (batch.values[name] - decoded[name]).square().sum(-1)
        size = batch.values[name].shape[-1]
        wanted = wanted + torch.where(there, -0.5 * squares - 0.5 * size * math.log(2 * math.pi), 0.0).sum()
    for name in latents:
        standard = (-0.5 * value[name].square() - 0.5 * math.log(2 * math.pi)).sum()
        wanted = wanted + 2.0 * (standard - guide.nodes[name]["fn"].log_prob(value[name]).sum())
    found = model.log_prob_sum() - guide.log_prob_sum()
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)


def test_private_posterior_absent_modality_has_the_prior() -> None:
    vae, present = make_vae(), torch.ones(ITEMS, 4, dtype=torch.bool)
    present[3:6, 1] = False
    batch = make_batch(present)
    posterior = vae.private_posterior(batch)
    assert set(posterior) == {"a", "b", "d"}
    assert posterior["b"].batch_shape == (ITEMS,)
    assert posterior["b"].event_shape == (3,)
    assert (posterior["b"].mean[3:6] == 0).all()
    assert (posterior["b"].stddev[3:6] == 1).all()
    assert (posterior["b"].stddev[:3] < 0.9).all()
    assert (posterior["a"].stddev < 0.9).all()


def test_private_latents_absent_values_change_no_gradient() -> None:
    vae, present = make_vae(), torch.rand(ITEMS, 4) < 0.6
    batch = make_batch(present)
    other = Batch(
        {n: torch.where(present[:, m, None], v, 7.0) for m, (n, v) in enumerate(batch.values.items())}, batch.present
    )
    found = []
    for one in (batch, other):
        torch.manual_seed(1)
        loss = Trace_ELBO()(vae.model, vae.guide)(one)
        vae.zero_grad()
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in vae.parameters() if p.grad is not None]))
    assert found[0][0] == found[1][0]
    for one, two in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("aggregation", ["moe", "mopoe", "mwb"])
def test_guide_component_bound_depends_on_the_drawn_subset_only(aggregation: str) -> None:
    vae = make_vae(aggregation, "component", prior_expert="none")
    batch = make_batch(torch.ones(ITEMS, 4, dtype=torch.bool))
    experts, private = vae.guide.experts(batch), vae.private_posterior(batch)
    sizes = set()
    for _ in range(10):
        trace = poutine.trace(vae.guide).get_trace(batch)
        seen = {n: trace.nodes[f"{n}_private"]["fn"].mean == private[n].mean for n in "abd"}
        z = trace.nodes["z"]["fn"]
        for i in range(ITEMS):
            members = [m for m, n in enumerate("abcd") if n != "c" and seen[n][i].all()]
            options = [members, sorted([*members, 2])]  # c has no private latent to tell by
            wanted = [_component(aggregation, experts.loc[i, s], experts.scale[i, s]) for s in options if s]
            assert any(torch.allclose(z.mean[i], mean) for mean in wanted)
            for n in "abd":
                if not seen[n][i].all():
                    assert (trace.nodes[f"{n}_private"]["fn"].mean[i] == 0).all()
                    assert (trace.nodes[f"{n}_private"]["fn"].stddev[i] == 1).all()
            sizes.add(len(members))
    assert len(sizes) > 1


def test_guide_component_bound_expanded_shares_subsets_between_latents() -> None:
    vae, batch = make_vae("moe", "component"), make_batch(torch.ones(ITEMS, 4).bool())

    def vectorised() -> None:
        with pyro.plate("particles", 50, dim=-2):
            vae.guide(batch)

    with torch.no_grad():
        sites = poutine.trace(vectorised).get_trace().nodes
        experts = vae.guide.experts(batch)
    z = sites["z"]["fn"].mean
    drawn = (z.unsqueeze(-2) - experts.loc).abs().sum(-1).argmin(-1)
    assert all(len(column.unique()) == 4 for column in drawn.mT)
    for index, name in enumerate(vae.names):
        if name != "c":
            private = sites[f"{name}_private"]["fn"]
            is_prior = ((private.mean == 0) & (private.stddev == 1)).all(-1)
            assert torch.equal(is_prior, drawn != index)


def _component(aggregation: str, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    if aggregation != "mopoe":
        return loc.mean(0)
    precision = scale**-2
    return (precision * loc).sum(0) / precision.sum(0)


def test_importance_weights_linear_model_give_its_evidence() -> None:
    modalities = [
        Modality("a", (2,), private_size=1, likelihood="normal", scale=1.0),
        Modality("b", (3,), likelihood="normal", scale=1.0),
    ]
    vae = MultimodalVAE(modalities, 1, "wb", network=NetworkOptions(depth=0)).double()
    batch = Batch.of({"a": torch.randn(5, 2).double(), "b": torch.randn(5, 3).double()}, ("a", "b"))
    with torch.no_grad():  # experts about as wide as the prior, so that the weights are tame
        for network in vae.guide.encode.networks:  # type: ignore[union-attr]
            network.head.linear.weight.mul_(0.1)  # type: ignore[union-attr, operator]
            network.head.linear.bias.zero_()  # type: ignore[union-attr, operator]
    zeros, ones = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    rows, covariance = [], {}
    for name in ("a", "b"):
        base = vae.decode(zeros, private={"a": zeros})[name]
        columns = [vae.decode(ones, private={"a": zeros})[name] - base]
        columns += [vae.decode(zeros, private={"a": ones})[name] - base] if name == "a" else []
        matrix = torch.stack(columns, -1)
        covariance[name] = torch.eye(len(base), dtype=torch.float64) + matrix @ matrix.T
        rows.append((base, matrix))
    exact = {("a",): _gaussian(batch.values["a"], rows[0][0], covariance["a"])}
    shared = torch.cat([rows[0][1][:, 0], rows[1][1][:, 0]])
    both = torch.outer(shared, shared)
    both[:2, :2] = covariance["a"] - torch.eye(2)
    both += torch.eye(5)
    mean, values = torch.cat([rows[0][0], rows[1][0]]), torch.cat([batch.values["a"], batch.values["b"]], -1)
    exact["a", "b"] = _gaussian(values, mean, both)
    experts = vae.guide.experts(batch)
    for subset, names in (([0], ("a",)), ([0, 1], ("a", "b")), ([1], ("a", "b"))):
        drawn = sample_importance(vae, experts, batch, subset, 20_000)
        found = log_mean_exp(drawn.log_weights(names))
        torch.testing.assert_close(found, exact[names], atol=0.05, rtol=0)
    with pyro.validation_enabled(False):
        weights = importance_weights(
            lambda b: vae.model(b, weighted=False), lambda b: vae.guide(b, weighted=False), batch, samples=1500
        )
    torch.testing.assert_close(log_mean_exp(weights), exact["a", "b"], atol=0.15, rtol=0)


def _gaussian(values: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    return torch.distributions.MultivariateNormal(mean.detach(), covariance.detach()).log_prob(values)


def test_private_draws_unknown_ones_follow_the_prior() -> None:
    vae = make_vae()
    z = torch.randn(3, dtype=torch.float64).expand(4000, 3)
    drawn = vae.model.private_draws(z, ("a", "b", "c"), {"a": torch.ones(4000, 2, dtype=torch.float64)})
    assert set(drawn) == {"a", "b"}
    assert (drawn["a"] == 1).all()
    assert drawn["b"].mean(0).abs().max() < 0.1
    assert (drawn["b"].std(0) - 1).abs().max() < 0.1
    with torch.no_grad():
        known = vae.decode(z, ("a", "c"), {"a": torch.zeros(4000, 2, dtype=torch.float64)})
        other = vae.decode(z, ("a", "c"))
    assert known["a"].std(0).max() == 0
    assert other["a"].std(0).min() > 0.01
    assert torch.equal(known["c"], other["c"])  # which has none


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "auto"])
def test_make_networks_private_latent_reaches_its_modality_only(name: str) -> None:
    shape = {"mlp": (5,), "text": (8, 6), "conv4": (3, 32, 32)}.get(name, (3, 16, 16))
    options = NetworkOptions(width=8, hidden=8, norm="group", decoder_hidden=True)
    encoder, decoder = make_networks(name, shape, shape, 3, options, 3, private_size=2)
    loc, scale, private_loc, private_scale = encoder(torch.randn(4, 3, *shape))
    assert loc.shape == scale.shape == (4, 3, 3)
    assert private_loc.shape == private_scale.shape == (4, 3, 2)
    latents = torch.randn(2, 4, 3, 5)
    changed = latents.clone()
    changed[:, :, 1, 3:] += 1.0
    one, two = decoder(latents), decoder(changed)
    assert one.shape == (2, 4, 3, *shape)
    moved = (one - two).abs().flatten(3).amax((0, 1, 3)) > 1e-6
    assert moved.tolist() == [False, True, False]
    torch.testing.assert_close(decoder.run_groups([2, 0], latents[:, :, [2, 0]]), one[:, :, [2, 0]])


@pytest.mark.parametrize("options", [{"covariance": "full"}, {"covariance": "low_rank"}, {"family": "laplace"}])
def test_private_latents_stay_normal_with_other_experts(options: dict[str, str]) -> None:
    modalities = [Modality("a", (4,), private_size=2), Modality("b", (6,), private_size=3)]
    vae = MultimodalVAE(modalities, 3, "wb", network=NetworkOptions(hidden=8, **options))  # type: ignore[arg-type]
    batch = {"a": torch.randn(6, 4), "b": torch.randn(6, 6)}
    trace = poutine.trace(vae.guide).get_trace(batch)
    assert trace.nodes["a_private"]["fn"].base_dist.scale.shape == (6, 2)
    assert isinstance(trace.nodes["b_private"]["fn"].base_dist, dist.Normal)
    loss = Trace_ELBO()(vae.model, vae.guide)(batch)
    loss.backward()
    assert torch.isfinite(loss)


def test_guide_modality_of_weight_zero_has_no_private_site() -> None:
    modalities = [Modality("a", (4,), private_size=2), Modality("b", (6,), private_size=3, reconstruction_weight=0.0)]
    vae = MultimodalVAE(modalities, 3, "wb", network=NetworkOptions(hidden=8))
    batch = {"a": torch.randn(6, 4), "b": torch.randn(6, 6)}
    guide = poutine.trace(vae.guide).get_trace(batch)
    model = poutine.trace(vae.model).get_trace(batch)
    assert "b_private" not in guide.nodes
    assert "b_private" not in model.nodes
    assert "b_private" in poutine.trace(vae.guide).get_trace(batch, weighted=False).nodes


def test_posterior_predictive_given_modality_uses_its_private_posterior() -> None:
    vae, batch = make_vae(), make_batch(torch.ones(ITEMS, 4, dtype=torch.bool))
    with torch.no_grad():  # the private latents of a and d are known to be near 3, and shown
        head = vae.guide.encode.networks[0].head.linear  # type: ignore[index, union-attr]
        head.weight[..., -4:] *= 0.1
        head.bias[..., -4:-2], head.bias[..., -2:] = 3.0, -3.0
        vae.model.decoders.networks[0].body[0].weight[:, -2:] *= 5.0  # type: ignore[index]
    check = posterior_predictive(vae, batch, ("a", "c"), samples=200, keep_raw=True)
    own = vae.private_posterior(batch)["a"].mean
    assert check.raw["a"].shape == (200, ITEMS, 4)
    z = torch.as_tensor(check.z)
    with torch.no_grad():
        wanted = vae.decode(z, ("a",), {"a": own.expand(200, ITEMS, 2)})["a"].mean((0, 1))
        prior = vae.decode(z, ("a",))["a"].mean((0, 1))
    residual = torch.as_tensor(check.raw["a"]).mean((0, 1)) - wanted
    assert residual.abs().max() < 0.1  # noise of scale 1 in means over 2,400
    assert (wanted - prior).abs().max() > 0.5
    again = posterior_predictive(vae, batch, ("a", "c"), samples=20, keep_raw=True)
    assert (again.raw["b"] == check.raw["b"][:20]).all()
    assert len(set(check.raw["b"][:, 0, 0].tolist())) == 200


def test_calibrate_by_simulation_uses_all_latents_of_the_guide() -> None:
    size = 400

    def model(x: torch.Tensor | None = None, size: int = size) -> None:
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            u = pyro.sample("u", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.cat([z, u], -1), 0.5).to_event(1), obs=x)

    def guide(x: torch.Tensor, size: int = size, *, narrow: float = 1.0) -> None:
        with pyro.plate("data", size):
            loc, scale = x / 1.25, math.sqrt(0.2)
            pyro.sample("z", dist.Normal(loc[:, :1], scale).to_event(1))
            pyro.sample("u", dist.Normal(loc[:, 1:], scale * narrow).to_event(1))

    def run(narrow: float) -> float:
        found = calibrate_by_simulation(
            model, lambda x: guide(x, narrow=narrow), lambda values: ((values["x"],), {}), draws=19, seed=1
        )
        assert found.quantities == ("z[0]", "log_p", "tarp")
        return float(found.p_values()[1])

    assert run(1.0) > 1e-3
    assert run(0.1) < 1e-6  # u alone is wrong, which log p tells if u is the guide's


def test_simulation_calibration_private_latents_give_ranks() -> None:
    vae = make_vae("wb").float()
    found = simulation_calibration(vae, ("a", "b"), simulations=100, draws=19)
    assert found.ranks.shape == (100, len(found.quantities)) == (100, 5)


def test_private_latents_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="modality 'a': private_size must be at least 0, got -1"):
        Modality("a", (4,), private_size=-1)


def test_trainer_step_private_latents_change_every_parameter() -> None:
    vae = make_vae("mwb", "component").float()
    settings = TrainConfig(lr=1e-2, schedule="constant", device="cpu", precision="fp32", threads=1)
    trainer = Trainer(vae, settings, total_steps=3)
    before = {name: value.clone() for name, value in vae.named_parameters()}
    batch = make_batch(torch.ones(ITEMS, 4, dtype=torch.bool))
    trainer.step(Batch({n: v.float() for n, v in batch.values.items()}, {}))
    assert {name for name, value in vae.named_parameters() if torch.equal(value, before[name])} == set()
    assert set(trainer.terms.log_likelihood) == {"a", "b", "c", "d"}


def test_train_private_latents_run_is_loaded_sampled_and_evaluated(
    toy_config: Callable[..., Config], elsewhere: Path
) -> None:
    config = toy_config(
        train__epochs=1, model__aggregation="mwb", model__private_size=2, model__modalities={"m1": {"private_size": 0}}
    )
    run = train(config, elsewhere / "run", progress=False)
    again = load(run.path, device="cpu")
    sizes = {modality.name: modality.private_size for modality in again.vae.modalities}
    assert sizes == {"m0": 2, "m1": 0, "m2": 2}
    data = again.data("val")
    found = evaluate_elbo(again.vae, data)
    assert found["elbo"] == pytest.approx(again.state["best"], rel=1e-4)
    values = {name: value[:6] for name, value in data.tensors.items()}
    posterior = again.private_posterior(values, ("m0", "m1"))
    assert set(posterior) == {"m0"}
    one = again.decode(again.posterior(values).mean, {"m0": posterior["m0"].mean})
    assert one["m0"].shape[0] == 6
    pictures, more = training_samples(again, data), training_samples(again, data)
    assert all((pictures[name] == more[name]).all() for name in pictures)
    samples = draw_samples(again, ("m0",), ("m0", "m2"), count=4, seed=1)
    assert set(samples.generated) == {"m0", "m2"}
    words = [str(run.path), "--quiet", "--device", "cpu", "--threads", "1"]
    few = ["--samples", "4", "--likelihood-items", "8", "--khat-items", "4"]
    for command in (["evaluate", *words, *few], ["ppc", *words, "--num-samples", "10", "--items", "8"]):
        result = CliRunner().invoke(main, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
