"""Linear layers by oneDNN: they match torch's, and are left to torch where it traces the product."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from pyro_mmvae.networks import GroupedLinear
from pyro_mmvae.networks.onednn import Linear, grouped_linear, linear
from pyro_mmvae.networks.onednn.conditions import has_fast_matmul

needs_onednn = pytest.mark.skipif(
    not has_fast_matmul(torch.zeros(1)), reason="torch has no oneDNN in float32 for the CPU of this machine"
)


@pytest.fixture(autouse=True)
def without_threshold() -> Iterator[None]:
    """Use oneDNN however few multiplications there are, and draw from a generator of this test's own."""
    with torch.random.fork_rng(devices=[]), patch.object(linear, "_MIN_MULTIPLICATIONS", 0):
        torch.manual_seed(0)
        yield


def count_products(run: Callable[[], object]) -> int:
    """Return the number of products that oneDNN computed."""
    with patch.object(linear._BatchedMatmul, "apply", wraps=linear._BatchedMatmul.apply) as apply:
        run()
    return apply.call_count


@needs_onednn
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_grouped_linear_matches_baddbmm(groups: int, transposed: bool) -> None:
    shape = (7, groups, 5) if transposed else (groups, 7, 5)
    inputs = torch.randn(shape).requires_grad_()
    weight, bias = torch.randn(groups, 5, 4).requires_grad_(), torch.randn(groups, 1, 4).requires_grad_()
    output_gradient = torch.randn(groups, 7, 4)
    features = inputs.transpose(0, 1) if transposed else inputs
    expected = torch.baddbmm(bias.double(), features.double(), weight.double())
    result = grouped_linear(features, weight, bias)
    assert count_products(lambda: grouped_linear(features, weight, bias)) == 1
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    leaves = [inputs, weight, bias]
    gradients = torch.autograd.grad((result * output_gradient).sum(), leaves)
    expected_gradients = torch.autograd.grad((expected * output_gradient).sum(), leaves)
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@needs_onednn
def test_grouped_linear_second_derivatives_match_baddbmm() -> None:
    features, weight = torch.randn(2, 6, 5).requires_grad_(), torch.randn(2, 5, 4).requires_grad_()
    bias = torch.randn(2, 1, 4).requires_grad_()

    def curvature(product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(product(bias, features, weight).tanh().sum(), [features, weight], create_graph=True)
        return torch.autograd.grad(sum(part.square().sum() for part in first), [features, weight, bias])

    result, expected = curvature(lambda b, x, w: grouped_linear(x, w, b)), curvature(torch.baddbmm)
    for one, other in zip(result, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
def test_linear_matches_torch(bias: bool) -> None:
    layer, features = Linear(5, 4, bias=bias), torch.randn(6, 5)
    expected = torch.nn.functional.linear(features, layer.weight, layer.bias)
    torch.testing.assert_close(layer(features), expected)
    assert count_products(lambda: layer(features)) == 1
    torch.testing.assert_close(layer(features.reshape(2, 3, 5)), expected.reshape(2, 3, 4))


EACH_LAYER = pytest.mark.parametrize(("layer", "shape"), [(Linear(5, 4), (6, 5)), (GroupedLinear(2, 5, 4), (6, 2, 5))])


@EACH_LAYER
def test_linear_layers_under_autocast_or_in_float64_are_left_to_torch(
    layer: torch.nn.Module, shape: tuple[int, ...]
) -> None:
    features = torch.randn(shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(features).dtype == torch.bfloat16
        assert count_products(lambda: layer(features)) == 0
    assert count_products(lambda: layer.double()(features.double())) == 0
    layer.float()


@EACH_LAYER
def test_linear_layers_under_functional_transforms_match_autograd(
    layer: torch.nn.Module, shape: tuple[int, ...]
) -> None:
    features = torch.randn(shape)
    many = features.expand(3, *shape)
    torch.testing.assert_close(torch.func.vmap(layer)(many), torch.stack([layer(features)] * 3))
    gradient = torch.func.grad(lambda x: layer(x).square().sum())(features)
    expected = torch.autograd.functional.jacobian(lambda x: layer(x).square().sum(), features)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("make", "shape"), [(Linear, (6, 5)), (lambda *sizes: GroupedLinear(2, *sizes), (6, 2, 5))])
def test_linear_layers_on_the_meta_device_stay_there(
    make: Callable[[int, int], torch.nn.Module], shape: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        assert make(5, 4)(torch.empty(shape)).device.type == "meta"


def test_grouped_linear_few_multiplications_are_left_to_torch() -> None:
    with patch.object(linear, "_MIN_MULTIPLICATIONS", 1 << 22):
        assert count_products(lambda: GroupedLinear(2, 5, 4)(torch.randn(6, 2, 5))) == 0


def test_linear_has_the_parameters_of_torch_linear() -> None:
    assert set(Linear(3, 2).state_dict()) == {"weight", "bias"}
    assert isinstance(Linear(3, 2), torch.nn.Linear)
