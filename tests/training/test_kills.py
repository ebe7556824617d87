"""Trainings that are killed at random moments, and in the middle of saves, and compared bit by bit with a whole one.

A few kills run by default; ``PYRO_MMVAE_KILLS=25`` runs more.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pyro_mmvae import train
from pyro_mmvae.run_files import CHECKPOINTS
from pyro_mmvae.runs import read_metrics
from pyro_mmvae.runs.checkpoint import read_state
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import resume

KILLS = int(os.environ.get("PYRO_MMVAE_KILLS", "4"))
TIMES = {"seconds", "items_per_second"}


def go_on(config: Config, path: Path) -> None:
    """Train or resume, whichever a user would do."""
    if (path / "config.yaml").exists():
        resume(path, progress=False)
    else:
        train(config, path, progress=False)


def in_a_child(function: Callable[[], None]) -> int:
    """Run a function in a forked process, and return how it ended: 0, an exit status, or minus the signal."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        try:
            function()
        except BaseException:  # noqa: BLE001  (the child must not return into pytest)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_at_write(number: int) -> None:
    """Kill this process at one of its system calls that write: before or after it, or in the middle of a file."""
    calls = iter(range(10**9))
    fsync, replace, rename = os.fsync, Path.replace, os.rename

    def point(torn: int | None = None) -> None:
        if next(calls) == number:
            if torn is not None:
                os.ftruncate(torn, os.fstat(torn).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def dying_fsync(descriptor: int) -> None:
        is_file = not os.path.isdir(f"/proc/self/fd/{descriptor}")
        point(descriptor if is_file else None)
        fsync(descriptor)

    def dying_replace(self: Path, target: Any) -> Path:
        point()
        result = replace(self, target)
        point()
        return result

    def dying_rename(source: Any, target: Any) -> None:
        point()
        rename(source, target)
        point()

    os.fsync, os.rename = dying_fsync, dying_rename  # type: ignore[assignment]
    Path.replace = dying_replace  # type: ignore[method-assign,assignment]


def outcome(path: Path) -> Any:
    """Return everything that a training leaves, apart from the time that it took."""
    files = sorted(file.name for file in path.iterdir())
    states = [read_state(path / name) for name in CHECKPOINTS.values()]
    lines = len((path / "metrics.jsonl").read_text().splitlines())
    rows = [
        {**{k: v for k, v in row.items() if k not in TIMES}, "val": {**row["val"], "seconds": 0}}
        for row in read_metrics(path)
    ]
    return files, states, lines, rows


def assert_same(path: Path, reference: Path) -> None:
    assert outcome(path) == outcome(reference)
    for name in CHECKPOINTS.values():
        ours, theirs = load_file(path / name), load_file(reference / name)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
        assert (path / name).read_bytes() == (reference / name).read_bytes()


@pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc/self/fd").exists(), reason="needs fork and /proc")
@pytest.mark.parametrize("during", ["any moment", "a save"])
def test_train_killed_at_random_moments_ends_with_the_weights_of_a_whole_training(
    toy_config: Callable[..., Config], tmp_path: Path, during: str, request: pytest.FixtureRequest
) -> None:
    if "PYRO_MMVAE_KILLS_ALONE" not in os.environ:  # a process that other tests have used may not train after a fork
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", request.node.nodeid]
        alone = {**os.environ, "PYRO_MMVAE_KILLS_ALONE": "1"}
        run = subprocess.run(words, cwd=request.config.rootpath, env=alone, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout
        return
    config = toy_config(
        data__modalities=2, data__train_size=40, train__batch_size=16, train__epochs=3, train__fit_prior=0,
        model__scale="learned",
    )  # fmt: skip
    started = time.monotonic()
    assert in_a_child(lambda: go_on(config, tmp_path / "whole")) == 0
    duration = time.monotonic() - started
    dice = random.Random(int(os.environ.get("PYRO_MMVAE_KILL_SEED", "0")))
    kills, number = 0, 0
    while kills < KILLS:
        path, status = tmp_path / f"run{number}", None
        while status != 0:
            # The last kills of a run may come after its end, so that it gets there.
            moment, call = dice.uniform(0.01, duration), dice.randrange(45)

            def attempt(moment: float = moment, call: int = call, path: Path = path) -> None:
                if during == "a save":
                    die_at_write(call)
                else:
                    signal.setitimer(signal.ITIMER_REAL, moment)
                go_on(config, path)

            status = in_a_child(attempt)
            assert status in {0, -signal.SIGKILL, -signal.SIGALRM}
            kills += status != 0
        assert_same(path, tmp_path / "whole")
        number += 1
    assert {entry.name for entry in tmp_path.iterdir()} == {"whole", *(f"run{n}" for n in range(number))}
