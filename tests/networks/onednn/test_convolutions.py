"""Convolutions of several networks, in every way that they are computed in, against torch's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from pyro_mmvae.networks import ConvDecoder, ConvEncoder, NetworkOptions
from pyro_mmvae.networks.blocks import conv_block
from pyro_mmvae.networks.onednn import (
    ConvBiasReLU,
    ConvTranspose2d,
    GroupedConvolutions,
    SubpixelConvTranspose,
    convolutions,
)

STRIDED: dict[str, Any] = {"stride": 2, "padding": 1}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Draw from a generator of this test's own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make_layers(groups: int, norm: str, width: int) -> list[nn.Module]:
    """Return layers that halve and double the sides twice, of every kind."""
    down = nn.Conv2d(groups * 2, groups * width, 3, groups=groups, **STRIDED)
    up_to_odd = ConvTranspose2d(groups * width, groups * width, 3, groups=groups, **STRIDED)
    down_again = nn.Conv2d(groups * width, groups * width, 3, groups=groups, **STRIDED)
    up = ConvTranspose2d(groups * width, groups * 3, 3, output_padding=(1, 0), groups=groups, **STRIDED)
    options = NetworkOptions(norm=norm, activation="relu")
    blocks = [conv_block(layer, groups, width, options) for layer in (down, up_to_odd, down_again)]
    return [*blocks[0], *blocks[1], *blocks[2], up]


def weighted_gradients(value: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Return the gradients of a sum that weights every entry differently."""
    weights = torch.linspace(-1, 1, value.numel()).reshape(value.shape)
    return list(torch.autograd.grad((value.float() * weights).sum(), inputs))


def count_calls(function: type[torch.autograd.Function], layer: nn.Module, images: Tensor) -> int:
    """Return how often a layer calls an autograd function."""
    with patch.object(function, "apply", wraps=function.apply) as apply:
        layer(images)
    return apply.call_count


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("norm", ["none", "group"])
def test_forward_per_network_matches_one_grouped_call(norm: str, precision: str) -> None:
    network = GroupedConvolutions(3, make_layers(3, norm, 16), largest=1)
    images = torch.rand(4, 3, 2, 9, 10).requires_grad_()
    inputs = [images, *network.parameters()]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        grouped, per_network = network(images), network.forward_per_network(images)
    assert per_network.shape == grouped.shape
    assert per_network.dtype == grouped.dtype == getattr(torch, precision)
    # In bfloat16 sums are rounded after each layer, by 2^-8 of their size: of the greatest where terms cancel.
    tolerance = 3e-2 if precision == "bfloat16" else 1e-5
    actual = [per_network, *weighted_gradients(per_network, inputs)]
    expected = [grouped, *weighted_gradients(grouped, inputs)]
    for one, other in zip(actual, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= tolerance * other.abs().max()


def test_forward_per_network_keeps_networks_independent() -> None:
    network = GroupedConvolutions(3, make_layers(3, "group", 16), largest=1)
    images = torch.rand(4, 3, 2, 9, 10)
    changed = images.clone()
    changed[:, 1] += 1
    is_equal = network.forward_per_network(images) == network.forward_per_network(changed)
    assert is_equal.flatten(2).all(-1).tolist() == [[True, False, True]] * 4


@pytest.mark.parametrize(("largest", "calls"), [(1 << 19, 1), (1 << 16, 0)])
def test_grouped_convolutions_large_activations_run_per_network(largest: int, calls: int) -> None:
    network = GroupedConvolutions(2, make_layers(2, "none", 4), largest)
    result = torch.zeros(3, 2, 3, 8, 9)
    with patch.object(GroupedConvolutions, "forward_per_network", return_value=result) as forward_per_network:
        network(torch.zeros(3, 2, 2, 9, 10))
    assert forward_per_network.call_count == calls


def test_conv_pair_gives_equal_values_per_network_and_grouped() -> None:
    options = NetworkOptions(width=8)
    encoder, decoder = ConvEncoder((3, 28, 28), 4, options, groups=2), ConvDecoder((3, 28, 28), 4, options, groups=2)
    assert encoder.convolutions.largest == decoder.convolutions.largest == 8 * 14 * 14
    images, z = torch.rand(3, 2, 3, 28, 28), torch.randn(3, 4)
    outputs = []
    for threshold in (1 << 30, 1):
        with patch.object(convolutions, "_MIN_VALUES_PER_NETWORK", threshold):
            outputs.append([*encoder(images), decoder(z)])
    for grouped, per_network in zip(*outputs, strict=True):
        torch.testing.assert_close(grouped, per_network, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "kernel", "options", "calls"),
    [
        (3, 3, {"stride": 2, "padding": 1}, 1),
        (8, 3, {"stride": 2, "padding": 1}, 0),
        (3, 4, {"stride": 2, "padding": 1}, 0),
        (3, 3, {"stride": 1, "padding": 1}, 0),
        (3, 3, {"stride": 2}, 0),
    ],
)
def test_conv_transpose_is_subpixel_for_few_channels_and_kernel_3(
    channels: int, kernel: int, options: dict[str, int], calls: int
) -> None:
    layer = ConvTranspose2d(6, channels, kernel, **options)
    assert count_calls(SubpixelConvTranspose, layer, torch.zeros(2, 6, 4, 4)) == calls


