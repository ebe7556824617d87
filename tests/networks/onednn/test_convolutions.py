"""Convolutions of several networks, in every way that they are done in, against torch's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from pyro_mmvae.networks import ConvDecoder, ConvEncoder
from pyro_mmvae.networks.onednn import convolutions, kernels
from pyro_mmvae.networks.onednn.convolutions import Convolutions, UpConvolution, block
from pyro_mmvae.networks.onednn.kernels import Layer, Phases


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Local draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def layers(groups: int, norm: str, width: int) -> list[nn.Module]:
    """Down and up again, twice, with every kind of layer."""
    down = nn.Conv2d(groups * 2, groups * width, 3, stride=2, padding=1, groups=groups)
    odd = UpConvolution(groups * width, groups * width, 3, stride=2, padding=1, groups=groups)
    again = nn.Conv2d(groups * width, groups * width, 3, stride=2, padding=1, groups=groups)
    up = UpConvolution(groups * width, groups * 3, 3, stride=2, padding=1, output_padding=(1, 0), groups=groups)
    blocks = [block(layer, groups, width, norm, "relu") for layer in (down, odd, again)]
    return [*blocks[0], *blocks[1], *blocks[2], up]


def gradients(value: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Of a function of all values that treats none alike."""
    ahead = torch.linspace(-1, 1, value.numel()).reshape(value.shape)
    return list(torch.autograd.grad((value.float() * ahead).sum(), inputs))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("norm", ["none", "group"])
def test_one_by_one_is_all_at_once(norm: str, precision: str) -> None:
    network = Convolutions(3, layers(3, norm, 16), largest=1)
    images = torch.rand(4, 3, 2, 9, 10).requires_grad_()
    inputs = [images, *network.parameters()]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        together, apart = network(images), network.one_by_one(images)
    assert apart.shape == together.shape
    assert apart.dtype == together.dtype == getattr(torch, precision)
    # In bfloat16 sums are rounded after each layer, 2^-8 of their size: of the greatest where terms cancel.
    loose = 3e-2 if precision == "bfloat16" else 1e-5
    pairs = zip([apart, *gradients(apart, inputs)], [together, *gradients(together, inputs)], strict=True)
    for one, other in pairs:
        assert one.shape == other.shape
        assert (one - other).abs().max() <= loose * other.abs().max()


def test_networks_are_not_mixed_up() -> None:
    network = Convolutions(3, layers(3, "group", 16), largest=1)
    images = torch.rand(4, 3, 2, 9, 10)
    changed = images.clone()
    changed[:, 1] += 1
    same = (network.one_by_one(images) == network.one_by_one(changed)).flatten(2).all(-1)
    assert same.tolist() == [[True, False, True]] * 4


@pytest.mark.parametrize(("largest", "calls"), [(1 << 19, 1), (1 << 16, 0)])
def test_which_way_is_a_matter_of_size(largest: int, calls: int) -> None:
    network = Convolutions(2, layers(2, "none", 4), largest)
    with patch.object(Convolutions, "one_by_one", return_value=torch.zeros(3, 2, 3, 8, 9)) as one_by_one:
        network(torch.zeros(3, 2, 2, 9, 10))
    assert one_by_one.call_count == calls


