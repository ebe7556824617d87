"""The prior that is fitted at the end of a training, and endings in which it is not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyro_mmvae import load, resume, runs, train
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs import priors
from pyro_mmvae.runs.config import Config

MakeConfig = Callable[..., Config]


def test_train_fits_the_prior_of_its_best_checkpoint(toy_config: MakeConfig, tmp_path: Path) -> None:
    run = train(toy_config(train__fit_prior=4, train__seed=3), tmp_path / "run", progress=False)
    assert run.fitted_prior is not None
    about = run.fitted_prior.about
    assert (about["components"], about["items"], about["seed"], about["density"]) == (4, 96, 3, "joint")
    assert load(run.path, device="cpu").prior_note is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "interrupted while the prior was fitted; the run is complete without it"),
        (ValueError("too odd"), "no prior was fitted: too odd"),
    ],
)
def test_train_without_the_fit_of_the_prior_keeps_the_run(
    error: BaseException,
    message: str,
    toy_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "pyro_mmvae"):
        patch.setattr(priors, "fit_prior", fail)
        run = train(toy_config(train__epochs=1), tmp_path / "run", progress=False)
    assert message in caplog.text
    assert run.fitted_prior is None
    assert len(runs.read_metrics(run.path)) == 1
    assert RunFiles(run.path).samples.exists()
    again = resume(run.path, progress=False)  # which has nothing to train, and makes up for the prior
    assert again.fitted_prior is not None


def test_resume_replaces_a_damaged_prior(toy_config: MakeConfig, tmp_path: Path) -> None:
    run = train(toy_config(train__epochs=1), tmp_path / "run", progress=False)
    RunFiles(run.path).prior.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="prior.npz: must be a fitted prior of pyro_mmvae"):
        _ = load(run.path, device="cpu").fitted_prior
    assert resume(run.path, progress=False).fitted_prior is not None


def test_resume_without_further_epochs_keeps_a_prior_of_this_checkpoint(toy_config: MakeConfig, tmp_path: Path) -> None:
    run = train(toy_config(train__epochs=1), tmp_path / "run", progress=False)
    run.fit_prior(2)
    kept = resume(run.path, progress=False).fitted_prior
    assert kept is not None
    assert kept.about["components"] == 2


def test_train_for_no_epoch_fits_no_prior(toy_config: MakeConfig, tmp_path: Path) -> None:
    run = train(toy_config(train__epochs=0), tmp_path / "run", progress=False)
    assert not RunFiles(run.path).prior.exists()