@pytest.mark.parametrize(("groups", "calls"), [(1, 1), (2, 0)])
def test_conv_transpose_of_one_group_is_conv_bias_relu(groups: int, calls: int) -> None:
    layer = ConvTranspose2d(32, 16, 3, groups=groups, **STRIDED)
    assert count_calls(ConvBiasReLU, layer, torch.zeros(2, 32, 4, 4)) == calls


@pytest.mark.parametrize(("function", "calls"), [(ConvBiasReLU, 3), (SubpixelConvTranspose, 1)])
def test_forward_per_network_replaces_every_convolution(function: type[torch.autograd.Function], calls: int) -> None:
    network = GroupedConvolutions(1, make_layers(1, "none", 16), largest=1 << 19)
    assert count_calls(function, network, torch.zeros(3, 1, 2, 9, 10)) == calls


@pytest.mark.parametrize(
    "after",
    [[nn.ReLU()], [nn.SiLU()], [nn.GroupNorm(4, 32), nn.ReLU()], [nn.ReLU(), nn.ReLU(), nn.Tanh()]],
)
def test_forward_per_network_fuses_only_a_relu_after_a_convolution(after: list[nn.Module]) -> None:
    images = torch.randn(2, 2, 2, 6, 6)
    network = GroupedConvolutions(2, [nn.Conv2d(4, 32, 3, groups=2, **STRIDED), *after], largest=1)
    with patch.object(ConvBiasReLU, "apply", wraps=ConvBiasReLU.apply) as apply:
        result = network.forward_per_network(images)
    assert [call.args[-1] for call in apply.call_args_list] == [isinstance(after[0], nn.ReLU)] * 2
    torch.testing.assert_close(result, network(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("output_padding", [0, 1])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_conv_transpose_of_two_groups_matches_torch(output_padding: int, precision: str) -> None:
    layer = ConvTranspose2d(6, 4, 3, output_padding=output_padding, groups=2, **STRIDED)
    plain = nn.ConvTranspose2d(6, 4, 3, output_padding=output_padding, groups=2, **STRIDED)
    plain.load_state_dict(layer.state_dict())
    images = torch.randn(3, 6, 4, 4).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        result, expected = layer(images), plain(images)
    assert result.dtype == expected.dtype == getattr(torch, precision)
    is_bfloat16 = precision == "bfloat16"
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if is_bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(result, expected, **tolerance)
    gradients = torch.autograd.grad(result.float().square().sum(), [images, *layer.parameters()])
    expected_gradients = torch.autograd.grad(expected.float().square().sum(), [images, *plain.parameters()])
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=5e-2 if is_bfloat16 else 1e-4, atol=tolerance["atol"] * 10)


def test_conv_transpose_under_vmap_matches_a_loop() -> None:
    layer, images = ConvTranspose2d(6, 3, 3, **STRIDED), torch.randn(5, 2, 6, 4, 4)
    expected = torch.stack([layer(image) for image in images])
    torch.testing.assert_close(torch.func.vmap(layer)(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own, in forward mode
def test_grouped_convolutions_forward_mode_matches_finite_differences() -> None:
    network, images = GroupedConvolutions(2, make_layers(2, "none", 4), largest=1 << 20), torch.randn(3, 2, 2, 9, 10)
    step = torch.randn_like(images)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(network(forward_ad.make_dual(images, step))).tangent
    network = network.double()
    difference = (network(images.double() + 1e-6 * step) - network(images.double() - 1e-6 * step)) / 2e-6
    torch.testing.assert_close(tangent.double(), difference, rtol=1e-3, atol=1e-4)


def test_grouped_convolutions_functional_gradient_matches_autograd() -> None:
    network, images = GroupedConvolutions(2, make_layers(2, "none", 4), largest=1 << 20), torch.rand(3, 2, 2, 9, 10)
    parameters = dict(network.named_parameters())

    def total(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(network, parameters, (images,)).square().sum()

    gradients = torch.func.grad(total)(parameters)
    expected = torch.autograd.grad(network(images).square().sum(), list(parameters.values()))
    for one, other in zip(gradients.values(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_forward_per_network_second_derivatives_match_finite_differences() -> None:
    layers = [nn.Conv2d(4, 6, 3, groups=2, **STRIDED), nn.SiLU()]
    network = GroupedConvolutions(2, layers, largest=1).double()
    images = torch.rand(2, 2, 2, 5, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(network.forward_per_network, (images,))


def test_convolutions_float64_under_autocast_stay_float64() -> None:
    layer = ConvTranspose2d(16, 3, 3, **STRIDED).double()
    network = GroupedConvolutions(2, make_layers(2, "none", 16), largest=1).double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.zeros(2, 16, 4, 4, dtype=torch.float64)).dtype == torch.float64
        assert network.forward_per_network(torch.zeros(2, 2, 2, 9, 10, dtype=torch.float64)).dtype == torch.float64


def test_conv_transpose_output_size_sets_the_sides() -> None:
    layer = ConvTranspose2d(6, 3, 3, **STRIDED)
    assert layer(torch.randn(2, 6, 4, 4), output_size=[8, 8]).shape == (2, 3, 8, 8)


def test_conv_transpose_with_dilation_matches_torch() -> None:
    layer = ConvTranspose2d(6, 3, 3, dilation=2, **STRIDED)
    plain = nn.ConvTranspose2d(6, 3, 3, dilation=2, **STRIDED)
    plain.load_state_dict(layer.state_dict())
    images = torch.randn(2, 6, 4, 4)
    torch.testing.assert_close(layer(images), plain(images))
