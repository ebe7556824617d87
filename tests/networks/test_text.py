"""The convolutional pair of tokens: the recipe's sizes, and the order of tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pyro_mmvae.networks import GroupedLinear, NetworkOptions, make_networks
from pyro_mmvae.networks.text import fits_text


def layers_of_type(network: nn.Module, layer_type: type[nn.Module]) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, layer_type)]


@pytest.mark.parametrize("groups", [1, 2])
def test_text_of_width_32_has_the_sizes_of_the_recipe(groups: int) -> None:
    encoder, decoder = make_networks("text", (8, 71), (8, 71), 20, NetworkOptions(width=32), groups)
    kernels = [tuple(c.weight.shape) for c in layers_of_type(encoder, nn.Conv1d)]
    assert kernels == [(groups * 128, 71, 1), (groups * 128, 128, 4), (groups * 128, 128, 4)]
    assert [(c.stride[0], c.padding[0]) for c in layers_of_type(encoder, nn.Conv1d)] == [(1, 0), (2, 1), (2, 0)]
    assert layers_of_type(encoder, GroupedLinear)[0].weight.shape == (groups, 128, 40)
    assert tuple(layers_of_type(decoder, nn.Conv1d)[0].weight.shape) == (groups * 71, 128, 1)


def test_text_encoder_distinguishes_the_order_of_tokens_and_classes() -> None:
    torch.manual_seed(0)
    encoder, _ = make_networks("text", (8, 5), (8, 5), 5, NetworkOptions(width=4, hidden=16))
    text = torch.eye(5)[torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]])].unsqueeze(1)
    assert not torch.allclose(encoder(text)[0], encoder(text.flip(-2))[0])
    assert not torch.allclose(encoder(text)[0], encoder(text.flip(-1))[0])


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((8, 71), True), ((256, 3), True), ((6, 71), False), ((4, 71), False), ((3, 32, 32), False), ((8,), False)],
)
def test_fits_text_accepts_lengths_of_8_12_16(shape: tuple[int, ...], fits: bool) -> None:
    assert fits_text(shape) is fits
