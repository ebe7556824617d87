"""Extreme but legal numbers: losses and gradients are finite, or the error says what is not supported."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_mmvae import BarycentricGuide, Batch, Experts, Modality, MultimodalVAE, make_aggregation
from pyro_mmvae.guides.barycentric import BOUNDS
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.training import local_pyro, make_objective, objective_names
from tests.strategies import NAMES

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
LOCS = ((0.0, 0.5, -0.5), (0.0, 1e4, -1e4))
SCALES = ((1e-6, 1e-6, 1e-6), (1e6, 1e6, 1e6), (1e-6, 1.0, 1e6))
PRESENCE = ((True, True, True), (False, True, False), (False, False, False))
SHAPES = {"latent 1": (2, 3, 1), "latent 4096": (2, 3, 4096), "batch 1": (1, 3, 2), "modality 1": (2, 1, 2)}


def build(loc: Tensor, scale: Tensor, present: Tensor | None = None) -> tuple[Experts, list[Tensor]]:
    """Return experts whose locs and scales are leaves, and the leaves."""
    leaves = [loc.clone().requires_grad_(), scale.clone().requires_grad_()]
    return Experts(*leaves, present), leaves


def posteriors(name: str, experts: Experts) -> dict[str, Callable[[], Any]]:
    """Return the posteriors by the way to get them: whole, of a drawn component, and of all modalities but one."""
    aggregation = make_aggregation(name)
    members = experts.mask.clone()
    members[..., -1] &= members.sum(-1) == 1
    ways = {"whole": lambda: aggregation(experts), "members": lambda: aggregation.over_members(experts, members)}
    if name != "holder":  # whose components have weights that depend on the experts
        ways["component"] = lambda: aggregation.component(experts)
    return ways


def check_finite(name: str, experts: Experts, leaves: list[Tensor]) -> None:
    for way, posterior in posteriors(name, experts).items():
        torch.manual_seed(1)
        q = posterior()
        z = q.rsample() if q.has_rsample else q.sample()
        loss = (q.log_prob(z) - dist.Normal(torch.zeros_like(z), 1.0).to_event(1).log_prob(z)).sum()
        assert loss.isfinite(), way
        if loss.requires_grad:
            for gradient in torch.autograd.grad(loss, leaves, allow_unused=True, retain_graph=True):
                assert gradient is None or gradient.isfinite().all(), way


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_aggregation_of_extreme_experts_has_finite_losses_and_gradients(name: str, dtype: torch.dtype) -> None:
    cases = list(product(LOCS, SCALES, PRESENCE))  # the items of one batch
    loc = torch.tensor([case[0] for case in cases]).unsqueeze(-1) + torch.linspace(-1, 1, 2)
    scale = torch.tensor([case[1] for case in cases]).unsqueeze(-1).expand_as(loc)
    present = torch.tensor([case[2] for case in cases])
    check_finite(name, *build(loc.to(dtype), scale.to(dtype), present))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_aggregation_of_extreme_shapes_has_finite_losses_and_gradients(name: str, shape: str) -> None:
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(SHAPES[shape], generator=generator)
    check_finite(name, *build(loc, torch.randn(SHAPES[shape], generator=generator).exp()))


@pytest.mark.parametrize("name", NAMES)
def test_aggregation_of_forty_modalities_is_finite_or_says_why_not(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(2, 40, 2, generator=generator)
    experts, leaves = build(loc, torch.randn(2, 40, 2, generator=generator).exp())
    if name in {"mopoe", "mwb"}:
        with pytest.raises(ValueError, match=r"mixture of 1,099,511,627,775 components, .*: use the component bound"):
            make_aggregation(name)(experts)
        q = make_aggregation(name).component(experts)  # which has no limit
        gradients = torch.autograd.grad(q.log_prob(torch.zeros(2, 2)).sum(), leaves)
        assert all(gradient.isfinite().all() for gradient in gradients)
        return
    check_finite(name, experts, leaves)


def model(experts: Experts) -> None:
    with pyro.plate("data", experts.batch_shape[0], dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(experts.latent_size, dtype=experts.loc.dtype), 1.0).to_event(1))


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "holder"])
def test_guide_with_extreme_experts_has_finite_losses_and_gradients(name: str, bound: str) -> None:
    scale = torch.tensor([1e-6, 1.0, 1e6]).reshape(3, 1).expand(3, 3, 2)
    experts, leaves = build(torch.tensor([0.0, 1e4, -1e4]).reshape(3, 1).expand(3, 3, 2), scale)
    loss = Trace_ELBO().differentiable_loss(
        model, BarycentricGuide(lambda experts: experts, name, bound=bound), experts
    )
    assert loss.isfinite()
    for gradient in torch.autograd.grad(loss, leaves):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("objective", objective_names())
@pytest.mark.parametrize("aggregation", ["wb", "mwb", "poe", "mopoe"])
@pytest.mark.parametrize("value", [1e-6, 1e4])
def test_objective_of_one_item_with_one_modality_is_finite(objective: str, aggregation: str, value: float) -> None:
    torch.manual_seed(0)
    modalities = [Modality(name, (2,), likelihood="normal") for name in "ab"]
    vae = MultimodalVAE(modalities, latent_size=1, aggregation=aggregation, network=NetworkOptions(hidden=4))
    values = {"a": torch.full((1, 2), value), "b": torch.zeros(1, 2)}
    batch = Batch(values, {"a": torch.ones(1, dtype=torch.bool), "b": torch.zeros(1, dtype=torch.bool)})
    module = make_objective(objective, vae)
    with local_pyro():
        loss = module(batch)[0]
    assert loss.isfinite()
    used = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for gradient in torch.autograd.grad(loss, used, allow_unused=True):
        assert gradient is None or gradient.isfinite().all()
