"""Tables in physical units from a folder to imputations in those units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pyro_mmvae import Run, load
from pyro_mmvae.cli import main
from pyro_mmvae.data import make_batch

N, EPOCHS = 600, 20
SETTINGS = (
    "model.latent_size=4", "model.network.hidden=32", "train.lr=0.01", "train.batch_size=32", "train.device=cpu",
    "train.threads=1", "train.precision=fp32",
)  # fmt: skip
COLUMNS = ("kelvin", "pascal", "income", "tiny", "huge", "heavy_tail", "constant", "near_constant")


def physical(generator: np.random.Generator, n: int = N) -> dict[str, np.ndarray[Any, Any]]:
    """Return a table of features that follow two factors, in units between 1e-6 and 1e9, and a second table."""
    a, b = generator.normal(size=(2, n))
    noise = generator.normal(size=(4, n)) * 0.1
    columns = {
        "kelvin": 288 + 9 * (a + noise[0]),
        "pascal": 101_325 + 800 * (b + noise[1]),
        "income": 40_000 * np.exp(0.3 * (a - b) + 0.03 * noise[2]),
        "tiny": 1e-6 * (a + b + noise[3]),
        "huge": 1e9 * (a + 3),
        "heavy_tail": np.exp(1.5 * a),
        "constant": np.full(n, 5e4),
        "near_constant": 1e6 * (1 + 1e-9 * a),
    }
    other = np.stack([a + 0.2 * generator.normal(size=n), 50 * b], -1)
    return {"table": np.stack([columns[name] for name in COLUMNS], -1), "other": other}


@pytest.fixture
def folder(elsewhere: Path) -> Path:
    folder = elsewhere / "mine"
    folder.mkdir()
    data = physical(np.random.default_rng(0))
    for name, values in data.items():
        np.save(folder / f"{name}.npy", values)
    present = np.ones((N, 2), dtype=bool)
    present[:20, 1] = False  # the table is the second modality in the order of names
    np.save(folder / "present.npy", present)
    return folder


def trained(*words: str, out: str = "out", epochs: int = EPOCHS) -> Run:
    sets = [f"--set={word}" for word in (*SETTINGS, *words)]
    result = CliRunner().invoke(
        main, ["train", "--data", "mine", "--agg", "mwb", "--epochs", str(epochs), "--out", out, "--quiet", *sets]
    )
    assert result.exit_code == 0, result.output
    return load(out)


def r_squared(run: Run, given: str, target: str) -> np.ndarray[Any, Any]:
    data = run.data("test")
    batch = make_batch(data, data.present.all(-1).nonzero()[:, 0])
    z = run.posterior({given: batch.values[given]}, [given]).mean
    decoded, truth = run.decode(z)[target].double(), batch.values[target].double()
    residual = (decoded - truth).square().mean(0)
    return (1 - residual / truth.var(0, correction=0)).numpy()


@pytest.mark.usefixtures("folder")
def test_table_in_physical_units_is_reconstructed_and_imputed_in_them() -> None:
    assert CliRunner().invoke(main, ["data", "check", "mine"]).exit_code == 0
    run = trained()
    varying = slice(0, 6)
    given_itself = r_squared(run, "table", "table")[varying]
    assert (given_itself[:5] > 0.9).all(), given_itself
    assert given_itself[5] > 0.5  # the heavy tail, of which one item has most of the variance
    imputed = r_squared(run, "other", "table")[[0, 1]]
    assert (imputed > 0.8).all(), imputed
    data = run.data("train")
    values = data.tensors["table"][data.present[:, 1]].double()
    moments = run.vae.model.likelihoods["table"]
    torch.testing.assert_close(moments.center.double(), values.mean(0), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(
        moments.spread.double()[varying], values.std(0, correction=0)[varying], rtol=1e-5, atol=0
    )
    torch.testing.assert_close(moments.spread[6:].double(), values.mean(0)[6:], rtol=1e-6, atol=0)
    samples = run.vae.model(num_items=50)  # draws are in the units of the table
    assert samples.shape == (50, 4)
    assert run.modality_specs["table"].standardize
    assert "standardize" not in run.config.model.modalities


@pytest.mark.usefixtures("folder")
def test_table_with_standardize_false_keeps_the_units_of_the_networks() -> None:
    run = trained("model.modalities.table.standardize=false", "train.lr=1e-6", epochs=1)
    assert run.modality_specs["table"].standardize is False
    assert run.modality_specs["other"].standardize is True
    likelihood = run.vae.model.likelihoods["table"]
    value = run.data("test").tensors["table"]
    assert likelihood.features(value) is value


@pytest.mark.usefixtures("folder")
def test_table_resumes_with_the_moments_of_its_checkpoint() -> None:
    before = trained(epochs=1).vae.model.likelihoods["table"]
    result = CliRunner().invoke(main, ["train", "--resume", "out", "--epochs", "2", "--quiet"])
    assert result.exit_code == 0, result.output
    after = load("out").vae.model.likelihoods["table"]
    assert torch.equal(before.center, after.center)
    assert torch.equal(before.spread, after.spread)
