"""All objectives with many aggregations: gradients by finite differences, and steps of a trainer."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch

from pyro_mmvae import Batch, Experts, Modality, MultimodalVAE
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.runs.train_settings import TrainConfig
from pyro_mmvae.training import Trainer, local_pyro, make_objective, objective_names
from tests.training.objectives.linear_models import make

PATHWISE = [
    {"name": "masked", "delta": 0.3},
    {"name": "mvtcae"},
    {"name": "iwae", "samples": 3, "gradient": "plain"},
    {"name": "sub_elbos"},
    {"name": "mmvm"},
]


@pytest.mark.parametrize("objective", PATHWISE, ids=lambda o: o["name"])
@pytest.mark.parametrize("aggregation", ["mopoe", "moe", "moment"])
def test_objective_has_the_gradient_of_finite_differences(objective: dict[str, Any], aggregation: str) -> None:
    model = make(aggregation, private=True, private_auxiliary="learned", private_encoder="with_z")
    module = make_objective(objective, model.vae)
    parameters = list(model.vae.parameters())

    def loss() -> torch.Tensor:
        torch.manual_seed(2)
        with local_pyro():
            return module(model.batch)[0]

    gradients = torch.autograd.grad(loss(), parameters)
    torch.manual_seed(5)
    directions = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    values = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            torch._foreach_add_(parameters, directions, alpha=step)
            values.append(float(loss()))
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-6)


def sharpest(experts: Experts) -> Any:
    """Return the sharpest of the present experts, an aggregation that is a plain function."""
    best = experts.scale.masked_fill(~experts.mask.unsqueeze(-1), torch.inf).argmin(-2, keepdim=True)
    loc, scale = (t.gather(-2, best).squeeze(-2) for t in (experts.loc, experts.scale))
    return dist.Normal(loc, scale).to_event(1)


@pytest.mark.parametrize("name", [name for name in objective_names() if name != "elbo"])
@pytest.mark.parametrize(
    ("aggregation", "network"),
    [
        ("mwb", {}), ("poe", {"covariance": "full"}), ("moe", {"family": "laplace"}), ("mixture:renyi:0.5", {}),
        (sharpest, {}),
    ],
    ids=["mwb", "poe-full", "moe-laplace", "renyi", "function"],
)  # fmt: skip
def test_trainer_of_an_objective_improves_it_with_any_aggregation(name: str, aggregation: Any, network: Any) -> None:
    torch.manual_seed(0)
    modalities = [Modality(n, (5,), likelihood="normal", scale=0.5) for n in ("a", "b", "c")]
    bound = "mixture" if aggregation is sharpest else "component"
    options = NetworkOptions(hidden=8, **network)
    vae = MultimodalVAE(modalities, 2, aggregation, network=options, bound=bound)
    shared = torch.randn(32, 1)
    values = {n: shared + 0.1 * torch.randn(32, 5) for n in ("a", "b", "c")}
    values["b"][:8] = torch.nan  # what stands in absent slots must not matter
    present = {"b": torch.arange(32) >= 8, "c": torch.arange(32) % 4 > 0}
    batch = Batch(values, present)
    settings = TrainConfig(lr=5e-2, schedule="constant", device="cpu", precision="fp32", threads=1)
    trainer = Trainer(make_objective(name, vae), settings, total_steps=12)
    with local_pyro():
        losses = [trainer.step(batch).item() for _ in range(12)]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert set(trainer.terms.log_likelihood) == {"a", "b", "c"}
    assert all(bool(parameter.isfinite().all()) for parameter in vae.parameters())


def test_objective_of_a_batch_without_a_modality_has_no_term_for_it() -> None:
    model = make("mwb")
    batch = Batch({name: value for name, value in model.values.items() if name != "b"})
    for name in objective_names():
        with local_pyro():
            loss, terms = make_objective(name, model.vae)(batch)
        assert set(terms.log_likelihood) == {"a", "c"}
        assert bool(loss.isfinite())


def test_objective_leaves_out_modalities_of_weight_zero() -> None:
    model = make("mwb", private=True)
    model.vae.model.reconstruction_weights["b"] = 0.0
    model.vae.guide._untrained = {"b"}
    for name in objective_names():
        with local_pyro():
            loss, terms = make_objective(name, model.vae)(model.batch)
        assert set(terms.log_likelihood) == {"a", "c"}
        gradients = torch.autograd.grad(loss, list(model.decoders["b"].parameters()), allow_unused=True)
        assert all(gradient is None or not gradient.any() for gradient in gradients)
