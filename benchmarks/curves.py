"""The growth of cost as CSV and a picture: ``python -m benchmarks.curves [--quick] [--threads N] [--out FOLDER]``."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, ScalarFormatter, StrMethodFormatter

from benchmarks import hide_gpus
from benchmarks.__main__ import machine
from benchmarks.aggregations import BATCH, LATENT, contestants
from benchmarks.timing import in_turn
from pyro_mmvae import Batch, Modality, MultimodalVAE
from pyro_mmvae.device import threads as threads_of_process
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.runs.train_settings import TrainConfig
from pyro_mmvae.training import Trainer
from pyro_mmvae.training.elbo import local_pyro

BASE = {"batch": 64, "latent": 512, "modalities": 5, "width": 32}
AXES = {"batch": "items in a batch", "latent": "latent dimensions", "modalities": "modalities M", "width": "width"}
FULL: dict[str, Sequence[int]] = {
    "batch": (16, 32, 64, 128, 256, 512),
    "latent": (16, 32, 64, 128, 256, 512, 1024),
    "modalities": (2, 3, 4, 5, 6, 8, 10, 12),
    "width": (8, 16, 32, 64),
}
QUICK: dict[str, Sequence[int]] = {
    "batch": (16, 64, 256), "latent": (16, 128, 1024), "modalities": (2, 4, 6, 8), "width": (8, 32, 64),
}  # fmt: skip
STEP, ALONE, RATIO = "training step", "aggregation alone", "aggregation alone, ratio"
COLOURS = ("#1b6ca8", "#c8553d", "#6aaed6", "#eba88f")


@dataclass(frozen=True)
class Point:
    """A row of the CSV file.

    Attributes:
        curve: The name of the measured quantity.
        over: The name of the size that varies.
        contestant: The name of the method that is measured.
        value: The value of the size that varies.
        median: The median of the measurement over rounds.
        least: The smallest measurement of the rounds.
        greatest: The largest measurement of the rounds.
        unit: The unit of the measurements.
        machine: A description of the machine.
    """

    curve: str
    over: str
    contestant: str
    value: int
    median: float
    least: float
    greatest: float
    unit: str
    machine: str


def point(curve: str, over: str, contestant: str, value: int, figures: Sequence[float], unit: str) -> Point:
    """Return a row that summarises the measurements of the rounds."""
    median = statistics.median(figures)
    return Point(curve, over, contestant, value, median, min(figures), max(figures), unit, machine())


def training_step(sizes: Mapping[str, int], bound: str) -> Callable[[], object]:
    """Return a step of the trainer on noise, with the PolyMNIST networks and an aggregation of every subset.

    Args:
        sizes: The sizes ``batch``, ``latent``, ``modalities`` and ``width``.
        bound: The training bound, ``mixture`` or ``component``.
    """
    torch.manual_seed(0)
    names = [f"m{number}" for number in range(sizes["modalities"])]
    vae = MultimodalVAE(
        [Modality(name, (3, 28, 28), network="conv", likelihood="laplace", scale=0.75) for name in names],
        sizes["latent"],
        "mwb",
        bound=bound,
        beta=2.5,
        network=NetworkOptions(width=sizes["width"], hidden=512),
    )
    batch = Batch({name: torch.rand(sizes["batch"], 3, 28, 28) for name in names})
    trainer = Trainer(vae, TrainConfig(lr=5e-4, schedule="constant", warmup=0.0), total_steps=1_000_000)
    return lambda: trainer.step(batch)


def step_curves(values: Mapping[str, Sequence[int]], rounds: int) -> Iterator[Point]:
    """Yield the milliseconds of a training step over each size alone, with all points of a curve timed in turn.

    Args:
        values: The values of each size that varies.
        rounds: The number of rounds.
    """
    for over, points in values.items():
        steps: dict[str, Callable[[], object]] = {}
        places: dict[str, tuple[str, int]] = {}
        for bound in ("component", "mixture") if over == "modalities" else ("component",):
            for value in points:
                key = f"{bound} bound, {over} {value}"
                steps[key], places[key] = training_step({**BASE, over: value}, bound), (f"{bound} bound", value)
        with local_pyro():
            seconds_by_key = in_turn(steps, rounds=rounds)
        for key, seconds in seconds_by_key.items():
            contestant, value = places[key]
            yield point(STEP, over, contestant, value, [1e3 * second for second in seconds], "ms")


def aggregation_curves(counts: Sequence[int], rounds: int) -> Iterator[Point]:
    """Yield the milliseconds of an aggregation of all subsets by the package and by a loop, and their ratio.

    Args:
        counts: The numbers of modalities.
        rounds: The number of rounds.
    """
    for count in counts:
        for name in ("mwb", "mopoe"):
            seconds = in_turn(contestants(name, count), rounds=rounds * max(1, 8 - count), warmup=2)
            ratios = [loop / ours for loop, ours in zip(seconds["loop"], seconds["ours"], strict=True)]
            yield point(RATIO, "modalities", name, count, ratios, "times")
            for label, key in (("ours", "ours"), ("subset by subset", "loop")):
                milliseconds = [1e3 * second for second in seconds[key]]
                yield point(ALONE, "modalities", f"{name}, {label}", count, milliseconds, "ms")


def save(points: Sequence[Point], folder: Path) -> None:
    """Write ``curves.csv`` and ``curves.png`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Point)])
        writer.writerows([f"{x:.5g}" if isinstance(x, float) else x for x in astuple(p)] for p in points)
    draw(points).savefig(folder / "curves.png", dpi=120)


def draw(points: Sequence[Point]) -> Figure:
    """Return a figure with one panel per curve."""
    panels = list(dict.fromkeys((p.curve, p.over) for p in points))
    style: dict[str, Any] = {
        "font.size": 10, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.8, "figure.facecolor": "white",
    }  # fmt: skip
    with mpl.rc_context(style):
        columns = min(3, len(panels))
        lines = -(-len(panels) // columns)
        figure = Figure(figsize=(4.4 * columns, 3.7 * lines + 0.3), layout="constrained")
        axes = list(figure.subplots(lines, columns, squeeze=False).flat)
        for (curve, over), ax in zip(panels, axes, strict=False):
            _panel(ax, curve, over, [p for p in points if (p.curve, p.over) == (curve, over)])
        for ax in axes[len(panels) :]:
            ax.axis("off")
        footer = f"{points[0].machine}.  Medians of the rounds, bars from the least to the greatest."
        figure.supxlabel(footer, fontsize=8, color="#555555")
    return figure


def _panel(ax: Any, curve: str, over: str, points: Sequence[Point]) -> None:
    names = dict.fromkeys(p.contestant for p in points)
    order = sorted(names, key=lambda contestant: "subset by subset" in contestant)
    for contestant, colour in zip(order, COLOURS, strict=False):
        mine = [p for p in points if p.contestant == contestant]
        middle = [p.median for p in mine]
        bars = [[p.median - p.least for p in mine], [p.greatest - p.median for p in mine]]
        ax.errorbar(
            [p.value for p in mine], middle, bars, label=contestant, color=colour, marker="o",
            markersize=4, linewidth=1.5, elinewidth=1, capsize=2,
        )  # fmt: skip
    ax.set_yscale("log")
    ax.set_ylim(min(p.least for p in points) / 1.5, max(p.greatest for p in points) * 1.5)
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    values = sorted({p.value for p in points})
    if over != "modalities":
        ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(values))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.set_xlabel(AXES[over])
    ax.set_ylabel("milliseconds")
    if curve == STEP:
        rest = ", ".join(f"{'M' if name == 'modalities' else name} {n}" for name, n in BASE.items() if name != over)
        ax.set_title(f"{curve}, mwb\n{rest}")
    else:
        ax.set_title(f"aggregation alone, all subsets\nbatch {BATCH}, latent {LATENT}, forward and backward")
    if curve == RATIO:
        ax.axhline(1, color="#888888", linewidth=1, linestyle="--")
        ax.set_ylabel("subset by subset / ours, times")
    ax.legend(frameon=False, fontsize=9, loc="upper left")


@click.command()
@click.option("--quick", is_flag=True, help="Run fewer rounds with fewer points per curve.")
@click.option(
    "--threads", type=click.IntRange(1), help="Number of CPU threads; by default all that the process may use."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="benchmarks/results",
    help="Folder in which curves.csv and curves.png are written.",
)
def main(quick: bool, threads: int | None, out: Path) -> None:
    """Measure how cost grows with each size, and write the curves as CSV and a picture."""
    hide_gpus()
    with threads_of_process(threads):
        print(machine())
        values, rounds = (QUICK, 4) if quick else (FULL, 7)
        counts = values["modalities"] if quick else range(2, 13)
        points: list[Point] = []
        for source in (step_curves(values, rounds), aggregation_curves(counts, rounds)):
            for p in source:
                points.append(p)
                extremes = f"({p.least:.3g} to {p.greatest:.3g})"
                print(
                    f"{p.median:9.3g} {p.unit:5} {extremes:22} {p.curve}, {p.contestant}, {p.over} {p.value}",
                    flush=True,
                )
        save(points, out)
        print(f"written: {out / 'curves.csv'}, {out / 'curves.png'}")


if __name__ == "__main__":
    main()
