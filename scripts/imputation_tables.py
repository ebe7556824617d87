"""The tables of docs/results/imputation.md that need no run: a table of measurements, and simulated CITE-seq counts.

``python scripts/imputation_tables.py OUT`` writes ``OUT/measurements`` and ``OUT/cite_seq``, each with the files of
``pyro-mmvae evaluate --mask``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyro
import torch
from sklearn.datasets import load_breast_cancer

from examples import cite_seq
from pyro_mmvae import MultimodalVAE, fit
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.evaluation import MaskOptions, evaluate_masked
from pyro_mmvae.reports import write_imputation
from pyro_mmvae.runs import write_evaluation

GROUPS = {"mean": slice(0, 10), "error": slice(10, 20), "worst": slice(20, 30)}
"""The columns of the breast cancer data that belong to one modality: three statistics of ten measurements each."""


def compare(vae: MultimodalVAE, train: MultimodalDataset, test: MultimodalDataset, out: Path) -> None:
    """Write the comparison of imputations of test items, and print its report."""
    found = evaluate_masked(vae, train, test, options=MaskOptions(rate=0.3))
    out.mkdir(parents=True, exist_ok=True)
    write_evaluation(out, [], {"imputation": found.summary()}, {}, [row.as_row() for row in found.rows])
    print(write_imputation(out)[1].read_text(encoding="utf-8"))


def measurements(out: Path, aggregation: str, epochs: int = 200) -> None:
    """Compare imputations of the breast cancer data, of which 30 % of the items lack one of three modalities."""
    table, rng = load_breast_cancer().data.astype(np.float32), np.random.default_rng(0)
    values = {name: table[:, columns].copy() for name, columns in GROUPS.items()}
    for lacking, name in zip(
        np.array_split(rng.permutation(len(table))[: int(0.3 * len(table))], 3), values, strict=True
    ):
        values[name][lacking] = np.nan
    settings = {"train.batch_size": 64, "train.threads": 1, "train.device": "cpu", "model.scale": "learned"}
    run = fit(
        values, aggregation=aggregation, epochs=epochs, latent_size=8, out=out / f"run-{aggregation}", test=0.3,
        settings=settings, progress=False,
    )  # fmt: skip
    compare(run.vae, run.data("train"), run.data("test"), out / f"measurements-{aggregation}")


def counts(out: Path, epochs: int = 30) -> None:
    """Compare imputations of the example's cells, of which 30 % of the training cells lack proteins."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    cells = cite_seq.simulate()
    data = cite_seq.to_data(cells, cite_seq.highly_variable(cells.rna))
    rows = np.arange(len(data))
    is_test = (rows >= 800) & cells.measured  # proteins that were not measured cannot be compared
    train, test = data.subset(rows[rows < 800].tolist()), data.subset(rows[is_test].tolist())
    compare(cite_seq.train(train, epochs), train, test, out / "cite_seq")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for rule in ("mwb", "wb"):
        measurements(target, rule)
    counts(target)
