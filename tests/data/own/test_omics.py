"""Tests of AnnData and MuData files, skipped if their packages are not installed."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_mmvae.data import load_data


@pytest.fixture
def omics() -> Any:
    """Import both packages without their warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import anndata
            import mudata
        except ImportError as error:
            pytest.skip(f"the extra 'omics' is not installed: {error}")
        yield anndata, mudata


N, KEPT = 40, slice(5, None)


@pytest.fixture
def files(omics: Any, tmp_path: Path) -> dict[str, Any]:
    import pandas as pd
    import scipy.sparse

    anndata, mudata = omics
    generator = np.random.default_rng(0)
    counts = generator.poisson(2.0, (N, 6)).astype(np.float32)
    proteins = generator.normal(size=(N, 3)).astype(np.float32)
    types, folds = np.array(["T", "B", "NK", "B"] * 10), np.array(["train", "train", "val", "test"] * 10)
    obs = pd.DataFrame({"type": pd.Categorical(types), "fold": folds}, index=[f"c{i}" for i in range(N)])
    rna = anndata.AnnData(scipy.sparse.csr_matrix(counts), obs=obs.copy())
    rna.layers["twice"] = rna.X * 2
    prot = anndata.AnnData(proteins[KEPT], obs=obs.iloc[KEPT].copy())
    prot.var_names = [f"p{i}" for i in range(3)]
    both = mudata.MuData({"rna": rna, "prot": prot})
    both.obs["type"], both.obs["fold"] = obs["type"], obs["fold"]
    attributes = generator.random((N, 3)) < np.array([0.5, 0.2, 0.0])
    both.obs["old"], both.obs["never"] = attributes[:, 0], attributes[:, 2].astype(np.int8)
    both["rna"].obs["ill"] = attributes[:, 1].astype(float)
    both.write(tmp_path / "a.h5mu")
    rna.write_h5ad(tmp_path / "a.h5ad")
    return {
        "h5mu": str(tmp_path / "a.h5mu"), "h5ad": str(tmp_path / "a.h5ad"), "counts": counts, "proteins": proteins,
        "types": types, "folds": folds, "attributes": attributes,
    }  # fmt: skip


OPTIONS: dict[str, Any] = {"kinds": {"rna": "counts"}, "labels": "type", "split_by": "fold"}


@pytest.mark.parametrize("labels", ["type", "rna:type"])
def test_load_omics_of_an_h5mu_file_reads_modalities_labels_split_and_presence(
    files: dict[str, Any], labels: str
) -> None:
    for split in ("train", "val", "test"):
        data = load_data(files["h5mu"], split, **{**OPTIONS, "labels": labels})
        rows = np.flatnonzero(files["folds"] == split)
        assert data.names == ("prot", "rna")
        np.testing.assert_array_equal(data.tensors["rna"].numpy(), files["counts"][rows])
        has_proteins = rows >= KEPT.start
        np.testing.assert_array_equal(data.present.numpy(), np.stack([has_proteins, np.ones_like(has_proteins)], -1))
        np.testing.assert_array_equal(data.tensors["prot"].numpy()[has_proteins], files["proteins"][rows[has_proteins]])
        classes = {"B": 0, "NK": 1, "T": 2}
        assert data.labels is not None
        assert data.labels.tolist() == [classes[name] for name in files["types"][rows]]
        assert (data.modality_specs["rna"].data_type, data.modality_specs["prot"].data_type) == ("counts", "vector")


