"""The fitted prior of a run: its file, its draws, and the check that it belongs to the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_mmvae import Run, load, resume, train
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.config import Config, ConfigError, make_config
from pyro_mmvae.runs.priors import guide_fingerprint
from pyro_mmvae.runs.sampling import draw_samples

MakeConfig = Callable[..., Config]


@pytest.fixture
def run(toy_config: MakeConfig, tmp_path: Path) -> Run:
    return train(toy_config(model__aggregation="mwb", train__epochs=1), tmp_path / "run", progress=False)


def draws(run: Run, source: str = "auto") -> torch.Tensor:
    torch.manual_seed(5)
    return run.prior(source).sample(torch.Size((6,)))


def test_fitted_prior_of_a_loaded_run_gives_identical_draws(run: Run) -> None:
    fitted = run.fit_prior(3, seed=2)
    assert run.fitted_prior is fitted
    again = load(run.path, device="cpu")
    assert again.fitted_prior is not None
    assert again.fitted_prior.about == fitted.about
    assert (fitted.about["components"], fitted.about["seed"], fitted.about["epoch"]) == (3, 2, 1)
    assert torch.equal(draws(again), draws(run))
    assert torch.equal(draws(run, "fitted"), draws(run))
    assert not torch.equal(draws(run, "model"), draws(run))
    of_model = draws(run, "model")
    torch.manual_seed(5)
    assert torch.equal(of_model, run.model.prior().sample(torch.Size((6,))))
    assert (run.describe_prior(), run.describe_prior("model")) == ("the fitted prior (3 Gaussians)", "the prior")


def test_samples_without_observations_follow_the_fitted_prior(run: Run) -> None:
    fitted = draw_samples(run, count=5, seed=3)
    assert not np.array_equal(fitted.generated["m0"], draw_samples(run, count=5, seed=3, prior="model").generated["m0"])
    torch.manual_seed(3)
    means = run.decode(run.prior("fitted").sample(torch.Size((5,))))
    np.testing.assert_allclose(fitted.generated["m0"], (means["m0"] * 255).round().clamp(0, 255).numpy(), atol=1)


def test_prior_of_a_run_without_a_fitted_one_is_that_of_the_model(toy_config: MakeConfig, tmp_path: Path) -> None:
    for setting in (0, None):
        path = tmp_path / str(setting)
        run = train(toy_config(train__epochs=1, train__fit_prior=setting), path, progress=False)
        assert not RunFiles(path).prior.exists()
        assert (run.fitted_prior, run.prior_note) == (None, None)
        assert torch.equal(draws(run), draws(run, "model"))
        with pytest.raises(ValueError, match="prior='fitted' needs a prior that was fitted to this checkpoint, got a"):
            run.prior("fitted")
    with pytest.raises(ValueError, match="prior must be one of auto, fitted, model, got 'flow'"):
        run.prior("flow")


def test_fitted_prior_of_another_checkpoint_is_not_used(run: Run, toy_config: MakeConfig) -> None:
    stored = RunFiles(run.path).prior.read_bytes()
    resumed = resume(run.path, epochs=2, progress=False)
    assert resumed.prior_note is None  # the end of the training fits it again
    assert resumed.fitted_prior is not None
    assert resumed.fitted_prior.about["fingerprint"] == guide_fingerprint(resumed.vae)
    RunFiles(run.path).prior.write_bytes(stored)
    stale = load(run.path, device="cpu", checkpoint="last")
    note = stale.prior_note
    assert note is not None
    assert "\n" not in note
    assert note.startswith("prior.npz was fitted to another checkpoint (epoch 1, this is epoch 2) and is not used")
    with pytest.warns(UserWarning, match="fitted to another checkpoint"):
        assert stale.fitted_prior is None
    assert torch.equal(draws(stale), draws(stale, "model"))
    with pytest.raises(ValueError, match="prior='fitted' needs .* prior.npz was fitted to another checkpoint"):
        stale.prior("fitted")
    stale.fit_prior()
    assert load(run.path, device="cpu", checkpoint="last").prior_note is None


def test_calibrated_run_has_a_fitted_prior_of_its_own(run: Run, tmp_path: Path) -> None:
    run.fit_prior(3, covariance="diag", seed=4)
    run.calibrate(tmp_path / "calibrated", items=16, epochs=1, draws=2)
    fitted = load(tmp_path / "calibrated", device="cpu").fitted_prior
    assert fitted is not None
    assert {"components": 3, "covariance": "diag", "seed": 4, "density": "joint"}.items() <= fitted.about.items()
    assert run.prior_note is None


def test_guide_fingerprint_depends_on_the_parameters_of_the_guide_alone(run: Run) -> None:
    first = guide_fingerprint(run.vae)
    with torch.no_grad():
        next(run.model.decoders.parameters()).add_(1)
    assert guide_fingerprint(run.vae) == first
    with torch.no_grad():
        next(run.guide.encode.parameters()).add_(1)  # type: ignore[attr-defined]
    assert guide_fingerprint(run.vae) != first


def test_learned_prior_of_a_loaded_run_gives_identical_draws(toy_config: MakeConfig, tmp_path: Path) -> None:
    config = toy_config(model__prior={"name": "mixture", "components": 5, "init": "experts"}, train__epochs=2)
    run = train(config, tmp_path / "run", progress=False)
    assert run.model.learned_prior is not None
    assert len(run.model.learned_prior.logits.unique()) == 5  # they were trained
    again = load(run.path, device="cpu")
    assert again.config.model.prior == {"name": "mixture", "components": 5, "init": "experts"}
    assert torch.equal(draws(again, "model"), draws(run, "model"))
    nothing = {"m0": torch.zeros(2, 3, 8, 8)}
    torch.testing.assert_close(again.posterior(nothing, ()).mean, again.model.prior().mean.detach().expand(2, -1))


def test_config_takes_names_and_options_of_priors() -> None:
    assert make_config(None, {"model.prior": None}).model.prior == "standard" == make_config().model.prior
    named = make_config(None, {"model.prior": "mixture", "model.prior.components": 20}).model.prior
    assert named == {"name": "mixture", "components": 20}
    assert make_config(None, {"model.prior": {"name": "mixture"}}).model.prior == "mixture"
    for value, message in (
        ("vamp", "prior must be one of standard, mixture, got 'vamp'"),
        (3, "must be a name, or a mapping with a name and options, got 3"),
        ({"name": "mixture", "start": 1}, "option of prior 'mixture' must be one of components, init, got 'start'"),
    ):
        with pytest.raises(ConfigError, match=f"model.prior.*{message}"):
            make_config(None, {"model.prior": value})
