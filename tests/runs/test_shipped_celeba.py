"""The configurations for CelebA, and the reading of all shipped configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pyro_mmvae
from pyro_mmvae.data import Traits
from pyro_mmvae.runs import build_vae, settle_traits
from pyro_mmvae.runs.config import Config, make_config

FOLDER = Path(pyro_mmvae.__file__).parents[1] / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
if not CONFIGS:  # installed without a checkout around it
    pytest.skip("no configs/ beside the package", allow_module_level=True)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_make_config_reads_every_shipped_configuration(path: Path) -> None:
    assert make_config(path) != Config()
    assert make_config(path, {"data.name": "elsewhere"}).data.name == "elsewhere"


TRAITS = {
    "image": Traits("image", network="residual", pixels=True),
    "text": Traits("tokens", network="residual", classes=71),
}


@pytest.mark.parametrize("name", ["celeba", "celeba-cpu"])
def test_build_vae_of_a_celeba_configuration_follows_the_recipe(name: str) -> None:
    config = make_config(FOLDER / f"{name}.yaml")
    settled = settle_traits(config, TRAITS)
    image, text = settled["image"], settled["text"]
    assert (image.likelihood, image.scale, image.network) == ("laplace", 0.75, "residual")
    assert (text.likelihood, text.classes, text.network) == ("categorical", 71, "residual")
    assert (image.weight, text.weight) == (pytest.approx(4096 / (3 * 64 * 64)), 4096 / 256)
    assert (config.model.latent_size, config.model.beta) == (32, 2.5)
    with torch.device("meta"):
        vae = build_vae(config, {"image": [3, 64, 64], "text": [256]}, settled)
    assert vae.names == ("image", "text")


def test_make_config_of_celeba_follows_mopoe() -> None:
    config = make_config(FOLDER / "celeba.yaml")
    train, network = config.train, config.model.network
    assert (train.batch_size, train.lr, train.epochs, train.betas) == (256, 5e-4, 250, (0.9, 0.999))
    assert (train.schedule, network.name, network.width, network.activation) == ("constant", "residual", 128, "relu")
