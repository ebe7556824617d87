"""Linear layers by oneDNN give what torch gives, and step aside where somebody wants to see the product."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from pyro_mmvae.networks import grouped
from pyro_mmvae.networks.grouped import GroupedLinear
from pyro_mmvae.networks.onednn import linear
from pyro_mmvae.networks.onednn.linear import Linear, grouped_linear

onednn = pytest.mark.skipif(
    not linear._is_for_onednn(torch.zeros(1)), reason="no oneDNN in float32 for the CPU of this machine"
)


@pytest.fixture(autouse=True)
def always() -> Iterator[None]:
    """However few multiplications there are."""
    with torch.random.fork_rng(devices=[]), patch.object(linear, "_MANY", 0):
        torch.manual_seed(0)
        yield


def products(run: Callable[[], object]) -> int:
    """How many products went to oneDNN."""
    with patch.object(linear._Product, "apply", wraps=linear._Product.apply) as apply:
        run()
    return apply.call_count


@onednn
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_values_and_gradients(groups: int, transposed: bool) -> None:
    shape = (7, groups, 5) if transposed else (groups, 7, 5)
    features = torch.randn(shape).requires_grad_()
    weight, bias = torch.randn(groups, 5, 4).requires_grad_(), torch.randn(groups, 1, 4).requires_grad_()
    ahead = torch.randn(groups, 7, 4)
    ours = features.transpose(0, 1) if transposed else features
    exact = torch.baddbmm(bias.double(), ours.double(), weight.double())
    found = grouped_linear(ours, weight, bias)
    assert products(lambda: grouped_linear(ours, weight, bias)) == 1
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    inputs = [features, weight, bias]
    grads = torch.autograd.grad((found * ahead).sum(), inputs)
    wanted = torch.autograd.grad((exact * ahead).sum(), inputs)
    for one, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@onednn
def test_second_derivatives() -> None:
    features, weight = torch.randn(2, 6, 5).requires_grad_(), torch.randn(2, 5, 4).requires_grad_()
    bias = torch.randn(2, 1, 4).requires_grad_()

    def curvature(product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(product(bias, features, weight).tanh().sum(), [features, weight], create_graph=True)
        return torch.autograd.grad(sum(part.square().sum() for part in first), [features, weight, bias])

    ours, wanted = curvature(lambda b, x, w: grouped_linear(x, w, b)), curvature(torch.baddbmm)
    for one, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@onednn
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer(bias: bool) -> None:
    layer, features = Linear(5, 4, bias=bias), torch.randn(6, 5)
    wanted = torch.nn.functional.linear(features, layer.weight, layer.bias)
    torch.testing.assert_close(layer(features), wanted)
    assert products(lambda: layer(features)) == 1
    torch.testing.assert_close(layer(features.reshape(2, 3, 5)), wanted.reshape(2, 3, 4))


@pytest.mark.parametrize("layer", [Linear(5, 4), GroupedLinear(2, 5, 4)])
def test_it_steps_aside(layer: torch.nn.Module) -> None:
    features = torch.randn(6, 5) if isinstance(layer, Linear) else torch.randn(6, 2, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(features).dtype == torch.bfloat16
        assert products(lambda: layer(features)) == 0
    assert products(lambda: layer.double()(features.double())) == 0
    layer.float()
    many = features.expand(3, *features.shape)
    torch.testing.assert_close(torch.func.vmap(layer)(many), torch.stack([layer(features)] * 3))
    gradient = torch.func.grad(lambda x: layer(x).square().sum())(features)
    wanted = torch.autograd.functional.jacobian(lambda x: layer(x).square().sum(), features)
    torch.testing.assert_close(gradient, wanted)
    with torch.device("meta"):
        assert layer.to("meta")(torch.empty(features.shape)).device.type == "meta"


def test_few_multiplications_are_left_to_torch() -> None:
    with patch.object(linear, "_MANY", 1 << 22):
        assert products(lambda: GroupedLinear(2, 5, 4)(torch.randn(6, 2, 5))) == 0


def test_parameters_are_those_of_torch() -> None:
    assert set(Linear(3, 2).state_dict()) == {"weight", "bias"}
    assert isinstance(grouped.GroupedDecoder(2, 3, own_latents=False).first(4), torch.nn.Linear)
