"""Guides and models that share Pyro's parameter store with others of equal names."""

from __future__ import annotations

import copy
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from pyro_mmvae import BarycentricGuide, Experts, Modality, MultimodalVAE

ITEMS, LATENT = 16, 2


class Encode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2 * 2 * LATENT)

    def forward(self, x: Tensor) -> Experts:
        loc, log_scale = self.linear(x).reshape(-1, 2, 2, LATENT).unbind(1)
        return Experts(loc, log_scale.exp())


class PyroEncode(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.slope = PyroParam(torch.rand(4, 2), constraint=dist.constraints.positive)

    def forward(self, x: Tensor) -> Experts:
        loc = (x @ self.slope).unsqueeze(-2).expand(-1, 2, -1)
        return Experts(loc, torch.ones_like(loc))


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ torch.ones(LATENT, 4), 1.0).to_event(1), obs=x)


def train(model: Any, guide: Any, *data: Any, steps: int = 5) -> list[float]:
    torch.manual_seed(3)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    return [svi.step(*data) for _ in range(steps)]


def build(encode: Any, aggregation: str) -> Any:
    torch.manual_seed(1)
    return BarycentricGuide(encode(), aggregation)


@pytest.mark.parametrize("encode", [Encode, PyroEncode])
def test_second_guide_trains_from_its_own_start(encode: Any) -> None:
    x, results = torch.randn(ITEMS, 4), []
    for clear in (True, False):
        pyro.clear_param_store()
        for aggregation in ("mwb", "wb", "poe"):
            if clear:
                pyro.clear_param_store()
            guide = build(encode, aggregation)
            losses = train(model, guide, x)
            results.append((losses, {name: p.detach().clone() for name, p in guide.named_parameters()}))
    for alone, in_loop in zip(results[:3], results[3:], strict=True):
        assert in_loop[0] == alone[0]
        torch.testing.assert_close(in_loop[1], alone[1], rtol=0, atol=0)


def test_first_guide_of_a_cleared_store_has_plain_names() -> None:
    for _ in range(2):
        pyro.clear_param_store()
        train(model, build(Encode, "wb"), torch.randn(ITEMS, 4))
        assert set(pyro.get_param_store()) == {"encode$$$linear.weight", "encode$$$linear.bias"}
    train(model, build(Encode, "wb"), torch.randn(ITEMS, 4))
    assert "BarycentricGuide_2.encode$$$linear.weight" in set(pyro.get_param_store())
    assert "encode.linear.weight" in build(Encode, "wb").state_dict()


def test_guide_keeps_its_name_and_optimiser_state_over_later_guides() -> None:
    x = torch.randn(ITEMS, 4)
    first, second = build(Encode, "wb"), build(Encode, "wb")
    for _ in range(2):
        train(model, first, x)
        train(model, second, x)
    assert len(set(pyro.get_param_store())) == 4
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


def test_copy_of_a_trained_guide_trains_on_its_own() -> None:
    x, guide = torch.randn(ITEMS, 4), build(PyroEncode, "wb")
    train(model, guide, x)
    twin, before = copy.deepcopy(guide), copy.deepcopy(guide.state_dict())
    train(model, twin, x)
    torch.testing.assert_close(guide.state_dict(), before, rtol=0, atol=0)
    assert not torch.equal(twin.encode.slope, guide.encode.slope)


def test_guide_in_second_list_trains_from_its_own_start() -> None:
    x, weights = torch.randn(ITEMS, 4), []

    def with_global(x: Tensor) -> None:
        pyro.sample("noise", dist.Normal(0.0, 1.0))
        model(x)

    for _ in range(2):
        guides = AutoGuideList(with_global)
        guides.append(AutoNormal(pyro.poutine.block(with_global, hide=["z"])))
        guides.append(build(Encode, "wb"))
        before = guides[1].encode.linear.weight.detach().clone()
        train(with_global, guides, x)
        weights.append(guides[1].encode.linear.weight.detach() - before)
    assert (weights[0] != 0).all()
    assert (weights[1] != 0).all()


def test_second_multimodal_vae_trains_every_parameter_with_svi() -> None:
    batch, results = {"a": torch.randn(ITEMS, 4), "b": torch.randn(ITEMS, 4)}, []
    for _ in range(2):
        torch.manual_seed(1)
        vae = MultimodalVAE([Modality(name, (4,), likelihood="normal") for name in ("a", "b")], LATENT, "wb")
        before = {name: p.detach().clone() for name, p in vae.named_parameters()}
        losses = train(vae.model, vae.guide, batch)
        assert all(not torch.equal(p, before[name]) for name, p in vae.named_parameters())
        results.append((losses, vae.state_dict()))
    assert results[0][0] == results[1][0]
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=0)
