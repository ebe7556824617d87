"""All measurements on a GPU in twelve minutes: ``bash benchmarks/gpu.sh OUT``.

Each of the six steps is a process with a time limit, and one that fails does not stop the others. Figures are written
to ``OUT/results.json`` and ``OUT/gpu.md`` as soon as they exist, and all output to ``OUT/log.txt``.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from benchmarks.gpu_steps.plan import Figures, Plan
from benchmarks.gpu_steps.report import markdown
from benchmarks.gpu_steps.runner import Outcome, Step, run_all
from pyro_mmvae import __version__
from pyro_mmvae.device import resolve_device
from pyro_mmvae.files import write_text

STEPS = (
    Step("machine", "The machine, and the tests on its device", 90),
    Step("waits", "Training steps that never wait for the GPU", 60),
    Step("kinds", "Every kind of setting, and throughput by batch size", 100),
    Step("times", "Step times", 150),
    Step("commands", "The command line at its defaults", 240),
    Step("polymnist", "PolyMNIST by the whole recipe, mwb", float("inf")),
)
MINUTES = 12.0

TINY_LIMITS = {"machine": 60.0, "waits": 40.0, "kinds": 40.0, "times": 45.0, "commands": 75.0}
TINY_MINUTES = 5.0
"""At the most; the trial is made to take three on two cores."""


def steps_of(tiny: bool, minutes: float, only: Sequence[str]) -> list[Step]:
    """Return the steps to run, with limits in proportion to the minutes for all.

    Args:
        tiny: If True, return the limits of the trial.
        minutes: The number of minutes for all steps together.
        only: The names of the steps to run; all steps if empty.

    Raises:
        click.BadParameter: If a name is not that of a step.
    """
    names = [step.name for step in STEPS]
    unknown = [name for name in only if name not in names]
    if unknown:
        raise click.BadParameter(f"there is no step {unknown[0]!r}; there are {', '.join(names)}", param_hint="--only")
    share = minutes / (TINY_MINUTES if tiny else MINUTES)
    limits = {step.name: TINY_LIMITS.get(step.name, step.limit) if tiny else step.limit for step in STEPS}
    return [replace(step, limit=share * limits[step.name]) for step in STEPS if not only or step.name in only]


def run_step(name: str, plan: Plan) -> None:
    """Run one step in this process, with its figures in ``NAME.json`` in the plan's work folder."""
    signal.alarm(int(plan.seconds) + 5)  # the step ends even if its parent was killed
    module = importlib.import_module(f"benchmarks.gpu_steps.{name}")
    module.run(plan, Figures(plan.work / f"{name}.json"))


def measure(plan: Plan, steps: Sequence[Step], minutes: float) -> list[Outcome]:
    """Run the steps, and write the results whenever a figure is added."""
    words = [sys.executable, "-m", "benchmarks.gpu", str(plan.out), "--work", str(plan.work), "--device", plan.device]
    words += ["--tiny"] * plan.tiny
    for option, path in (("--mnist", plan.mnist), ("--photographs", plan.photographs)):
        words += [] if path is None else [option, str(path)]
    about: dict[str, Any] = {
        "version": __version__, "device": plan.device, "tiny": plan.tiny, "minutes": minutes,
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }  # fmt: skip
    begun = time.monotonic()

    def report(outcomes: list[Outcome]) -> None:
        results = {**about, "seconds": round(time.monotonic() - begun, 1), "steps": [o.as_row() for o in outcomes]}
        write_text(plan.out / "results.json", json.dumps(results, indent=1) + "\n")
        write_text(plan.out / "gpu.md", markdown(results))
        said = [f"{o.name} {o.state}" for o in outcomes if o.state != "not run"]
        click.echo(f"{results['seconds']:7.1f} s  {', '.join(said)}")

    def command(step: Step, limit: float) -> list[str]:
        return [*words, "--step", step.name, "--seconds", f"{limit:.1f}"]

    return run_all(steps, command, plan.work, plan.out / "log.txt", 60 * minutes, report)


@click.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--tiny", is_flag=True, help="Small sizes, to try the script itself: three minutes on two cores.")
@click.option(
    "--minutes", type=click.FloatRange(0.2), help=f"For everything: {MINUTES:g}, and {TINY_MINUTES:g} if tiny."
)
@click.option("--only", default="", metavar="STEPS", help=f"By commas: {', '.join(step.name for step in STEPS)}.")
@click.option("--mnist", type=click.Path(path_type=Path, exists=True), help="MNIST's folder, or an .npz of its arrays.")
@click.option("--photographs", type=click.Path(path_type=Path, exists=True, file_okay=False), help="One a modality.")
@click.option("--step", hidden=True, type=click.Choice([step.name for step in STEPS]))
@click.option("--seconds", hidden=True, type=float, default=0.0)
@click.option("--work", hidden=True, type=click.Path(path_type=Path))
def main(
    out: Path, device: str, tiny: bool, minutes: float | None, only: str, mnist: Path | None,
    photographs: Path | None, step: str | None, seconds: float, work: Path | None,
) -> None:  # fmt: skip
    """Measure everything on a GPU, with results in the folder OUT."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that running steps end and temporary files are removed
    try:
        resolve_device(device)
    except ValueError as error:
        raise click.UsageError(f"{error}. To try the script itself: --device cpu --tiny") from None
    paths = [None if path is None else path.absolute() for path in (mnist, photographs)]
    if step is not None and work is not None:
        run_step(step, Plan(out, work, device, tiny, seconds, *paths))
        return
    minutes = minutes or (TINY_MINUTES if tiny else MINUTES)
    chosen = steps_of(tiny, minutes, [name for name in only.split(",") if name])
    out.mkdir(parents=True, exist_ok=True)
    (out / "log.txt").write_bytes(b"")
    folder = Path(tempfile.mkdtemp(prefix="pyro-mmvae-gpu-"))
    os.environ |= {"PYRO_MMVAE_CACHE": str(folder / "cache"), "MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1"}
    if tiny:
        os.environ["OMP_NUM_THREADS"] = "1"  # more threads are slower at these sizes
    try:
        measure(Plan(out.absolute(), folder, device, tiny, 60 * minutes, *paths), chosen, minutes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    click.echo(f"written: {out / 'results.json'}, {out / 'gpu.md'}, {out / 'log.txt'}")


if __name__ == "__main__":
    main()
