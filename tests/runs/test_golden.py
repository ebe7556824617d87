"""Stored run directories of earlier versions, which must open without a warning and train on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pyro_mmvae import load
from pyro_mmvae.runs import RunError, read_metrics
from pyro_mmvae.runs.checkpoint import FORMAT_VERSION
from pyro_mmvae.training import resume
from tests.runs.golden_runs import copy_run

LATENTS = [[0.01336, 0.41392], [-0.04316, -0.01938], [0.02578, 0.1708], [0.03154, 0.11163], [2e-5, 0.24461],
           [0.00102, 0.4133]]  # fmt: skip
"""The posterior means of the test items, as the version that wrote the run computed them."""


def test_load_of_the_golden_run_encodes_as_the_version_that_wrote_it(tmp_path: Path) -> None:
    run = load(copy_run(tmp_path / "run"), device="cpu")
    np.testing.assert_allclose(run.encode(run.data("test"))["z"], LATENTS, atol=2e-4)
    assert (run.state["epoch"], run.prior_note) == (2, None)
    assert run.fitted_prior is not None


def test_resume_of_the_golden_run_trains_another_epoch(tmp_path: Path) -> None:
    run = resume(copy_run(tmp_path / "run"), epochs=3, progress=False)
    assert run.state["epoch"] == 3
    assert read_metrics(run.path)[-1]["val"]["elbo"] == pytest.approx(-20.094, abs=0.05)


def test_load_of_a_newer_format_asks_for_an_update_and_names_both_formats(tmp_path: Path) -> None:
    path = copy_run(tmp_path / "run")
    environment = json.loads((path / "environment.json").read_text())
    environment["format_version"] = FORMAT_VERSION + 1
    environment["versions"]["pyro_mmvae"] = "9.1"
    (path / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(
        RunError, match=rf"pyro_mmvae 9\.1 \(format {FORMAT_VERSION + 1}\), this version reads .*update"
    ):
        load(path)
