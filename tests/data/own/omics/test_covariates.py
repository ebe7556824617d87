"""Tests of covariates in AnnData and MuData files and objects, skipped if their packages are not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_mmvae.data import load_data, to_dataset
from pyro_mmvae.data.own.omics import find_columns

N = 20
DONORS = ["B", "A", "A", "C"] * (N // 4)


def make(omics: Any) -> Any:  # noqa: ANN401
    import pandas as pd

    anndata, mudata = omics
    values, names = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32), [f"c{n}" for n in range(N)]
    rna = anndata.AnnData(values, obs=pd.DataFrame({"plate": np.arange(N) % 2}, index=names))
    prot = anndata.AnnData(values[5:] + 1, obs=pd.DataFrame({"lane": ["l1"] * 8 + ["l2"] * 7}, index=names[5:]))
    tables = mudata.MuData({"rna": rna, "prot": prot})
    tables.obs["donor"] = pd.Categorical(DONORS, ["C", "A", "B", "unused"])
    return tables


def names_of(data: Any, name: str) -> list[str]:  # noqa: ANN401
    return [data.covariate_names[name][code] if code >= 0 else "" for code in data.covariates[name].tolist()]


@pytest.mark.parametrize("backed", [True, False])
def test_load_omics_given_covariates_reads_columns_of_obs_and_of_modalities(
    omics: Any,
    tmp_path: Path,
    backed: bool,  # noqa: ANN401
) -> None:
    make(omics).write(tmp_path / "a.h5mu")
    data = load_data(str(tmp_path / "a.h5mu"), "all", covariates=("donor", "prot:lane", "rna:plate"), backed=backed)
    assert data.covariate_names == {"donor": ("A", "B", "C"), "lane": ("l1", "l2"), "plate": ("0", "1")}
    assert names_of(data, "donor") == DONORS
    assert names_of(data, "lane") == [""] * 5 + ["l1"] * 8 + ["l2"] * 7
    assert names_of(data, "plate") == ["0", "1"] * (N // 2)
    part = load_data(str(tmp_path / "a.h5mu"), "val", covariates="donor", backed=backed)
    assert part.covariate_names == {"donor": ("A", "B", "C")}


def test_load_omics_without_covariates_keeps_the_provenance(omics: Any, tmp_path: Path) -> None:  # noqa: ANN401
    make(omics).write(tmp_path / "a.h5mu")
    plain = load_data(str(tmp_path / "a.h5mu"), "all")
    assert plain.covariates == {}
    assert "covariates" not in plain.provenance["files"]
    assert load_data(str(tmp_path / "a.h5mu"), "all", covariates="donor").fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        ("room", r"got 'room': add it, or choose .* which is \[\] for data without any"),
        (("donor", "rna:donor"), "got 'rna:donor'|distinct, got 'donor' twice"),
    ],
)
def test_load_omics_of_wrong_covariates_raises(
    omics: Any,
    tmp_path: Path,
    covariates: Any,
    message: str,  # noqa: ANN401
) -> None:
    make(omics).write(tmp_path / "a.h5mu")
    with pytest.raises(ValueError, match=message):
        load_data(str(tmp_path / "a.h5mu"), "all", covariates=covariates)


def test_to_dataset_given_a_mudata_object_takes_names_of_columns_or_values(omics: Any) -> None:  # noqa: ANN401
    tables = make(omics)
    assert names_of(to_dataset(tables, covariates=["donor", "rna:plate"]), "donor") == DONORS
    assert names_of(to_dataset(tables, covariates="donor"), "donor") == DONORS
    assert names_of(to_dataset(tables, covariates={"d": tables.obs["donor"]}), "d") == DONORS


def test_find_columns_names_those_of_all_observations_first(omics: Any) -> None:  # noqa: ANN401
    assert find_columns(make(omics), ["lane", "room", "donor"]) == ("prot:lane", "donor")
    assert find_columns(make(omics)["rna"], ["plate", "donor"]) == ("plate",)
