"""Files whose matrices are read batch by batch against files that are read into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_mmvae.data import MappedTensor, MultimodalDataset, load_data
from pyro_mmvae.data.own.omics.files import StoredTable, open_omics
from pyro_mmvae.data.storage import rows as rows_module

N = 60
OPTIONS: dict[str, Any] = {"kinds": {"rna": "counts", "prot": "vector"}, "labels": "rna:type"}


@pytest.fixture
def files(omics: Any, tmp_path: Path) -> dict[str, Any]:
    import scipy.sparse

    anndata, mudata = omics
    generator = np.random.default_rng(0)
    counts = generator.poisson(0.4, (N, 30)).astype(np.float32)
    counts[7] = 0
    rna = anndata.AnnData(scipy.sparse.csr_matrix(counts))
    rna.obs_names = [f"c{i}" for i in range(N)]
    rna.obs["type"] = generator.choice(["B", "T"], N)
    rna.var["highly_variable"] = generator.random(30) < 0.5
    rna.layers["columns"] = scipy.sparse.csc_matrix(counts * 3)
    prot = anndata.AnnData(generator.normal(size=(N - 9, 5)).astype(np.float32))
    prot.obs_names = generator.permutation(rna.obs_names)[: N - 9]
    mudata.MuData({"rna": rna, "prot": prot}).write(tmp_path / "a.h5mu")
    rna.write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    return {"h5mu": str(tmp_path / "a.h5mu"), "h5ad": str(tmp_path / "a.h5ad"), "counts": counts}


def equal(first: MultimodalDataset, second: MultimodalDataset) -> None:
    assert first.names == second.names
    for name, values in first.tensors.items():
        torch.testing.assert_close(values, second.tensors[name], rtol=0, atol=0)
    assert torch.equal(first.present, second.present)
    assert first.item_ids is not None
    assert first.item_ids.tolist() == second.item_ids.tolist()  # type: ignore[union-attr]
    assert first.feature_names == second.feature_names
    assert first.labels is not None
    assert torch.equal(first.labels, second.labels)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"highly_variable": True}, {"missing_zero": True}])
def test_load_omics_backed_gives_the_items_of_a_file_in_memory(files: dict[str, Any], options: dict[str, Any]) -> None:
    for split in ("train", "test"):
        backed = load_data(files["h5mu"], split, backed=True, **OPTIONS, **options)
        assert all(isinstance(values, MappedTensor) for values in backed.modalities.values())
        equal(backed, load_data(files["h5mu"], split, **OPTIONS, **options))


def test_load_omics_backed_reads_columns_first_layers_into_memory(files: dict[str, Any]) -> None:
    data = load_data(files["h5ad"], backed=True, layer="columns", kinds={"x": "counts"})
    assert data.item_ids is not None
    rows = [int(name[1:]) for name in data.item_ids.tolist()]
    np.testing.assert_array_equal(data.tensors["x"].numpy(), 3 * files["counts"][rows])


def test_load_omics_of_a_large_sparse_matrix_stays_sparse(
    files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = load_data(files["h5mu"], **OPTIONS)
    monkeypatch.setattr(rows_module, "DENSE_BYTES", 0)
    large = load_data(files["h5mu"], **OPTIONS)
    assert isinstance(large.modalities["rna"], MappedTensor)
    assert isinstance(small.modalities["rna"], torch.Tensor)
    equal(large, small)
    with pytest.raises(ValueError, match="must be a whole number, as a count is, got 0.5"):
        load_data(_with_fraction(files), kinds={"x": "counts"})


def _with_fraction(files: dict[str, Any]) -> str:
    import anndata

    table = anndata.read_h5ad(files["h5ad"])
    table.X.data[5] = 0.5
    table.write_h5ad(files["h5ad"])
    return str(files["h5ad"])


def test_load_omics_backed_with_fractional_counts_names_the_item(files: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be a whole number, as a count is, got 0.5"):
        load_data(_with_fraction(files), kinds={"x": "counts"}, backed=True)


def test_open_omics_backed_leaves_matrices_in_the_file(files: dict[str, Any]) -> None:
    table = open_omics(Path(files["h5ad"]), backed=True)
    assert isinstance(table, StoredTable)
    assert type(table.X).__module__.startswith("h5py")
    assert list(table.layers) == ["columns"]
    assert len(open_omics(Path(files["h5mu"]), backed=True).mod["prot"].layers) == 0
