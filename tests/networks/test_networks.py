"""Encoders and decoders: shapes, groups that do not mix, heads, and where weights start."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.networks import (
    ConvDecoder,
    ConvEncoder,
    GaussianHead,
    GroupedLinear,
    MLPDecoder,
    MLPEncoder,
    NetworkOptions,
    choose_network,
    make_networks,
)
from pyro_mmvae.networks.head import SCALE_FLOOR
from pyro_mmvae.networks.onednn.convolutions import UpConvolution

LATENT = 5
SMALL = NetworkOptions(width=4, hidden=16)
NORMED = NetworkOptions(width=4, hidden=16, norm="group", activation="silu", decoder_hidden=True)
DEEP = NetworkOptions(width=4, hidden=16, depth=3, activation="gelu")
FLAT = NetworkOptions(width=4, hidden=16, depth=0)
PAIRS = [
    ("conv", (3, 8, 8), SMALL),
    ("conv", (1, 8, 8), NORMED),
    ("conv", (3, 33, 20), NORMED),
    ("mlp", (7,), SMALL),
    ("mlp", (2, 3), DEEP),
    ("mlp", (), DEEP),
    ("mlp", (7,), FLAT),
    ("conv4", (3, 32, 48), SMALL),
    ("conv4", (1, 32, 32), NORMED),
    ("text", (8, 5), SMALL),
    ("text", (16, 7), NORMED),
    ("residual", (3, 16, 8), SMALL),
    ("residual", (1, 8, 8), NORMED),
    ("residual", (16, 5), NORMED),
    ("residual", (24, 2), SMALL),
]
EACH = pytest.mark.parametrize(("name", "shape", "options"), PAIRS)


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (27, 27), (28, 28), (32, 32), (33, 20), (8, 15)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", [SMALL, NORMED])
def test_images_of_any_size(size: tuple[int, int], channels: int, options: NetworkOptions) -> None:
    shape = (channels, *size)
    encoder, decoder = make_networks("auto", shape, shape, LATENT, options, groups=2)
    assert isinstance(encoder, ConvEncoder)
    assert isinstance(decoder, ConvDecoder)
    loc, scale = encoder(torch.rand(2, 2, *shape))
    assert loc.shape == scale.shape == (2, 2, LATENT)
    assert decoder(loc[:, 0]).shape == (2, 2, *shape)


@EACH
@pytest.mark.parametrize("chosen", [[0], [2], [2, 0], [0, 1, 2]])
def test_some_groups_alone_give_what_they_give_together(
    name: str, shape: tuple[int, ...], options: NetworkOptions, chosen: list[int]
) -> None:
    encoder, decoder = make_networks(name, shape, shape, LATENT, options, groups=3)
    x, z = torch.rand(4, 3, *shape), torch.randn(4, LATENT)
    for network, some, everything in ((encoder, x[:, chosen], x), (decoder, z, z)):
        together, alone = network(everything), network.run_groups(chosen, some)
        pairs = zip(together, alone, strict=True) if isinstance(together, tuple) else [(together, alone)]
        for wanted, got in pairs:
            torch.testing.assert_close(got, wanted[:, chosen], rtol=1e-5, atol=1e-6)
            parameters = list(network.parameters())
            gradients = [
                torch.autograd.grad(value.square().sum(), parameters, allow_unused=True, retain_graph=True)
                for value in (wanted[:, chosen], got)
            ]
            for one, other in zip(*gradients, strict=True):
                assert (one is None) == (other is None)
                if one is not None and other is not None:
                    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
        assert not [name for name, _ in network.named_modules() if "template" in name]


@EACH
@pytest.mark.parametrize("groups", [1, 3])
def test_leading_dimensions(name: str, shape: tuple[int, ...], options: NetworkOptions, groups: int) -> None:
    encoder, decoder = make_networks(name, shape, shape, LATENT, options, groups)
    x, z = torch.rand(2, 3, groups, *shape), torch.randn(2, 3, LATENT)
    loc, scale = encoder(x)
    images = decoder(z)
    assert loc.shape == scale.shape == (2, 3, groups, LATENT)
    assert images.shape == (2, 3, groups, *shape)
    torch.testing.assert_close(encoder(x[1])[0], loc[1])
    torch.testing.assert_close(encoder(x[1, 2])[1], scale[1, 2])
    torch.testing.assert_close(decoder(z[1]), images[1])
    torch.testing.assert_close(decoder(z[1, 2]), images[1, 2])


@EACH
def test_groups_do_not_mix(name: str, shape: tuple[int, ...], options: NetworkOptions) -> None:
    encoder, decoder = make_networks(name, shape, shape, LATENT, options, 3)
    x = torch.rand(4, 3, *shape)
    changed = x.clone()
    changed[:, 0] += torch.rand(4, *shape)
    for before, after in zip(encoder(x), encoder(changed), strict=True):
        torch.testing.assert_close(after[:, 1:], before[:, 1:])
        assert not torch.isclose(after[:, 0], before[:, 0]).all()
    x.requires_grad_()
    loc, scale = encoder(x)
    (loc[:, 1].sum() + scale[:, 1].sum()).backward()
    assert x.grad is not None
    assert (x.grad[:, [0, 2]] == 0).all()
    assert (x.grad[:, 1] != 0).any()
    decoder(torch.randn(4, LATENT))[:, 1].sum().backward()
    for parameter in decoder.parameters():
        assert parameter.grad is not None
        by_group = parameter.grad.reshape(3, -1)
        assert (by_group[[0, 2]] == 0).all()
        assert (by_group[1] != 0).any()


def grouped_weight(grouped: Tensor, group: int, single: Tensor) -> Tensor:
    """The share of one group in a grouped parameter, whose first axis is group or group times channel."""
    return grouped.reshape(-1, *single.shape)[group] if grouped.numel() != single.numel() else grouped


@EACH
def test_a_grouped_network_is_as_many_single_ones(name: str, shape: tuple[int, ...], options: NetworkOptions) -> None:
    grouped = make_networks(name, shape, shape, LATENT, options, 3)
    x, z = torch.rand(4, 3, *shape), torch.randn(4, LATENT)
    (loc, scale), images = grouped[0](x), grouped[1](z)
    for group in range(3):
        single = make_networks(name, shape, shape, LATENT, options, 1)
        for many, one in zip(grouped, single, strict=True):
            state = many.state_dict()
            one.load_state_dict({n: grouped_weight(state[n], group, v) for n, v in one.state_dict().items()})
        single_loc, single_scale = single[0](x[:, group : group + 1])
        torch.testing.assert_close(single_loc[:, 0], loc[:, group], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(single_scale[:, 0], scale[:, group], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(single[1](z)[:, 0], images[:, group], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 8, 8), (7,)])
def test_an_isotropic_head_gives_one_scale(shape: tuple[int, ...]) -> None:
    x = torch.rand(6, 2, *shape)
    for isotropic in (True, False):
        options = NetworkOptions(width=4, hidden=16, isotropic=isotropic)
        encoder, _ = make_networks("auto", shape, shape, LATENT, options, 2)
        loc, scale = encoder(x)
        assert scale.shape == loc.shape == (6, 2, LATENT)
        spread = (scale.amax(-1) - scale.amin(-1)).amax()
        assert (spread == 0) == isotropic
        assert (loc.amax(-1) - loc.amin(-1)).amin() > 0
        assert len(scale[..., 0].unique()) == 12


def test_the_floor_of_scales() -> None:
    head = GaussianHead(1, 1, 2)
    nn.init.zeros_(head.linear.bias)
    nn.init.ones_(head.linear.weight)
    for value, expected in ((0.0, 1 + SCALE_FLOOR), (-1000.0, SCALE_FLOOR), (1.0, math.e + SCALE_FLOOR)):
        _, scale = head(torch.full((1, 1, 1), value))
        torch.testing.assert_close(scale, torch.full((1, 1, 2), expected))
    _, scale = head(torch.full((1, 1, 1), 1e6))
    assert scale.isfinite().all()
    loc, scale = head.bfloat16()(torch.zeros(1, 1, 1, dtype=torch.bfloat16))
    assert loc.dtype == scale.dtype == torch.float32
    assert GaussianHead(1, 1, 2).double()(torch.zeros(1, 1, 1, dtype=torch.float64))[1].dtype == torch.float64


@pytest.mark.parametrize("groups", [1, 4])
def test_grouped_linear_is_linear_in_each_group(groups: int) -> None:
    layer = GroupedLinear(groups, 6, 3)
    x = torch.randn(5, groups, 6)
    expected = torch.stack([x[:, g] @ layer.weight[g] + layer.bias[g, 0] for g in range(groups)], 1)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("groups", [1, 4])
def test_weights_start_where_those_of_linear_do(groups: int) -> None:
    ours, theirs = GroupedLinear(groups, 100, 400), nn.Linear(100, 400)
    for mine, reference in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        assert mine.abs().max() <= 0.1
        assert mine.abs().max() > 0.095
        assert mine.mean().abs() < 0.01
        for group in mine:
            assert group.std().item() == pytest.approx(reference.std().item(), rel=0.1)
    assert len(set(ours.weight[:, 0, 0].tolist())) == groups


def test_a_decoder_gives_any_real_number() -> None:
    for decoder in (ConvDecoder((1, 8, 8), LATENT, width=4), MLPDecoder((9,), LATENT)):
        out = decoder(10 * torch.randn(50, LATENT))
        assert out.min() < 0 < out.max()


def layers(network: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, kind)]


def test_options_reach_the_networks() -> None:
    encoder, decoder = make_networks("conv", (3, 28, 28), (3, 28, 28), LATENT, NORMED)
    assert [c.out_channels for c in layers(encoder, nn.Conv2d)] == [4, 8, 16]
    assert [c.out_channels for c in layers(decoder, nn.ConvTranspose2d)] == [8, 4, 3]
    assert len(layers(encoder, nn.GroupNorm)) == 3
    assert len(layers(decoder, nn.GroupNorm)) == 2
    assert layers(encoder, nn.SiLU)
    assert not layers(encoder, nn.ReLU)
    assert layers(decoder, GroupedLinear)[0].weight.shape == (1, 16, 16 * 16)
    _, plain = make_networks("conv", (3, 28, 28), (3, 28, 28), LATENT, SMALL)
    assert not layers(plain, GroupedLinear)
    assert not layers(plain, nn.GroupNorm)
    assert not isinstance(list(plain.modules())[-1], nn.ReLU)
    deep, _ = make_networks("mlp", (7,), (7,), LATENT, DEEP)
    sizes = [layer.weight.shape[1:] for layer in layers(deep, GroupedLinear)]
    assert sizes == [(7, 16), (16, 16), (16, 16), (16, 2 * LATENT)]
    assert all(before[1] == after[0] for before, after in pairwise(sizes))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 8, 8), ConvEncoder),
        ((1, 28, 9), ConvEncoder),
        ((3, 7, 8), MLPEncoder),
        ((64,), MLPEncoder),
        ((), MLPEncoder),
    ],
)
def test_auto_goes_by_the_shape(shape: tuple[int, ...], expected: type[nn.Module]) -> None:
    assert isinstance(make_networks("auto", shape, shape, LATENT, SMALL)[0], expected)


def test_bad_names_are_answered_in_one_line() -> None:
    with pytest.raises(ValueError, match="unknown network 'resnet'; there are auto, conv, conv4, mlp, residual, text"):
        make_networks("resnet", (7,), (7,), LATENT, SMALL)
    with pytest.raises(ValueError, match=r"network 'conv' needs images .* not shape \(7,\)"):
        make_networks("conv", (7,), (7,), LATENT, SMALL)
    with pytest.raises(ValueError, match="norm must be one of none, group, not 'batch'"):
        NetworkOptions(norm="batch")
    with pytest.raises(ValueError, match="activation must be one of relu, silu, gelu, not 'tanh'"):
        NetworkOptions(activation="tanh")


@pytest.mark.parametrize("groups", [1, 2])
def test_the_sizes_of_the_mnist_svhn_text_recipe(groups: int) -> None:
    encoder, decoder = make_networks("conv4", (3, 32, 32), (3, 32, 32), 20, NetworkOptions(width=32), groups)
    kernels = [tuple(c.weight.shape) for c in layers(encoder, nn.Conv2d)]
    assert kernels == [(groups * o, i, 4, 4) for i, o in ((3, 32), (32, 64), (64, 64), (64, 128))]
    assert [c.stride for c in layers(encoder, nn.Conv2d)] == [(2, 2)] * 4
    assert [c.padding[0] for c in layers(encoder, nn.Conv2d)] == [1, 1, 1, 0]
    assert layers(encoder, GroupedLinear)[0].weight.shape == (groups, 128, 40)  # straight to the head
    ups = [tuple(c.weight.shape) for c in layers(decoder, nn.ConvTranspose2d)]
    assert ups == [(groups * i, o, 4, 4) for i, o in ((128, 64), (64, 64), (64, 32), (32, 3))]
    assert isinstance(layers(decoder, nn.Module)[-1], nn.ConvTranspose2d)  # no sigmoid
    encoder, decoder = make_networks("text", (8, 71), (8, 71), 20, NetworkOptions(width=32), groups)
    kernels = [tuple(c.weight.shape) for c in layers(encoder, nn.Conv1d)]
    assert kernels == [(groups * 128, 71, 1), (groups * 128, 128, 4), (groups * 128, 128, 4)]
    assert [(c.stride[0], c.padding[0]) for c in layers(encoder, nn.Conv1d)] == [(1, 0), (2, 1), (2, 0)]
    assert layers(encoder, GroupedLinear)[0].weight.shape == (groups, 128, 40)
    assert tuple(layers(decoder, nn.Conv1d)[0].weight.shape) == (groups * 71, 128, 1)


def test_a_text_network_sees_the_order_of_tokens() -> None:
    torch.manual_seed(0)
    encoder, _ = make_networks("text", (8, 5), (8, 5), LATENT, SMALL)
    text = torch.eye(5)[torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]])].unsqueeze(1)
    assert not torch.allclose(encoder(text)[0], encoder(text.flip(-2))[0])
    assert not torch.allclose(encoder(text)[0], encoder(text.flip(-1))[0])


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "conv4",
            (3, 28, 28),
            r"needs \(channel, height, width\) whose sides are 32, 48, 64, …, not shape \(3, 28, 28\)",
        ),
        ("conv4", (3, 16, 32), "not shape"),
        ("conv4", (8, 71), "not shape"),
        ("text", (6, 71), r"needs tokens \(position, class\) of 8, 12, 16, … positions, not shape \(6, 71\)"),
        ("text", (4, 71), "not shape"),
        ("text", (3, 32, 32), "not shape"),
    ],
)
def test_strides_that_do_not_divide_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"network '{name}' {message}" if "needs" in message else message):
        make_networks(name, shape, shape, LATENT, SMALL)


def test_auto_goes_by_the_kind_of_tokens() -> None:
    assert [choose_network(shape, tokens=True) for shape in ((8, 71), (256, 3), (10, 71), (4,))] == [
        "text", "text", "mlp", "mlp"
    ]  # fmt: skip
    assert choose_network((8, 71)) == "mlp"
    likelihood = {"likelihood": "categorical", "classes": 5}
    vae = MultimodalVAE(
        [
            Modality("a", (8,), **likelihood),
            Modality("b", (8, 5), likelihood="normal"),
            Modality("c", (8,), **likelihood),
        ],
        2,
        network=SMALL,
    )
    found = {
        group: type(net).__name__ for group, net in zip(vae.guide.encode.groups, vae.guide.encode.networks, strict=True)
    }
    assert found == {("a", "c"): "TextEncoder", ("b",): "MLPEncoder"}


def test_the_tests_check_shapes_in_annotations() -> None:
    encoder = ConvEncoder((3, 8, 8), LATENT, width=4, hidden=8)
    with pytest.raises(jaxtyping.TypeCheckError, match="channel height width"):
        encoder(torch.zeros(3, 8, 8))


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_bias_added_afterwards_is_the_same(padding: int, precision: str) -> None:
    layer = UpConvolution(6, 4, 3, stride=2, padding=1, output_padding=padding, groups=2)
    plain = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=padding, groups=2)
    plain.load_state_dict(layer.state_dict())
    images = torch.randn(3, 6, 4, 4).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        ours, wanted = layer(images), plain(images)
    assert ours.dtype == wanted.dtype == getattr(torch, precision)
    loose = {"rtol": 2e-2, "atol": 2e-2} if precision == "bfloat16" else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(ours, wanted, **loose)
    grads = torch.autograd.grad(ours.float().square().sum(), [images, *layer.parameters()])
    theirs = torch.autograd.grad(wanted.float().square().sum(), [images, *plain.parameters()])
    for one, other in zip(grads, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=5e-2 if precision == "bfloat16" else 1e-4, atol=loose["atol"] * 10)
