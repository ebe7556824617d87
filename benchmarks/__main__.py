"""The program that prints the table.

It is called by ``python -m benchmarks [--quick] [--only WORD] [--cpu-time] [--threads N] [--out FOLDER]``.
"""

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
    """Yield the seconds that the command line takes for its help, and their ratio to an empty Python program."""

    def run(*words: str) -> None:
        subprocess.run([sys.executable, *words], check=True, capture_output=True)

    seconds = in_turn(
        {"--help": lambda: run("-m", "pyro_mmvae", "--help"), "python": lambda: run("-c", "pass")}, rounds=rounds
    )
    yield report("pyro-mmvae --help, seconds", seconds["--help"], "a new process", at_most(1.0))
    yield compare("pyro-mmvae --help / python -c pass", seconds, "--help", "python")


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
    """Return a description of the machine: processor, instruction sets, threads, versions and clock."""
    name, flags = platform.processor() or platform.machine(), []
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        entries = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        values = {key.strip(): value.strip() for key, value in entries.items()}
        name = values.get("model name", name)
        flags = [flag for flag in FLAGS if flag in values.get("flags", "").split()]
    threads = f"{torch.get_num_threads()} threads"
    return ", ".join(
        [name, *flags, threads, f"torch {torch.__version__}", f"Python {platform.python_version()}", clock()]
    )


def clock() -> str:
    """Return the name of the clock in use."""
    return "CPU time" if Clock.seconds is cpu_seconds else "wall time"


def line(row: Row) -> str:
    """Return a row of the table as text."""
    extremes = f"({row.extremes[0]:.2f} to {row.extremes[1]:.2f})"
    bar = "" if row.bar is None else str(row.bar)
    return f"{row.figure:8.2f}  {extremes:18} {bar:8} {row.verdict:8}  {row.name}   [{row.detail}]"


def write(rows: list[Row], out: Path) -> None:
    """Write ``table.csv`` into a folder.

    Args:
        rows: The rows of the table.
        out: The folder, which is created if necessary.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "figure", "least", "greatest", "bar", "verdict", "detail", "machine"])
        for row in rows:
            figures = [f"{value:.4g}" for value in (row.figure, *row.extremes)]
            writer.writerow([row.name, *figures, row.bar or "", row.verdict, row.detail, machine()])


@click.command()
@click.option(
    "--quick", is_flag=True, help="Run fewer rounds with fewer modalities, in about three minutes on two cores."
)
@click.option("--only", metavar="WORD", help=f"Run only sources with WORD in their name: {', '.join(SOURCES)}.")
@click.option(
    "--threads", type=click.IntRange(1), help="Number of CPU threads; by default all that the process may use."
)
@click.option(
    "--cpu-time", is_flag=True, help="Measure CPU time instead of wall time, for a busy machine; use with --threads 1."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder in which table.csv is written.")
def main(quick: bool, only: str | None, threads: int | None, cpu_time: bool, out: Path | None) -> None:
    """Measure ratios of speed and print them as a table."""
    hide_gpus()
    if cpu_time:
        Clock.seconds = staticmethod(cpu_seconds)
    chosen = {name: rows for name, rows in SOURCES.items() if only is None or only in name}
    if not chosen:
        raise click.BadParameter(
            f"must be part of the name of a source ({', '.join(SOURCES)}), got {only!r}", param_hint="--only"
        )
    with threads_of_process(threads):  # as the command line does: denormals are flushed and freed memory is kept
        measure(chosen, 3 if quick else 7, out)


def measure(chosen: dict[str, Callable[[int], Iterable[Row]]], rounds: int, out: Path | None) -> None:
    """Print the rows of some sources, and write them if a folder is given.

    Args:
        chosen: Functions of the number of rounds that yield rows, by the name of the source.
        rounds: The number of rounds.
        out: The folder in which the table is written; None to print it only.
    """
    print(machine())
    table: list[Row] = []
    for source in chosen.values():
        for row in source(rounds):
            table.append(row)
            print(line(row), flush=True)
    missed = sum(row.verdict == "MISSED" for row in table)
    print(f"{sum(row.bar is not None for row in table) - missed} bars met, {missed} missed")
    if out is not None:
        write(table, out)


if __name__ == "__main__":
    main()
