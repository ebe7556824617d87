"""The defaults of Python and of the command line."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.modality_spec import ModalitySpec, resolve_modality
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.runs import build_vae, resolve_modalities
from pyro_mmvae.runs.config import make_config
from pyro_mmvae.runs.model_settings import ModelConfig, NetworkConfig

SHAPES = {"m0": (3, 28, 28), "m1": (3, 28, 28), "v": (5,), "t": (8,), "c": (6,)}
FIELDS: dict[str, dict[str, object]] = {
    "t": {"data_type": "tokens", "classes": 6},
    "c": {"data_type": "counts", "reference_total": 9.0},
}


def batch() -> dict[str, Tensor]:
    return {
        "m0": torch.randint(0, 256, (4, 3, 28, 28), dtype=torch.uint8),
        "m1": torch.rand(4, 3, 28, 28),
        "v": torch.randn(4, 5),
        "t": torch.randint(0, 6, (4, 8)),
        "c": torch.poisson(torch.full((4, 6), 2.0)),
    }


def test_multimodal_vae_defaults_build_the_model_of_the_plain_recipe() -> None:
    data_types = {"m0": "image", "m1": "image", "v": "vector"}
    specs = {n: ModalitySpec(**{"data_type": data_types.get(n), **FIELDS.get(n, {})}) for n in SHAPES}  # type: ignore[arg-type]
    config = make_config(None, {"recipe": "plain"})
    torch.manual_seed(0)
    trained = build_vae(config, SHAPES, resolve_modalities(config, specs))
    torch.manual_seed(0)
    python = MultimodalVAE([Modality(n, shape, **FIELDS.get(n, {})) for n, shape in SHAPES.items()])  # type: ignore[arg-type]
    ours, theirs = python.state_dict(), trained.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    assert (python.guide.bound, python.latent_size, python.modalities) == ("component", 32, trained.modalities)
    losses = []
    for vae in (python, trained):
        torch.manual_seed(1)
        losses.append(Trace_ELBO()(vae.model, vae.guide)(batch()))
    assert torch.equal(*losses)


def test_network_config_has_the_defaults_of_network_options() -> None:
    assert NetworkConfig() == NetworkConfig(**dataclasses.asdict(NetworkOptions()))
    assert (NetworkOptions().width, NetworkOptions().norm, NetworkOptions().activation) == (16, "group", "silu")


def test_multimodal_vae_arguments_have_the_defaults_of_model_config() -> None:
    parameters = inspect.signature(MultimodalVAE).parameters
    config = ModelConfig()
    for name in ("latent_size", "bound", "beta", "prior_expert"):
        assert parameters[name].default == getattr(config, name), name


@pytest.mark.parametrize(
    ("modality", "expected"),
    [
        (Modality("a", (3, 8, 8)), ("image", "laplace", 0.75, "auto")),
        (Modality("a", (3, 8, 8), pixels=False), ("image", "normal", "learned", "auto")),
        (Modality("a", (3, 8, 8), likelihood="bernoulli"), ("image", "bernoulli", None, "auto")),
        (Modality("a", (5,)), ("vector", "normal", "learned", "mlp")),
        (Modality("a", (5,), scale=0.5), ("vector", "normal", 0.5, "mlp")),
        (Modality("a", (5,), likelihood="laplace"), ("vector", "laplace", "learned", "mlp")),
        (Modality("a", (5,), likelihood="bernoulli"), ("binary", "bernoulli", None, "auto")),
        (Modality("a", (5,), likelihood="poisson"), ("counts", "poisson", None, "mlp")),
        (Modality("a", (5,), alphabet="ab"), ("tokens", "categorical", None, "auto")),
    ],
)
def test_modality_resolved_has_the_defaults_of_its_data_type(modality: Modality, expected: tuple[object, ...]) -> None:
    resolved = modality.resolved()
    assert (resolved.data_type, resolved.likelihood, resolved.scale, resolved.network) == expected
    assert (resolved.reconstruction_weight, resolved.private_size) == (1.0, 0)
    assert resolved.resolved() == resolved


def test_resolve_modality_later_descriptions_take_precedence() -> None:
    data = ModalitySpec(data_type="image", pixels=True, network="residual", reconstruction_weight=2.0)
    result = resolve_modality(data, ModalitySpec(scale=0.2, network="mlp"), ModalitySpec(network="conv"), where="x")
    assert result.settings() == {
        "data_type": "image", "likelihood": "laplace", "network": "conv", "private_size": 0, "scale": 0.2,
        "reconstruction_weight": 2.0, "pixels": True,
    }  # fmt: skip
    with pytest.raises(ValueError, match="x: data_type must be one of image, vector, binary, tokens, counts, got None"):
        resolve_modality(ModalitySpec(), where="x")
