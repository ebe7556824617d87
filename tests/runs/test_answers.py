"""The answers of a run in Python, on values in memory and data on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_mmvae import Run, load
from pyro_mmvae.data import register_data
from pyro_mmvae.data.storage import mapped
from pyro_mmvae.inference.imputed import Imputation
from tests.inference.own_files import WORDS, train_on, write_folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("answers")
    return train_on(write_folder(place / "own"), place / "run").path


@pytest.fixture
def run(trained: Path) -> Run:
    return load(trained, device="cpu")


def test_answers_to_values_in_memory_equal_those_to_files(run: Run, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "other", count=12, seed=1, missing=False)
    values = {name: np.load(folder / f"{name}.npy") for name in ("gauge", "genes", "photo")}
    values["note"] = np.load(folder / "note.npy").tolist()
    table = run.encode(values)
    np.testing.assert_allclose(table["z"], run.encode(folder)["z"], rtol=1e-4, atol=1e-5)
    assert table.ids.tolist() == [str(row) for row in range(12)]
    assert len(run.encode(folder, split="test")) == 2


def test_impute_values_with_none_fills_them_in(run: Run) -> None:
    values = {"gauge": np.full((3, 3), 102_600.0), "note": [WORDS[2], None, WORDS[0]]}
    result = run.impute(values, targets=["note", "genes"])
    assert isinstance(result, Imputation)
    assert result.names == ("gauge", "genes", "note", "photo")
    assert result.imputed.tolist() == [
        [False, True, False, False],
        [False, True, True, False],
        [False, True, False, False],
    ]
    assert result.text["note"][[0, 2]].tolist() == [WORDS[2], WORDS[0]]
    assert result.mean["genes"].shape == (3, 6)
    assert (result.mean["genes"] > 0).all()


def test_dataset_of_another_type_raises(run: Run) -> None:
    with pytest.raises(TypeError, match="values must be a mapping from modality names"):
        run.encode(3)


def test_answers_to_data_on_disk_read_batches_only(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "other", count=120, seed=1, missing=False)
    data = run.dataset(folder, options={"memory_map": True})
    expected = run.encode(folder)["z"]
    assert any(isinstance(value, mapped.MappedTensor) for value in data.modalities.values())
    sizes: list[int] = []
    read = mapped.Column.read
    monkeypatch.setattr(mapped.Column, "read", lambda self, rows: sizes.append(len(rows)) or read(self, rows))
    np.testing.assert_allclose(run.encode(data, batch_size=50)["z"], expected, rtol=1e-4, atol=1e-5)
    run.impute(data, given=["gauge"], draws=2, multiple=True, batch_size=50, folder=tmp_path / "out")
    run.score(data, draws=1, batch_size=50)
    assert sizes
    assert max(sizes) == 50


def test_predict_attributes_have_a_probability_each(registered: None, tmp_path: Path) -> None:
    from pyro_mmvae import MultimodalDataset

    @register_data("flags")
    def load_flags(split: str, *, cache: bool = True) -> MultimodalDataset:
        torch.manual_seed(len(split))
        flags = torch.rand(40, 2) < 0.5
        present = torch.ones(40, 2, dtype=torch.bool)
        values = {name: 3.0 * flags + torch.randn(40, 2) for name in ("a", "b")}
        return MultimodalDataset(values, flags, present, "flags", split, label_names=("red", "round"))

    run = train_on(Path("flags"), tmp_path / "run")
    table = run.predict()
    assert list(table.flat()) == ["p_red", "p_round"]
    assert set(table.summary["figures"]) == {"red", "round"}
    one = run.predict(label="round", items=5)
    assert list(one.flat()) == ["p_round"]
    assert len(one) == 5
    assert sorted(path.name for path in (run.path / "predictors").iterdir()) == ["labels.npz", "round.npz"]
    with pytest.raises(ValueError, match="must have a label 'blue', which has red, round"):
        run.predict(label="blue")
