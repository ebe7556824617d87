"""The examples do what they say: each is run, and its figures are held against something known."""

from __future__ import annotations

import importlib.util
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from pyro_mmvae import load
from pyro_mmvae.cli import main
from pyro_mmvae.data import load_data

FOLDER = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def nothing_is_written(elsewhere: Path) -> Iterator[None]:
    yield
    assert not list(elsewhere.iterdir())


def run(name: str, **options: Any) -> Any:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(**options)


def test_every_example_has_a_test_and_a_section_in_the_guide() -> None:
    names = sorted(file.stem for file in FOLDER.glob("*.py"))
    assert len(names) >= 3
    guide = (FOLDER.parent / "docs" / "guides.md").read_text()
    for name in names:
        assert f"test_{name}" in globals(), f"examples/{name}.py is not tested here"
        assert f"(../examples/{name}.py)" in guide, f"docs/guides.md does not tell of examples/{name}.py"


def test_custom_model(capsys: pytest.CaptureFixture[str]) -> None:
    found = run("custom_model", steps=300)
    assert found["evidence"] - 0.05 < found["poe"] < found["evidence"] + 0.01  # it holds the exact posterior
    assert found["wb"] < found["poe"]
    assert found["mwb"] < found["poe"]
    assert capsys.readouterr().out.count("gap") == 3


def test_agreeing_experts(capsys: pytest.CaptureFixture[str]) -> None:
    found = run("agreeing_experts")
    assert capsys.readouterr().out.count("matched") == 3
    plain, frechet, contrastive = (found[name] for name in ("no penalty", "Fréchet variance", "contrastive"))
    assert plain["matched"] < 0.1
    assert frechet["matched"] > 2 * plain["matched"]
    assert contrastive["matched"] > 3 * plain["matched"]
    assert plain["elbo"] > max(frechet["elbo"], contrastive["elbo"])  # the penalties cost some of the bound


@pytest.mark.usefixtures("registered")
def test_custom_aggregation(capsys: pytest.CaptureFixture[str]) -> None:
    figures = run("custom_aggregation")
    assert capsys.readouterr().out.count("keeps the contract") == 2
    assert figures["tau"] == pytest.approx(figures["exact"], rel=0.03)
    assert figures["after"] == pytest.approx(figures["evidence"], abs=0.01)  # the family holds the exact posterior
    assert figures["before"] < figures["evidence"] - 0.5
    assert 1 / 3 < figures["stddev"] < 2 / 3


