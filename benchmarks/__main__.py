"""Print the table: ``python -m benchmarks [--quick] [--threads N] [--out FOLDER]``."""

from __future__ import annotations

import csv
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import torch

from benchmarks import aggregations, covariances
from benchmarks.timing import Row, compare, in_turn


def start_up(rounds: int) -> Iterator[Row]:
    """Seconds until the command line answers, in units of Python's own start."""

    def run(*words: str) -> None:
        subprocess.run([sys.executable, *words], check=True, capture_output=True)

    found = in_turn(
        {"--help": lambda: run("-m", "pyro_mmvae", "--help"), "python": lambda: run("-c", "pass")}, rounds=rounds
    )
    yield compare("pyro-mmvae --help / python -c pass", found, "--help", "python")


def machine() -> str:
    """What this ran on."""
    name = platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"


@click.command()
@click.option("--quick", is_flag=True, help="Fewer rounds and fewer modalities.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; torch's own choice by default.")
@click.option("--out", type=click.Path(path_type=Path), help="A folder for table.csv.")
def main(quick: bool, threads: int | None, out: Path | None) -> None:
    """Measure and print."""
    if threads is not None:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    rounds = 3 if quick else 7
    print(machine())
    found: list[Row] = []
    for source in (aggregations.rows(rounds, 8 if quick else 12), covariances.rows(rounds), start_up(rounds)):
        for row in source:
            found.append(row)
            print(
                f"{row.ratio:8.2f}  ({row.spread[0]:.2f} to {row.spread[1]:.2f})  {row.name}   [{row.detail}]",
                flush=True,
            )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["row", "ratio", "least", "greatest", "detail", "machine"])
            writer.writerows(
                [r.name, f"{r.ratio:.4g}", f"{r.spread[0]:.4g}", f"{r.spread[1]:.4g}", r.detail, machine()]
                for r in found
            )


if __name__ == "__main__":
    main()
