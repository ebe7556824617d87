"""Calibration of small runs: the new run directory, what stays as it is, and intervals of new items."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_mmvae import Run, fit, load
from pyro_mmvae.inference.intervals import error_law, location_likelihood
from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.runs.calibration import CalibrationResult, calibrate_run

SMALL = {"train.threads": 1, "train.device": "cpu", "model.network.hidden": 16, "train.batch_size": 50}


def make_values(items: int = 900) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(items, 2))
    return {
        "gauge": 500 + 40 * (z @ rng.normal(size=(2, 3)) + rng.laplace(size=(items, 3)) * [0.1, 0.3, 0.6]),
        "level": z @ rng.normal(size=(2, 4)) + rng.uniform(-1, 1, size=(items, 4)),
        "count": rng.poisson(np.exp(z[:, :1])),
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("calibration") / "run"
    options: Any = {
        "data_types": {"count": "counts"},
        "specs": {"level": ModalitySpec(likelihood="laplace", scale=0.5)},
    }
    fit(
        make_values(), epochs=4, latent_size=2, validation=0.25, test=0.35, out=place, progress=False, settings=SMALL,
        **options,
    )  # fmt: skip
    return place


@pytest.fixture(scope="module")
def calibrated(trained: Path) -> CalibrationResult:
    return load(trained, device="cpu").calibrate(epochs=1)


def parameters(run: Run, part: str) -> dict[str, torch.Tensor]:
    return {n: v for n, v in run.vae.state_dict().items() if n.startswith(part) and "likelihoods" not in n}


def test_calibrate_keeps_the_decoders_and_the_run(trained: Path, calibrated: CalibrationResult) -> None:
    assert calibrated.path == trained.with_name("run-calibrated")
    old, new = load(trained, device="cpu"), load(calibrated.path, device="cpu")
    decoders, guide = parameters(old, "model."), parameters(old, "guide.")
    assert decoders
    assert all(torch.equal(value, parameters(new, "model.")[name]) for name, value in decoders.items())
    assert any(not torch.equal(value, parameters(new, "guide.")[name]) for name, value in guide.items())
    assert old.modality_specs["level"].scale == 0.5
    assert new.modality_specs["level"].scale == "calibrated_per_feature:0.5"
    assert new.config.model.modalities["level"].scale == "calibrated_per_feature:0.5"
    assert not (calibrated.path.with_name(".run-calibrated.partial")).exists()


def test_calibrate_intervals_of_test_items_cover_what_they_say(calibrated: CalibrationResult) -> None:
    rows = {(row.modality, row.given): row for row in calibrated.rows}
    assert set(rows) == {(m, g) for m in ("gauge", "level") for g in ("others", "all")}
    assert calibrated.uncalibrated == ("count",)
    for name in ("gauge", "level"):
        row = rows[name, "others"]
        assert row.split == "test"
        assert row.items == 315
        for level, (_, after) in row.coverage.items():
            assert after == pytest.approx(level, abs=0.05)
    assert rows["level", "others"].coverage[0.5][0] != pytest.approx(0.5, abs=0.05)


def test_calibrate_new_run_loads_the_scales_that_were_set(trained: Path, calibrated: CalibrationResult) -> None:
    new = load(calibrated.path or "", device="cpu")
    row = next(row for row in calibrated.rows if row.modality == "level")
    base: Any = location_likelihood(new.model.likelihoods["level"])  # type: ignore[arg-type]
    law = error_law(base)
    assert law.scale.shape == (4,)
    assert (float(law.scale.mean()), law.exponent) == pytest.approx((row.scale[1], row.exponent[1]))
    imputed = new.impute(given=["gauge"], targets=["level"], quantiles=[0.25, 0.75], draws=100, items=50)
    test = new.data("test").tensors["level"][:50].numpy()
    inside = (imputed.arrays["quantile-0.25/level"] < test) & (test < imputed.arrays["quantile-0.75/level"])
    assert inside.mean() == pytest.approx(0.5, abs=0.12)


def test_calibrate_new_run_is_complete_without_the_old_one(
    trained: Path, calibrated: CalibrationResult, tmp_path: Path
) -> None:
    place = tmp_path / "moved"
    shutil.copytree(calibrated.path or "", place)
    hidden = trained.rename(trained.with_name("hidden"))
    try:
        moved = load(place, device="cpu")
        assert moved.config.data.name.startswith(str(tmp_path))
        assert len(moved.data("test")) == 315
    finally:
        hidden.rename(trained)


def test_calibrate_states_the_median_beside_a_mean_that_one_item_determines(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyro_mmvae.runs import calibration

    values = iter([np.array([1.0, 2.0, -93.0]), np.array([4.0, 6.0, -1000.0])])
    monkeypatch.setattr(calibration, "_log_likelihoods", lambda *_: next(values))
    result = calibration.calibrate_run(load(trained, device="cpu"), None, epochs=0)
    assert result.log_likelihood == (-30.0, -330.0)
    assert result.median_log_likelihood == (1.0, 4.0)


def test_calibrate_no_epochs_keeps_the_guide_and_writes_nothing_without_a_path(trained: Path) -> None:
    run = load(trained, device="cpu")
    before = {name: value.clone() for name, value in run.vae.state_dict().items()}
    result = calibrate_run(run, None, epochs=0, items=100, per="modality", exponent=False, draws=4)
    assert result.path is None
    assert {row.exponent for row in result.rows} == {(2.0, 2.0), (1.0, 1.0)}
    assert all(torch.equal(value, before[name]) for name, value in run.vae.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given": "none"}, "given must be 'others' or 'all', got 'none'"),
        ({"per": "pixel"}, "per must be 'feature' or 'modality', got 'pixel'"),
    ],
)
def test_calibrate_wrong_option_is_refused(trained: Path, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(trained, device="cpu").calibrate(**options)


def test_calibrate_existing_folder_is_refused(trained: Path) -> None:
    with pytest.raises(ValueError, match="exists already: give another"):
        load(trained, device="cpu").calibrate(trained)


def test_calibrate_run_without_a_scale_is_refused(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(3.0, size=(40, 2))
    run = fit({"a": counts, "b": counts}, epochs=0, out=tmp_path / "run", progress=False, settings=SMALL,
              data_types={"a": "counts", "b": "counts"})  # fmt: skip
    with pytest.raises(ValueError, match="a modality must have the likelihood 'laplace' or 'normal', got Negative"):
        run.calibrate()
    assert not (tmp_path / "run-calibrated").exists()


@pytest.mark.parametrize("private_encoder", ["own", "with_z"])
def test_calibrate_with_private_latents_keeps_their_priors_for_others(tmp_path: Path, private_encoder: str) -> None:
    values = {name: value for name, value in make_values(80).items() if name != "count"}
    settings = {**SMALL, "model.private_size": 1, "model.private_encoder": private_encoder}
    run = fit(values, epochs=1, latent_size=2, out=tmp_path / "run", progress=False, settings=settings)
    result = run.calibrate(epochs=1, items=8, draws=4)
    assert {(row.modality, row.given, row.items) for row in result.rows} == {
        (name, given, 8) for name in ("gauge", "level") for given in ("others", "all")
    }
    decoders = parameters(run, "model.")
    new = parameters(load(result.path or "", device="cpu"), "model.")
    assert all(torch.equal(value, new[name]) for name, value in decoders.items())
