"""The benchmarks of a training step against loops by hand, Pyro's SVI, other precisions and the peak of the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.byhand import ByHand, Plain, split_by_modality, stacked
from benchmarks.checks import check_by_hand, check_plain
from benchmarks.settings import CPU, describe, endless, new_vae, our_step, random_data, setting
from benchmarks.timing import Clock, Row, at_least, at_most, compare, in_turn, report
from pyro_mmvae.batch import Batch
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.device import autocast, resolve_precision
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training.elbo import local_pyro

ITEMS = 1024

Step = Callable[[], object]


def rounds_of(name: str, rounds: int) -> int:
    """Return the number of rounds of a setting, larger for ``mini``, whose steps take a twentieth of the time."""
    return 10 * rounds if name == "mini" else rounds


def hand_step(config: Config, data: MultimodalDataset, precision: str = "fp32", *, check: bool = True) -> Step:
    """Return a step of the loop by hand, on the device of the data.

    Args:
        config: The configuration to train.
        data: The data set from which batches are taken.
        precision: The precision of the networks, ``fp32`` (the default) or ``bf16``.
        check: If True (the default), check first that loss and gradients equal those of the package.
    """
    vae, indices = new_vae(config, data.present.device), endless(config, data)
    hand = ByHand(vae, config, precision)
    if check:
        check_by_hand(vae, hand, config)
    return lambda: hand.step(stacked(data, next(indices)))


def by_hand(rounds: int) -> Iterator[Row]:
    """Yield the ratios of a step of the package to the loop by hand, for each setting and aggregation."""
    data = random_data(ITEMS)
    with local_pyro():
        for name in ("recipe", "mini"):
            for aggregation in ("wb", "mopoe", "mwb"):
                config = setting(name, aggregation, "mixture")
                contestants = {"ours": our_step(config, data), "by hand": hand_step(config, data)}
                seconds = in_turn(contestants, rounds=rounds_of(name, rounds), warmup=4)
                row = f"step, {name}, {aggregation}, mixture bound: ours / by hand"
                yield compare(row, seconds, "ours", "by hand", f"fp32, {describe(config)}", at_most(1.05))


def bounds(rounds: int) -> Iterator[Row]:
    """Yield the ratios of steps with the component bound to steps with one component."""
    data = random_data(ITEMS)
    with local_pyro():
        for name in ("recipe", "mini"):
            config = setting(name, "wb", "component")
            steps = {a: our_step(setting(name, a, "component"), data) for a in ("wb", "mopoe", "mwb")}
            seconds = in_turn(steps, rounds=rounds_of(name, rounds), warmup=4)
            for aggregation in ("mopoe", "mwb"):
                row = f"step, {name}: {aggregation}, component bound / wb"
                yield compare(row, seconds, aggregation, "wb", f"fp32, {describe(config)}", at_most(1.02))


def shipped(rounds: int) -> Iterator[Row]:
    """Yield the ratio of one network per modality in float32 to the defaults of polymnist-mini."""
    data, config = random_data(ITEMS), setting("mini", "wb", "component")
    with local_pyro():
        vae, indices = new_vae(config), endless(config, data)
        plain = Plain(vae, config)
        check_plain(vae, plain)
        contestants: dict[str, Step] = {
            "plain": lambda: plain.step(split_by_modality(data, next(indices))),
            "ours": our_step(config, data, "auto"),
        }
        seconds = in_turn(contestants, rounds=rounds_of("mini", rounds), warmup=4)
    note = f"ours {resolve_precision('auto', CPU)}, plain fp32, {describe(config)}"
    yield compare(
        "step, mini: one network per modality in a plain loop / ours", seconds, "plain", "ours", note, at_least(1.4)
    )


def pyro_svi(rounds: int) -> Iterator[Row]:
    """Yield the ratios of Pyro's SVI on the model and guide of the package to a step of the trainer."""
    data = random_data(ITEMS)
    for name in ("recipe", "mini"):
        config = setting(name, "wb", "component")
        contestants = {"SVI": svi_step(config, data), "ours": our_step(config, data)}
        with pyro.validation_enabled(False):
            seconds = in_turn(contestants, rounds=rounds_of(name, rounds), warmup=4)
        pyro.clear_param_store()
        row = f"step, {name}, wb: pyro.infer.SVI with pyro.optim.Adam / ours"
        yield compare(row, seconds, "SVI", "ours", f"fp32, {describe(config)}")


