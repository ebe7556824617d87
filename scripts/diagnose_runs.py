"""The table of docs/results/diagnostics.md: what the diagnostics say on good, half-trained and broken runs.

``python -m scripts.diagnose_runs OUT [NAME …]`` makes the data, trains the runs that ``OUT`` lacks, with one thread on
the CPU and seed 0, and prints a line per run; names restrict it to some runs. Names of the form ``PATH/`` are run
directories that exist already.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from pyro_mmvae import Run, load, train
from pyro_mmvae.data import make_batch
from pyro_mmvae.evaluation import diagnose, encode_dataset, expert_geometry, latent_usage, reconstruction, residuals
from pyro_mmvae.inference.posteriors import subset_family
from pyro_mmvae.run_files import read_metrics
from pyro_mmvae.runs.config import make_config

TABLE = {"model.latent_size": 4, "train.batch_size": 64, "train.lr": 2e-3}
IMAGES = {"data.train_size": 3000, "data.val_size": 300, "data.test_size": 400, "train.batch_size": 64}
RUNS: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    # good
    "vec-mwb": ("plain", "mwb", 40, TABLE),
    "vec-mopoe": ("plain", "mopoe", 40, {**TABLE, "model.bound": "mixture"}),
    "vec-poe": ("plain", "poe", 40, TABLE),
    "vec-wb": ("plain", "wb", 40, TABLE),
    "mix-mwb": ("mixed", "mwb", 30, TABLE),
    # half-trained
    "vec-mwb-2": ("plain", "mwb", 2, TABLE),
    "vec-poe-2": ("plain", "poe", 2, TABLE),
    "vec-wb-4": ("plain", "wb", 4, TABLE),
    "vec-mwb-8": ("plain", "mwb", 8, TABLE),
    "mix-mwb-2": ("mixed", "mwb", 2, TABLE),
    "poly-mwb-1": ("polymnist-mini", "mwb", 1, IMAGES),
    # broken
    "vec-lr.5": ("plain", "mwb", 10, {**TABLE, "train.lr": 0.5}),
    "vec-beta50": ("plain", "mwb", 40, {**TABLE, "model.beta": 50.0}),
    "vec-latent1": ("plain", "mwb", 40, {**TABLE, "model.latent_size": 1}),
    "mix-latent1": ("mixed", "mwb", 30, {**TABLE, "model.latent_size": 1}),
    "vec-shuffled": ("shuffled", "mwb", 40, TABLE),
    "vec-shuffled-wb": ("shuffled", "wb", 40, TABLE),
    "mix-shuffled": ("mixed-shuffled", "mwb", 30, TABLE),
    "dom-poe": ("dominated", "poe", 30, TABLE),
    "poly-beta50": ("polymnist-mini", "mwb", 1, {**IMAGES, "model.beta": 50.0}),
    "poly-lr1": ("polymnist-mini", "mwb", 1, {**IMAGES, "train.lr": 1.0}),
    # advice
    "dom-mwb": ("dominated", "mwb", 15, TABLE),
    "dom-wb": ("dominated", "wb", 15, TABLE),
    "vec-beta50-warmup": ("plain", "mwb", 10, {**TABLE, "model.beta": 50.0, "train.beta_warmup": 0.5}),
    "vec-beta8": ("plain", "mwb", 20, {**TABLE, "model.beta": 8.0}),
    "vec-beta50-scale.1": ("plain", "mwb", 8, {**TABLE, "model.beta": 50.0, "model.scale": 0.1}),
    "vec-lr.05": ("plain", "mwb", 10, {**TABLE, "train.lr": 0.05}),
    "vec-latent8": ("plain", "mwb", 20, {**TABLE, "model.latent_size": 8}),
}
"""Name of the run to data, aggregation, epochs and settings."""


def make_data(folder: Path, name: str) -> str:
    """Write three modalities of 1,500 items with a latent of four dimensions and four classes, and return the folder.

    ``plain`` has three vectors; ``dominated`` a precise one of 30 features and two of much noise; ``mixed`` counts, a
    vector and texts. ``shuffled`` orders the items of each modality at random.
    """
    if name == "polymnist-mini":
        return name
    path = folder / f"data-{name}"
    if path.exists():
        return str(path)
    rng, items, modalities = np.random.default_rng(0), 1500, dict[str, Any]()
    if name == "dominated":
        z = rng.normal(size=(items, 4))
        for m, (size, noise) in enumerate(((30, 0.02), (6, 1.5), (6, 1.5))):
            modalities[f"m{m}"] = z @ rng.normal(size=(4, size)) + noise * rng.normal(size=(items, size))
    else:
        classes, centres = rng.integers(0, 4, items), rng.normal(size=(4, 4)) * 1.5
        z = centres[classes] + 0.6 * rng.normal(size=(items, 4))
        if name.startswith("mixed"):
            modalities["counts"] = rng.poisson(np.exp(1.5 + z @ rng.normal(size=(4, 12)) / 3))
            modalities["vector"] = z @ rng.normal(size=(4, 6)) / 2 + 0.3 * rng.normal(size=(items, 6))
            words = np.array(["north", "east", "south", "west"])[classes]
            modalities["text"] = np.char.add(words, np.where(z[:, 0] > 0, "+", "-"))
    path.mkdir(parents=True)
    for m, size in enumerate((6, 8, 5) if name in {"plain", "shuffled"} else ()):
        value = z @ (rng.normal(size=(4, size)) / 2) + 0.3 * rng.normal(size=(items, size))
        modalities[f"m{m}"] = value[rng.permutation(items)] if name == "shuffled" else value
    for key, ordered in modalities.items():
        value = ordered[rng.permutation(items)] if name == "mixed-shuffled" else ordered
        np.save(path / f"{key}.npy", value.astype(np.float32) if value.dtype == np.float64 else value)
    np.save(path / "split.npy", np.repeat([0, 1, 2], [1100, 150, 250]))
    if "counts" in modalities:
        (path / "meta.yaml").write_text("modalities:\n  counts: {data_type: counts}\n")
    return str(path)


def describe(run: Run) -> str:
    """Return the findings, and the mean square error over the variance of vectors generated from another modality."""
    vae, data = run.vae, run.data("test")
    experts, every = encode_dataset(vae, data), tuple(range(len(run.names)))
    rows = [
        *expert_geometry(vae, experts),
        *latent_usage(vae, experts, subset=every, draws=200),
        *residuals(vae, experts, data),
    ]
    mixture = subset_family(vae) not in {"all", None}
    findings = diagnose(rows, run.names, mixture=mixture, history=read_metrics(run.path))
    values = make_batch(data, slice(None)).values
    errors = [
        row.value / float(values[row.target].double().var(0).mean())
        for row in reconstruction(vae, experts, data, subsets=[(m,) for m in every])
        if row.metric == "mse" and row.protocol.startswith("translation") and values[row.target].is_floating_point()
    ]
    translation = f"translation {np.mean(errors):.2f}" if errors else ""
    return "\n".join([translation, *(f"    {f.mode}: {f.what} | {f.advice}" for f in findings)])


def main(out: Path, names: list[str]) -> None:
    """Train and describe the runs."""
    for name in names or list(RUNS):
        path = Path(name) if name.endswith("/") else out / name
        if not (path / "checkpoint.safetensors").exists():
            data, aggregation, epochs, settings = RUNS[name]
            fixed = {"recipe": "plain", "train.epochs": epochs, "train.threads": 1, "train.device": "cpu"}
            source = {"data.name": make_data(out, data), "model.aggregation": aggregation}
            train(make_config(None, {**source, **fixed, **settings}), path)
        print(path.name, describe(load(path, device="cpu")), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
