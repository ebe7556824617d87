"""Step 5: training, evaluation and predictive checks at the command line's defaults, timed, beside a CPU's figures."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_steps.plan import ROOT, Figures, Plan
from pyro_mmvae.run_files import read_metrics

AGGREGATIONS = ("mwb",)
RESULTS = ROOT / "docs" / "results"
SOURCE = "docs/results/comparison.csv"
TABLE = RESULTS / "comparison.csv"
AT_REST = re.compile(r"On two cores without other work, 10 epochs of `mwb` or `wb`.{0,80}? take (\d+) s")

TINY = {
    "train": (
        "--epochs", "1", "--set", "data.train_size=300", "--set", "data.val_size=100", "--set", "data.test_size=100",
        "--set", "model.latent_size=8", "--set", "model.network.width=4", "--set", "train.threads=1",
    ),
    "evaluate": (
        "--probe-points", "200", "--subsets", "5", "--likelihood-items", "20", "--samples", "8", "--khat-items", "0",
        "--no-quality", "--no-diagnostics", "--threads", "1",
    ),
    "ppc": ("--items", "20", "--num-samples", "10", "--given", "m0", "--threads", "1"),
}  # fmt: skip
"""Options of the trial on a CPU."""


def run(plan: Plan, figures: Figures) -> None:
    """Train, evaluate and check ``mwb``."""
    failed = 0
    figures.put(cpu=cpu_figures(AGGREGATIONS))
    for aggregation in AGGREGATIONS:
        folder = plan.work / "runs" / aggregation
        for command, words in commands(plan, aggregation, folder):
            if command != "train" and not (folder / "best.safetensors").exists():
                row: dict[str, Any] = {"state": "not run", "note": "there is no trained run"}
            else:
                row = call(command, words, plan.left() - 2)
            failed += row["state"] != "done"
            figures.add("commands", {"aggregation": aggregation, "command": command, **row})
            figures.put(**{aggregation: figures_of(folder)})
    if failed:
        raise SystemExit(f"{failed} commands did not end well")


def commands(plan: Plan, aggregation: str, folder: Path) -> list[tuple[str, list[str]]]:
    """Return the three commands of an aggregation, by name."""
    words = {
        "train": ["train", "--agg", aggregation, "--out", str(folder)],
        "evaluate": ["evaluate", str(folder)],
        "ppc": ["ppc", str(folder)],
    }
    extra: Mapping[str, Sequence[str]] = TINY if plan.tiny else {}
    return [(name, [*some, "--device", plan.device, "--quiet", *extra.get(name, ())]) for name, some in words.items()]


def call(name: str, words: Sequence[str], limit: float) -> dict[str, Any]:
    """Run one command of the command line, and return how it ended and how many seconds it took.

    Args:
        name: The name of the command in the log.
        words: The arguments that follow ``pyro-mmvae``.
        limit: The time limit in seconds.
    """
    print(f"\n$ pyro-mmvae {' '.join(words)}", flush=True)
    started, state, note = time.perf_counter(), "done", ""
    try:
        code = subprocess.run(
            [sys.executable, "-m", "pyro_mmvae", *words], cwd=ROOT, timeout=max(limit, 1), check=False
        ).returncode
        if code:
            state, note = "failed", f"exit status {code}"
    except subprocess.TimeoutExpired:
        state, note = "stopped", f"{name} had {max(limit, 1):.0f} s"
    return {"state": state, "note": note, "seconds": round(time.perf_counter() - started, 1)}


def figures_of(folder: Path) -> dict[str, Any]:
    """Return the figures that a run directory holds so far.

    Returns:
        ``epochs``; ``train_seconds``, of all epochs without validation; ``items_per_second``, of the fastest epoch;
        ``elbo``, the best of the validation, in nats per item; ``precision``; ``metrics``, rows of metric, protocol,
        number of views and mean; ``evaluation_seconds`` by part.
    """
    found: dict[str, Any] = {}
    epochs = read_metrics(folder)
    if epochs:
        found |= {
            "epochs": len(epochs),
            "train_seconds": round(sum(row["seconds"] for row in epochs), 2),
            "items_per_second": round(max(row["items_per_second"] for row in epochs)),
            "elbo": round(max(row["val"]["elbo"] for row in epochs), 2),
            "precision": json.loads((folder / "environment.json").read_text(encoding="utf-8"))["precision"],
        }
    summary = folder / "evaluation" / "summary.json"
    if summary.exists():
        content = json.loads(summary.read_text(encoding="utf-8"))
        found["evaluation_seconds"] = content["seconds"]
        found["metrics"] = [
            {"metric": metric, "protocol": protocol, "views": int(views), "mean": value}
            for metric, protocols in content["means_by_views"].items()
            for protocol, by_views in protocols.items()
            for views, value in by_views.items()
        ]
    return found


def cpu_figures(aggregations: Sequence[str], table: Path = TABLE) -> dict[str, Any]:
    """Return the figures of a CPU, from the results in the repository.

    Args:
        aggregations: The names of the aggregations to look up.
        table: A CSV file of ``pyro-mmvae compare``; by default the one in the repository.

    Returns:
        ``source``, the file; ``rows`` of aggregation, metric, protocol, views, mean and standard error over seeds;
        ``two_cores_seconds``, the time of 10 epochs, if the page beside the file states it.
    """
    if not table.exists():
        return {"source": None, "rows": [], "two_cores_seconds": None}
    with table.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["aggregation"] in aggregations]
    page = table.with_name("README.md")
    said = AT_REST.search(" ".join(page.read_text(encoding="utf-8").split())) if page.exists() else None
    return {
        "source": SOURCE,
        "rows": [
            {
                "aggregation": row["aggregation"], "metric": row["metric"], "protocol": row["protocol"],
                "views": int(row["views"]), "mean": float(row["mean"]), "se": float(row["se"]),
                "seeds": int(row["seeds"]),
            }
            for row in rows
        ],
        "two_cores_seconds": int(said[1]) if said else None,
    }  # fmt: skip
