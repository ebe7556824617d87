"""Leave-one-out routing: values, gradients of single decoders, estimators, and where it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from click.testing import CliRunner
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pyro_mmvae import Batch, Modality, MultimodalVAE, load, train
from pyro_mmvae.cli import main
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.runs.config import Config, dump_config
from pyro_mmvae.training import ELBOObjective, make_objective
from pyro_mmvae.vae.routing import cuts_of

SHAPES = {"a": 3, "b": 4, "c": 5}  # of different shapes, so that each modality has networks of its own
PRESENT = torch.tensor([[True] * 3, [True, False, True], [False, True, True], [True, False, False], [True] * 3])


def make_vae(routing: str = "leave_one_out", rule: Any = "mwb", weights: Any = None, **options: Any) -> MultimodalVAE:
    torch.manual_seed(0)
    modalities = [Modality(n, (size,), reconstruction_weight=(weights or {}).get(n, 1.0)) for n, size in SHAPES.items()]
    return MultimodalVAE(modalities, 2, rule, routing=routing, **options)  # type: ignore[arg-type]


def make_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    values = {name: torch.randn(len(PRESENT), size, generator=generator) for name, size in SHAPES.items()}
    for m, name in enumerate(SHAPES):
        values[name][~PRESENT[:, m]] = torch.nan
    return {**values, "present": PRESENT}


def gradients_of_log_likelihoods(vae: MultimodalVAE) -> tuple[dict[str, Tensor], dict[str, list[list[Tensor]]]]:
    """Return log p(x_m | z) by modality, and its gradient in the parameters of each encoder."""
    torch.manual_seed(2)
    guide_trace = poutine.trace(vae.guide).get_trace(make_batch())
    trace = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(make_batch())
    trace.compute_log_prob()
    encoders: Any = vae.guide.encode.networks
    values, gradients = {}, {}
    for name in SHAPES:
        values[name] = trace.nodes[name]["log_prob_sum"]
        gradients[name] = [
            [
                torch.zeros_like(p) if g is None else g
                for p, g in zip(
                    encoder.parameters(),
                    torch.autograd.grad(values[name], list(encoder.parameters()), retain_graph=True, allow_unused=True),
                    strict=True,
                )
            ]
            for encoder in encoders
        ]
    return values, gradients


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("mwb", {}),
        ("wb", {"bound": "mixture"}),
        ("wb", {"bound": "component"}),
        ("w2", {"bound": "component"}),
        ("mwb", {"prior_expert": "all"}),
        ("mwb", {"expert_weights": [2.0, 1.0, 0.5]}),
        ("mwb", {"network": NetworkOptions(family="laplace")}),
    ],
)
def test_routing_leave_one_out_cuts_each_decoder_from_its_own_encoder_only(rule: str, options: dict[str, Any]) -> None:
    values, gradients = gradients_of_log_likelihoods(make_vae(rule=rule, **options))
    expected_values, expected = gradients_of_log_likelihoods(make_vae("all", rule, **options))
    for m, name in enumerate(SHAPES):
        torch.testing.assert_close(values[name], expected_values[name], rtol=1e-6, atol=0)
        for k in range(3):
            for found, whole in zip(gradients[name][k], expected[name][k], strict=True):
                assert whole.abs().max() > 1e-4  # every encoder is reached without routing
                if k == m:
                    assert found.abs().max() < 1e-5 * whole.abs().max() + 1e-6
                else:
                    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)


def test_routing_does_not_change_a_bit_of_the_latents() -> None:
    vae = make_vae()
    z = vae.guide(make_batch())
    cuts = cuts_of(z)
    assert cuts is not None
    assert list(cuts) == list(SHAPES)
    assert all(torch.equal(z + cut, z) for cut in cuts.values())
    drawn = []
    for model in (vae, make_vae("all")):
        torch.manual_seed(3)
        drawn.append(model.guide(make_batch()))
    assert torch.equal(*drawn)


def test_routing_outside_of_the_drawn_subset_cuts_nothing() -> None:
    vae = make_vae()
    experts = vae.guide.experts(make_batch())
    members = torch.tensor([True, False, False]).expand(5, 3) & PRESENT
    z = vae.guide.posterior(experts, "component", members).rsample()
    vae.guide.attach_routes(z, experts, members)
    cuts = cuts_of(z)
    assert cuts is not None
    for name in ("b", "c"):
        gradients = torch.autograd.grad(
            cuts[name].sum(), list(vae.guide.parameters()), allow_unused=True, retain_graph=True
        )
        assert all(g is None or not g.any() for g in gradients)


def test_routing_keeps_the_gradient_of_learned_expert_weights() -> None:
    found = []
    for routing in ("all", "leave_one_out"):
        vae = make_vae(routing, expert_weights="learned")
        torch.manual_seed(2)
        ELBOObjective(vae)(make_batch())[0].backward()
        [gradient] = [p.grad for name, p in vae.guide.named_parameters() if "expert_weights" in name]
        found.append(gradient)
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


ESTIMATORS: dict[str, Callable[[], Any]] = {
    "Trace_ELBO": lambda: Trace_ELBO(num_particles=2),
    "vectorised": lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "TraceMeanField_ELBO": TraceMeanField_ELBO,
    "TraceGraph_ELBO": TraceGraph_ELBO,
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_routing_under_each_estimator_leaves_the_own_encoder_without_gradient(name: str) -> None:
    # Only modality a is reconstructed, and β is so small that the KL term does not count.
    vae = make_vae(weights={"b": 0.0, "c": 0.0}, beta=1e-12)
    torch.manual_seed(2)
    with pyro.validation_enabled(False):
        ESTIMATORS[name]().loss_and_grads(vae.model, vae.guide, make_batch())
    largest = [max(float(p.grad.abs().max()) for p in net.parameters()) for net in vae.guide.encode.networks]  # type: ignore[union-attr]
    assert largest[0] < 1e-6
    assert min(largest[1:]) > 1e-3


@pytest.mark.parametrize("objective", [
    "elbo", "masked", {"name": "masked", "delta": 0.5}, {"name": "mvtcae", "beta": 1e-12},
])  # fmt: skip
def test_routing_under_each_objective_leaves_the_own_encoder_without_gradient(objective: Any) -> None:
    largest = []
    for routing in ("leave_one_out", "all"):
        vae = make_vae(routing, weights={"b": 0.0, "c": 0.0}, beta=1e-12)
        torch.manual_seed(2)
        make_objective(objective, vae)(Batch.of(make_batch(), tuple(SHAPES)))[0].backward()
        networks: Any = vae.guide.encode.networks
        largest.append([max(float(p.grad.abs().max()) for p in net.parameters()) for net in networks])
    assert largest[0][0] < 1e-6
    assert min(largest[1][0], *largest[0][1:]) > 1e-3


@pytest.mark.parametrize("objective", ["iwae", "sub_elbos", "mmvm"])
def test_routing_with_an_objective_that_does_not_support_it_is_refused(objective: str) -> None:
    with pytest.raises(ValueError, match="must have a model with routing 'all', since .*, got 'leave_one_out'"):
        make_objective(objective, make_vae())


def test_routing_with_private_latents_and_missing_modalities_has_a_finite_gradient() -> None:
    torch.manual_seed(0)
    modalities = [Modality(name, (size,), private_size=2) for name, size in SHAPES.items()]
    vae = MultimodalVAE(modalities, 2, "mwb", routing="leave_one_out")
    loss, _ = ELBOObjective(vae)(make_batch())
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in vae.parameters())


def test_routing_acts_in_training_only() -> None:
    vae = make_vae()
    assert cuts_of(vae.guide(make_batch(), weighted=False)) is None
    assert cuts_of(vae.eval().guide(make_batch())) is None
    assert cuts_of(vae.train().guide(make_batch())) is not None
    assert cuts_of(make_vae("all").guide(make_batch())) is None


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("poe", {}, "must have a Wasserstein barycenter .* got the aggregation 'poe'"),
        ("moe", {}, "must have a Wasserstein barycenter"),
        ("mopoe", {}, "must have a Wasserstein barycenter"),
        ("moment", {}, "must have a Wasserstein barycenter"),
        ("w1", {}, "must have a Wasserstein barycenter"),
        ("mwb", {"bound": "mixture"}, "must have bound='component' for a mixture"),
        ("wb", {"network": NetworkOptions(covariance="full")}, "must have experts with independent dimensions"),
        ("wb", {"expert_weights": "gate"}, "must have expert weights that are numbers or 'learned'"),
        ("mwb", {"expert_weights": "precision"}, "must have expert weights that are numbers or 'learned'"),
    ],
)
def test_routing_leave_one_out_where_it_is_not_exact_is_refused(
    rule: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_vae(rule=rule, **options)


def test_guide_that_routes_refuses_a_call_with_the_mixture_in_training() -> None:
    vae = make_vae()
    with pytest.raises(ValueError, match="must have bound='component' for a mixture"):
        vae.guide(make_batch(), bound="mixture")
    vae.guide(make_batch(), bound="mixture", weighted=False)
    make_vae(rule="wb").guide(make_batch(), bound="mixture")


def test_routing_of_one_modality_or_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two modalities"):
        MultimodalVAE([Modality("a", (3,))], 2, "wb", routing="leave_one_out")
    with pytest.raises(ValueError, match="routing must be one of all, leave_one_out, got 'none'"):
        make_vae("none")


def test_train_with_routing_records_it_and_loads(toy_config: Callable[..., Config], tmp_path: Path) -> None:
    config = toy_config(model__routing="leave_one_out", model__aggregation="mwb", train__epochs=1, data__train_size=32)
    run = train(config, tmp_path / "run", progress=False)
    assert load(run.path).guide.routing == "leave_one_out"


def test_command_line_refuses_routing_with_a_product_of_experts(
    toy_config: Callable[..., Config], tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(toy_config(model__aggregation="poe")))
    words = ["train", "--config", str(file), "--quiet", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, [*words, "--set", "model.routing=leave_one_out"])
    assert result.exit_code != 0
    assert "routing 'leave_one_out' must have a Wasserstein barycenter" in result.output
