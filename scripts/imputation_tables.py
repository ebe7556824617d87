"""The tables of docs/results/imputation.md that need no run: a table of measurements, and simulated CITE-seq counts.

``python scripts/imputation_tables.py OUT`` writes ``OUT/measurements-…`` and ``OUT/cite_seq``, each with the files of
``pyro-mmvae evaluate --mask``, and prints the tables.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyro
import torch
from sklearn.datasets import load_breast_cancer

from examples import cite_seq
from pyro_mmvae import MultimodalVAE, fit
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.evaluation import MaskedEvaluation, MaskOptions, evaluate_masked
from pyro_mmvae.reports import write_imputation
from pyro_mmvae.runs import write_evaluation

GROUPS = {"mean": slice(0, 10), "error": slice(10, 20), "worst": slice(20, 30)}
"""The columns of the breast cancer data that belong to one modality: three statistics of ten measurements each."""


def compare(vae: MultimodalVAE, train: MultimodalDataset, test: MultimodalDataset, out: Path) -> MaskedEvaluation:
    """Write the comparison of imputations of test items, and print its report."""
    found = evaluate_masked(vae, train, test, options=MaskOptions(rate=0.3))
    out.mkdir(parents=True, exist_ok=True)
    write_evaluation(out, [], {"imputation": found.summary()}, {}, [row.as_row() for row in found.rows])
    print(write_imputation(out)[1].read_text(encoding="utf-8"))
    return found


def measurements(out: Path, aggregation: str, recipe: str, seed: int, epochs: int = 200) -> MaskedEvaluation:
    """Compare imputations of the breast cancer data, of which 30 % of the items lack one of three modalities."""
    table, rng = load_breast_cancer().data.astype(np.float32), np.random.default_rng(0)
    values = {name: table[:, columns].copy() for name, columns in GROUPS.items()}
    for lacking, name in zip(
        np.array_split(rng.permutation(len(table))[: int(0.3 * len(table))], 3), values, strict=True
    ):
        values[name][lacking] = np.nan
    name = f"{aggregation}-{recipe}-seed{seed}"
    settings = {"train.batch_size": 64, "train.threads": 1, "train.device": "cpu", "model.scale": "learned"}
    run = fit(
        values, aggregation=aggregation, epochs=epochs, latent_size=8, out=out / f"run-{name}", test=0.3,
        settings={**settings, "recipe": recipe}, seed=seed, progress=False,
    )  # fmt: skip
    return compare(run.vae, run.data("train"), run.data("test"), out / f"measurements-{name}")


def over_seeds(found: Mapping[str, Sequence[MaskedEvaluation]], metric: str) -> str:
    """Return a Markdown table of a metric with one modality left out: means and standard errors over seeds.

    Args:
        found: The comparisons of each seed, by the name of the model, which heads its column.
        metric: The name of the metric.
    """
    columns: dict[str, dict[tuple[str, int], list[float]]] = {}
    for model, comparisons in found.items():
        for row in (row for one in comparisons for row in one.rows):
            if row.metric == metric and row.pattern == "leave one out":
                name = model if row.method == "model" else row.method
                # The methods that do not depend on the model are equal in all comparisons of a seed.
                if row.method == "model" or model == next(iter(found)):
                    columns.setdefault(name, {}).setdefault((row.target, row.views), []).append(row.value)
    columns = {name: columns[name] for name in sorted(columns, key=lambda name: name not in found)}  # models come first
    lines = ["| modality | given | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    for target, views in sorted(next(iter(columns.values()))):
        figures = [np.array(column[target, views]) for column in columns.values()]
        cells = [f"{values.mean():.3f} ± {values.std(ddof=1) / len(values) ** 0.5:.3f}" for values in figures]
        lines.append(f"| {target} | {views} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
    comparisons = {
        f"`{rule}`, {recipe}": [measurements(target, rule, recipe, seed) for seed in range(3)]
        for rule in ("mwb", "wb")
        for recipe in ("contrastive", "plain")
    }
    for metric in ("nrmse", "coverage_90", "coverage_50"):
        print(f"{metric}, means over three seeds\n\n{over_seeds(comparisons, metric)}\n")
    counts(target)
