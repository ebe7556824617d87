"""``pyro-mmvae fit-prior``, and the commands that use the fitted prior, on toy data."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pyro_mmvae import Run, load, train
from pyro_mmvae.cli import main
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.config import Config, dump_config


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def run(toy_config: Callable[..., Config], elsewhere: Path) -> Run:
    config = toy_config(train__epochs=1, model__aggregation="mwb", train__fit_prior=0)
    return train(config, elsewhere / "run", progress=False)


def test_fit_prior_stores_the_prior_that_sample_draws_from(run: Run) -> None:
    before = invoke("sample", run.path, "--device", "cpu", "--out", "before.npz")
    assert "8 draws from the prior, seed 0" in before.output
    options = ["--components", 4, "--covariance", "diag", "--density", "mixture", "--items", 60, "--seed", 1]
    result = invoke("fit-prior", run.path, "--device", "cpu", "--threads", 1, *options)
    assert result.exit_code == 0, result.output
    assert (
        f"{run.path}/prior.npz: 4 Gaussians, fitted to 600 draws of the whole posterior of 60 training items, seed 1"
        in (result.output)
    )
    assert "held-out draws: " in result.output
    assert "under the prior of the model" in result.output
    fitted = load(run.path, device="cpu").fitted_prior
    assert fitted is not None
    assert {"covariance": "diag", "density": "mixture", "items": 60, "seed": 1}.items() <= fitted.about.items()
    after = invoke("sample", run.path, "--device", "cpu", "--out", "after.png")
    assert "after.png: 8 draws from the fitted prior (4 Gaussians), seed 0" in after.output
    model = invoke("sample", run.path, "--device", "cpu", "--prior", "model", "--out", "model.npz")
    assert "8 draws from the prior, seed 0" in model.output
    assert Path("model.npz").read_bytes() == Path("before.npz").read_bytes()


def test_fit_prior_with_options_that_do_not_fit_raises_in_one_line(run: Run) -> None:
    for words, message in (
        (["--flow", "--components", 3], "error: --flow must come without --components"),
        (["--flow", "--covariance", "diag"], "error: --flow must come without --covariance"),
    ):
        result = invoke("fit-prior", run.path, *words)
        assert (result.exit_code, result.output.count("\n")) == (2, 1)
        assert result.output.startswith(message)
    result = invoke("sample", run.path, "--given", "m0", "--prior", "model")
    assert "error: --prior must come without --given" in result.output
    result = invoke("sample", run.path, "--device", "cpu", "--prior", "fitted")
    assert "error: prior='fitted' needs a prior that was fitted to this checkpoint" in result.output
    assert f"pyro-mmvae fit-prior {run.path}" in result.output


def test_evaluate_reports_draws_of_both_priors(run: Run) -> None:
    words = ["evaluate", run.path, "--quiet", "--device", "cpu", "--threads", "1", "--likelihood-items", "0"]
    words += ["--khat-items", "0", "--no-diagnostics"]
    rows: dict[bool, dict[tuple[str, str], list[float]]] = {}
    for is_fitted in (False, True):
        if is_fitted:
            run.fit_prior()
        result = invoke(*words)
        assert result.exit_code == 0, result.output
        with RunFiles(run.path).evaluation_table.open(newline="") as file:
            found = [row for row in csv.DictReader(file) if row["metric"] in {"joint_coherence", "frechet_classifier"}]
            found = [row for row in found if not row["given"]]  # draws of a prior
        rows[is_fitted] = {}
        for row in found:
            rows[is_fitted].setdefault((row["metric"], row["protocol"]), []).append(float(row["value"]))
    own = "prior draws, mean of the likelihood"
    fitted = "draws of the fitted prior (8 Gaussians), mean of the likelihood"  # of 87 items that were not held out
    before = {("joint_coherence", f"1000 {own}"), ("frechet_classifier", own)}
    assert set(rows[False]) == before
    assert set(rows[True]) == before | {("joint_coherence", f"1000 {fitted}"), ("frechet_classifier", fitted)}
    for key in before:
        assert rows[True][key] == pytest.approx(rows[False][key])
    assert rows[True]["frechet_classifier", fitted] != rows[True]["frechet_classifier", own]
    summary = json.loads(RunFiles(run.path).evaluation_summary.read_text())
    assert summary["prior"]["components"] == 8


def test_commands_with_a_prior_of_another_checkpoint_say_so(run: Run, toy_config: Callable[..., Config]) -> None:
    run.fit_prior()
    other = train(toy_config(train__epochs=1, train__seed=1, train__fit_prior=0), Path("other"), progress=False)
    RunFiles(other.path).prior.write_bytes(RunFiles(run.path).prior.read_bytes())
    result = invoke("sample", other.path, "--device", "cpu", "--out", "stale.npz")
    assert "note: prior.npz was fitted to another checkpoint and is not used: fit it again by" in result.output
    assert "8 draws from the prior, seed 0" in result.output


def test_train_says_which_prior_it_fitted(toy_config: Callable[..., Config], elsewhere: Path) -> None:
    (elsewhere / "toy.yaml").write_text(dump_config(toy_config(train__epochs=1)), encoding="utf-8")
    result = invoke("train", "--config", "toy.yaml", "--quiet", "--out", "new")
    assert "  new/prior.npz: prior of 8 Gaussians, fitted to 96 training items in " in result.output
    RunFiles(Path("new")).prior.unlink()
    again = invoke("train", "--resume", "new", "--quiet")
    assert "prior of 8 Gaussians" in again.output
