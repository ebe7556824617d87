"""Imputation against the exact conditional of a linear-Gaussian model, and its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_mmvae.inference import impute, read_imputation
from pyro_mmvae.inference.imputed import Imputation
from pyro_mmvae.inference.imputed_omics import write_omics
from tests.evaluation.exact_models import NOISE, Linear


def conditional(linear: Linear) -> tuple[np.ndarray, np.ndarray]:
    """Return mean `(item, feature)` and standard deviation `(feature,)` of b given a, by dense linear algebra."""
    (a, offset_a), (b, offset_b) = (tuple(t.double() for t in linear.maps[name]) for name in "ab")
    cov_a = a @ a.T + NOISE["a"] ** 2 * torch.eye(len(a))
    gain = b @ a.T @ torch.linalg.inv(cov_a)
    mean = offset_b + (linear.data.tensors["a"].double() - offset_a) @ gain.T
    cov = b @ b.T + NOISE["b"] ** 2 * torch.eye(len(b)) - gain @ a @ b.T
    return mean.numpy(), cov.diagonal().sqrt().numpy()


def test_impute_linear_model_agrees_with_the_exact_conditional() -> None:
    linear, draws = Linear(), 4000
    result = impute(linear.vae, linear.data, given=["a"], draws=draws, quantiles=[0.95, 0.05, 0.5])
    mean, sd = conditional(linear)
    assert result.imputed.tolist() == [[False, True]] * 7
    assert set(result.mean) == {"b"}
    error = 4 * sd / np.sqrt(draws)
    assert (np.abs(result.mean["b"] - mean) < error).all()
    np.testing.assert_allclose(result.sd["b"], np.broadcast_to(sd, mean.shape), rtol=0.05)
    for level, z in ((0.05, -1.645), (0.5, 0.0), (0.95, 1.645)):
        expected = mean + z * sd
        assert (np.abs(result.of(f"quantile-{level}")["b"] - expected) < 4 * 2.2 * sd / np.sqrt(draws)).all()


def test_impute_absent_slots_are_flagged_and_observed_ones_copied() -> None:
    linear = Linear()
    present = torch.ones(7, 2, dtype=torch.bool)
    present[2, 1] = present[5, 1] = present[3, 0] = False
    data = replace(linear.data, present=present)
    result = impute(linear.vae, data, draws=50, quantiles=[0.5])
    assert np.array_equal(result.imputed, ~present.numpy())
    for m, name in enumerate("ab"):
        kept = present[:, m].numpy()
        assert np.array_equal(result.mean[name][kept], data.tensors[name].numpy()[kept])
        assert (result.sd[name][kept] == 0).all()
        assert (result.sd[name][~kept] > 0.1).all()
    full = impute(linear.vae, linear.data, given=["a"], draws=50)
    assert np.abs(result.mean["b"][2] - full.mean["b"][2]).max() < 1  # of the same conditional
    garbage = {**data.modalities, "b": torch.where(present[:, 1:], data.tensors["b"], torch.tensor(1e6))}
    again = impute(linear.vae, replace(data, modalities=garbage), draws=50, quantiles=[0.5])
    assert all(np.array_equal(again.arrays[key], value) for key, value in result.arrays.items())


def test_impute_targets_restrict_what_is_imputed() -> None:
    linear = Linear()
    present = torch.ones(7, 2, dtype=torch.bool)
    present[0, 0] = present[1, 1] = False
    result = impute(linear.vae, replace(linear.data, present=present), targets=["b"], draws=2)
    assert result.imputed.sum() == 1
    assert result.imputed[1, 1]
    assert set(result.mean) == {"b"}


@pytest.mark.parametrize("batch_size", [1, 30, 1000])
def test_impute_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    linear = Linear(items=120)
    first = impute(linear.vae, linear.data, given=["a"], draws=3, quantiles=[0.5], multiple=True)
    other = impute(linear.vae, linear.data, given=["a"], draws=3, quantiles=[0.5], multiple=True, batch_size=batch_size)
    assert first.arrays.keys() == other.arrays.keys()
    for key, value in first.arrays.items():
        np.testing.assert_allclose(other.arrays[key], value, rtol=1e-5, atol=1e-5)


def test_impute_leaves_the_global_generator_alone() -> None:
    linear = Linear()
    before = torch.get_rng_state()
    impute(linear.vae, linear.data, given=["a"], draws=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_impute_into_a_folder_equals_that_in_memory_and_is_never_overwritten(tmp_path: Path) -> None:
    linear = Linear()
    memory = impute(linear.vae, linear.data, given=["a"], draws=3, multiple=True)
    files = impute(linear.vae, linear.data, given=["a"], draws=3, multiple=True, folder=tmp_path / "out")
    assert memory.arrays.keys() == files.arrays.keys()
    for key, value in memory.arrays.items():
        assert np.array_equal(files.arrays[key], value)
    assert np.array_equal(files.imputed, memory.imputed)
    with pytest.raises(FileExistsError, match="pass --force"):
        impute(linear.vae, linear.data, given=["a"], draws=2, folder=tmp_path / "out")
    impute(linear.vae, linear.data, given=["a"], draws=2, folder=tmp_path / "out", force=True)
    assert not (tmp_path / "out" / "draw-000").exists()
    assert read_imputation(tmp_path / "out").summary["draws"] == 2
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match=r"must be a folder with imputation\.json to be replaced"):
        impute(linear.vae, linear.data, given=["a"], draws=2, folder=tmp_path / "mine", force=True)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "mine"}


def test_impute_with_wrong_arguments_raises_in_one_line() -> None:
    linear = Linear()
    for options, message in (
        ({}, "targets must be absent from some item, got items that have a, b"),
        ({"given": ["a"], "draws": 1}, "draws must be at least 2"),
        ({"given": ["a"], "quantiles": [1.5]}, "quantiles must be between 0 and 1, got 1.5"),
        ({"given": ["c"]}, r"given must name modalities of the model \(a, b\), got 'c'"),
        ({"targets": ["c"]}, r"targets must name modalities of the model \(a, b\), got 'c'"),
        ({"given": ["a"], "items": ["x"]}, "items must be identifiers of the data, such as '0', got 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            impute(linear.vae, linear.data, **options)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")  # of anndata and mudata
def test_write_omics_holds_figures_in_layers(tmp_path: Path) -> None:
    mudata, anndata = pytest.importorskip("mudata"), pytest.importorskip("anndata")
    linear = Linear()
    result = impute(linear.vae, linear.data, given=["a"], draws=3, quantiles=[0.5])
    names = tuple(f"gene {number}" for number in range(6))
    assert write_omics(result, tmp_path / "i.h5mu", {"b": names}) == ("b",)
    part = mudata.read_h5mu(tmp_path / "i.h5mu")["b"]
    assert part.var_names.tolist() == list(names)
    np.testing.assert_allclose(part.X, result.mean["b"])
    np.testing.assert_allclose(part.layers["sd"], result.sd["b"])
    assert set(part.layers) - {None} == {"sd", "quantile-0.5"}  # anndata 0.13 lists X as None
    assert part.obs["imputed"].all()
    write_omics(result, tmp_path / "i.h5ad", {})
    assert anndata.read_h5ad(tmp_path / "i.h5ad").obs_names.tolist() == [str(row) for row in range(7)]
    with pytest.raises(ValueError, match="must be of exactly one modality that is imputed, got a, b: choose"):
        write_omics(impute(linear.vae, linear.data, given=[], draws=2), tmp_path / "two.h5ad", {})


@pytest.mark.filterwarnings("ignore")  # of anndata and mudata
def test_write_omics_holds_images_in_obsm_texts_in_obs_and_counts_in_layers(tmp_path: Path) -> None:
    mudata, anndata = pytest.importorskip("mudata"), pytest.importorskip("anndata")
    generator = np.random.default_rng(0)
    arrays = {
        "mean/rna": generator.random((4, 6), dtype=np.float32),
        "sd/rna": generator.random((4, 6), dtype=np.float32),
        "mean/photo": generator.random((4, 3, 5, 2), dtype=np.float32),
        "quantile-0.05/photo": generator.random((4, 3, 5, 2), dtype=np.float32),
        "mode/note": generator.integers(0, 9, (4, 8)),
        "probability/note": generator.random((4, 8), dtype=np.float32),
        "text/note": np.array(["a cat", "", "ä", "the dog"]),
    }
    ids, names = np.array(["p", "q", "r", "s"]), ("rna", "photo", "note", "seen")
    imputed = np.array([[True, False, True, False]] * 4)
    result = Imputation(ids, names, imputed, arrays, {})
    assert write_omics(result, tmp_path / "i.h5mu", {}) == ("rna", "photo", "note")
    parts = mudata.read_h5mu(tmp_path / "i.h5mu").mod
    assert {name: part.obs_names.tolist() for name, part in parts.items()} == dict.fromkeys(names[:3], ids.tolist())
    assert {name: set(part.obs["imputed"]) for name, part in parts.items()} == {
        "rna": {True}, "photo": {False}, "note": {True},
    }  # fmt: skip
    np.testing.assert_array_equal(parts["rna"].X, arrays["mean/rna"])
    np.testing.assert_array_equal(parts["rna"].layers["sd"], arrays["sd/rna"])
    for figure in ("mean", "quantile-0.05"):
        rows = np.asarray(parts["photo"].obsm[figure])
        np.testing.assert_array_equal(rows.reshape(-1, *parts["photo"].uns["shape"]), arrays[f"{figure}/photo"])
    assert parts["note"].obs["text"].tolist() == arrays["text/note"].tolist()
    np.testing.assert_array_equal(parts["note"].obsm["mode"], arrays["mode/note"])
    one = replace(result, arrays={key: array for key, array in arrays.items() if key.endswith("photo")})
    write_omics(one, tmp_path / "i.h5ad", {})
    np.testing.assert_array_equal(
        anndata.read_h5ad(tmp_path / "i.h5ad").obsm["mean"], arrays["mean/photo"].reshape(4, -1)
    )
