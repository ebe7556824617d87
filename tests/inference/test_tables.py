"""Tables of items and their files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pyro_mmvae.inference import ItemTable

TABLE = ItemTable(
    np.array(["x", "y", "ü"]),
    {
        "z": np.arange(6, dtype=np.float32).reshape(3, 2),
        "kind": np.array(["p", "", "q"]),
        "score": np.array([1, np.nan, 3]),
    },
)


def test_write_csv_and_npz_hold_everything_by_identifier(tmp_path: Path) -> None:
    file = TABLE.write(tmp_path / "new" / "t.csv")
    assert file.read_text(encoding="utf-8").splitlines() == [
        "id,z_0,z_1,kind,score", "x,0.0,1.0,p,1.0", "y,2.0,3.0,,", "ü,4.0,5.0,q,3.0",
    ]  # fmt: skip
    with np.load(TABLE.write(tmp_path / "t.npz"), allow_pickle=False) as arrays:
        assert arrays["ids"].tolist() == ["x", "y", "ü"]
        assert np.array_equal(arrays["z"], TABLE["z"])
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["t.csv", "t.npz"]


def test_write_existing_file_is_replaced_with_force_only(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("precious")
    with pytest.raises(FileExistsError, match="must not exist"):
        TABLE.write(file)
    assert file.read_text() == "precious"
    TABLE.take(np.array([1])).write(file, force=True)
    assert file.read_text().splitlines()[1:] == ["y,2.0,3.0,,"]


def test_write_unknown_suffix_raises(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"the suffix must be one of \.npz, \.csv, \.parquet, \.h5ad, \.h5mu, got '\.txt'"
    ):
        TABLE.write(tmp_path / "t.txt")


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_write_parquet_without_pyarrow_names_the_extra(tmp_path: Path) -> None:
    with pytest.raises(
        ImportError, match=r"\.parquet files need the package pyarrow.*pip install 'pyro-mmvae\[tables\]'"
    ):
        TABLE.write(tmp_path / "t.parquet")
    assert not list(tmp_path.iterdir())


def test_write_parquet_can_be_read_by_pandas(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas as pd

    frame = pd.read_parquet(TABLE.write(tmp_path / "t.parquet"))
    assert frame.index.tolist() == ["x", "y", "ü"]
    assert frame["z_1"].tolist() == [1, 3, 5]


@pytest.mark.filterwarnings("ignore")  # of anndata and mudata
@pytest.mark.parametrize("suffix", [".h5ad", ".h5mu"])
def test_write_omics_adds_latents_to_a_copy_of_the_source(suffix: str, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    import pandas as pd

    tree = anndata.AnnData(
        np.ones((4, 2), dtype=np.float32), obs=pd.DataFrame(index=pd.Index(["w", "ü", "x", "y"], dtype=object))
    )
    if suffix == ".h5mu":
        tree = pytest.importorskip("mudata").MuData({"rna": tree})
    source = tmp_path / f"source{suffix}"
    options = {"allow_write_nullable_strings": True}  # of versions that ask for it to write strings of pandas 3
    with anndata.settings.override(**{name: v for name, v in options.items() if hasattr(anndata.settings, name)}):
        tree.write(source)
    before = source.read_bytes()
    read = anndata.read_h5ad if suffix == ".h5ad" else pytest.importorskip("mudata").read_h5mu
    added = read(TABLE.write(tmp_path / f"t{suffix}", source=source))
    expected = [[np.nan, np.nan], [4, 5], [0, 1], [2, 3]]
    np.testing.assert_array_equal(added.obsm["X_mmvae"], expected)
    assert added.obs["mmvae_kind"].tolist() == ["", "q", "p", ""]
    assert added.n_vars == 2
    assert source.read_bytes() == before
    alone = read(TABLE.write(tmp_path / f"alone{suffix}"))
    assert alone.obs_names.tolist() == ["x", "y", "ü"]
    np.testing.assert_array_equal(alone.obsm["X_mmvae"], TABLE["z"])
