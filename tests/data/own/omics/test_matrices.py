"""The choice of modalities of AnnData and MuData objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyro_mmvae.data.own.omics import read_omics

N = 12


@pytest.fixture
def cells(omics: Any) -> Any:
    """Cells with 4 genes, 2 antibodies and 1 peak in one matrix, and 3 proteins in ``obsm``."""
    import pandas as pd
    import scipy.sparse

    values = np.random.default_rng(0).poisson(5.0, (N, 7)).astype(np.float32) + 1
    data = omics[0].AnnData(scipy.sparse.csr_matrix(values))
    data.var["feature_types"] = ["Gene Expression"] * 2 + ["Antibody Capture"] * 2 + ["Peaks"] + ["Gene Expression"] * 2
    data.var_names = [f"v{i}" for i in range(7)]
    data.var["highly_variable"] = [True, False, False, False, False, False, True]
    data.layers["double"] = data.X * 2
    data.obsm["adt"] = pd.DataFrame(values[:, :3] + 1, index=data.obs_names, columns=["CD3", "CD4", "CD8"])
    data.obsm["X_pca"] = values[:, :2]
    return data


def read(tree: Any, **options: Any) -> Any:
    return read_omics(tree, "cells", "cells", kinds=dict.fromkeys(options.pop("names", ("x",)), "counts"), **options)


def features(raw: Any) -> dict[str, tuple[str, ...]]:
    return {name: tuple(names.tolist()) for name, names in raw.feature_names.items()}


def test_read_omics_by_feature_types_makes_a_modality_of_each(cells: Any) -> None:
    raw = read(cells, modalities_by="feature_types", names=("rna", "protein", "peaks"))
    assert {name: values.shape for name, values in raw.modalities.items()} == {
        "peaks": (N, 1), "protein": (N, 2), "rna": (N, 4)
    }  # fmt: skip
    assert features(raw) == {"peaks": ("v4",), "protein": ("v2", "v3"), "rna": ("v0", "v1", "v5", "v6")}
    np.testing.assert_array_equal(raw.modalities["rna"], cells.X.toarray()[:, [0, 1, 5, 6]])
    assert raw.ids.tolist() == cells.obs_names.tolist()
    assert not any("feature_types" in note for note in raw.provenance["notes"])


@pytest.mark.parametrize(("obsm", "name"), [(("adt",), "adt"), ("adt", "adt"), ({"protein": "adt"}, "protein")])
def test_read_omics_with_obsm_makes_a_modality_with_the_names_of_its_columns(cells: Any, obsm: Any, name: str) -> None:
    raw = read(cells, obsm=obsm, names=("x", name))
    assert set(raw.modalities) == {"x", name}
    np.testing.assert_array_equal(raw.modalities[name], cells.obsm["adt"].to_numpy())
    assert features(raw)[name] == ("CD3", "CD4", "CD8")
    assert not any("obsm" in note for note in raw.provenance["notes"])


def test_read_omics_with_highly_variable_keeps_marked_variables_only(cells: Any) -> None:
    raw = read(cells, highly_variable=True)
    np.testing.assert_array_equal(raw.modalities["x"], cells.X.toarray()[:, [0, 6]])
    assert features(raw)["x"] == ("v0", "v6")
    names = ("rna", "protein", "peaks")
    split = read(cells, highly_variable=True, modalities_by="feature_types", names=names)
    assert {name: values.shape[1] for name, values in split.modalities.items()} == {"peaks": 1, "protein": 2, "rna": 2}


def test_read_omics_with_layers_by_modality_reads_each_its_own(cells: Any) -> None:
    names = ("rna", "protein", "peaks")
    raw = read(cells, layer={"protein": "double"}, modalities_by="feature_types", names=names)
    np.testing.assert_array_equal(raw.modalities["protein"], 2 * cells.X.toarray()[:, 2:4])
    np.testing.assert_array_equal(raw.modalities["rna"], cells.X.toarray()[:, [0, 1, 5, 6]])


def test_read_omics_of_mudata_finds_obsm_of_a_modality_and_aligns_other_orders(omics: Any, cells: Any) -> None:
    anndata, mudata = omics
    order = np.arange(N)[::-1][: N - 2]
    other = anndata.AnnData(cells.X.toarray()[order, 2:4])
    other.obs_names = [cells.obs_names[row] for row in order]
    both = mudata.MuData({"rna": cells.copy(), "protein": other})
    raw = read(both, obsm={"adt": "rna:adt"}, names=("rna", "protein", "adt"))
    assert list(raw.modalities) == ["adt", "protein", "rna"]
    rows = {name: row for row, name in enumerate(raw.ids.tolist())}
    place = [rows[name] for name in cells.obs_names]
    np.testing.assert_array_equal(raw.present[place].sum(0), [N, N - 2, N])
    np.testing.assert_array_equal(raw.modalities["protein"][place][2:], cells.X.toarray()[2:, 2:4])
    np.testing.assert_array_equal(raw.modalities["adt"][place], cells.obsm["adt"].to_numpy())
    assert not raw.present[place][:2, 1].any()


def test_read_omics_with_repeated_names_of_variables_leaves_them_out(cells: Any) -> None:
    cells.var_names = ["v"] * 7
    raw = read(cells)
    assert "x" not in raw.feature_names
    assert raw.provenance["notes"][0].startswith("x: names of variables are not kept")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"obsm": ("rna",)}, "obsm must be one of adt, X_pca, got 'rna'"),
        ({"obsm": {"x": "adt"}}, "names of modalities must be distinct, got 'x' twice"),
        ({"modalities_by": "types"}, "modalities_by must be a column of var, feature_types, highly_variable, got"),
        ({"layer": {"rna": "double"}}, "layer must be given for one of x, got 'rna'"),
        ({"layer": "raw"}, r"modality 'x': layer must be one of double, got 'raw'"),
    ],
)
def test_read_omics_with_unknown_parts_raises_in_one_line(cells: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read(cells, **options)
    assert "\n" not in str(error.value)


def test_read_omics_without_marked_variables_is_refused(cells: Any) -> None:
    del cells.var["highly_variable"]
    with pytest.raises(ValueError, match="highly_variable must mark some variable in a column of var, got none"):
        read(cells, highly_variable=True)