def test_custom_aggregation_trains_as_a_plugin_and_loads(
    opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    sizes = ("modalities=3", "train_size=96", "val_size=32", "test_size=32")
    words = ["train", "--plugin", "custom_aggregation", "--agg", "mixture_of_tempered", "--data", "toy", "--quiet"]
    words += ["--set", "model.aggregation.tau=0.5", "--set", "model.network.width=4", "--set", "model.latent_size=4"]
    words += [word for size in sizes for word in ("--set", f"data.{size}")]
    words += ["--epochs", "2", "--device", "cpu", "--precision", "fp32", "--out", str(tmp_path / "out" / "run")]
    (tmp_path / "out").mkdir()
    try:
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        opened_run = load(tmp_path / "out" / "run", checkpoint="last", device="cpu")
    finally:
        sys.modules.pop("custom_aggregation", None)
    assert str(opened_run.config.model.aggregation) == "mixture_of_tempered(tau=0.5)"
    aggregation = opened_run.guide.aggregation
    assert aggregation.rule.log_tau.item() != pytest.approx(math.log(0.5), abs=1e-4)  # trained, saved and loaded
    saved = safetensors.torch.load_file(tmp_path / "out" / "run" / "checkpoint.safetensors")
    assert torch.equal(saved["model.guide.aggregation.rule.log_tau"], aggregation.rule.log_tau.detach())
    shutil.rmtree(tmp_path / "out")


def test_posterior_predictive(capsys: pytest.CaptureFixture[str]) -> None:
    results = run("posterior_predictive")
    good, wrong = capsys.readouterr().out.split("made wrong on purpose")
    assert "in-sample: conservative by construction, not judged" in good
    assert "miscalibrated" not in good
    assert "miscalibrated" in wrong
    ranks = ("z[0]", "z[1]", "log_p")
    assert all(results["trained"][key] > 0.01 for key in ("right.mean", *ranks))
    assert all(results["wrong"][key] < 1e-6 for key in ("right.mean", *ranks))
    assert results["trained"]["khat"] < 0.5
    assert results["wrong"]["khat"] > 0.7


def test_factor_analysis() -> None:
    found = run("factor_analysis", aggregations=("poe", "wb"))
    gap = found["evidence"] - found["poe"]
    assert 0 < gap < 0.15
    assert gap == pytest.approx(found["kl"], abs=0.02)  # evidence = ELBO + KL, each by its own way
    assert found["error"] < 0.15
    assert found["evidence"] - found["wb"] > 0.3


def test_two_omics() -> None:
    for found in run("two_omics", aggregations=("poe", "wb")).values():
        assert found["both"] > 0.9
        assert 0.8 < found["second"] < found["both"]
        assert found["score"] > found["baseline"] + 30


def test_cite_seq(capsys: pytest.CaptureFixture[str]) -> None:
    found = run("cite_seq", epochs=12)
    assert float(np.median(found["correlation"])) > 0.6
    assert found["rmse"] < 0.8 * found["baseline"]
    assert capsys.readouterr().out.count("P1") == 11


def test_sklearn_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    found = run("sklearn_pipeline", epochs=8, folds=2)
    assert found["accuracy"] > 0.9
    assert found["rmse_vae"] < 0.75 * found["rmse_mean"]
    assert "mean imputation" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")  # of anndata and mudata
def test_cite_seq_writes_latent_and_imputed_proteins(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("mudata")
    import mudata

    out = tmp_path_factory.mktemp("out") / "cells.h5mu"
    found = run("cite_seq", epochs=1, out=str(out))
    assert found["written"]
    tables = mudata.read_h5mu(out)
    completed, protein = tables["protein_completed"], tables["protein"]
    is_imputed = completed.obs["is_imputed"].to_numpy()
    assert tables.obsm["X_mwb"].shape == (tables.n_obs, 8)
    assert protein.obs_names.tolist() == completed.obs_names[~is_imputed].tolist()
    np.testing.assert_array_equal(completed.X[~is_imputed], protein.X)
    np.testing.assert_array_equal(completed.X[is_imputed], completed.layers["imputed"][is_imputed])
    kinds = {"rna": "counts", "protein": "counts", "protein_completed": "vector"}
    data = load_data(str(out), "test", kinds=kinds, highly_variable=True, labels="cell_type")
    assert data.modalities["rna"].shape[1] == 300
    assert data.class_names == tuple(f"T{number}" for number in range(6))


def test_global_and_local() -> None:
    found = run("global_and_local", aggregations=("poe", "wb"))
    for aggregation, tolerance in (("poe", 0.05), ("wb", 0.12)):
        assert found[aggregation]["noise"] == pytest.approx(0.8, abs=0.05)
        assert found[aggregation]["gain_1"] == pytest.approx(-0.5, abs=tolerance)
        assert found[aggregation]["gain_2"] == pytest.approx(2.0, abs=tolerance + 0.02)
    assert found["poe"]["rmse"] == pytest.approx(found["poe"]["best"], abs=0.01)
    assert found["poe"]["elbo"] > found["wb"]["elbo"]


def test_sensor_fusion() -> None:
    found = run("sensor_fusion", aggregations=("poe",))
    assert 0 < found["kalman"]["elbo"] - found["poe"]["elbo"] < 0.1
    assert found["poe"]["from_kalman"] < 0.08
    assert found["poe"]["rmse"] == pytest.approx(found["kalman"]["rmse"], abs=0.02)


def test_sensor_fusion_smoother_equals_a_conditioned_gaussian() -> None:
    spec = importlib.util.spec_from_file_location("examples_sensor_fusion", FOLDER / "sensor_fusion.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    track = torch.randn(3, module.TIMES)
    track[torch.rand(track.shape) < 0.4] = torch.nan
    sensor, time = (~track.isnan()).nonzero(as_tuple=True)
    prior = module.WALK @ module.WALK.T
    marginal = prior[time][:, time] + module.NOISE[sensor].square().diag()
    readings = track[sensor, time]
    path, evidence = module.kalman(track)
    torch.testing.assert_close(path, prior[:, time] @ torch.linalg.solve(marginal, readings), atol=1e-4, rtol=1e-4)
    density = torch.distributions.MultivariateNormal(torch.zeros(len(time)), marginal)
    assert evidence == pytest.approx(density.log_prob(readings).item(), abs=1e-3)


def test_discrete_and_iwae() -> None:
    found = run("discrete_and_iwae")
    assert found["enumerated"] == pytest.approx(found["by_hand"], abs=1e-4)
    bounds = [found[f"iwae_{particles}"] for particles in (1, 4, 16, 64, 256)]
    assert bounds == sorted(bounds)
    assert bounds[0] == pytest.approx(found["by_hand"], abs=0.03)
    assert 0 < found["evidence"] - bounds[-1] < 0.03
    assert found["evidence"] - found["by_hand"] > 0.2


def test_frozen_encoders() -> None:
    found = run("frozen_encoders")
    heads = [f"encode.heads.{m}.{name}" for m in range(2) for name in ("bias", "weight")]
    store = {name.replace("$$$", ".") for name in pyro.get_param_store()}
    assert store == set(found["optimised"])
    assert found["changed"] == found["optimised"] == ["aggregation.expert_weights.logits", *heads]
    assert found["last"] < found["first"] - 5
    assert found["share"][0] > 0.6
    assert found["rmse"] < 0.5  # of z ~ N(0, 1)


def test_pretrained_backbone(capsys: pytest.CaptureFixture[str]) -> None:
    results = run("pretrained_backbone")
    assert results["none"] > 0.2
    assert results["image"] < 0.12
    assert results["sensor"] < 0.12
    assert (results["changed"], results["total"]) == (0, 30)
    assert "213,980 of 371,484 parameters trained" in capsys.readouterr().out
    tuned = run("pretrained_backbone", freeze=False, steps=3)
    assert tuned["changed"] == tuned["total"]
