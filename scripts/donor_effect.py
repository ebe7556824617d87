"""The tables of docs/omics.md on donors: simulated CITE-seq cells of three donors, with and without covariates.

``python -m scripts.donor_effect OUT`` trains both models into ``OUT`` and prints the tables.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from examples import cite_seq
from pyro_mmvae import Run, fit

SHARES = (0.5, 0.3, 0.2)  # of the donors
SPREAD = 0.5  # standard deviation of the logarithm of the factor per donor and feature


def thin(rng: np.random.Generator, counts: NDArray[Any], donors: NDArray[np.int64]) -> NDArray[np.float32]:
    """Multiply the expectation of counts by a factor per donor and feature, by dropping counts at random."""
    factors = np.exp(rng.normal(0, SPREAD, (len(SHARES), counts.shape[1])))
    factors /= factors.max(0)
    return rng.binomial(counts.astype(int), factors[donors]).astype(np.float32)


def train(out: Path, epochs: int) -> tuple[dict[str, Run], NDArray[np.int64], NDArray[np.int64]]:
    """Return both runs, and the donor and the type of each cell."""
    cells, rng = cite_seq.simulate(), np.random.default_rng(1)
    donors = rng.choice(len(SHARES), len(cells.types), p=SHARES)
    rna, protein = thin(rng, cells.rna.toarray(), donors), thin(rng, cells.protein, donors)
    protein[~cells.measured] = np.nan
    values = {"protein": protein, "rna": rna[:, cite_seq.highly_variable(scipy.sparse.csr_array(rna))]}
    settings: dict[str, Any] = {"recipe": "plain", "model.network": {"hidden": 64}}
    settings |= {"train.lr": 3e-3, "train.batch_size": 64, "train.threads": 1}
    runs = {}
    for name, covariates in (("without", None), ("with", {"donor": np.array(list("ABC"))[donors]})):
        runs[name] = fit(
            values, covariates=covariates, data_types=dict.fromkeys(values, "counts"), epochs=epochs, latent_size=8,
            out=out / name, settings=settings, progress=False,
        )  # fmt: skip
    return runs, donors, cells.types


def probe(run: Run, labels: NDArray[np.int64]) -> float:
    """Return the test accuracy of a logistic regression of labels on the means of the latent."""
    latents = {split: run.encode(split=split) for split in ("train", "test")}
    (x, known), (y, truth) = ((found["z"], labels[found.ids.astype(int)]) for found in latents.values())
    return float(make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000)).fit(x, known).score(y, truth))


def differences(counts: NDArray[Any], donors: NDArray[np.int64]) -> list[float]:
    """Return how far donors B and C are from A: root mean square differences of the mean log(1 + count) of features.

    Counts are scaled to the median total first.
    """
    totals = counts.sum(1, keepdims=True)
    logs = np.log1p(counts / totals * np.median(totals))
    means = [logs[donors == donor].mean(0) for donor in range(len(SHARES))]
    return [float(np.sqrt(((mean - means[0]) ** 2).mean())) for mean in means[1:]]


def main(out: Path, epochs: int = 40) -> dict[str, Any]:
    """Train both models, and print how much of the donor their latents and their imputations hold."""
    runs, donors, types = train(out, epochs)
    found: dict[str, Any] = {}
    for name, run in runs.items():
        found[name] = {"donor": probe(run, donors), "type": probe(run, types), "elbo": run.state["best"]}
        print(f"{name} covariates: " + ", ".join(f"{key} {value:.3f}" for key, value in found[name].items()))
    data = runs["with"].data("train")
    assert data.item_ids is not None
    of = donors[data.item_ids.astype(int)]
    removed = runs["with"].impute(split="train", covariates={"donor": "A"}, draws=10)
    for column, name in enumerate(data.names):
        present = data.present[:, column].numpy()
        before = differences(data.tensors[name].numpy()[present], of[present])
        after = differences(np.asarray(removed.mean[name]), of)
        found[name] = {"observed": before, "removed": after}
        print(f"{name}: B and C differ from A by {np.round(before, 3)}, after the removal by {np.round(after, 3)}")
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
