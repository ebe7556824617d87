"""The options of networks: their checks, and how they reach the layers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from torch import nn

from pyro_mmvae.networks import GroupedLinear, NetworkOptions, make_networks

LATENT = 5
IMAGE = (3, 28, 28)


def layers_of_type(network: nn.Module, layer_type: type[nn.Module]) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, layer_type)]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"norm": "batch"}, "norm must be one of none, group, got 'batch'"),
        ({"activation": "tanh"}, "activation must be one of relu, silu, gelu, got 'tanh'"),
        ({"covariance": "round"}, "covariance must be one of diagonal, isotropic, full, low_rank, got 'round'"),
        ({"covariance": "full", "isotropic": True}, "covariance must be 'isotropic' or left out .*, got 'full'"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"family": "cauchy"}, "family must be one of normal, laplace, student_t, logistic, got 'cauchy'"),
        ({"family": "student_t", "df": 2.0}, r"df must be above 2, .*, got 2\.0"),
        ({"family": "laplace", "covariance": "full"}, "family must be 'normal' for covariance='full', got 'laplace'"),
    ],
)
def test_network_options_invalid_raises(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        NetworkOptions(**options)


@pytest.mark.parametrize(
    ("options", "covariance", "kind"),
    [
        ({}, "diagonal", "normal"),
        ({"isotropic": True}, "isotropic", "normal"),
        ({"covariance": "isotropic", "family": "laplace"}, "isotropic", "laplace"),
        ({"covariance": "full"}, "full", "full"),
        ({"covariance": "low_rank"}, "low_rank", "full"),
        ({"family": "student_t"}, "diagonal", "student_t"),
    ],
)
def test_network_options_determine_covariance_and_expert_kind(
    options: dict[str, Any], covariance: str, kind: str
) -> None:
    network_options = NetworkOptions(**options)
    assert network_options.effective_covariance == covariance
    assert network_options.expert_kind == kind


def test_network_options_conv_sets_channels_norm_activation_and_hidden_layers() -> None:
    options = NetworkOptions(width=4, hidden=16, norm="group", activation="silu", decoder_hidden=True)
    encoder, decoder = make_networks("conv", IMAGE, IMAGE, LATENT, options)
    assert [c.out_channels for c in layers_of_type(encoder, nn.Conv2d)] == [4, 8, 16]
    assert [c.out_channels for c in layers_of_type(decoder, nn.ConvTranspose2d)] == [8, 4, 3]
    assert len(layers_of_type(encoder, nn.GroupNorm)) == 3
    assert len(layers_of_type(decoder, nn.GroupNorm)) == 2
    assert layers_of_type(encoder, nn.SiLU)
    assert not layers_of_type(encoder, nn.ReLU)
    assert layers_of_type(decoder, GroupedLinear)[0].weight.shape == (1, 16, 16 * 16)


def test_network_options_conv_without_norm_and_decoder_hidden_has_neither() -> None:
    _, decoder = make_networks(
        "conv", IMAGE, IMAGE, LATENT, NetworkOptions(width=4, hidden=16, norm="none", activation="relu")
    )
    assert not layers_of_type(decoder, GroupedLinear)
    assert not layers_of_type(decoder, nn.GroupNorm)
    assert not isinstance(list(decoder.modules())[-1], nn.ReLU)


def test_network_options_mlp_sets_depth_and_sizes() -> None:
    options = NetworkOptions(hidden=16, depth=3, activation="gelu")
    encoder, _ = make_networks("mlp", (7,), (7,), LATENT, options)
    sizes = [layer.weight.shape[1:] for layer in layers_of_type(encoder, GroupedLinear)]
    assert sizes == [(7, 16), (16, 16), (16, 16), (16, 2 * LATENT)]
    assert all(before[1] == after[0] for before, after in pairwise(sizes))
    assert len(layers_of_type(encoder, nn.GELU)) == 3
