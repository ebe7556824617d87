"""Tests of the transformer on AnnData and MuData objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from pyro_mmvae import MultimodalVAETransformer

pytestmark = pytest.mark.filterwarnings("ignore")  # of anndata and mudata
anndata = pytest.importorskip("anndata")
mudata = pytest.importorskip("mudata")

N, LACKING = 40, 10
KIND = np.array(["B", "T"] * (N // 2))


def make_cells() -> Any:
    """Return a MuData object in which the last cells lack the protein."""
    generator = np.random.default_rng(0)
    rates = np.where(KIND == "B", 2.0, 8.0)[:, None]
    cells = pd.DataFrame(index=[f"cell{number}" for number in range(N)])
    genes, proteins = pd.DataFrame(index=[f"g{i}" for i in range(6)]), pd.DataFrame(index=["CD3", "CD19"])
    rna = scipy.sparse.csr_matrix(generator.poisson(rates, (N, 6)).astype(np.float32))
    few = cells[: N - LACKING]
    protein = generator.poisson(3 * rates[: len(few)], (len(few), 2)).astype(np.float32)
    return mudata.MuData({
        "rna": anndata.AnnData(rna, obs=cells, var=genes),
        "protein": anndata.AnnData(protein, obs=few, var=proteins),
    })  # fmt: skip


def make_vae(cells: Any, **options: Any) -> MultimodalVAETransformer:
    types = {"rna": "counts", "protein": "counts"} if isinstance(cells, mudata.MuData) else {"x": "counts"}
    settings = {"model.network": {"name": "mlp", "hidden": 8, "depth": 1}, "train.lr": 0.01, "train.batch_size": 8}
    return MultimodalVAETransformer(
        latent_size=2, random_state=0, data_types=types, settings=settings, **{"epochs": 1, **options}
    )


def test_transform_of_mudata_equals_the_encoding_of_its_parts() -> None:
    cells = make_cells()
    vae = make_vae(cells).fit(cells)
    expected = vae.run_.encode({"rna": cells["rna"], "protein": cells["protein"]})
    order = [expected.ids.tolist().index(name) for name in cells.obs_names]
    np.testing.assert_allclose(vae.transform(cells), expected["z"][order], rtol=1e-5)
    np.testing.assert_allclose(vae.transform(cells[:7]), expected["z"][order][:7], rtol=1e-5)
    of_rna = vae.run_.encode({"rna": cells["rna"]})["z"]
    np.testing.assert_allclose(vae.transform(mudata.MuData({"rna": cells["rna"]})), of_rna, rtol=1e-5)


def test_impute_of_mudata_gives_tables_that_keep_observations() -> None:
    cells = make_cells()
    vae = make_vae(cells).fit(cells)
    filled = vae.impute(cells)
    assert set(filled) == {"rna", "protein"}
    protein, seen = filled["protein"], cells["protein"]
    assert protein.index.tolist() == cells.obs_names.tolist()
    assert protein.columns.tolist() == ["CD3", "CD19"]
    np.testing.assert_array_equal(protein.loc[seen.obs_names].to_numpy(), seen.X)
    absent = [name for name in cells.obs_names if name not in set(seen.obs_names)]
    assert len(absent) == LACKING
    assert (protein.loc[absent] > 0).all(axis=None)
    np.testing.assert_array_equal(filled["rna"].to_numpy(), cells["rna"].X.toarray())


@pytest.mark.parametrize("is_mudata", [True, False])
def test_cross_validation_divides_observations(is_mudata: bool) -> None:
    cells = make_cells() if is_mudata else make_cells()["rna"]
    pipeline = make_pipeline(make_vae(cells), LogisticRegression())
    halves = [np.arange(N) < N // 2, np.arange(N) >= N // 2]
    scores = cross_val_score(pipeline, cells, KIND, cv=[(halves[0], halves[1])], error_score="raise")
    parts = dict(sorted(cells.mod.items())) if is_mudata else {"x": cells}
    tables = {name: part.to_df() for name, part in parts.items()}
    by_hand = [
        {name: table[table.index.isin(cells.obs_names[rows])] for name, table in tables.items()} for rows in halves
    ]
    fitted = clone(pipeline).fit(by_hand[0], KIND[halves[0]])
    latents = make_vae(cells).fit(cells[halves[0]]).transform(cells[halves[1]])
    np.testing.assert_allclose(latents, fitted[:-1].transform(by_hand[1]), rtol=1e-5)
    assert scores.tolist() == [fitted.score(by_hand[1], KIND[halves[1]])]


def test_fit_of_whole_numbers_without_a_data_type_says_how_to_set_it() -> None:
    with pytest.raises(ValueError, match="got none: set it to counts or vector, as in data_types={'x': 'counts'} of"):
        MultimodalVAETransformer(latent_size=2, epochs=1).fit(make_cells()["rna"])
