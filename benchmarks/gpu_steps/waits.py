"""Step 2: twenty training steps of every kind that never wait for the GPU."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_steps.plan import ROOT, Figures, Plan, last_line
from benchmarks.settings import endless, new_trainer, random_data
from pyro_mmvae.data import make_batch
from pyro_mmvae.training.elbo import Averages, local_pyro

WARM_UP, STEPS = 3, 20  # fewer than 50, after which the trainer checks for values that are not finite, and waits
MISSING = 0.3
PRIVATE = 16

UNCHECKED = "on a CPU there is nothing to wait for: the steps ran, and the synchronisation check did not"


def run(plan: Plan, figures: Figures) -> None:
    """Run the steps of both settings, two aggregations and both bounds, and list the places that wait."""
    if not plan.on_gpu:
        figures.put(note=UNCHECKED)
    bad = 0
    for name, aggregation, bound in product(("mini", "recipe"), ("wb", "mwb"), ("component", "mixture")):
        row = {"setting": name, "aggregation": aggregation, "bound": bound, **twenty(plan, name, aggregation, bound)}
        bad += row["result"] not in {"never waits", "ran"}
        figures.add("runs", row)
    if bad:
        raise SystemExit(f"{bad} of the runs failed or waited for the GPU")


def twenty(plan: Plan, name: str, aggregation: str, bound: str) -> dict[str, Any]:
    """Run twenty steps with private latents and 30 % of the modalities missing.

    Args:
        plan: The arguments of the step.
        name: The setting, ``mini`` or ``recipe``.
        aggregation: The name of the aggregation.
        bound: The training bound, ``mixture`` or ``component``.

    Returns:
        ``result``: ``never waits``, ``ran`` on a CPU, or the error; ``milliseconds`` per step; ``precision``;
        ``places`` in this package that wait, if there are any.
    """
    private = 2 if plan.tiny else PRIVATE
    config = plan.config(name, aggregation, bound, {"model.private_size": private})
    try:
        trainer = new_trainer(config, config.train.precision, device=plan.torch_device)
        data = random_data(4 * config.train.batch_size, plan.torch_device, MISSING)
        indices, averages = endless(config, data), Averages()

        def step() -> None:  # as in an epoch
            index = next(indices)
            loss = trainer.step(make_batch(data, index))
            averages.add(len(index), loss, trainer.terms)

        with local_pyro():
            for _ in range(WARM_UP):  # libraries initialise during the first steps
                step()
            found = watch(plan, step)
            trainer.check()
        return {"precision": trainer.precision, "loss": averages.read().loss, **found}
    except Exception as error:  # noqa: BLE001  (the other runs go on after any failure)
        traceback.print_exc()
        return {"result": last_line(error)}


def watch(plan: Plan, step: Callable[[], None]) -> dict[str, Any]:
    """Run a step twenty times with waiting for the GPU as an error, and list the places that wait if there are any."""
    plan.synchronise()
    started = time.perf_counter()
    try:
        with sync_debug("error", plan.on_gpu):
            for _ in range(STEPS):
                step()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return {"result": "waits", "places": places_that_wait(step)}
    plan.synchronise()
    milliseconds = round(1e3 * (time.perf_counter() - started) / STEPS, 3)
    return {"result": "never waits" if plan.on_gpu else "ran", "milliseconds": milliseconds}


@contextmanager
def sync_debug(mode: str, on_gpu: bool = True) -> Iterator[None]:
    """Set torch's sync debug mode to ``error`` or ``warn``; do nothing without a GPU."""
    if not on_gpu:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def places_that_wait(step: Callable[[], None]) -> list[str]:
    """Return the lines of this checkout from which a step waits for the GPU, ``file:line operation``, each once."""
    places: dict[str, None] = {}

    def note(message: Warning | str, *_: Any) -> None:
        own = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(ROOT / "pyro_mmvae")]
        where = f"{Path(own[-1].filename).relative_to(ROOT)}:{own[-1].lineno}: {own[-1].line}" if own else "elsewhere"
        places[f"{where} ({str(message).splitlines()[0][:80]})"] = None

    with warnings.catch_warnings(), sync_debug("warn"):
        warnings.simplefilter("always")
        warnings.showwarning = note
        step()
    return list(places)
