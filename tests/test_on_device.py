"""Tests that compute on the device of ``--device``, by default the CPU, with ``--device cuda`` a GPU."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from benchmarks.gpu_steps.times import float32
from pyro_mmvae import (
    BarycentricGuide,
    Experts,
    Modality,
    MultimodalDataset,
    MultimodalVAE,
    aggregate,
    draw_component,
)
from pyro_mmvae.aggregation import make_aggregation
from pyro_mmvae.data import ModalitySpec, make_batch
from pyro_mmvae.evaluation import EvaluationOptions, evaluate
from pyro_mmvae.evaluation.ppc import posterior_predictive
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.runs.train_settings import TrainConfig
from pyro_mmvae.training import Trainer, evaluate_elbo
from pyro_mmvae.training.elbo import local_pyro
from tests.strategies import BUILT_IN

pytestmark = pytest.mark.device

ITEMS, MODALITIES, LATENT = 12, 3, 4
NAMES = (*BUILT_IN, "hellinger", "w1", "mixture:renyi")
BOUNDS = [("wb", "mixture"), ("wb", "component"), ("mwb", "mixture"), ("mwb", "component"), ("mopoe", "mixture")]


def experts_on(device: torch.device, complete: bool, **options: Any) -> Experts:
    generator = torch.Generator().manual_seed(0)
    loc, noise = torch.randn(2, ITEMS, MODALITIES, LATENT, dtype=torch.float64, generator=generator)
    present = torch.rand(ITEMS, MODALITIES, generator=generator) < 0.6
    tensors = [loc.to(device).requires_grad_(), (0.3 * noise).exp().to(device).requires_grad_()]
    return Experts(*tensors, None if complete else present.to(device), **options)


def posterior_and_gradients(device: torch.device, name: str, complete: bool, **options: Any) -> list[Tensor]:
    """Return mean, variance and log density of a posterior and the gradients of their sum, moved to the CPU."""
    experts = experts_on(device, complete, **options)
    posterior = aggregate(experts, name)
    values = [posterior.mean, posterior.variance, posterior.log_prob(torch.full_like(posterior.mean, 0.3))]
    assert {value.device.type for value in values} == {device.type}
    gradients = torch.autograd.grad(sum(value.sum() for value in values), [experts.loc, experts.scale])
    return [value.detach().cpu() for value in (*values, *gradients)]


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_aggregate_on_device_equals_cpu(name: str, complete: bool, device: torch.device) -> None:
    here = posterior_and_gradients(torch.device("cpu"), name, complete)
    there = posterior_and_gradients(device, name, complete)
    torch.testing.assert_close(there, here, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("family", "df"), [("laplace", None), ("student_t", 5.0), ("logistic", None)])
@pytest.mark.parametrize("name", ["wb", "mwb"])
def test_aggregate_of_family_on_device_equals_cpu(
    name: str, family: str, df: float | None, device: torch.device
) -> None:
    there = posterior_and_gradients(device, name, False, family=family, df=df)
    torch.testing.assert_close(
        there, posterior_and_gradients(torch.device("cpu"), name, False, family=family, df=df), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("name", ["mwb", "mopoe", "moe", "poe"])
def test_aggregate_of_full_covariances_on_device_equals_cpu(name: str, device: torch.device) -> None:
    def means(where: torch.device) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        loc, factor = torch.randn(ITEMS, 2, LATENT, generator=generator), torch.randn(ITEMS, 2, LATENT, 2)
        scale = torch.ones_like(loc)
        return aggregate(Experts(loc.to(where), scale.to(where), cov_factor=factor.to(where)), name).mean.cpu()

    torch.manual_seed(1)
    here = means(torch.device("cpu"))
    torch.manual_seed(1)
    torch.testing.assert_close(means(device), here, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["wb", "mwb", "mopoe", "moe"])
def test_component_and_draws_stay_on_device(name: str, device: torch.device) -> None:
    for complete in (True, False):
        experts = experts_on(device, complete)
        drawn = draw_component(experts, name).rsample()
        assert (drawn.device.type, drawn.shape) == (device.type, (ITEMS, LATENT))
        assert bool(drawn.isfinite().all())
        mixture = aggregate(experts, name)
        for draws in (mixture.rsample(), mixture.rsample((3,))):
            assert draws.device.type == device.type
        if name != "moe":
            full = make_aggregation(name).joint(experts).mean.cpu()
            expected = make_aggregation(name).joint(experts_on(torch.device("cpu"), complete)).mean
            torch.testing.assert_close(full, expected)


class Encode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Experts:
        loc, log_scale = self.net(x).chunk(2, -1)
        return Experts(loc, log_scale.exp())


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x), device=str(x.device)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, device=x.device), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.repeat(1, 2).unsqueeze(1), 0.5).to_event(2), obs=x)


@pytest.mark.parametrize("bound", ["mixture", "component"])
def test_guide_in_custom_model_trains_on_device(bound: str, device: torch.device) -> None:
    guide = BarycentricGuide(Encode(), "mwb", bound=bound).to(device)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    x = torch.randn(ITEMS, 3, 4).to(device)
    losses = [svi.step(x) for _ in range(3)]
    assert all(math.isfinite(loss) for loss in losses)
    assert guide(x).device.type == device.type


def make(aggregation: str, bound: str, private_size: int = 0, device: torch.device | str = "cpu") -> MultimodalVAE:
    torch.manual_seed(0)
    modalities = [Modality(name, (3, 8, 8), private_size=private_size) for name in ("a", "b")]
    modalities.append(Modality("c", (2,), likelihood="categorical", classes=3, private_size=private_size))
    options = NetworkOptions(width=4, hidden=8, norm="group")
    return MultimodalVAE(modalities, LATENT, aggregation, bound=bound, network=options).to(device)


def dataset(device: torch.device, complete: bool, items: int = ITEMS) -> MultimodalDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, items, 3, 8, 8), generator=generator, dtype=torch.uint8)
    tokens = torch.randint(0, 3, (items, 2), generator=generator)
    present = torch.rand(items, MODALITIES, generator=generator) < (1.0 if complete else 0.6)
    present[:, 0] |= ~present.any(-1)
    values = {"a": images[0], "b": images[1], "c": tokens}
    specs = {"c": ModalitySpec(data_type="tokens", classes=3)}
    labels = torch.arange(items) % 2
    return MultimodalDataset(values, labels, present, "noise", "train", modality_specs=specs).to(device)


@pytest.mark.parametrize("private_size", [0, 2])
@pytest.mark.parametrize(("aggregation", "bound"), BOUNDS)
def test_vae_posterior_and_decoding_on_device_equal_cpu(
    aggregation: str, bound: str, private_size: int, device: torch.device
) -> None:
    here, there = make(aggregation, bound, private_size), make(aggregation, bound, private_size, device)
    cpu = torch.device("cpu")
    ours = here.posterior(make_batch(dataset(cpu, False), slice(None)), "mixture")
    with float32(tf32=False):  # cuDNN convolves in TF32 by default, with an error of up to 1e-3
        theirs = there.posterior(make_batch(dataset(device, False), slice(None)), "mixture")
    torch.testing.assert_close(theirs.mean.cpu(), ours.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(theirs.variance.cpu(), ours.variance, rtol=1e-3, atol=1e-4)
    private = {name: torch.zeros(ITEMS, private_size) for name in here.names} if private_size else None
    moved = None if private is None else {name: value.to(device) for name, value in private.items()}
    decoded = here.decode(ours.mean.detach(), private=private)
    with float32(tf32=False):
        there_decoded = there.decode(ours.mean.detach().to(device), private=moved)
    for name, value in there_decoded.items():
        torch.testing.assert_close(value.cpu(), decoded[name], rtol=1e-3, atol=1e-4)
    assert {z.device.type for z in (there.model(num_items=4), there.guide(num_items=4))} == {device.type}


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("aggregation", "bound"), BOUNDS)
def test_trainer_on_device_has_finite_terms_and_moves_parameters(
    aggregation: str, bound: str, precision: str, complete: bool, device: torch.device
) -> None:
    vae, data = make(aggregation, bound, 2, device), dataset(device, complete)
    before = [parameter.detach().clone() for parameter in vae.parameters()]
    trainer = Trainer(vae, TrainConfig(batch_size=5, lr=1e-2), total_steps=6, precision=precision)
    with local_pyro():
        means = [trainer.epoch(data, epoch).read() for epoch in range(2)]
    assert all(math.isfinite(x) for each in means for x in (each.loss, each.kl, *each.log_likelihood.values()))
    assert any(not torch.equal(old, new) for old, new in zip(before, vae.parameters(), strict=True))
    assert evaluate_elbo(vae, data)["elbo"] < 0


@pytest.mark.parametrize("complete", [True, False])
def test_evaluate_on_device_returns_metrics(complete: bool, device: torch.device) -> None:
    vae, data = make("mwb", "component", 2, device).eval(), dataset(device, complete, 40)
    options = EvaluationOptions(subsets=4, samples=3, likelihood_items=6, khat_items=0, draws=10)
    rows = evaluate(vae, data, data, options=options).rows
    assert {"probe", "coherence", "log_likelihood"} <= {row.metric for row in rows}


def test_posterior_predictive_on_device_has_right_shape(device: torch.device) -> None:
    vae, data = make("mwb", "component", 2, device).eval(), dataset(device, False)
    check = posterior_predictive(vae, make_batch(data, slice(None)), ("a",), samples=3)
    assert check.z.shape == (3, ITEMS, LATENT)