def svi_step(config: Config, data: MultimodalDataset, precision: str = "fp32") -> Step:
    """Return a step of Pyro's SVI, on the device of the data."""
    device = data.present.device
    vae, indices = new_vae(config, device), endless(config, data)
    optimizer = pyro.optim.Adam({"lr": config.train.lr, "betas": config.train.betas})

    def cast(program: Callable[[Batch], Tensor]) -> Callable[[Batch], Tensor]:
        def run(batch: Batch) -> Tensor:
            with autocast(
                precision, device
            ):  # in the model and guide only, since SVI runs the backward pass in its step
                return program(batch)

        return run

    svi = SVI(cast(vae.model), cast(vae.guide), optimizer, Trace_ELBO(max_plate_nesting=1))
    return lambda: svi.step(make_batch(data, next(indices)))


def precision(rounds: int) -> Iterator[Row]:
    """Yield the ratio of float32 to bfloat16, and of both to the fastest matrix product of the machine."""
    data, config = random_data(ITEMS), setting("recipe", "wb", "component")
    fast = resolve_precision("auto", CPU) == "bf16"
    kinds = ("fp32", "bf16") if fast else ("fp32",)
    with local_pyro():
        seconds = in_turn({kind: our_step(config, data, kind) for kind in kinds}, rounds=rounds, warmup=4)
    if fast:
        yield compare("step, recipe, wb: fp32 / bf16", seconds, "fp32", "bf16", describe(config), at_least(1.8))
    else:
        print("     n/a  step, recipe, wb: fp32 / bf16: this CPU has neither AMX nor AVX512-BF16")
    work = count_work(config, data)
    for kind in kinds:
        size, best = best_product(torch.bfloat16 if kind == "bf16" else torch.float32, rounds)
        rates = [work / seconds for seconds in seconds[kind]]
        note = (
            f"{work / config.train.batch_size / 1e6:.0f} MFLOP per item, {max(rates) / 1e9:.3g} GFLOP/s at best, "
            f"a product of {size} x {size} {best / 1e9:.3g} GFLOP/s; aim 0.6"
        )
        yield report(f"step, recipe, wb, {kind}: FLOP/s / best product of matrices", [r / best for r in rates], note)


def count_work(config: Config, data: MultimodalDataset) -> int:
    """Return the number of floating point operations in the products and convolutions of a step.

    They are counted on one network per modality, since torch's counter takes the backward pass of a grouped convolution
    for that of a full one.
    """
    plain, images = Plain(new_vae(config), config), split_by_modality(data, next(endless(config, data)))
    with FlopCounterMode(display=False) as counter:
        plain.loss(images).backward()
    return counter.get_total_flops()


def best_product(dtype: torch.dtype, rounds: int) -> tuple[int, float]:
    """Return the side of the square matrices that multiply fastest, and their operations per second.

    Args:
        dtype: The type of the matrices.
        rounds: The number of rounds per size.
    """
    rates = []
    for size in (256, 512, 1024, 2048):
        one, other = torch.randn(2, size, size).to(dtype)
        seconds = []
        for _ in range(2 + rounds):
            started = Clock.seconds()
            _product(one, other)
            seconds.append(Clock.seconds() - started)
        rates.append((2 * size**3 / min(seconds), size))
    best, size = max(rates)
    return size, best


def _product(one: Tensor, other: Tensor) -> Tensor:
    return one @ other
