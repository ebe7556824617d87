"""Trainings that do not stay finite, and the checkpoint that their message names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pyro_mmvae import load, train
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs import RunError, append_metrics
from pyro_mmvae.runs.checkpoint import save_checkpoint
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import TrainingError, evaluate_elbo, session
from pyro_mmvae.training.finiteness import check_row, check_weights, is_good
from pyro_mmvae.training.trainer import NonFiniteError


def test_train_with_a_validation_that_is_not_a_number_raises_and_names_a_good_checkpoint(
    toy_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([-1.0, float("nan")])
    monkeypatch.setattr(session, "evaluate_elbo", lambda *a, **k: {**evaluate_elbo(*a, **k), "elbo": next(values)})
    files = RunFiles(tmp_path / "run")
    with pytest.raises(
        TrainingError, match=r"step 5 \(epoch 2\): the figures val.elbo, select.elbo not finite"
    ) as error:
        train(toy_config(), files.path, progress=False)
    assert f"the last good checkpoint is {files.checkpoint('best')}. Try a lower train.lr" in str(error.value)
    (line,) = files.metrics.read_text().splitlines()
    assert json.loads(line)["epoch"] == 0


def test_load_of_a_run_that_diverged_in_its_first_epoch_raises_and_names_the_way_on(
    toy_config: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"step [1-3] \(epoch 1\): .* not finite; no checkpoint is good"):
        train(toy_config(train__lr=1e30), tmp_path / "run", progress=False)
    with pytest.raises(RunError, match="must be a trained run, got one whose training has saved no step"):
        load(tmp_path / "run")
    assert load(tmp_path / "run", checkpoint="last").state["step"] == 0


def test_append_metrics_of_nan_raises_and_writes_nothing(tmp_path: Path) -> None:
    append_metrics(tmp_path, {"epoch": 0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_metrics(tmp_path, {"epoch": 1, "elbo": float("nan")})
    assert RunFiles(tmp_path).metrics.read_text() == '{"epoch": 0}\n'


def test_check_row_names_the_numbers_that_are_not_finite() -> None:
    check_row({"epoch": 1, "val": {"elbo": -1e30}, "by": "mixture", "weights": [0.5]}, 3)
    with pytest.raises(NonFiniteError, match=r"step 2: the figures val\.elbo, weights\.1 not finite"):
        check_row({"epoch": 1, "val": {"elbo": float("nan")}, "weights": [0.5, float("inf")]}, 3)


def test_check_weights_names_the_first_that_is_not_finite() -> None:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.fill_(3e38)  # finite, though their sum in single precision is not
    check_weights(module, 1)
    with torch.no_grad():
        module.bias[0] = float("nan")
    with pytest.raises(NonFiniteError, match="the weights bias not finite"):
        check_weights(module, 1)


def test_is_good_of_a_checkpoint_asks_for_finite_weights_and_validation(tmp_path: Path) -> None:
    module, file = nn.Linear(2, 2), tmp_path / "file.safetensors"
    assert not is_good(file)
    for state, expected in (
        ({"best": -1.0}, True),
        ({"best": None, "batch": 0}, True),
        ({"best": float("nan")}, False),
        ({"best": -1.0, "batch": 3}, False),
        ({"best": None, "step": 0}, False),
    ):
        save_checkpoint(file, module, **state)
        assert is_good(file) == expected
    with torch.no_grad():
        module.bias[0] = float("inf")
    save_checkpoint(file, module, best=-1.0)
    assert not is_good(file)
