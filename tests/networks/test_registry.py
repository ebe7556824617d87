"""Networks by name: the built-in ones, the choice of "auto", and pairs that users register."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.networks import (
    NETWORKS,
    ConvEncoder,
    GaussianHead,
    GroupedDecoder,
    GroupedLinear,
    GroupedNetwork,
    MLPEncoder,
    NetworkOptions,
    choose_network,
    make_networks,
    network_names,
    register_network,
    unregister_network,
)

LATENT = 5
SMALL = NetworkOptions(width=4, hidden=16)
BUILT_IN = ("conv", "conv4", "mlp", "residual", "text")


class VectorEncoder(GroupedNetwork):
    """An encoder of vectors from outside of the package."""

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        options: NetworkOptions | None = None,
        *,
        groups: int = 1,
        private_size: int = 0,
    ) -> None:
        super().__init__(shape, latent_size, options, groups=groups, private_size=private_size)
        self.hidden = nn.Sequential(GroupedLinear(groups, shape[0], self.options.hidden), nn.Tanh())
        self.head = GaussianHead(groups, self.options.hidden, latent_size, self.options, private_size=private_size)

    def forward(self, vectors: Tensor) -> tuple[Tensor, ...]:
        return self.head(self.hidden(vectors))


class VectorDecoder(GroupedDecoder):
    """A decoder of vectors from outside of the package."""

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        options: NetworkOptions | None = None,
        *,
        groups: int = 1,
        private_size: int = 0,
    ) -> None:
        super().__init__(shape, latent_size, options, groups=groups, private_size=private_size)
        self.linear = self.first_layer(shape[0])

    def forward(self, z: Tensor) -> Tensor:
        flat, batch = self.flatten_batch(z)
        return self.linear(flat).reshape(*batch, self.groups, *self.shape)


@pytest.fixture(autouse=True)
def unchanged_registry() -> Iterator[None]:
    """Put the table back after each test."""
    parts = NETWORKS.snapshot()
    yield
    NETWORKS.restore(parts)


def register_vectors() -> None:
    register_network(
        "vectors", encoder=VectorEncoder, decoder=VectorDecoder, fits=lambda shape: len(shape) == 1,
        expects="vectors (feature,)",
    )  # fmt: skip


def test_network_names_lists_auto_built_in_and_registered_networks() -> None:
    assert network_names() == ("auto", *BUILT_IN)
    assert tuple(NETWORKS) == BUILT_IN
    register_vectors()
    assert network_names() == ("auto", *BUILT_IN, "vectors")


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
def test_make_networks_auto_chooses_by_shape(shape: tuple[int, ...], expected: type[nn.Module]) -> None:
    assert type(make_networks("auto", shape, shape, LATENT, SMALL)[0]) is expected


@pytest.mark.parametrize(
    ("shape", "tokens", "name"),
    [
        ((8, 71), True, "text"),
        ((256, 3), True, "text"),
        ((10, 71), True, "mlp"),
        ((4,), True, "mlp"),
        ((8, 71), False, "mlp"),
        ((3, 28, 28), False, "conv"),
    ],
)
def test_choose_network_depends_on_shape_and_tokens(shape: tuple[int, ...], tokens: bool, name: str) -> None:
    assert choose_network(shape, tokens=tokens) == name


def test_vae_auto_chooses_text_for_tokens_and_mlp_for_matrices() -> None:
    categorical: dict[str, Any] = {"likelihood": "categorical", "classes": 5}
    modalities = [
        Modality("a", (8,), **categorical),
        Modality("b", (8, 5), likelihood="normal"),
        Modality("c", (8,), **categorical),
    ]
    encoders = MultimodalVAE(modalities, 2, network=SMALL).guide.encode
    types = {group: type(net).__name__ for group, net in zip(encoders.groups, encoders.networks, strict=True)}
    assert types == {("a", "c"): "TextEncoder", ("b",): "MLPEncoder"}


def test_make_networks_unknown_name_raises_with_the_names_that_exist() -> None:
    with pytest.raises(
        ValueError, match=r"unknown network 'resnet'.* Available: conv, conv4, mlp, residual, text\. 'a"
    ):
        make_networks("resnet", (7,), (7,), LATENT, SMALL)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("conv", (7,), r"network 'conv' needs images \(channel, height, width\), got shape \(7,\)"),
        ("conv4", (3, 28, 28), r"network 'conv4' needs \(channel, .* sides are 32, 48, 64, …, got shape \(3, 28, 28\)"),
        ("conv4", (3, 16, 32), r"got shape \(3, 16, 32\)"),
        ("conv4", (8, 71), r"got shape \(8, 71\)"),
        ("text", (6, 71), r"network 'text' needs tokens \(.*\) of 8, 12, 16, … positions, got shape \(6, 71\)"),
        ("text", (4, 71), r"got shape \(4, 71\)"),
        ("text", (3, 32, 32), r"got shape \(3, 32, 32\)"),
    ],
)
def test_make_networks_unsuitable_shape_raises(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_networks(name, shape, shape, LATENT, SMALL)


@pytest.mark.parametrize("private_size", [0, 2])
def test_register_network_pair_serves_a_model_with_absent_modalities(private_size: int) -> None:
    register_vectors()
    modalities = [Modality(name, (4,), network="vectors", private_size=private_size) for name in ("a", "b", "c")]
    vae = MultimodalVAE(modalities, 3, "mwb", network=NetworkOptions(hidden=8))
    (encoder,), (decoder,) = vae.guide.encode.networks, vae.model.decoders.networks
    assert (type(encoder), type(decoder)) == (VectorEncoder, VectorDecoder)
    assert (encoder.groups, encoder.options.hidden, encoder.private_size) == (3, 8, private_size)
    complete = {name: torch.randn(6, 4) for name in ("a", "b", "c")}
    for batch in (complete, {"b": complete["b"]}):
        loss = Trace_ELBO()(vae.model, vae.guide)(batch)
        loss.backward()
        assert loss.isfinite()
    assert vae.guide.experts({"b": complete["b"]}).loc.shape == (6, 3, 3)
    assert poutine.trace(vae.model).get_trace(complete).nodes["c"]["value"].shape == (6, 4)
    torch.testing.assert_close(
        encoder.run_groups([1], complete["b"][:, None])[0], encoder(torch.stack(list(complete.values()), 1))[0][:, 1:2]
    )


def test_register_network_pair_refuses_shapes_in_its_own_words() -> None:
    register_vectors()
    with pytest.raises(ValueError, match=r"network 'vectors' needs vectors \(feature,\), got shape \(3, 8\)"):
        make_networks("vectors", (4,), (3, 8), LATENT, SMALL)


def test_register_network_without_fits_takes_any_shape() -> None:
    register_network("flat", encoder=MLPEncoder, decoder=VectorDecoder)
    encoder, decoder = make_networks("flat", (2, 3, 4), (5,), LATENT, SMALL, 2)
    assert encoder(torch.zeros(1, 2, 2, 3, 4))[0].shape == (1, 2, LATENT)
    assert decoder(torch.zeros(1, LATENT)).shape == (1, 2, 5)


def test_register_network_taken_name_raises() -> None:
    for name, message in (("conv", "network 'conv' is already registered"), ("auto", "must not be 'auto'")):
        with pytest.raises(ValueError, match=message):
            register_network(name, encoder=VectorEncoder, decoder=VectorDecoder)


def test_unregister_network_removes_registered_and_refuses_built_in_networks() -> None:
    register_vectors()
    unregister_network("vectors")
    assert "vectors" not in network_names()
    with pytest.raises(ValueError, match="network 'mlp' is built in"):
        unregister_network("mlp")


def test_make_networks_factory_of_another_type_raises() -> None:
    def linear(*_: Any, **__: Any) -> Any:
        return nn.Linear(4, 4)

    register_network("linear", encoder=VectorEncoder, decoder=linear)
    with pytest.raises(TypeError, match=r"the decoder of network 'linear' must be a .*GroupedNetwork, got Linear"):
        make_networks("linear", (4,), (4,), LATENT, SMALL)
