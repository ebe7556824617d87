"""Modalities with any names that files can have, from the check of the data to figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from click.testing import CliRunner

from pyro_mmvae import load
from pyro_mmvae.cli import main

NAMES = (
    "type", "data", "z", "item", "a-b", "a b", "a.b", "a", "$x_{1}$", "_hidden", "a,b", "prior", "l" * 200,
)  # fmt: skip
FAST = ("--quiet", "--epochs=1", "--threads=1", "--device=cpu", "--precision=fp32", "--agg=poe", "--bound=component")
SMALL = [f"--set=model.{word}" for word in ("latent_size=2", "network.width=4", "network.hidden=8")]


def invoke(*words: str) -> Any:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def run(elsewhere: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in NAMES:
        folder = elsewhere / "mine"
        folder.mkdir(exist_ok=True)
        np.save(folder / f"{name}.npy", generator.normal(size=(80, 2)))
    np.save(elsewhere / "mine" / "$_{$.npy", generator.integers(0, 255, (80, 1, 8, 8), dtype=np.uint8))
    assert "no problems" in invoke("data", "check", "mine").stdout
    invoke("train", "--data", "mine", *FAST, *SMALL, "--out", "run")
    return elsewhere / "run"


def test_modality_with_any_file_name_keeps_it_in_every_output(run: Path, elsewhere: Path) -> None:
    names = {*NAMES, "$_{$"}
    assert set(load(run).names) == names
    evaluate = ("--subsets=3", "--likelihood-items=0", "--khat-items=0", "--no-quality", "--no-diagnostics")
    invoke("evaluate", str(run), "--quiet", "--threads=1", *evaluate)
    invoke("sample", str(run), "--given", "a,b,z", "--generate", "a.b, type", "-n", "2", "--out", "s.npz")
    with np.load(elsewhere / "s.npz") as file:
        assert set(file.files) == {"given.a,b", "given.z", "generated.a.b", "generated.type"}
    givens = ("--given=all", "--given=none", "--given=prior", "--given=a,b", f"--given={'l' * 200}")
    invoke("ppc", str(run), "--quiet", "--threads=1", "--num-samples=2", "--items=10", *givens)
    checks = sorted((run / "evaluation").glob("ppc*.nc"))
    assert len(checks) == len(givens)
    for file in checks:
        with xarray.open_dataset(file, group="constant_data", engine="h5netcdf") as data:
            assert set(data["modality"].values.tolist()) == names
            assert {str(key).rsplit(".", 1)[0] for key in data["statistic"].values} == names
