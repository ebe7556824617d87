"""Tests of the whole way of covariates: a folder with donors, trained, encoded, imputed and sampled by commands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

import pyro_mmvae
from pyro_mmvae import Run
from pyro_mmvae.cli import main
from pyro_mmvae.data import MultimodalDataset, load_data
from pyro_mmvae.runs.sampling import draw_samples, training_samples

N = 400
DONOR = np.random.default_rng(3).choice(2, N, p=[0.6, 0.4])
SMALL = shlex.split(
    "--quiet --agg mwb --epochs 16 --set train.lr=0.02 --set train.batch_size=20 --set train.threads=1 "
    "--set model.latent_size=2 --set model.network.name=mlp --set model.network.hidden=16 --set model.network.depth=1"
)


def invoke(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def fail(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code != 0
    return result.output


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data whose donors shift all features, and runs that know the donors and that do not."""
    folder, rng = tmp_path_factory.mktemp("donors"), np.random.default_rng(0)
    z = rng.normal(size=(N, 2))
    for name in ("known", "hidden"):
        (folder / name).mkdir()
    for name, size in (("left", 6), ("right", 4)):
        shift = rng.choice([-1.0, 1.0], (2, size))
        values = z @ rng.normal(size=(2, size)) + shift[DONOR] + 0.3 * rng.normal(size=(N, size))
        np.save(folder / f"{name}_of_a.npy", values + shift[0] - shift[DONOR])  # as if all items were of donor A
        for place in ("known", "hidden"):
            np.save(folder / place / f"{name}.npy", values)
            np.save(folder / place / "ids.npy", np.arange(N))
    np.save(folder / "known" / "covariate_donor.npy", np.array(["A", "B"])[DONOR])
    for name in ("known", "hidden"):
        np.save(folder / name / "labels.npy", (z[:, 0] > 0).astype(int))
        invoke("train", "--data", folder / name, "--out", folder / f"run_{name}", *SMALL)
    return folder


@pytest.fixture(scope="module")
def run(runs: Path) -> Run:
    return pyro_mmvae.load(runs / "run_known", device="cpu")


def probe(z: dict[str, NDArray[Any]], labels: dict[str, NDArray[Any]]) -> float:
    """Return the test accuracy of a logistic regression on latents."""
    return float(LogisticRegression().fit(z["train"], labels["train"]).score(z["test"], labels["test"]))


def gap(values: NDArray[Any], data: MultimodalDataset) -> float:
    """Return the largest difference between the mean values of two donors."""
    donor = data.covariates["donor"].numpy()
    return float(np.abs(values[donor == 0].mean(0) - values[donor == 1].mean(0)).max())


def test_latents_of_a_model_that_knows_the_donor_hold_less_of_it(runs: Path, run: Run) -> None:
    parts = {split: run.data(split) for split in ("train", "test")}
    donors = {split: part.covariates["donor"].numpy() for split, part in parts.items()}
    classes = {split: part.labels.numpy() for split, part in parts.items() if part.labels is not None}
    hidden = pyro_mmvae.load(runs / "run_hidden", device="cpu")
    with_donor = {split: run.encode(split=split)["z"] for split in parts}
    without = {split: hidden.encode(split=split)["z"] for split in parts}
    assert probe(without, donors) > 0.85
    assert probe(with_donor, donors) < 0.8
    assert probe(with_donor, classes) >= probe(without, classes) - 0.05


def test_impute_given_a_category_removes_the_effect_of_the_donor(runs: Path, run: Run, tmp_path: Path) -> None:
    options = ("--split", "train", "--draws", 5, "--quiet", "--threads", 1)
    output = invoke("impute", runs / "run_known", "--covariate", "donor=A", "--out", tmp_path / "a", *options)
    data = run.data("train")
    assert data.item_ids is not None
    assert f"imputed left of {len(data)} items, right of {len(data)} items" in output
    summary = json.loads((tmp_path / "a" / "imputation.json").read_text())
    assert summary["covariates"] == {"donor": "A"}
    in_python = run.impute(split="train", draws=5, covariates={"donor": "A"})
    for name in ("left", "right"):
        removed = np.load(tmp_path / "a" / "mean" / f"{name}.npy")
        observed = data.tensors[name].numpy()
        expected = np.load(runs / f"{name}_of_a.npy")[data.item_ids.astype(int)]
        of_b = data.covariates["donor"].numpy() == 1
        before, after = (np.linalg.norm((values - expected)[of_b].mean(0)) for values in (observed, removed))
        assert before > 2
        assert after < 0.5 * before
        # Items of A keep their values, up to the reconstruction error.
        assert np.linalg.norm((removed - observed)[~of_b].mean(0)) < 0.5 * before
        np.testing.assert_allclose(in_python.mean[name], removed, rtol=1e-5, atol=1e-5)


