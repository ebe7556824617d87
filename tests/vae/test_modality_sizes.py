"""Sizes of networks that belong to one modality."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pyro_mmvae import Modality, MultimodalVAE, load, train
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.runs.config import Config


def make(*modalities: Modality, **options: int) -> MultimodalVAE:
    torch.manual_seed(0)
    return MultimodalVAE(modalities, 3, "wb", network=NetworkOptions(**{"width": 4, "hidden": 8, "depth": 1} | options))


def networks(vae: MultimodalVAE, name: str) -> tuple[nn.Module, nn.Module]:
    """Return encoder and decoder of a modality that is alone in its group."""
    (place,) = [number for number, group in enumerate(vae.guide.encode.groups) if group == (name,)]
    return vae.guide.encode.networks[place], vae.model.decoders.networks[place]


def shapes(network: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in network.parameters()]


@pytest.mark.parametrize(
    ("shape", "network", "sizes"),
    [
        ((3, 8, 8), "conv", {"width": 6}),
        ((3, 8, 8), "conv", {"hidden": 5}),
        ((3, 8, 8), "residual", {"width": 6}),
        ((7,), "mlp", {"hidden": 5}),
        ((7,), "mlp", {"depth": 3}),
        ((7,), "mlp", {"hidden": 5, "depth": 0}),
    ],
)
def test_modality_sizes_give_the_networks_of_a_model_with_these_sizes(
    shape: tuple[int, ...], network: str, sizes: dict[str, int]
) -> None:
    own = Modality("own", shape, network=network, **sizes)
    vae = make(Modality("a", shape, network=network), own, Modality("b", shape, network=network))
    assert vae.guide.encode.groups == vae.model.decoders.groups == (("a", "b"), ("own",))
    alone, plain = (make(Modality("own", shape, network=network), **kind) for kind in (sizes, {}))
    for ours, expected in zip(*(networks(model, "own") for model in (vae, alone)), strict=True):
        assert shapes(ours) == shapes(expected)
    assert shapes(networks(vae, "own")[0]) != shapes(networks(plain, "own")[0])
    batch = {name: torch.rand(5, *shape) for name in vae.names}
    assert vae.decode(vae.guide(batch))["own"].shape == (5, *shape)


def test_group_modalities_equal_sizes_share_a_network() -> None:
    vae = make(*(Modality(name, (7,), hidden=hidden) for name, hidden in zip("abcd", (5, None, 5, 6), strict=True)))
    assert vae.guide.encode.groups == (("a", "c"), ("b",), ("d",))


@pytest.mark.parametrize(("size", "value"), [("width", 0), ("hidden", 0), ("depth", -1)])
def test_modality_size_out_of_range_is_refused(size: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"modality 'a': {size} must be at least {value + 1}, got {value}"):
        Modality("a", (7,), **{size: value})


def test_train_modality_sizes_are_built_and_loaded(toy_config: Callable[..., Config], tmp_path: Path) -> None:
    own = {"m1": {"width": 6, "hidden": 9}, "m2": {"network": "mlp", "depth": 2}}
    run = train(toy_config(model__modalities=own, train__epochs=1), tmp_path / "run", progress=False)
    assert {m.name: (m.width, m.hidden, m.depth) for m in run.vae.modalities} == {
        "m0": (None, None, None), "m1": (6, 9, None), "m2": (None, None, 2)
    }  # fmt: skip
    assert run.guide.encode.groups == (("m0",), ("m1",), ("m2",))
    wider = train(
        toy_config(model__network__width=6, model__network__hidden=9, train__epochs=0),
        tmp_path / "wider",
        progress=False,
    )
    (encoder,) = wider.guide.encode.networks
    assert [shape[1:] for shape in shapes(networks(run.vae, "m1")[0])] == [shape[1:] for shape in shapes(encoder)]
    again = load(tmp_path / "run", device="cpu")
    z = torch.randn(2, 4)
    assert all(torch.equal(value, again.decode(z)[name]) for name, value in run.decode(z).items())
