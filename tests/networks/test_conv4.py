"""The convolutional pair of SVHN: the recipe's sizes."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from pyro_mmvae.networks import GroupedLinear, NetworkOptions, make_networks
from pyro_mmvae.networks.conv4 import fits_conv4


def layers_of_type(network: nn.Module, layer_type: type[nn.Module]) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, layer_type)]


@pytest.mark.parametrize("groups", [1, 2])
def test_conv4_of_width_32_has_the_sizes_of_the_recipe(groups: int) -> None:
    encoder, decoder = make_networks("conv4", (3, 32, 32), (3, 32, 32), 20, NetworkOptions(width=32), groups)
    kernels = [tuple(c.weight.shape) for c in layers_of_type(encoder, nn.Conv2d)]
    assert kernels == [(groups * o, i, 4, 4) for i, o in ((3, 32), (32, 64), (64, 64), (64, 128))]
    assert [c.stride for c in layers_of_type(encoder, nn.Conv2d)] == [(2, 2)] * 4
    assert [c.padding[0] for c in layers_of_type(encoder, nn.Conv2d)] == [1, 1, 1, 0]
    # The head follows the convolutions, and no sigmoid follows the decoder's last one.
    assert layers_of_type(encoder, GroupedLinear)[0].weight.shape == (groups, 128, 40)
    transposed = [tuple(c.weight.shape) for c in layers_of_type(decoder, nn.ConvTranspose2d)]
    assert transposed == [(groups * i, o, 4, 4) for i, o in ((128, 64), (64, 64), (64, 32), (32, 3))]
    assert isinstance(layers_of_type(decoder, nn.Module)[-1], nn.ConvTranspose2d)


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((3, 32, 48), True), ((1, 64, 32), True), ((3, 28, 28), False), ((3, 16, 32), False), ((8, 71), False)],
)
def test_fits_conv4_accepts_sides_of_32_48_64(shape: tuple[int, ...], fits: bool) -> None:
    assert fits_conv4(shape) is fits
