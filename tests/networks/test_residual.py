"""Residual networks: the recipe's sizes, the shapes that they take, and the variance at the start."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.networks import NetworkOptions, ResidualDecoder, ResidualEncoder, make_networks
from pyro_mmvae.networks.blocks import ResidualBlock

LATENT = 5
OPTIONS = NetworkOptions(width=4, norm="group")


def layer_sizes(network: nn.Module, items: torch.Tensor) -> list[tuple[int, ...]]:
    """Return channels and sides after the first layer, every block and the last convolution."""
    seen: list[tuple[int, ...]] = []
    kinds = (ResidualBlock, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
    for layer in network.layers:  # type: ignore[union-attr]
        if isinstance(layer, kinds):
            layer.register_forward_hook(lambda _module, _inputs, out: seen.append(tuple(out.shape[1:])))
    network(items)
    return seen


def test_residual_of_width_128_has_the_sizes_of_the_recipe() -> None:
    with torch.device("meta"):
        encoder, decoder = make_networks("residual", (3, 64, 64), (3, 64, 64), LATENT, NetworkOptions(width=128))
        image = layer_sizes(encoder, torch.zeros(2, 1, 3, 64, 64))
        back = layer_sizes(decoder, torch.zeros(2, LATENT))
        encoder, decoder = make_networks("residual", (256, 71), (256, 71), LATENT, NetworkOptions(width=128))
        text = layer_sizes(encoder, torch.zeros(2, 1, 256, 71))
        text_back = layer_sizes(decoder, torch.zeros(2, LATENT))
    assert image == [(128, 32, 32), (256, 16, 16), (384, 8, 8), (512, 4, 4), (640, 1, 1)]
    assert back == [(512, 4, 4), (384, 8, 8), (256, 16, 16), (128, 32, 32), (3, 64, 64)]
    assert text == [(128, 128), (256, 64), (384, 32), (512, 16), (640, 8), (640, 4), (640, 1)]
    assert text_back == [(640, 4), (640, 8), (512, 16), (384, 32), (256, 64), (128, 128), (71, 256)]


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (2, 8, 16), (3, 24, 12), (128, 4), (8, 71), (40, 1)])
@pytest.mark.parametrize("norm", ["none", "group"])
def test_residual_restores_shapes_that_can_be_halved(shape: tuple[int, ...], norm: str) -> None:
    encoder, decoder = make_networks("residual", shape, shape, LATENT, NetworkOptions(width=4, norm=norm), 2)
    loc, scale = encoder(torch.rand(3, 2, *shape))
    assert loc.shape == scale.shape == (3, 2, LATENT)
    assert decoder(loc[:, 0]).shape == (3, 2, *shape)


@pytest.mark.parametrize("shape", [(3, 33, 32), (3, 44, 44), (3, 4, 4), (1, 4), (36, 4), (3, 63, 63)])
def test_residual_sides_that_cannot_be_halved_raise(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"network 'residual' halves sides to 8 or less, at least once"):
        make_networks("residual", shape, shape, LATENT, NetworkOptions(width=4))


@pytest.mark.parametrize("shape", [(5,), (2, 3, 8, 8)])
def test_residual_other_number_of_axes_raises(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"needs images .* or sequences .*, got shape"):
        make_networks("residual", shape, shape, LATENT, NetworkOptions(width=4))


@pytest.mark.parametrize("sides", [[24, 24], [64]])
@pytest.mark.parametrize("up", [False, True])
def test_residual_block_keeps_the_variance_at_initialisation(sides: list[int], up: bool) -> None:
    torch.manual_seed(0)
    dims = len(sides)
    for norm in ("none", "group"):
        block = ResidualBlock(dims, 2, 64, 48, NetworkOptions(norm=norm), up=up)
        # Neighbours are equal, so that the shortcut's mean of them keeps their variance.
        values = torch.randn(16, 128, *[1] * dims).expand(16, 128, *sides).contiguous()
        out = block(values)
        assert out.shape == (16, 96, *(2 * s if up else s // 2 for s in sides))
        inner = out[(..., *[slice(4, -4)] * dims)]  # away from the padding
        assert inner.var().item() == pytest.approx(1.0, rel=0.35)


@pytest.mark.parametrize("norm", ["none", "group"])
@pytest.mark.parametrize("shape", [(3, 64, 64), (256, 7)])
def test_residual_outputs_and_gradients_are_of_order_one_at_initialisation(shape: tuple[int, ...], norm: str) -> None:
    torch.manual_seed(0)
    options = NetworkOptions(width=8, norm=norm, activation="relu")
    encoder, decoder = ResidualEncoder(shape, 16, options), ResidualDecoder(shape, 16, options)
    items = torch.randn(8, 1, *shape)
    loc, _ = encoder(items)
    assert 0.05 < loc.std() < 3
    out = decoder(torch.randn(32, 16))
    assert 0.1 < out.std() < 3
    loc.square().sum().backward()
    norms = [
        p.grad.norm() / p.norm().clamp(min=1e-3) for p in encoder.parameters() if p.grad is not None and p.dim() > 1
    ]
    assert all(0 < n < 1e3 for n in norms)


def test_residual_layout_round_trip_keeps_groups_channels_and_positions() -> None:
    image, text = torch.rand(2, 3, 4, 8, 16), torch.rand(2, 3, 16, 5)
    for items, network in (
        (image, ResidualDecoder((4, 8, 16), 2, OPTIONS)),
        (text, ResidualDecoder((16, 5), 2, OPTIONS)),
    ):
        values = network.layout.to_channels(items, 3)
        for group in range(3):
            for channel in range(network.layout.channels_in):
                expected = items[:, group, channel] if items is image else items[:, group, :, channel]
                assert torch.equal(values[:, group * network.layout.channels_in + channel], expected)
        assert torch.equal(network.layout.to_items(values, torch.Size([2]), 3), items)


def test_residual_text_decoder_returns_the_positions_of_its_last_layer() -> None:
    decoder = ResidualDecoder((64, 5), 2, OPTIONS)
    outputs: list[torch.Tensor] = []
    decoder.layers.register_forward_hook(lambda _module, _inputs, out: outputs.append(out))
    text = decoder(torch.randn(3, 2))
    torch.testing.assert_close(text[:, 0], outputs[0].transpose(1, 2))


def test_residual_encoder_treats_items_independently() -> None:
    for shape in ((3, 16, 16), (32, 5)):
        encoder = ResidualEncoder(shape, LATENT, NetworkOptions(width=16, norm="group"), groups=2).train()
        items = torch.randn(4, 2, *shape)
        expected = torch.cat([encoder(item[None])[0] for item in items])
        torch.testing.assert_close(encoder(items)[0], expected, rtol=1e-4, atol=1e-5)


def test_vae_with_residual_networks_decodes_images_and_text() -> None:
    modalities = [
        Modality("image", (3, 16, 16), network="residual"),
        Modality("text", (16,), network="residual", likelihood="categorical", classes=5),
    ]
    vae = MultimodalVAE(modalities, LATENT, "mwb", network=NetworkOptions(width=4, norm="group"))
    text = torch.randint(0, 5, (6, 16), dtype=torch.int8)
    batch = {"image": torch.rand(6, 3, 16, 16), "text": text}
    decoded = vae.decode(vae.guide(batch))
    assert decoded["image"].shape == (6, 3, 16, 16)
    torch.testing.assert_close(decoded["text"].sum(-1), torch.ones(6, 16))
    assert isinstance(vae.guide.encode.networks[1], ResidualEncoder)
