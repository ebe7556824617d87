"""Data that stay on disk: what is read, how much of it, and that it trains and is judged like data in memory."""

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
from pyro_mmvae.runs.config import TrainConfig
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


def test_a_mapped_modality_is_indexed_like_a_tensor(folder: Path) -> None:
    mapped, held = pair(folder, "train")
    assert repr(mapped) == repr(held)
    assert mapped.fingerprint == held.fingerprint
    for name in held.names:
        ours, theirs = mapped.modalities[name], held.tensors[name]
        assert isinstance(ours, MappedTensor)
        assert (len(ours), ours.shape, ours.dim(), ours.dtype) == (
            len(theirs),
            theirs.shape,
            theirs.dim(),
            theirs.dtype,
        )
        for index in (slice(3, 9), torch.tensor([5, 0, 5]), [1, 2], torch.arange(len(theirs)) % 3 == 0, slice(None)):
            assert torch.equal(ours[index], theirs[index])
        assert "MappedTensor(" in repr(ours)
        assert str(folder) in repr(ours)
    part, same = mapped.subset([4, 2]), held.subset([4, 2])
    assert all(torch.equal(part.tensors[n], same.tensors[n]) for n in held.names)
    assert all(isinstance(value, torch.Tensor) for value in part.modalities.values())
    moved = mapped.to("cpu")
    assert torch.equal(moved.tensors["b"], held.tensors["b"])
    assert mapped.to("meta").modalities["a"][[0]].device.type == "meta"


def test_what_is_read_is_a_copy(folder: Path) -> None:
    before = (folder / "b.npy").read_bytes()
    values = load_data(str(folder), memory_map=True).modalities["b"]
    values[[0]].fill_(7)
    assert not (values[[0]] == 7).any()
    assert (folder / "b.npy").read_bytes() == before


def test_only_the_rows_of_a_batch_are_read(tmp_path: Path) -> None:
    """Of a file of 256 MiB (sparse: it takes no room), a batch costs kilobytes."""
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
    assert peak < 2**24  # a block to see that values vary, and the numbers of the items
    expected = data.modalities["a"].rows[rows.numpy()] % 256  # type: ignore[union-attr]
    assert torch.equal(batch.values["a"][:, 0, 0, 0] * 255, torch.from_numpy(expected).float())


def test_values_are_checked_as_they_are_read(folder: Path) -> None:
    values = np.load(folder / "b.npy")
    present = np.load(folder / "present.npy")
    item = int(np.flatnonzero(present[:, 1])[-1])
    values[item, 1] = np.nan
    values[~present[:, 1]] = np.nan  # absent: no matter
    np.save(folder / "b.npy", values)
    np.save(folder / "split.npy", np.where(np.arange(N) % 10 == 1, 1, 0))
    data = load_data(str(folder), memory_map=True)
    column = data.modalities["b"]
    assert isinstance(column, MappedTensor)
    bad = int(np.flatnonzero(column.rows == item)[0])
    good = [i for i in range(len(data)) if i != bad]
    assert column[good].isfinite().all()
    with pytest.raises(ValueError, match=rf"b\.npy: modality 'b': item {item}: found nan at \(1,\), expected a number"):
        make_batch(data, torch.tensor([0, bad]))


def test_training_and_evaluation_are_those_of_data_in_memory(folder: Path) -> None:
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
        rows = evaluate(vae.eval(), train, test, options=EvaluationOptions(samples=3, draws=10)).rows
        results.append((elbo, [row.as_row() for row in rows]))
    assert results[0] == results[1]


def test_arrays_from_python_may_be_mapped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mmvae.data.storage.mapped.LARGE", 1000)
    mapped = np.load(folder / "a.npy", mmap_mode="c")
    data = from_arrays({"a": mapped[10:50], "b": np.load(folder / "b.npy")[10:50]})
    assert isinstance(data.modalities["a"], MappedTensor)
    assert isinstance(data.modalities["b"], torch.Tensor)
    np.testing.assert_array_equal(data.tensors["a"].numpy(), mapped[10:50])
