"""Step 6: PolyMNIST with the full recipe for as many epochs as fit, its evaluation and its pictures."""

from __future__ import annotations

import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_steps.commands import call, figures_of
from benchmarks.gpu_steps.plan import ROOT, Figures, Plan
from pyro_mmvae.data.sets.idx import FILES
from pyro_mmvae.run_files import read_metrics

MISSING = (
    "it needs MNIST and five photographs, which are no part of the repository: give --mnist PATH and "
    "--photographs FOLDER"
)
EPOCHS = 300
AFTERWARDS = 90.0
"""Seconds kept for the evaluation and the pictures."""

LEAST_AFTERWARDS = 30.0
"""Seconds of these without which no epoch is waited for."""

EVALUATION = ("--khat-items", "0", "--likelihood-items", "100", "--no-diagnostics")
"""As in ``docs/results/two-cores.md``."""

TINY = {
    "build": ("--train-size", "200", "--test-size", "60"),
    "train": (
        "--set", "model.latent_size=8", "--set", "model.network.width=4", "--set", "model.network.hidden=16",
        "--set", "train.batch_size=32", "--set", "train.threads=1",
    ),
    "evaluate": (
        "--probe-points", "100", "--subsets", "5", "--likelihood-items", "0", "--khat-items", "0", "--no-quality",
        "--no-diagnostics", "--threads", "1",
    ),
}  # fmt: skip
"""Options of the trial on a CPU, which also trains for a few seconds only."""
TINY_SECONDS = 12.0


def run(plan: Plan, figures: Figures) -> None:
    """Build the data, train until the time is up, draw the pictures and evaluate."""
    if plan.mnist is None or plan.photographs is None:
        figures.put(skipped=MISSING)
        return
    data, folder = plan.work / "polymnist", plan.work / "runs" / "polymnist"
    mnist = mnist_folder(plan.mnist, plan.work)
    build = ["data", "build", "polymnist", "--mnist", str(mnist), "--photographs", str(plan.photographs)]
    figures.put(photographs=[path.name for path in sorted(plan.photographs.iterdir()) if path.suffix != ".json"][:5])
    figures.put(build=call("build", [*build, "--out", str(data), *extra(plan, "build")], plan.left() - 2))
    if figures.values["build"]["state"] != "done":
        raise SystemExit("the data could not be built")
    figures.put(train=train(plan, data, folder), run=figures_of(folder))
    if not read_metrics(folder):
        raise SystemExit("not one epoch came to its end")
    # Resuming a run that has no epoch left to train draws its pictures.
    resume = ["train", "--resume", str(folder), "--epochs", str(len(read_metrics(folder))), "--quiet"]
    figures.put(pictures=call("pictures", resume, plan.left() - 2))
    keep_pictures(folder, plan.out)
    words = ["evaluate", str(folder), "--device", plan.device, "--quiet", *(extra(plan, "evaluate") or EVALUATION)]
    figures.put(evaluate=call("evaluate", words, plan.left() - 2), run=figures_of(folder))
    keep_pictures(folder, plan.out)
    if figures.values["evaluate"]["state"] != "done":
        raise SystemExit("the evaluation did not end well")


def extra(plan: Plan, command: str) -> Sequence[str]:
    """Return the options of a command in the trial, none otherwise."""
    return TINY[command] if plan.tiny else ()


def train(plan: Plan, data: Path, folder: Path) -> dict[str, Any]:
    """Train with the recipe until only the time for evaluation is left, then interrupt as Ctrl-C does.

    Args:
        plan: The arguments of the step.
        data: The folder of the data set.
        folder: The run directory to create.

    Returns:
        ``state``, ``done`` or ``interrupted`` or ``failed``; ``epochs``, the number of completed ones; ``seconds``.
    """
    words = [
        sys.executable, "-m", "pyro_mmvae", "train", "--config", str(ROOT / "configs" / "polymnist.yaml"),
        "--data", str(data), "--agg", "mwb", "--device", plan.device, "--epochs", str(EPOCHS), "--quiet",
        "--out", str(folder), *extra(plan, "train"),
    ]  # fmt: skip
    print("\n$", *words[1:], flush=True)
    limit = TINY_SECONDS if plan.tiny else max(plan.left() - AFTERWARDS, plan.left() / 3)
    started, state = time.perf_counter(), "done"
    process = subprocess.Popen(words, cwd=ROOT)
    try:
        # The run needs at least one epoch to be evaluated, which may take longer than the limit on a slow machine.
        while process.poll() is None and plan.left() > LEAST_AFTERWARDS:
            if time.perf_counter() - started > limit and read_metrics(folder):
                break
            time.sleep(0.2)
        if process.poll() is None:
            state = "interrupted"
            process.send_signal(signal.SIGINT)
            process.wait(max(plan.left() - 2, 1))
    finally:
        process.kill()
    if state == "done" and process.returncode:
        state = "failed"
    return {
        "state": state,
        "epochs": len(read_metrics(folder)),
        "of": EPOCHS,
        "seconds": round(time.perf_counter() - started, 1),
    }


def mnist_folder(path: Path, work: Path) -> Path:
    """Return a folder of MNIST's four files, written here from an ``.npz`` of its arrays if the path is one.

    Args:
        path: A folder, or an ``.npz`` with ``x_train``, ``y_train``, ``x_test`` and ``y_test``.
        work: The folder in which ``mnist`` is created.
    """
    if path.is_dir():
        return path
    folder = work / "mnist"
    folder.mkdir()
    with np.load(path, allow_pickle=False) as arrays:
        for part, names in FILES.items():
            for name, key in zip(names, (f"x_{part}", f"y_{part}"), strict=True):
                array = np.ascontiguousarray(arrays[key], dtype=np.uint8)
                head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
                (folder / name).write_bytes(head + array.tobytes())
    return folder


def keep_pictures(folder: Path, out: Path) -> None:
    """Copy the pictures of a run into the folder of results, as ``polymnist-NAME.png``."""
    for picture in sorted((folder / "plots").glob("*.png")):
        shutil.copy(picture, out / f"polymnist-{picture.name}")
