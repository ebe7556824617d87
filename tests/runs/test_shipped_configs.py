"""The configurations that come with the project."""

from __future__ import annotations

from pathlib import Path

import pytest

import pyro_mmvae
from pyro_mmvae.runs.config import Config, make_config
from pyro_mmvae.runs.run import build_vae

CONFIGS = sorted((Path(pyro_mmvae.__file__).parents[1] / "configs").glob("*.yaml"))
if not CONFIGS:  # installed without a checkout around it
    pytest.skip("no configs/ beside the package", allow_module_level=True)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_make_config_data_name_is_overridden(path: Path) -> None:
    config = make_config(path)
    assert config.data.name
    assert make_config(path, {"data.name": "elsewhere"}).data.name == "elsewhere"


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem.startswith("polymnist")], ids=lambda p: p.stem)
def test_build_vae_polymnist_has_five_modalities(path: Path) -> None:
    vae = build_vae(make_config(path), {f"m{m}": [3, 28, 28] for m in range(5)})
    assert vae.names == ("m0", "m1", "m2", "m3", "m4")


def test_make_config_polymnist_has_the_settings_of_mopoe() -> None:
    config = make_config(next(path for path in CONFIGS if path.stem == "polymnist"))
    model, train = config.model, config.train
    assert (model.latent_size, model.beta, model.likelihood, model.scale) == (512, 2.5, "laplace", 0.75)
    assert (model.network.width, model.network.norm, model.network.activation) == (32, "none", "relu")
    assert (train.batch_size, train.lr, train.epochs, train.betas) == (256, 5e-4, 300, (0.9, 0.999))
    assert train.schedule == "constant"


def test_make_config_polymnist_cpu_has_the_defaults() -> None:
    config, default = make_config(next(path for path in CONFIGS if path.stem == "polymnist-cpu")), Config()
    assert config.model.network == default.model.network
    assert (config.model.latent_size, config.model.beta) == (default.model.latent_size, default.model.beta)
    same = ("batch_size", "lr", "betas", "schedule", "warmup", "precision")
    assert all(getattr(config.train, name) == getattr(default.train, name) for name in same)
