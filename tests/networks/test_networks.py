"""Properties that every pair of networks has: shapes, independent groups, leading dimensions."""

from __future__ import annotations

import jaxtyping
import pytest
import torch
from torch import Tensor

from pyro_mmvae.networks import ConvDecoder, ConvEncoder, NetworkOptions, make_networks

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
EACH_PAIR = pytest.mark.parametrize(("name", "shape", "options"), PAIRS)


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (27, 27), (28, 28), (32, 32), (33, 20), (8, 15)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", [SMALL, NORMED])
def test_conv_pair_restores_images_of_any_size(size: tuple[int, int], channels: int, options: NetworkOptions) -> None:
    shape = (channels, *size)
    encoder, decoder = make_networks("auto", shape, shape, LATENT, options, groups=2)
    assert isinstance(encoder, ConvEncoder)
    assert isinstance(decoder, ConvDecoder)
    loc, scale = encoder(torch.rand(2, 2, *shape))
    assert loc.shape == scale.shape == (2, 2, LATENT)
    assert decoder(loc[:, 0]).shape == (2, 2, *shape)


@EACH_PAIR
@pytest.mark.parametrize("chosen", [[0], [2], [2, 0], [0, 1, 2]])
def test_run_groups_matches_the_chosen_part_of_the_whole_output(
    name: str, shape: tuple[int, ...], options: NetworkOptions, chosen: list[int]
) -> None:
    encoder, decoder = make_networks(name, shape, shape, LATENT, options, groups=3)
    x, z = torch.rand(4, 3, *shape), torch.randn(4, LATENT)
    for network, some_inputs, all_inputs in ((encoder, x[:, chosen], x), (decoder, z, z)):
        whole, partial = network(all_inputs), network.run_groups(chosen, some_inputs)
        pairs = zip(whole, partial, strict=True) if isinstance(whole, tuple) else [(whole, partial)]
        for expected, actual in pairs:
            torch.testing.assert_close(actual, expected[:, chosen], rtol=1e-5, atol=1e-6)
            parameters = list(network.parameters())
            gradients = [
                torch.autograd.grad(value.square().sum(), parameters, allow_unused=True, retain_graph=True)
                for value in (expected[:, chosen], actual)
            ]
            for expected_gradient, gradient in zip(*gradients, strict=True):
                assert (expected_gradient is None) == (gradient is None)
                if expected_gradient is not None and gradient is not None:
                    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-4)
        assert not [name for name, _ in network.named_modules() if "template" in name]


@EACH_PAIR
@pytest.mark.parametrize("groups", [1, 3])
def test_forward_keeps_leading_dimensions(
    name: str, shape: tuple[int, ...], options: NetworkOptions, groups: int
) -> None:
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


@EACH_PAIR
def test_forward_of_one_group_ignores_the_other_groups(
    name: str, shape: tuple[int, ...], options: NetworkOptions
) -> None:
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


def group_of_parameter(grouped: Tensor, group: int, single: Tensor) -> Tensor:
    """Return one group of a parameter whose first axis is group or group times channel."""
    return grouped.reshape(-1, *single.shape)[group] if grouped.numel() != single.numel() else grouped


@EACH_PAIR
def test_grouped_network_matches_single_networks_with_its_weights(
    name: str, shape: tuple[int, ...], options: NetworkOptions
) -> None:
    grouped = make_networks(name, shape, shape, LATENT, options, 3)
    x, z = torch.rand(4, 3, *shape), torch.randn(4, LATENT)
    (loc, scale), images = grouped[0](x), grouped[1](z)
    for group in range(3):
        single = make_networks(name, shape, shape, LATENT, options, 1)
        for many, one in zip(grouped, single, strict=True):
            state = many.state_dict()
            one.load_state_dict({n: group_of_parameter(state[n], group, v) for n, v in one.state_dict().items()})
        single_loc, single_scale = single[0](x[:, group : group + 1])
        torch.testing.assert_close(single_loc[:, 0], loc[:, group], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(single_scale[:, 0], scale[:, group], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(single[1](z)[:, 0], images[:, group], rtol=1e-4, atol=1e-5)


def test_encoder_input_without_a_group_axis_fails_the_shape_check() -> None:
    encoder = ConvEncoder((3, 8, 8), LATENT, NetworkOptions(width=4, hidden=8))
    with pytest.raises(jaxtyping.TypeCheckError, match="channel height width"):
        encoder(torch.zeros(3, 8, 8))