def test_impute_of_complete_data_sets_writes_the_covariates(runs: Path, run: Run, tmp_path: Path) -> None:
    words = ("--given", "left", "--multiple", "--draws", 2, "--items", 30, "--quiet", "--threads", 1)
    invoke("impute", runs / "run_known", "--out", tmp_path / "many", *words)
    drawn = load_data(str(tmp_path / "many" / "draw-001"), "all")
    assert drawn.covariate_names == {"donor": ("A", "B")}
    assert drawn.covariates["donor"].tolist() == run.data("test").covariates["donor"][:30].tolist()


def test_encode_of_items_under_other_categories_gives_other_latents(run: Run) -> None:
    values = {name: value[:4] for name, value in run.data("test").tensors.items()}
    first, second, again = (run.encode(run.dataset(values, covariates={"donor": [d] * 4}))["z"] for d in "ABA")
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("given", [(), ("left",)])
def test_sample_given_a_category_decodes_under_it(runs: Path, run: Run, tmp_path: Path, given: tuple[str, ...]) -> None:
    drawn = [draw_samples(run, given, ("right",), 6, covariates={"donor": donor}) for donor in "AB"]
    a, b = (samples.arrays["generated.right"] for samples in drawn)
    assert np.abs(a - b).max() > 1
    words = [*(("--given", *given) if given else ()), "--generate", "right", "-n", 6, "--out", tmp_path / "s.npz"]
    output = invoke("sample", runs / "run_known", "--covariate", "donor=B", *words)
    assert "donor B" in output
    np.testing.assert_allclose(np.load(tmp_path / "s.npz")["generated.right"], b, rtol=1e-5, atol=1e-5)


def test_draw_samples_given_items_uses_their_own_categories_by_default(run: Run) -> None:
    data = run.data("test")
    of_b = np.flatnonzero(data.covariates["donor"].numpy() == 1)[:5]
    own, b, a = (draw_samples(run, ("left",), items=of_b, covariates=c) for c in (None, {"donor": "B"}, {"donor": "A"}))
    np.testing.assert_array_equal(own.arrays["generated.right"], b.arrays["generated.right"])
    assert np.abs(own.arrays["generated.right"] - a.arrays["generated.right"]).max() > 1


def test_training_samples_reconstruct_items_under_their_own_categories(run: Run) -> None:
    data = run.data("train").subset(range(40))
    arrays = training_samples(run, data, 40)
    error = np.abs(arrays["reconstruction.left"] - arrays["observed.left"]).mean()
    assert error < 0.7
    assert gap(arrays["reconstruction.left"], data) > 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["donor=D"], "covariate 'donor' must be one of A, B, got 'D'"),
        (["plate=1"], "must be covariates of the model (donor), got 'plate'"),
        (["donor"], "--covariate must be NAME=CATEGORY, as in donor=A, got 'donor'"),
        (["donor=A", "donor=B"], "--covariate must name each covariate once, got 'donor' twice"),
    ],
)
@pytest.mark.parametrize("command", ["impute", "sample"])
def test_wrong_covariate_option_is_an_error_of_one_line(
    runs: Path, tmp_path: Path, command: str, words: list[str], message: str
) -> None:
    options = [part for word in words for part in ("--covariate", word)]
    output = fail(command, runs / "run_known", *options, "--out", tmp_path / "x.npz" if command == "sample" else "x")
    assert message in output
    assert output.count("error:") == 1


def test_data_info_lists_the_categories(runs: Path) -> None:
    output = invoke("data", "info", runs / "known", "--split", "val")
    counts = np.bincount(load_data(str(runs / "known"), "val").covariates["donor"].numpy())
    assert f"  covariate donor  A: {counts[0]}, B: {counts[1]}\n" in output


def test_data_check_ends_with_the_categories_of_the_training_items(runs: Path) -> None:
    output = invoke("data", "check", runs / "known")
    counts = np.bincount(load_data(str(runs / "known"), "train").covariates["donor"].numpy())
    assert f"\ncovariate donor  A: {counts[0]}, B: {counts[1]}\n" in output


def test_data_check_of_a_single_category_reports_what_training_refuses(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "left.npy", np.random.default_rng(0).normal(size=(30, 2)))
    np.save(tmp_path / "d" / "covariate_donor.npy", np.full(30, "A"))
    output = fail("data", "check", tmp_path / "d")
    assert output == (
        "train: covariate 'donor' must have two or more categories in the training items, got 1: leave it out\n"
    )
