"""Training with calibrated scales: the objective, the validation figures, and a training that is resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from pyro_mmvae import load
from pyro_mmvae.run_files import read_metrics
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import resume, train

MakeConfig = Callable[..., Config]


def test_train_calibrated_has_the_objective_of_the_fixed_scale_and_figures_of_its_own(
    toy_config: MakeConfig, tmp_path: Path
) -> None:
    rows = {}
    for scale in (0.75, "calibrated"):
        train(toy_config(model__scale=scale, train__epochs=1), tmp_path / str(scale), progress=False)
        [rows[scale]] = read_metrics(tmp_path / str(scale))
    fixed, ours = rows[0.75], rows["calibrated"]
    assert (ours["objective"], ours["kl"]) == (fixed["objective"], fixed["kl"])
    assert ours["log_likelihood"] == fixed["log_likelihood"]
    assert ours["val"]["kl"] == fixed["val"]["kl"]
    assert ours["val"]["elbo"] > fixed["val"]["elbo"]


def test_resume_calibrated_equals_a_training_without_a_break(toy_config: MakeConfig, tmp_path: Path) -> None:
    settings = {"model__scale": "calibrated_per_feature", "train__schedule": "constant", "train__warmup": 0.0}
    train(toy_config(**settings, train__epochs=2), tmp_path / "whole", progress=False)
    train(toy_config(**settings, train__epochs=1), tmp_path / "parts", progress=False)
    resume(tmp_path / "parts", epochs=2, progress=False)
    one, two = (load(tmp_path / name, checkpoint="last").vae.state_dict() for name in ("whole", "parts"))
    assert any("calibration.average" in name for name in one)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
