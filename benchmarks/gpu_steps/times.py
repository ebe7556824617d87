"""Step 4: the time of a training step against other implementations in turn, and the share in which the GPU is busy."""

from __future__ import annotations

import gc
import statistics
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import pyro
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.byhand import ByHand, stacked
from benchmarks.checks import check_by_hand
from benchmarks.gpu_steps.graph import Graphed
from benchmarks.gpu_steps.plan import Figures, Plan, last_line
from benchmarks.settings import describe, endless, new_vae, our_step, random_data
from benchmarks.timing import Clock, Seconds, in_turn
from benchmarks.training import Step, hand_step, svi_step
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training.elbo import local_pyro

OURS, HAND, GRAPH, PYRO = "ours", "by hand", "by hand, CUDA graph", "SVI with PyroOptim"
AGGREGATIONS, SETTINGS = ("mwb", "wb"), ("mini", "recipe")
PRECISIONS = ("fp32", "tf32", "bf16")
PROFILED = 5

Build = Callable[[], Step]


def run(plan: Plan, figures: Figures) -> None:
    """Time the contestants in both settings and all precisions."""
    figures.put(same=[is_same(plan, name, aggregation) for name, aggregation in product(SETTINGS, AGGREGATIONS)])
    if not plan.on_gpu:
        figures.put(note="on a CPU there is no TF32, no CUDA graph, and no share of time that a GPU is busy")
    precisions = PRECISIONS if plan.on_gpu else ("fp32", "bf16")
    bad = 0
    for aggregation, name, precision in product(AGGREGATIONS, SETTINGS, precisions):
        config = plan.config(name, aggregation, "mixture")
        about = {"setting": name, "aggregation": aggregation, "precision": precision, "sizes": describe(config)}
        with float32(tf32=precision == "tf32"):
            found = compare(plan, config, "bf16" if precision == "bf16" else "fp32")
        bad += len(found["problems"])
        figures.add("rows", about | found)
        release(plan)
    if bad:
        raise SystemExit(f"{bad} contestants could not be timed")


def is_same(plan: Plan, name: str, aggregation: str) -> dict[str, str]:
    """Describe whether loss and gradients of the loop by hand equal ours, in float32 and up to rounding."""
    config, result = plan.config(name, aggregation, "mixture"), "the same"
    with float32(tf32=False), local_pyro():
        vae = new_vae(config, plan.torch_device)
        try:
            check_by_hand(vae, ByHand(vae, config), config)
        except AssertionError as error:
            result = str(error)
    return {"setting": name, "aggregation": aggregation, "result": result}


def compare(plan: Plan, config: Config, precision: str) -> dict[str, Any]:
    """Time all contestants in one configuration.

    Args:
        plan: The arguments of the step.
        config: The configuration of model and training.
        precision: The precision of the networks, ``fp32`` or ``bf16``.

    Returns:
        ``milliseconds``, per contestant the median, least and greatest time of a step; ``ratio``, the median over
        rounds of our time divided by that of each other contestant; ``busy``, per contestant the milliseconds of a step
        in which a kernel runs and their share of the median step; ``problems``, the reason per contestant that could
        not be timed.
    """
    rounds, count = (2, 2) if plan.tiny else (15, 10)
    data, problems = random_data(4 * config.train.batch_size, plan.torch_device), dict[str, str]()
    with pyro.validation_enabled(False):
        steps = dict(built(contestants(plan, config, data, precision), problems))
        blocks = {name: block(step, count, plan.synchronise) for name, step in steps.items()}
        seconds = in_turn(blocks, rounds=rounds, warmup=2)
        busy = {name: round(kernel_milliseconds(step), 4) for name, step in steps.items()} if plan.on_gpu else {}
    pyro.clear_param_store()
    ours, times = seconds.get(OURS, []), {name: spread([1e3 * s for s in found]) for name, found in seconds.items()}
    return {
        "milliseconds": times,
        "ratio": {name: spread(ratios(ours, found)) for name, found in seconds.items() if ours and name != OURS},
        "busy": {
            name: {"milliseconds": ms, "share": round(ms / times[name]["median"], 3)} for name, ms in busy.items()
        },
        "problems": problems,
    }


def contestants(plan: Plan, config: Config, data: MultimodalDataset, precision: str) -> dict[str, Build]:
    """Return the function that makes each contestant; the CUDA graph exists on a GPU only."""
    found: dict[str, Build] = {
        OURS: lambda: locally(our_step(config, data, precision)),
        HAND: lambda: hand_step(config, data, precision, check=False),
        PYRO: lambda: svi_step(config, data, precision),
    }
    if plan.on_gpu:
        found[GRAPH] = lambda: graph_step(config, data, precision)
    return found


def locally(step: Step) -> Step:
    """Return the step with module-local parameters, as in training; those of SVI are in Pyro's store."""

    def run() -> object:
        with local_pyro():
            return step()

    return run


def graph_step(config: Config, data: MultimodalDataset, precision: str) -> Step:
    """Return a step of the loop by hand in a CUDA graph, on the next batch of the data."""
    indices = endless(config, data)
    hand = ByHand(new_vae(config, data.present.device), config, precision, capturable=True)
    graphed = Graphed(hand, stacked(data, next(indices)))
    return lambda: graphed.step(stacked(data, next(indices)))


def built(builds: Mapping[str, Build], problems: dict[str, str]) -> Iterator[tuple[str, Step]]:
    """Make the contestants and run each once; those that fail are left out and named in ``problems``."""
    for name, build in builds.items():
        try:
            step = build()
            step()
        except Exception as error:  # noqa: BLE001  (the other contestants are timed after any failure)
            traceback.print_exc()
            problems[name] = last_line(error)
        else:
            yield name, step


def block(step: Step, count: int, synchronise: Callable[[], None]) -> Callable[[], Seconds]:
    """Return a function that runs a step several times and returns the mean seconds of one.

    It waits for the GPU before and after all of them but not between two, as in training.
    """

    def run() -> Seconds:
        synchronise()
        started = Clock.seconds()
        for _ in range(count):
            step()
        synchronise()
        return Seconds((Clock.seconds() - started) / count)

    return run


def kernel_milliseconds(step: Step) -> float:
    """Return the milliseconds of a step in which a kernel runs on the GPU."""
    step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(PROFILED):
            step()
        torch.cuda.synchronize()
    kernels = [
        (event.time_range.start, event.time_range.end)
        for event in found.events()
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]
    return covered(kernels) / PROFILED / 1e3


def covered(intervals: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of intervals, in their unit."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and greatest of some figures, with four digits."""
    figures = {"median": statistics.median(values), "least": min(values), "greatest": max(values)}
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the ratios of figures of the same rounds."""
    return [one / other for one, other in zip(ones, others, strict=True)]


@contextmanager
def float32(*, tf32: bool) -> Iterator[None]:
    """Compute products and convolutions of float32 in full, or in TF32: torch's default is one of each."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if tf32 else "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def release(plan: Plan) -> None:
    """Free the models and graphs of one configuration before the next one."""
    gc.collect()
    if plan.on_gpu:
        torch.cuda.empty_cache()