def test_load_omics_keeps_names_of_observations_and_variables(files: dict[str, Any], omics: Any) -> None:
    data = load_data(files["h5mu"], "val", **OPTIONS)
    rows = np.flatnonzero(files["folds"] == "val")
    assert data.item_ids is not None
    assert data.item_ids.tolist() == [f"c{row}" for row in rows]
    assert data.feature_names == {"prot": ("p0", "p1", "p2"), "rna": tuple(map(str, range(6)))}
    one = omics[0].AnnData(files["proteins"])
    one.var_names = ["p0", "p1", "p0"]
    path = Path(files["h5ad"]).with_name("twice.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one.write_h5ad(path)
    repeated = load_data(str(path))
    assert repeated.feature_names == {}
    assert repeated.provenance["notes"] == [
        "x: names of variables are not kept, as some occur twice; var_names_make_unique() helps"
    ]


def test_load_omics_of_cells_without_a_category_leaves_them_unlabelled(files: dict[str, Any]) -> None:
    splits = [load_data(files["h5mu"], s, **{**OPTIONS, "labels": "prot:type"}) for s in ("train", "val", "test")]
    assert all(data.class_names == ("B", "NK", "T") for data in splits)
    assert sum(int((~data.labelled).sum()) for data in splits) == KEPT.start


def test_load_omics_with_several_label_columns_gives_attributes(files: dict[str, Any]) -> None:
    columns = ("old", "rna:ill", "never")
    for split in ("train", "test"):
        data = load_data(files["h5mu"], split, **{**OPTIONS, "labels": columns})
        rows = np.flatnonzero(files["folds"] == split)
        assert data.label_names == columns
        assert data.labels is not None
        np.testing.assert_array_equal(data.labels.numpy(), files["attributes"][rows])
    with pytest.raises(
        ValueError, match="item 0: column 'type' must hold 0 or 1, as several columns are attributes, got T"
    ):
        load_data(files["h5mu"], **{**OPTIONS, "labels": ("old", "type")})
    with pytest.raises(ValueError, match="label_names: names must differ, got 'old' twice"):
        load_data(files["h5mu"], **{**OPTIONS, "labels": ("old", "old")})


def test_load_omics_of_an_h5ad_file_reads_one_modality_and_a_layer(files: dict[str, Any]) -> None:
    data = load_data(files["h5ad"], "val", kinds={"x": "counts"}, layer="twice", split_by="fold")
    assert data.names == ("x",)
    assert data.labels is None
    np.testing.assert_array_equal(data.tensors["x"].numpy(), 2 * files["counts"][files["folds"] == "val"])
    sizes = [len(load_data(files["h5ad"], split, kinds={"x": "vector"})) for split in ("train", "val", "test")]
    assert sizes == [32, 4, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            "modality 'rna' must have a kind, as it holds integers only and may be counts, got none: set",
        ),
        ({**OPTIONS, "labels": "kind"}, "column must be one of obs, "),
        ({**OPTIONS, "split_by": "type"}, "split must be 0, 1, 2 or train, val, test, got T"),
        ({**OPTIONS, "layer": "raw"}, "modality 'prot': layer must be one of (none), got 'raw'"),
    ],
)
def test_load_omics_with_unfit_options_raises_in_one_line(
    files: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=r"a\.h5mu") as error:
        load_data(files["h5mu"], **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_load_omics_of_a_damaged_file_raises_in_one_line(files: dict[str, Any]) -> None:
    for kind in ("h5mu", "h5ad"):
        good = Path(files[kind]).read_bytes()
        generator = np.random.default_rng(0)
        for _ in range(8):
            for content in (good[: generator.integers(len(good))], generator.bytes(300)):
                Path(files[kind]).write_bytes(content)
                with pytest.raises(ValueError, match="must be a readable") as error:
                    load_data(files[kind])
                assert "\n" not in str(error.value)


@pytest.mark.parametrize(("suffix", "package"), [(".h5mu", "mudata"), (".h5ad", "anndata")])
def test_load_omics_without_its_packages_names_the_extra(
    suffix: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / f"a{suffix}").write_bytes(b"")
    with pytest.raises(ImportError, match=r"pip install 'pyro-mmvae\[omics\]'"):
        load_data(str(tmp_path / f"a{suffix}"))


@pytest.fixture
def padded(omics: Any, tmp_path: Path) -> str:
    import pandas as pd

    generator = np.random.default_rng(0)
    values = generator.poisson(5.0, (N, 4)).astype(np.float32) + 1
    values[:3] = 0
    data = omics[0].AnnData(values, obs=pd.DataFrame(index=[f"c{i}" for i in range(N)]))
    data.var["feature_types"] = ["Gene Expression", "Gene Expression", "Antibody Capture", "Antibody Capture"]
    data.obsm["protein"], data.obsm["X_pca"] = generator.normal(size=(N, 2)), generator.normal(size=(N, 2))
    data.layers["soup"] = values + np.eye(N, 4, dtype=np.float32) / 3
    data.write_h5ad(tmp_path / "padded.h5ad")
    return str(tmp_path / "padded.h5ad")


def test_load_omics_names_what_it_does_not_read(padded: str) -> None:
    notes = load_data(padded, kinds={"x": "counts"}).provenance["notes"]
    assert len(notes) == 3
    assert notes[0].startswith("x: obsm is not read, which holds protein;")
    assert "feature_types (Gene Expression, Antibody Capture) are read as one modality" in notes[1]
    assert notes[2] == "x: 3 observations hold zeros only; missing_zero: true makes them absent"


def test_load_omics_with_missing_zero_takes_zeros_for_absent(padded: str) -> None:
    splits = [load_data(padded, s, kinds={"x": "counts"}, missing_zero=True) for s in ("train", "val", "test")]
    assert sum(int((~data.present).sum()) for data in splits) == 3
    assert all("zeros" not in note for note in splits[0].provenance["notes"])


def test_load_omics_of_corrected_counts_names_layers_and_kinds(padded: str) -> None:
    message = r"item 0: value at \(0,\) must be a whole number, .* option layer \(soup\), round .* kind to vector"
    with pytest.raises(ValueError, match=message):
        load_data(padded, kinds={"x": "counts"}, layer="soup")


def test_load_omics_of_an_h5mu_file_of_axis_1_is_refused(omics: Any, tmp_path: Path) -> None:
    anndata, mudata = omics
    parts = {name: anndata.AnnData(np.eye(4, dtype=np.float32)) for name in ("a", "b")}
    parts["b"].obs_names = [f"b{i}" for i in range(4)]
    mudata.MuData(parts, axis=1).write(tmp_path / "wide.h5mu")
    with pytest.raises(ValueError, match="axis must be 0, so that modalities describe the same observations, got 1"):
        load_data(str(tmp_path / "wide.h5mu"), kinds={"a": "counts", "b": "counts"})
