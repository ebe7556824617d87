"""The configurations for CelebA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pyro_mmvae
from pyro_mmvae.data import ModalitySpec
from pyro_mmvae.runs import build_vae, resolve_modalities
from pyro_mmvae.runs.config import Config, make_config

FOLDER = Path(pyro_mmvae.__file__).parents[1] / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
if not CONFIGS:  # installed without a checkout around it
    pytest.skip("no configs/ beside the package", allow_module_level=True)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_make_config_every_shipped_file_is_read(path: Path) -> None:
    assert make_config(path) != Config()
    assert make_config(path, {"data.name": "elsewhere"}).data.name == "elsewhere"


TRAITS = {
    "image": ModalitySpec(data_type="image", network="residual", pixels=True),
    "text": ModalitySpec(data_type="tokens", network="residual", classes=71),
}


@pytest.mark.parametrize("name", ["celeba", "celeba-cpu"])
def test_build_vae_celeba_has_the_model_of_the_recipe(name: str) -> None:
    config = make_config(FOLDER / f"{name}.yaml")
    settled = resolve_modalities(config, TRAITS)
    image, text = settled["image"], settled["text"]
    assert (image.likelihood, image.scale, image.network) == ("laplace", 0.75, "residual")
    assert (text.likelihood, text.classes, text.network) == ("categorical", 71, "residual")
    assert (image.reconstruction_weight, text.reconstruction_weight) == (
        pytest.approx(4096 / (3 * 64 * 64)),
        4096 / 256,
    )
    assert (config.model.latent_size, config.model.beta) == (32, 2.5)
    with torch.device("meta"):
        vae = build_vae(config, {"image": [3, 64, 64], "text": [256]}, settled)
    assert vae.names == ("image", "text")


def test_make_config_celeba_has_the_settings_of_mopoe() -> None:
    config = make_config(FOLDER / "celeba.yaml")
    train, network = config.train, config.model.network
    assert (train.batch_size, train.lr, train.epochs, train.betas) == (256, 5e-4, 250, (0.9, 0.999))
    assert (train.schedule, network.name, network.width, network.activation) == ("constant", "residual", 128, "relu")
