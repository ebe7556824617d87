"""Step 3: a few training steps with every kind of setting on the device, and the throughput by batch size."""

from __future__ import annotations

import math
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch

from benchmarks.gpu_steps.plan import Figures, Plan, last_line
from benchmarks.gpu_steps.waits import places_that_wait, sync_debug
from benchmarks.settings import endless, new_trainer, random_data
from pyro_mmvae.data import make_batch
from pyro_mmvae.device import resolve_precision
from pyro_mmvae.training import evaluate_elbo
from pyro_mmvae.training.elbo import local_pyro

SMALL = {
    "model.network.width": 8, "model.network.hidden": 32, "model.latent_size": 16, "train.batch_size": 16,
}  # fmt: skip
ITEMS, MISSING, STEPS = 64, 0.3, 4
BASES = ("wb", "mwb", "mopoe")
AGGREGATIONS = (
    "poe", "moe", "mopoe", "wb", "mwb", "pool", "moment", "pairs", "code", "holder", "helvae", "jeffreys", "hellinger",
    "renyi", "alpha", "w1", "fisher_rao", "entropic_w2", "mixture:renyi", "mixture:w1",
)  # fmt: skip
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "contrastive": {"recipe": "contrastive"},
    "masked": {"train.objective": "masked"},
    "mvtcae": {"train.objective": "mvtcae"},
    "iwae, dreg": {"train.objective": {"name": "iwae", "gradient": "dreg"}},
    "iwae, stl": {"train.objective": {"name": "iwae", "gradient": "stl"}},
    "sub_elbos": {"train.objective": "sub_elbos"},
    "mmvm": {"train.objective": "mmvm"},
    "frechet": {"train.penalties": [{"name": "frechet", "gamma": 1.0}]},
    "mixture prior": {"model.prior": "mixture"},
    "routing": {"model.private_size": 4, "model.routing": "leave_one_out"},
    "private with_z": {"model.private_size": 4, "model.private_encoder": "with_z"},
    "learned experts": {"model.expert_weights": "learned"},
    "precision experts": {"model.expert_weights": "precision"},
    "gate": {"model.expert_weights": "gate"},
    "learned subsets": {"model.bound": "mixture", "model.subset_weights": "learned"},
    "full": {"model.network.covariance": "full"},
    "low_rank": {"model.network.covariance": "low_rank"},
    "isotropic": {"model.network.covariance": "isotropic"},
    "laplace": {"model.network.family": "laplace"},
    "student_t": {"model.network.family": "student_t"},
    "logistic": {"model.network.family": "logistic"},
    "normal likelihood": {"model.likelihood": "normal"},
    "learned scale": {"model.scale": "learned"},
    "calibrated scale": {"model.scale": "calibrated"},
}
BATCHES, TIMED = (64, 256, 1024, 4096), 10


def run(plan: Plan, figures: Figures) -> None:
    """Measure the throughput by batch size, then try every kind of setting in both precisions."""
    for batch_size in (8, 16) if plan.tiny else BATCHES:
        figures.add("throughput", throughput(plan, batch_size))
    bad, states = 0, Counter[str]()
    for aggregation, name, overrides in cases(plan.tiny):
        for precision in ("fp32",) if plan.tiny else ("fp32", "bf16"):
            row = {"aggregation": aggregation, "setting": name, "precision": precision}
            row |= attempt(plan, aggregation, overrides, precision)
            states[row["state"]] += 1
            bad += row["state"] == "failed"
            figures.add("cases", row)
    figures.put(states=dict(states))
    if bad:
        raise SystemExit(f"{bad} kinds of training failed")


def cases(tiny: bool) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield aggregation, name and settings of all cases; in the trial of a few.

    Args:
        tiny: If True, yield the cases of the trial.
    """
    bounds = {"component": {"model.bound": "component"}, "subsets": {"model.bound": "subsets"}}
    for aggregation, (name, overrides) in product(AGGREGATIONS[:2] if tiny else AGGREGATIONS, bounds.items()):
        yield aggregation, name, overrides
    for aggregation, (name, overrides) in product(BASES[:1] if tiny else BASES, SETTINGS.items()):
        if not tiny or name in {"contrastive", "learned subsets"}:
            yield aggregation, name, {"model.bound": "component", **overrides}


def attempt(plan: Plan, aggregation: str, overrides: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Train a few steps with missing modalities and evaluate.

    Args:
        plan: The arguments of the step.
        aggregation: The name of the aggregation.
        overrides: The settings by dotted key.
        precision: The precision of the networks.

    Returns:
        ``state``: ``ran``; ``waits``, with the ``places`` that wait for the GPU; ``refused``, a combination that a
        ``ValueError`` refuses; or ``failed``. ``note`` is the error of the last two.
    """
    overrides = {**SMALL, **overrides}
    try:
        config = plan.config("mini", aggregation, overrides.pop("model.bound", "component"), overrides)
        trainer = new_trainer(config, resolve_precision(precision, plan.torch_device), device=plan.torch_device)
    except ValueError as error:
        return {"state": "refused", "note": last_line(error)}
    data = random_data(ITEMS, plan.torch_device, MISSING)
    found: dict[str, Any] = {"state": "ran"}
    indices = endless(config, data)

    def step() -> torch.Tensor:
        return trainer.step(make_batch(data, next(indices)))

    try:
        with local_pyro(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of solvers, in a model that is hardly trained
            step()
            try:
                with sync_debug("error", plan.on_gpu):
                    step()
            except RuntimeError as error:
                if "synchroniz" not in str(error):
                    raise
                found = {"state": "waits", "places": places_that_wait(step)}
            losses = [float(step()) for _ in range(STEPS)]
            trainer.check()
            losses.append(evaluate_elbo(trainer.vae, data)["elbo"])
    except ValueError as error:
        return {"state": "refused", "note": last_line(error)}
    except Exception as error:  # noqa: BLE001  (the other cases are tried after any failure)
        traceback.print_exc()
        return {"state": "failed", "note": last_line(error)}
    if not all(map(math.isfinite, losses)):
        return {"state": "failed", "note": f"not finite: {losses}"}
    return found


def throughput(plan: Plan, batch_size: int) -> dict[str, Any]:
    """Return the items per second of training ``mwb`` with one batch size, in the precision ``auto``."""
    config = plan.config("mini", "mwb", "component", {"train.batch_size": batch_size})
    precision = resolve_precision("auto", plan.torch_device)
    trainer = new_trainer(config, precision, device=plan.torch_device)
    data = random_data(2 * batch_size, plan.torch_device)
    indices = endless(config, data)
    with local_pyro():
        for index in range(3 + TIMED):
            if index == 3:
                plan.synchronise()
                started = time.perf_counter()
            trainer.step(make_batch(data, next(indices)))
        plan.synchronise()
    seconds = (time.perf_counter() - started) / TIMED
    return {
        "batch_size": batch_size,
        "precision": precision,
        "milliseconds": round(1e3 * seconds, 3),
        "items_per_second": round(batch_size / seconds),
    }
