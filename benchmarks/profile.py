"""The times of the parts of a step.

The program is ``python -m benchmarks.profile [--threads N] [--steps N] [--precision fp32|bf16]``.

An operator is assigned to the part of the step that called it, and an operator of the backward pass to the part whose
forward pass it differentiates. The remaining time is Python: Pyro's traces, modules, and the dispatch of operators.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import click
import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import hide_gpus
from benchmarks.settings import describe, endless, new_trainer, random_data, setting
from pyro_mmvae.data import make_batch
from pyro_mmvae.device import threads as threads_of_process
from pyro_mmvae.likelihoods import SharedScaleLaplace
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import Trainer
from pyro_mmvae.training.elbo import local_pyro

WARM_UP = 6
PYTHON = "Python, Pyro, dispatch"
PARTS = (
    "batch", "encoder", "aggregation", "decoder", "likelihoods", "latent density", "checks", "optimiser", "other",
    PYTHON,
)  # fmt: skip


def labelled(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls another one under a label that the profiler records."""

    # The attributes of the function come along, by which torch's schedulers know the step of their optimizer.
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with record_function(f"part: {label}"):
            return function(*args, **kwargs)

    return run


@contextmanager
def named_parts(trainer: Trainer) -> Iterator[None]:
    """Label the parts of a step of a trainer in the context."""
    vae, laplace = trainer.vae, SharedScaleLaplace.log_prob
    places: list[tuple[Any, str, str]] = [
        (vae.guide.encode, "encode", "encoder"),
        (vae.guide, "posterior", "aggregation"),
        *((network, "run_groups", "decoder") for network in vae.model.decoders.networks),
        (trainer, "loss", "latent density"),  # the time in it that is not in another part
        (trainer, "_watch", "checks"),
        (trainer.optimizer, "step", "optimiser"),
        (trainer.optimizer, "zero_grad", "optimiser"),
    ]
    with ExitStack() as stack:
        for owner, name, label in places:
            original = getattr(owner, name)
            if isinstance(original, torch.nn.Module):
                owner, name, original = original, "forward", original.forward  # noqa: PLW2901
            stack.enter_context(patch.object(owner, name, labelled(label, original)))
        stack.enter_context(patch.object(SharedScaleLaplace, "log_prob", labelled("likelihoods", laplace)))
        yield


def part_of(event: FunctionEvent, forward: dict[int, str]) -> str:
    """Return the part of the step that an event belongs to.

    Args:
        event: An event of the profiler.
        forward: The parts of forward operators by their sequence numbers, which backward operators share.
    """
    ancestor: FunctionEvent | None = event
    while ancestor is not None:
        if ancestor.name.startswith("part: "):
            return ancestor.name.removeprefix("part: ")
        if ancestor.name.startswith("autograd::engine::evaluate_function"):
            return forward.get(ancestor.sequence_nr, "other")
        ancestor = ancestor.cpu_parent
    return "other"


def split(events: list[FunctionEvent]) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """Return the microseconds of each part, and of each operator in each part."""
    forward: dict[int, str] = {}
    for event in events:
        backward = event.name.startswith("autograd::")
        if event.sequence_nr >= 0 and not backward and (part := part_of(event, {})) != "other":
            forward[event.sequence_nr] = part  # the last one counts: operators without a gradient take the next number
    parts: Counter[str] = Counter()
    operators: Counter[tuple[str, str]] = Counter()
    for event in events:
        if event.name.startswith(("part: ", "ProfilerStep", "Optimizer.")):
            continue  # the time of these events itself is Python's
        part = part_of(event, forward)
        parts[part] += event.self_cpu_time_total
        operators[part, event.name] += event.self_cpu_time_total
    return parts, operators


def show(config: Config, precision: str, steps: int, top: int) -> None:
    """Profile some steps and print the time of each part.

    Args:
        config: The configuration to train.
        precision: The precision of the networks, ``auto``, ``fp32`` or ``bf16``.
        steps: The number of steps to average over.
        top: The number of operators to list.
    """
    data, trainer = random_data(1024), new_trainer(config, precision)
    indices = endless(config, data)
    batch = labelled("batch", make_batch)
    with local_pyro(), named_parts(trainer):
        # The first steps are slower, since they touch new memory; they are profiled once without being counted.
        with profile(activities=[ProfilerActivity.CPU]):
            for _ in range(WARM_UP):
                trainer.step(batch(data, next(indices)))
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            started = time.perf_counter()
            for _ in range(steps):
                trainer.step(batch(data, next(indices)))
            wall = 1e6 * (time.perf_counter() - started)
    parts, operators = split(list(profiler.events()))
    parts[PYTHON] = max(wall - sum(parts.values()), 0.0)
    print(f"{wall / steps / 1e3:.1f} ms per step under the profiler, which slows Python and dispatch down")
    for part in PARTS:
        print(f"  {parts[part] / steps / 1e3:8.2f} ms  {parts[part] / wall:6.1%}  {part}")
    for (part, name), spent in operators.most_common(top):
        print(f"    {spent / steps / 1e3:8.2f} ms  {spent / wall:6.1%}  {part:15}  {name[:80]}")


@click.command()
@click.option(
    "--threads", type=click.IntRange(1), help="Number of CPU threads; by default all that the process may use."
)
@click.option("--steps", type=click.IntRange(1), default=3, show_default=True, help="Number of steps to average over.")
@click.option("--top", type=click.IntRange(0), default=12, show_default=True, help="Number of operators to list.")
@click.option("--aggregation", "--agg", default="mwb", show_default=True, help="Name of the aggregation to profile.")
@click.option(
    "--bound", type=click.Choice(["component", "mixture"]), default="component", show_default=True,
    help="Training bound of the profiled steps.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="fp32", show_default=True,
    help="Precision in which networks compute.",
)  # fmt: skip
def main(threads: int | None, steps: int, top: int, aggregation: str, bound: str, precision: str) -> None:
    """Print the time of each part of a training step, in both settings."""
    hide_gpus()
    with threads_of_process(threads):
        for name in ("recipe", "mini"):
            config = setting(name, aggregation, bound)
            used = f"{torch.get_num_threads()} threads"
            print(f"{name}: {aggregation}, {bound} bound, {precision}, {describe(config)}, {used}")
            show(config, precision, steps, top)


if __name__ == "__main__":
    main()