def test_networks_of_the_recipe_either_way() -> None:
    encoder, decoder = ConvEncoder((3, 28, 28), 4, groups=2, width=8), ConvDecoder((3, 28, 28), 4, groups=2, width=8)
    assert encoder.convolutions.largest == decoder.convolutions.largest == 8 * 14 * 14
    images, z = torch.rand(3, 2, 3, 28, 28), torch.randn(3, 4)
    found = []
    for large in (1 << 30, 1):
        with patch.object(convolutions, "_LARGE", large):
            found.append([*encoder(images), decoder(z)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("output_padding", [(0, 0), (1, 1), (0, 1)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("with_bias", [False, True])
def test_few_channels_by_phases(output_padding: tuple[int, int], groups: int, with_bias: bool) -> None:
    values = torch.randn(2, groups * 5, 4, 3, dtype=torch.float64).requires_grad_()
    weight = torch.randn(groups * 5, 3, 3, 3, dtype=torch.float64).requires_grad_()
    bias = torch.randn(groups * 3, dtype=torch.float64).requires_grad_() if with_bias else None
    wanted = functional.conv_transpose2d(values, weight, bias, 2, 1, output_padding, groups)
    found = Phases.apply(values, weight, bias, output_padding, groups)
    torch.testing.assert_close(found, wanted)
    inputs = [values, weight] + ([bias] if bias is not None else [])
    torch.testing.assert_close(gradients(found, inputs), gradients(wanted, inputs))
    short = (values[:1, :, :2, :2].detach().requires_grad_(), weight, bias)
    assert torch.autograd.gradgradcheck(lambda v, w, b: Phases.apply(v, w, b, output_padding, groups), short)


SHAPES = [  # kernel, stride, padding, output padding
    (3, (2, 2), (1, 1), None), (3, (2, 2), (1, 1), (1, 0)), (4, (2, 2), (1, 1), None), (4, (2, 1), (0, 2), (0, 0)),
    (1, (1, 1), (0, 0), None),
]  # fmt: skip


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("is_rectified", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding", "output_padding"), SHAPES)
def test_a_layer_in_one(
    kernel: int, stride: Any, padding: Any, output_padding: Any, is_rectified: bool, by_columns: bool
) -> None:
    values = torch.randn(2, 3, 6, 5, dtype=torch.float64).requires_grad_()
    shape = (4, 3) if output_padding is None else (3, 4)
    weight = torch.randn(*shape, kernel, kernel, dtype=torch.float64).requires_grad_()
    bias = torch.randn(4, dtype=torch.float64).requires_grad_()
    options = (stride, padding, output_padding, is_rectified)
    if output_padding is None:
        wanted = functional.conv2d(values, weight, bias, stride, padding)
    else:
        wanted = functional.conv_transpose2d(values, weight, bias, stride, padding, output_padding)
    wanted = wanted.relu() if is_rectified else wanted
    inputs = [values, weight, bias]
    with patch.object(kernels, "_wants_columns", return_value=by_columns):
        found = Layer.apply(*inputs, *options)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(gradients(found, inputs), gradients(wanted, inputs))
        assert torch.autograd.gradgradcheck(lambda v, w, b: Layer.apply(v, w, b, *options), (values[:1], weight, bias))
        without = Layer.apply(values, weight, None, *options)
        wanted = torch.convolution(
            values, weight, None, stride, padding, [1, 1], output_padding is not None, output_padding or (0, 0), 1
        )
        torch.testing.assert_close(without, wanted.relu() if is_rectified else wanted)
        assert gradients(without, [weight])[0].shape == weight.shape


@pytest.mark.parametrize("chunk", [1, 1500, 1 << 30])
def test_patches_some_items_at_a_time(chunk: int) -> None:
    values, weight = torch.randn(5, 3, 6, 5, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    weight.requires_grad_()
    with patch.object(kernels, "_wants_columns", return_value=True), patch.object(kernels, "_CHUNK", chunk):
        found = gradients(Layer.apply(values, weight, None, (2, 2), (1, 1), None, False), [weight])
    wanted = gradients(functional.conv2d(values, weight, None, 2, 1), [weight])
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 12, 3, 4), (1, 4, 1, 1), (3, 8, 1, 5)])
def test_pixels_are_shuffled_in_pairs(shape: tuple[int, ...], memory_format: Any, dtype: torch.dtype) -> None:
    phases = torch.randn(shape).to(dtype).contiguous(memory_format=memory_format)
    found = kernels._shuffled(phases)
    assert found.is_contiguous()
    assert torch.equal(found, functional.pixel_shuffle(phases, 2))


def calls(function: type[torch.autograd.Function], layer: nn.Module, images: Tensor) -> int:
    """How often a layer goes through a function of ours."""
    with patch.object(function, "apply", wraps=function.apply) as apply:
        layer(images)
    return apply.call_count


def test_phases_are_for_few_channels_and_the_kernel_of_three() -> None:
    images, options = torch.zeros(2, 6, 4, 4), {"stride": 2, "padding": 1}
    assert calls(Phases, UpConvolution(6, 3, 3, **options), images) == 1
    assert calls(Phases, UpConvolution(6, 8, 3, **options), images) == 0
    assert calls(Phases, UpConvolution(6, 3, 4, **options), images) == 0
    assert calls(Phases, UpConvolution(6, 3, 3, stride=1, padding=1), images) == 0
    assert calls(Phases, UpConvolution(6, 3, 3, stride=2), images) == 0


def test_patches_are_for_bfloat16_and_many_channels() -> None:
    values, weight = torch.randn(2, 32, 4, 4), torch.randn(16, 32, 3, 3)
    assert not kernels._wants_columns(values, weight)
    assert kernels._wants_columns(values.bfloat16(), weight.bfloat16())
    assert not kernels._wants_columns(values.bfloat16(), weight[:, :8].bfloat16())


def test_a_network_alone_is_done_in_layers() -> None:
    images, options = torch.zeros(2, 32, 4, 4), {"stride": 2, "padding": 1}
    assert calls(Layer, UpConvolution(32, 16, 3, **options), images) == 1
    assert calls(Layer, UpConvolution(32, 16, 3, groups=2, **options), images) == 0
    network = Convolutions(1, layers(1, "none", 16), largest=1 << 19)
    assert calls(Layer, network, torch.zeros(3, 1, 2, 9, 10)) == 3
    assert calls(Phases, network, torch.zeros(3, 1, 2, 9, 10)) == 1


def test_a_rectifier_is_applied_once_and_others_stay() -> None:
    convolution = nn.Conv2d(4, 32, 3, stride=2, padding=1, groups=2)
    images = torch.randn(2, 2, 2, 6, 6)
    for after in ([nn.ReLU()], [nn.SiLU()], [nn.GroupNorm(4, 32), nn.ReLU()], [nn.ReLU(), nn.ReLU(), nn.Tanh()]):
        network = Convolutions(2, [convolution, *after], largest=1)
        with patch.object(kernels.Layer, "apply", wraps=Layer.apply) as apply:
            found = network.one_by_one(images)
        assert [call.args[-1] for call in apply.call_args_list] == [isinstance(after[0], nn.ReLU)] * 2
        torch.testing.assert_close(found, network(images), rtol=1e-5, atol=1e-5)


def test_functions_step_aside_for_transforms() -> None:
    layer, images = UpConvolution(6, 3, 3, stride=2, padding=1), torch.randn(5, 2, 6, 4, 4)
    found = torch.func.vmap(layer)(images)
    torch.testing.assert_close(found, torch.stack([layer(image) for image in images]), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own, in forward mode
def test_functions_step_aside_for_forward_mode() -> None:
    network, images = Convolutions(2, layers(2, "none", 4), largest=1 << 20), torch.randn(3, 2, 2, 9, 10)
    step = torch.randn_like(images)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(network(forward_ad.make_dual(images, step))).tangent
    ahead = (network.double()(images.double() + 1e-6 * step) - network(images.double() - 1e-6 * step)) / 2e-6
    torch.testing.assert_close(found.double(), ahead, rtol=1e-3, atol=1e-4)


def test_a_size_that_is_asked_for() -> None:
    layer = UpConvolution(6, 3, 3, stride=2, padding=1)
    images = torch.randn(2, 6, 4, 4)
    assert layer(images, output_size=[8, 8]).shape == (2, 3, 8, 8)


def test_transforms_see_the_networks_all_at_once() -> None:
    network, images = Convolutions(2, layers(2, "none", 4), largest=1 << 20), torch.rand(3, 2, 2, 9, 10)
    parameters = dict(network.named_parameters())

    def total(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(network, parameters, (images,)).square().sum()

    found = torch.func.grad(total)(parameters)
    wanted = torch.autograd.grad(network(images).square().sum(), list(parameters.values()))
    for one, other in zip(found.values(), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_second_derivatives_one_by_one() -> None:
    network = Convolutions(2, [nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.SiLU()], largest=1).double()
    images = torch.rand(2, 2, 2, 5, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(network.one_by_one, (images,))


def test_float64_stays_float64_under_autocast() -> None:
    layer = UpConvolution(16, 3, 3, stride=2, padding=1).double()
    network = Convolutions(2, layers(2, "none", 16), largest=1).double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.zeros(2, 16, 4, 4, dtype=torch.float64)).dtype == torch.float64
        assert network.one_by_one(torch.zeros(2, 2, 2, 9, 10, dtype=torch.float64)).dtype == torch.float64


def test_dilation() -> None:
    layer = UpConvolution(6, 3, 3, stride=2, padding=1, dilation=2)
    plain = nn.ConvTranspose2d(6, 3, 3, stride=2, padding=1, dilation=2)
    plain.load_state_dict(layer.state_dict())
    images = torch.randn(2, 6, 4, 4)
    torch.testing.assert_close(layer(images), plain(images))
