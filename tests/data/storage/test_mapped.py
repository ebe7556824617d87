"""Tests of data that stay on disk: reading, use of memory, training and evaluation."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.data import MappedTensor, MultimodalDataset, from_arrays, load_data, make_batch
from pyro_mmvae.evaluation import EvaluationOptions, evaluate
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.runs.train_settings import TrainConfig
from pyro_mmvae.training import Trainer, evaluate_elbo

N = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", generator.integers(0, 256, (N, 1, 8, 8), dtype=np.uint8))
    np.save(tmp_path / "b.npy", generator.normal(size=(N, 3)))
    np.save(tmp_path / "labels.npy", np.arange(N) % 2)
    present = generator.random((N, 2)) < 0.8
    present[~present.any(-1)] = True
    np.save(tmp_path / "present.npy", present)
    return tmp_path


def pair(folder: Path, split: str) -> tuple[MultimodalDataset, MultimodalDataset]:
    mapped, held = load_data(str(folder), split, memory_map=True), load_data(str(folder), split, memory_map=False)
    assert all(isinstance(value, MappedTensor) for value in mapped.modalities.values())
    assert all(isinstance(value, torch.Tensor) for value in held.modalities.values())
    return mapped, held


def test_mapped_tensor_is_indexed_like_a_tensor(folder: Path) -> None:
    mapped, held = pair(folder, "train")
    assert repr(mapped) == repr(held)
    assert mapped.fingerprint == held.fingerprint
    for name in held.names:
        lazy, tensor = mapped.modalities[name], held.tensors[name]
        assert isinstance(lazy, MappedTensor)
        assert (len(lazy), lazy.shape, lazy.dim(), lazy.dtype) == (
            len(tensor),
            tensor.shape,
            tensor.dim(),
            tensor.dtype,
        )
        for index in (slice(3, 9), torch.tensor([5, 0, 5]), [1, 2], torch.arange(len(tensor)) % 3 == 0, slice(None)):
            assert torch.equal(lazy[index], tensor[index])
        assert "MappedTensor(" in repr(lazy)
        assert str(folder) in repr(lazy)
    part, same = mapped.subset([4, 2]), held.subset([4, 2])
    assert all(torch.equal(part.tensors[n], same.tensors[n]) for n in held.names)
    assert all(isinstance(value, torch.Tensor) for value in part.modalities.values())
    moved = mapped.to("cpu")
    assert torch.equal(moved.tensors["b"], held.tensors["b"])
    assert mapped.to("meta").modalities["a"][[0]].device.type == "meta"


def test_mapped_tensor_returns_copies(folder: Path) -> None:
    before = (folder / "b.npy").read_bytes()
    values = load_data(str(folder), memory_map=True).modalities["b"]
    values[[0]].fill_(7)
    assert not (values[[0]] == 7).any()
    assert (folder / "b.npy").read_bytes() == before


def test_make_batch_of_mapped_data_reads_only_its_rows(tmp_path: Path) -> None:
    """Read a batch of a sparse file of 256 MiB in kilobytes of memory."""
    big = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (2**16, 4, 32, 32))
    big[:, 0, 0, 0] = np.arange(2**16) % 256
    del big
    tracemalloc.start()
    data = load_data(str(tmp_path), memory_map=True).to("cpu")
    _ = data.fingerprint
    rows = torch.randint(len(data), (16,))
    batch = make_batch(data, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24  # one block to check that values vary, and the indices of the items
    expected = data.modalities["a"].rows[rows.numpy()] % 256  # type: ignore[union-attr]
    assert torch.equal(batch.values["a"][:, 0, 0, 0] * 255, torch.from_numpy(expected).float())


def test_mapped_tensor_with_an_invalid_value_raises_when_it_is_read(folder: Path) -> None:
    values = np.load(folder / "b.npy")
    present = np.load(folder / "present.npy")
    item = int(np.flatnonzero(present[:, 1])[-1])
    values[item, 1] = np.nan
    values[~present[:, 1]] = np.nan  # absent, hence not checked
    np.save(folder / "b.npy", values)
    np.save(folder / "split.npy", np.where(np.arange(N) % 10 == 1, 1, 0))
    data = load_data(str(folder), memory_map=True)
    column = data.modalities["b"]
    assert isinstance(column, MappedTensor)
    invalid = int(np.flatnonzero(column.rows == item)[0])
    valid = [i for i in range(len(data)) if i != invalid]
    assert column[valid].isfinite().all()
    with pytest.raises(
        ValueError, match=rf"b\.npy: modality 'b': item {item}: value at \(1,\) must be a number, got nan"
    ):
        make_batch(data, torch.tensor([0, invalid]))


def test_training_and_evaluation_of_mapped_data_equal_those_in_memory(folder: Path) -> None:
    results = []
    for number in (0, 1):
        train, test = pair(folder, "train")[number], pair(folder, "test")[number]
        torch.manual_seed(0)
        modalities = [Modality("a", (1, 8, 8)), Modality("b", (3,), likelihood="normal", scale="learned")]
        vae = MultimodalVAE(modalities, 2, "mwb", network=NetworkOptions(width=4, hidden=8))
        settings = TrainConfig(lr=1e-2, device="cpu", precision="fp32", threads=1, batch_size=16)
        trainer = Trainer(vae, settings, total_steps=10)
        trainer.epoch(train, 0)
        elbo = evaluate_elbo(vae, test)["elbo"]
        rows = evaluate(vae.eval(), train, test, options=EvaluationOptions(samples=3, draws=10, khat_items=3)).rows
        results.append((elbo, [row.as_row() for row in rows]))
    assert results[0] == results[1]


def test_from_arrays_of_a_mapped_array_keeps_it_mapped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mmvae.data.storage.mapped.LARGE", 1000)
    mapped = np.load(folder / "a.npy", mmap_mode="c")
    data = from_arrays({"a": mapped[10:50], "b": np.load(folder / "b.npy")[10:50]})
    assert isinstance(data.modalities["a"], MappedTensor)
    assert isinstance(data.modalities["b"], torch.Tensor)
    np.testing.assert_array_equal(data.tensors["a"].numpy(), mapped[10:50])
