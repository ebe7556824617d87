"""The command ``calibrate`` from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result

from pyro_mmvae import fit
from pyro_mmvae.cli import main


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, ["calibrate", *map(str, words), "--quiet", "--threads", "1", "--device", "cpu"])


def test_calibrate_prints_coverages_and_writes_a_run(tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=(300, 2))
    settings = {"train.threads": 1, "train.device": "cpu", "model.network.hidden": 16, "model.scale": 5.0}
    fit({"a": z, "b": z @ [[1.0], [0.5]]}, epochs=1, latent_size=2, out=tmp_path / "run", progress=False,
        settings=settings)  # fmt: skip
    options = ("--epochs", 1, "--items", 25, "--draws", 4)
    dry = invoke(tmp_path / "run", *options, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert dry.output.splitlines()[-1] == "nothing was written"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    result = invoke(tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].split() == ["modality", "given", "items", "scale", "exponent", "inside", "50%", "inside", "90%"]
    assert [line.split()[:2] for line in lines[1:5]] == [["a", "others"], ["b", "others"], ["a", "all"], ["b", "all"]]
    assert lines[:-1] == dry.output.splitlines()[:-1]
    assert lines[-1] == f"run directory: {tmp_path / 'run-calibrated'}"
    report = json.loads((tmp_path / "run-calibrated" / "calibration.json").read_text(encoding="utf-8"))
    assert report["options"]["items"] == 25
    assert len(report["rows"]) == 4
    checks = {}
    for run in ("run", "run-calibrated"):
        words = ["ppc", str(tmp_path / run), "--quiet", "--threads", "1", "--items", "30", "--num-samples", "20"]
        checks[run] = CliRunner().invoke(main, [*words, "--device", "cpu", "--given", "a"]).output
    assert (
        f"note: intervals of b do not cover what they say; 'pyro-mmvae calibrate {tmp_path / 'run'}'" in checks["run"]
    )
    assert "pyro-mmvae calibrate" not in checks["run-calibrated"]
    assert "0.9" in checks["run-calibrated"]
    again = invoke(tmp_path / "run", *options)
    assert again.exit_code == 2
    [line] = again.output.splitlines()
    assert line.startswith(f"error: {tmp_path / 'run-calibrated'} exists already")
