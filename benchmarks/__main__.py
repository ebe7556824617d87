"""Print the table: ``python -m benchmarks [--quick] [--only WORD] [--cpu-time] [--threads N] [--out FOLDER]``."""

from __future__ import annotations

import csv
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click
import torch

from benchmarks import aggregations, covariances, evaluating, hide_gpus, peers, training
from benchmarks.timing import Clock, Row, at_most, compare, cpu_seconds, in_turn, report
from pyro_mmvae.device import threads as threads_of_process

FLAGS = ("amx_tile", "amx_bf16", "avx512_bf16", "avx512f", "avx2")


def start_up(rounds: int) -> Iterator[Row]:
    """Seconds until the command line answers, and the same in units of Python's own start."""

    def run(*words: str) -> None:
        subprocess.run([sys.executable, *words], check=True, capture_output=True)

    found = in_turn(
        {"--help": lambda: run("-m", "pyro_mmvae", "--help"), "python": lambda: run("-c", "pass")}, rounds=rounds
    )
    yield report("pyro-mmvae --help, seconds", found["--help"], "a new process", at_most(1.0))
    yield compare("pyro-mmvae --help / python -c pass", found, "--help", "python")


SOURCES: dict[str, Callable[[int], Iterable[Row]]] = {
    "aggregations": aggregations.rows,
    "covariances": covariances.rows,
    "start-up": start_up,
    "training-by-hand": training.by_hand,
    "training-bounds": training.bounds,
    "training-shipped": training.shipped,
    "training-precision": training.precision,
    "training-svi": training.pyro_svi,
    "training-multivae": peers.steps,
    "epoch-multivae": peers.epochs,
    "evaluating-multivae": evaluating.rows,
}


def machine() -> str:
    """What this ran on."""
    name, flags = platform.processor() or platform.machine(), []
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        known = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        found = {key.strip(): value.strip() for key, value in known.items()}
        name = found.get("model name", name)
        flags = [flag for flag in FLAGS if flag in found.get("flags", "").split()]
    threads = f"{torch.get_num_threads()} threads"
    return ", ".join(
        [name, *flags, threads, f"torch {torch.__version__}", f"Python {platform.python_version()}", clock()]
    )


def clock() -> str:
    """Which time is taken."""
    return "CPU time" if Clock.seconds is cpu_seconds else "wall time"


def line(row: Row) -> str:
    """A row as it is printed."""
    spread = f"({row.spread[0]:.2f} to {row.spread[1]:.2f})"
    bar = "" if row.bar is None else str(row.bar)
    return f"{row.figure:8.2f}  {spread:18} {bar:8} {row.verdict:8}  {row.name}   [{row.detail}]"


def write(rows: list[Row], out: Path) -> None:
    """Write ``table.csv`` into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "figure", "least", "greatest", "bar", "verdict", "detail", "machine"])
        for row in rows:
            figures = [f"{value:.4g}" for value in (row.figure, *row.spread)]
            writer.writerow([row.name, *figures, row.bar or "", row.verdict, row.detail, machine()])


@click.command()
@click.option("--quick", is_flag=True, help="Fewer rounds and fewer modalities: about three minutes on two cores.")
@click.option("--only", metavar="WORD", help=f"Only sources with WORD in their name: {', '.join(SOURCES)}.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; all that the process may use by default.")
@click.option("--cpu-time", is_flag=True, help="Take the processor's time, for a busy machine; with --threads 1.")
@click.option("--out", type=click.Path(path_type=Path), help="A folder for table.csv.")
def main(quick: bool, only: str | None, threads: int | None, cpu_time: bool, out: Path | None) -> None:
    """Measure and print."""
    hide_gpus()
    if cpu_time:
        Clock.seconds = staticmethod(cpu_seconds)
    chosen = {name: rows for name, rows in SOURCES.items() if only is None or only in name}
    if not chosen:
        raise click.BadParameter(
            f"no source has {only!r} in its name; there are {', '.join(SOURCES)}", param_hint="--only"
        )
    with threads_of_process(threads):  # of the command line: denormals flushed, freed memory kept
        measure(chosen, 3 if quick else 7, out)


def measure(chosen: dict[str, Callable[[int], Iterable[Row]]], rounds: int, out: Path | None) -> None:
    """Print the rows, and write them if there is a folder."""
    print(machine())
    found: list[Row] = []
    for rows in chosen.values():
        for row in rows(rounds):
            found.append(row)
            print(line(row), flush=True)
    missed = sum(row.verdict == "MISSED" for row in found)
    print(f"{sum(row.bar is not None for row in found) - missed} bars met, {missed} missed")
    if out is not None:
        write(found, out)


if __name__ == "__main__":
    main()
