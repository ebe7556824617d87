"""Memory and open files over a long training and many evaluations, which must not grow.

It is called by ``python -m benchmarks.long_run [--steps N] [--evaluations N] [--limit MIB]`` on Linux, prints a table,
and exits with status 1 if something grew.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

import pyro_mmvae
from pyro_mmvae.evaluation import EvaluationOptions, evaluate
from pyro_mmvae.runs.config import make_config
from pyro_mmvae.training.callbacks import Callback

STEPS_PER_EPOCH = 50
BATCH = 16
EVALUATION = EvaluationOptions(
    subsets=3, probe_points=40, likelihood_items=4, samples=4, max_samples=4, khat_items=2,
    coherence_items=20, reconstruction_items=20, diversity_items=4, diversity_draws=2, frechet_items=0, draws=20,
)  # fmt: skip


@dataclass(frozen=True)
class Usage:
    """The memory and the open files of this process at one moment.

    Attributes:
        memory: The resident memory in bytes.
        files: The number of open files, sockets and pipes.
    """

    memory: int
    files: int


def usage() -> Usage:
    """Return the memory and the open files of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return Usage(pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")))


class Watch(Callback):
    """A callback that measures after every epoch.

    Attributes:
        seen: What was measured, one entry per epoch.
    """

    def __init__(self) -> None:
        self.seen: list[Usage] = []

    def on_epoch_end(self, metrics: Mapping[str, Any]) -> None:
        """Measure memory and files."""
        self.seen.append(usage())


def growth(seen: list[Usage]) -> tuple[float, int]:
    """Return by how much memory, in MiB, and open files grew after the first fifth of the measurements.

    Args:
        seen: The measurements in their order, at least five.
    """
    start, half = seen[len(seen) // 5], seen[-(len(seen) // 5) :]
    memory = min(entry.memory for entry in half) - start.memory
    return memory / 2**20, min(entry.files for entry in half) - start.files


def describe(what: str, seen: list[Usage]) -> str:
    """Return a line with the first, the middle and the last measurement.

    Args:
        what: The part that was measured, in words.
        seen: The measurements in their order.
    """
    chosen = [seen[len(seen) // 5], seen[len(seen) // 2], seen[-1]]
    memory = " → ".join(f"{entry.memory / 2**20:.0f}" for entry in chosen)
    return f"{what}: memory {memory} MiB, open files {' → '.join(str(entry.files) for entry in chosen)}"


def measure(folder: Path, steps: int, evaluations: int) -> Iterator[tuple[str, list[Usage]]]:
    """Train a small model with a checkpoint every 50 steps, and evaluate it again and again.

    Args:
        folder: An empty folder for the data and the run.
        steps: The number of training steps.
        evaluations: The number of times that the run is opened and evaluated.

    Yields:
        The name of a part, and what was measured in it.
    """
    rng, items = np.random.default_rng(0), STEPS_PER_EPOCH * BATCH * 10 // 8  # of which 8 of 10 are for training
    (folder / "data").mkdir()
    values = {"a": rng.normal(size=(items, 4)), "b": rng.normal(size=(items, 3)), "labels": np.arange(items) % 2}
    for name, array in values.items():
        np.save(folder / "data" / f"{name}.npy", array)
    settings = {
        "data.name": str(folder / "data"), "model.latent_size": 4, "model.network.hidden": 8,
        "train.epochs": -(-steps // STEPS_PER_EPOCH), "train.batch_size": BATCH, "train.threads": 1,
    }  # fmt: skip
    watch = Watch()
    run = pyro_mmvae.train(make_config(None, settings), folder / "run", progress=False, callbacks=[watch])
    yield f"{steps} steps", watch.seen
    seen = []
    for _ in range(evaluations):
        opened = pyro_mmvae.load(run.path)  # as every command does
        evaluate(opened.vae, opened.data("train"), opened.data("test"), options=EVALUATION)
        seen.append(usage())
    yield f"{evaluations} evaluations", seen


@click.command()
@click.option("--steps", type=click.IntRange(500), default=5000, show_default=True, help="Number of training steps.")
@click.option(
    "--evaluations", type=click.IntRange(5), default=50, show_default=True, help="Number of evaluations of the run."
)
@click.option(
    "--limit", type=click.FloatRange(0), default=16.0, show_default=True, help="Growth in MiB that is an error."
)
def main(steps: int, evaluations: int, limit: float) -> None:
    """Measure memory and open files over a long training and many evaluations."""
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for what, seen in measure(Path(folder), steps, evaluations):
            memory, files = growth(seen)
            grew = memory > limit or files > 0
            failed = failed or grew
            words = f"; grew by {memory:.1f} MiB and {files} files" if grew else ""
            print(f"{describe(what, seen)}{words}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
