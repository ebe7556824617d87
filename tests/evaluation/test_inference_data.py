"""The netCDF files of checks: names and dimensions, and atomic writing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.evaluation.calibration import calibrate
from pyro_mmvae.evaluation.inference_data import (
    import_arviz,
    read_inference_data,
    to_inference_data,
    write_inference_data,
)
from pyro_mmvae.evaluation.ppc import PredictiveCheck, posterior_predictive, predictive_check
from pyro_mmvae.evaluation.sbc import SimulationCalibration, simulation_calibration
from pyro_mmvae.reports import ppc_table

ITEMS = 9
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results() -> tuple[PredictiveCheck, SimulationCalibration]:
    vae = MultimodalVAE([Modality("m0", (1, 4, 4)), Modality("m1", (3,))], 2).eval()
    present = torch.ones(ITEMS, 2, dtype=torch.bool)
    present[4, 0] = False
    batch = {"m0": torch.rand(ITEMS, 1, 4, 4), "m1": torch.randn(ITEMS, 3), "present": present}
    check = posterior_predictive(vae, batch, ["m0"], samples=7, seed=5, ids=range(20, 20 + ITEMS), keep_raw=True)
    return check, simulation_calibration(vae, ["m1"], simulations=100, draws=19, seed=6)


def test_write_inference_data_round_trip_keeps_values_and_dimensions(
    results: tuple[PredictiveCheck, SimulationCalibration], tmp_path: Path
) -> None:
    check, sbc = results
    path = write_inference_data(to_inference_data(check, sbc), tmp_path / "evaluation" / "ppc.nc")
    data = read_inference_data(path)
    groups = data.children if hasattr(data, "children") else data.groups()  # an InferenceData before version 1
    assert set(groups) == {"posterior", "posterior_predictive", "observed_data", "log_likelihood", "constant_data"}
    assert data.posterior.z.dims == ("chain", "draw", "item", "latent")
    np.testing.assert_array_equal(data.posterior.z.values[0], check.z)
    for key, values in check.replicated.items():
        assert data.posterior_predictive[key].dims == ("chain", "draw", "item")
        np.testing.assert_array_equal(data.posterior_predictive[key].values[0], values)
        assert data.observed_data[key].dims == ("item",)
        np.testing.assert_array_equal(data.observed_data[key].values, check.observed[key])
    for name, values in check.log_likelihood.items():
        assert data.log_likelihood[name].dims == ("chain", "draw", "item")
        np.testing.assert_array_equal(data.log_likelihood[name].values[0], values)
    assert data.posterior_predictive["m0.raw"].dims == ("chain", "draw", "item", "m0_channel", "m0_height", "m0_width")
    np.testing.assert_array_equal(data.observed_data["m1.raw"].values, check.observed_raw["m1"])
    for group in (data.posterior, data.posterior_predictive, data.observed_data, data.log_likelihood):
        assert group["item"].values.tolist() == list(range(20, 29))


def test_to_inference_data_constants_and_attributes_match_the_check(
    results: tuple[PredictiveCheck, SimulationCalibration], tmp_path: Path
) -> None:
    check, sbc = results
    data = read_inference_data(write_inference_data(to_inference_data(check, sbc), tmp_path / "ppc.nc"))
    constants = data.constant_data
    assert constants["id"].values.tolist() == list(range(20, 29))
    assert not constants["present"].sel(item=24, modality="m0")
    assert constants["present"].values.sum() == 2 * ITEMS - 1
    assert constants["given"].sel(modality="m0")
    assert not constants["given"].sel(modality="m1")
    for row in calibrate(check):
        stored = constants.sel(statistic=row.statistic)
        np.testing.assert_array_equal(stored["pit"].values, row.pit)
        assert bool(stored["in_sample"]) == row.in_sample == np.isnan(stored["pit_p_value"].item())
        assert stored["p_value"] == row.p_value
        assert stored["n"] == row.n == (8 if row.modality == "m0" else 9)
        assert [c.value for c in row.coverage] == stored["coverage"].values.tolist()
        assert stored["coverage"].sel(level=0.9) == row.coverage[2].value
    np.testing.assert_array_equal(constants["sbc_rank"].values, sbc.ranks)
    assert constants["sbc_rank"].dims == ("simulation", "quantity")
    expected = {
        "given": "m0", "density": "mixture", "samples": 7, "items": 9, "seed": 5, "protocol": check.protocol,
        "sbc_given": "m1", "sbc_draws": 19, "sbc_simulations": 100, "sbc_seed": 6,
    }  # fmt: skip
    for attributes in (data.attrs, data.posterior.attrs, data.posterior_predictive.attrs, constants.attrs):
        assert {key: attributes[key] for key in expected} == expected


def test_to_inference_data_without_sbc_or_images_omits_them(
    results: tuple[PredictiveCheck, SimulationCalibration], tmp_path: Path
) -> None:
    vae = MultimodalVAE([Modality("a", (3,))], 2).eval()
    check = posterior_predictive(vae, {"a": torch.randn(5, 3)}, samples=4)
    data = read_inference_data(write_inference_data(to_inference_data(check), tmp_path / "ppc.nc"))
    assert "sbc_rank" not in data.constant_data
    assert set(data.posterior_predictive.data_vars) == {"a.mean", "a.contrast", "a.sparsity"}
    assert data.attrs["given"] == ""


def test_write_inference_data_crash_keeps_the_old_file(
    results: tuple[PredictiveCheck, SimulationCalibration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = to_inference_data(results[0])
    path = write_inference_data(data, tmp_path / "ppc.nc")
    before = path.read_bytes()

    def crash(self: Any, filename: str, **options: Any) -> None:
        Path(filename).write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(type(data), "to_netcdf", crash)
    with pytest.raises(OSError, match="disk full"):
        write_inference_data(data, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_write_inference_data_does_not_follow_a_link_of_its_temporary_name(
    results: tuple[PredictiveCheck, SimulationCalibration], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("a text")
    (tmp_path / f".ppc.nc.{os.getpid()}.tmp").symlink_to(outside)
    path = write_inference_data(to_inference_data(results[0]), tmp_path / "ppc.nc")
    assert outside.read_text() == "a text"
    assert not path.is_symlink()


def test_read_inference_data_leaves_the_file_writable(
    results: tuple[PredictiveCheck, SimulationCalibration], tmp_path: Path
) -> None:
    path = write_inference_data(to_inference_data(results[0]), tmp_path / "ppc.nc")
    data = read_inference_data(path)
    write_inference_data(data, path)
    assert read_inference_data(path).posterior.z.shape == (1, 7, ITEMS, 2)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_inference_data(tmp_path / "other.nc")


def test_write_inference_data_keeps_modalities_named_like_dimensions_and_latents(tmp_path: Path) -> None:
    names = ("item", "chain", "draw", "z", "latent", "id", "a.b", "a", "$x$", "a b", "modality", "pit")
    vae = MultimodalVAE([Modality(name, (2,), private_size=1) for name in names], 2, "poe").eval()
    check = posterior_predictive(vae, {name: torch.randn(ITEMS, 2) for name in names}, ["a.b"], samples=5)
    data = read_inference_data(write_inference_data(to_inference_data(check), tmp_path / "ppc.nc"))
    assert data.constant_data["modality"].values.tolist() == list(names)
    assert sorted({row.modality for row in calibrate(check)}) == sorted(names)
    in_sample = {row.statistic for row in calibrate(check) if row.in_sample}
    assert in_sample == {key for key in check.observed if key.startswith("a.b.")}
    for name in names:
        variable = f"{name}.log_likelihood" if name in {"item", "chain", "draw", "z", "id", "pit"} else name
        assert data.log_likelihood[variable].dims == ("chain", "draw", "item")
        np.testing.assert_array_equal(data.log_likelihood[variable].values[0], check.log_likelihood[name])
        np.testing.assert_array_equal(data.observed_data[f"{name}.mean"].values, check.observed[f"{name}.mean"])


def test_write_inference_data_of_site_names_with_slashes_and_dots(tmp_path: Path) -> None:
    def model(values: torch.Tensor) -> None:
        with pyro.plate("items", ITEMS):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("a/b.c", dist.Normal(z.expand(ITEMS, 2), 1.0).to_event(1), obs=values)

    def guide(values: torch.Tensor) -> None:
        with pyro.plate("items", ITEMS):
            pyro.sample("z", dist.Normal(values[:, :1], 1.0).to_event(1))

    check = predictive_check(model, guide, torch.randn(ITEMS, 2), samples=5)
    assert all(check.in_sample(key) for key in check.observed)
    data = read_inference_data(write_inference_data(to_inference_data(check), tmp_path / "ppc.nc"))
    np.testing.assert_array_equal(data.observed_data["a%2Fb.c.mean"].values, check.observed["a/b.c.mean"])
    assert ppc_table(tmp_path / "ppc.nc").splitlines()[3].startswith("a%2Fb.c (given)")


def test_import_arviz_when_called_without_home_neither_warns_nor_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # in place of the home, so that no folder can be made in it
    program = (
        "import sys, pyro_mmvae.reports, pyro_mmvae.training, pyro_mmvae.evaluation.suite, pyro_mmvae.cli.check\n"
        "from pyro_mmvae.evaluation.inference_data import import_arviz\n"
        "assert 'arviz' not in sys.modules\n"
        "print(import_arviz().__version__)"
    )
    command = [sys.executable, "-W", "error::FutureWarning", "-c", program]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    environment |= {"HOME": str(tmp_path / "file"), "PYTHONPATH": str(ROOT), "MPLCONFIGDIR": matplotlib.get_cachedir()}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == import_arviz().__version__
    assert "ArviZ" not in done.stderr
    assert {entry.name for entry in tmp_path.iterdir()} == {"file"}
