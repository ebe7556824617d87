"""A CITE-seq file from the command line: RNA in ``X``, proteins in ``obsm``, of which some cells have none."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pyro_mmvae import load
from pyro_mmvae.cli import main
from pyro_mmvae.data import MappedTensor
from pyro_mmvae.data.storage import rows as rows_module

N = 80
OPTIONS = (
    "data.kinds={x: counts, protein: counts}", "data.obsm={protein: protein_expression}", "data.highly_variable=true",
    "data.missing_zero=true", "data.labels=type",
)  # fmt: skip
SMALL = ("model.latent_size=2", "model.network.hidden=8", "train.batch_size=16", "train.threads=1")


@pytest.fixture
def cells(tmp_path: Path) -> Any:
    pytest.importorskip("anndata")
    import pandas as pd
    import scipy.sparse

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import anndata

        if hasattr(anndata.settings, "allow_write_nullable_strings"):  # the strings of pandas 3
            anndata.settings.allow_write_nullable_strings = True
        rng = np.random.default_rng(0)
        table = anndata.AnnData(scipy.sparse.csr_matrix(rng.poisson(1.0, (N, 12)).astype(np.float32)))
        table.obs["type"] = rng.choice(["B", "T"], N)
        table.var["highly_variable"] = np.arange(12) % 2 == 0
        proteins = rng.poisson(9.0, (N, 3)) * (np.arange(N) % 4 > 0)[:, None]
        table.obsm["protein_expression"] = pd.DataFrame(proteins, table.obs_names, ["CD3", "CD4", "CD8"])
        table.write_h5ad(tmp_path / "cells.h5ad")
    return table


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_train_on_an_h5ad_file_with_proteins_in_obsm_opens_from_its_run(
    cells: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "DENSE_BYTES", 0)
    out, settings = tmp_path / "run", [word for setting in (*OPTIONS, *SMALL) for word in ("--set", setting)]
    words = ["train", "--data", str(tmp_path / "cells.h5ad"), "--agg", "mwb", "--out", str(out), *settings]
    likelihood = "model.modalities.x.likelihood=zero_inflated_negative_binomial"
    words += ["--epochs", "1", "--quiet", "--device", "cpu", "--precision", "fp32", "--set", likelihood]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    run = load(out, device="cpu")
    assert {m.name: m.likelihood for m in run.vae.modalities} == {
        "protein": "negative_binomial", "x": "zero_inflated_negative_binomial"
    }  # fmt: skip
    data = run.data("test")
    assert isinstance(data.modalities["x"], MappedTensor)
    assert data.item_ids is not None
    rows = data.item_ids.astype(int)
    np.testing.assert_array_equal(data.tensors["x"].numpy(), cells.X.toarray()[rows][:, ::2])
    np.testing.assert_array_equal(data.present[:, 0].numpy(), rows % 4 > 0)
    assert data.feature_names == {"protein": ("CD3", "CD4", "CD8"), "x": tuple(str(i) for i in range(0, 12, 2))}
