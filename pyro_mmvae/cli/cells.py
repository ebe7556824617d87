"""The run of the cells of a comparison by one of the engines, and the list of those that failed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click

from pyro_mmvae.cli.common import Command, echo
from pyro_mmvae.cli.process import describe_stop


def engine_options(command: Command) -> Command:
    """Add the options ``--jobs``, ``--engine``, ``--ray-address`` and ``--retry-failed`` to a command.

    The command gets one argument ``engine`` with the keyword arguments of :class:`CellRunner` of these names.
    """

    @click.option(
        "--jobs", type=click.IntRange(1), metavar="N", show_default="1, or all that a Ray cluster has room for",
        help="Number of runs that are trained at a time. From 2 on each has a process of its own, with one thread "
        "unless train.threads sets a number.",
    )  # fmt: skip
    @click.option(
        "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
        help="Where runs are trained: in processes of this machine, or as tasks of a Ray cluster whose machines share "
        "the folder --out, which needs the extra 'ray'.",
    )  # fmt: skip
    @click.option(
        "--ray-address", metavar="HOST:PORT", show_default="RAY_ADDRESS, or a new cluster on this machine",
        help="Address of the Ray cluster for --engine ray.",
    )  # fmt: skip
    @click.option(
        "--retry-failed", is_flag=True,
        help="Try runs again that failed before, from their last checkpoints; otherwise they are listed again.",
    )  # fmt: skip
    @wraps(command)
    def wrapped(
        *args: Any, jobs: int | None, engine: str, ray_address: str | None, retry_failed: bool, **kwargs: Any
    ) -> Any:
        if ray_address is not None and engine != "ray":
            raise click.UsageError("--ray-address must come with --engine ray, got it without: leave it out")
        chosen = {"jobs": jobs, "engine": engine, "ray_address": ray_address, "retry_failed": retry_failed}
        return command(*args, engine=chosen, **kwargs)

    return wrapped


class CellRunner:
    """The run of tasks over the cells of a comparison, which lists the failures at the end.

    Args:
        out: The folder of the comparison.
        jobs: The number of cells at a time; None for one, or for all that the cluster has room for.
        engine: The name of the engine, ``"local"`` or ``"ray"``.
        ray_address: The address of the Ray cluster; None for that of the environment or a new one.
        retry_failed: If True, cells that failed before are tried again.
        quiet: If True, no progress is displayed.

    Attributes:
        missing: The reasons for which cells are not in the tables, by the names of their run directories.
    """

    def __init__(
        self, out: Path, *, jobs: int | None, engine: str, ray_address: str | None, retry_failed: bool, quiet: bool
    ) -> None:
        from pyro_mmvae.experiments import FailureBook

        self.out, self.jobs, self.engine, self.ray_address = out, jobs, engine, ray_address
        self.retry_failed, self.quiet = retry_failed, quiet
        self.book = FailureBook(out)
        self.missing: dict[str, str] = {}
        self._failures: list[tuple[str, str, str]] = []  # name, reason, log
        self._has_old = False

    def run(self, task: Any, cells: Sequence[Any]) -> None:
        """Do a task to all cells, but to those that have failed before unless they are tried again.

        Args:
            task: The task to do.
            cells: The cells of the comparison.
        """
        from pyro_mmvae.experiments import find_failure

        todo = [cell for cell in cells if not task.is_done(cell)]
        # An entry of a cell that is done now is out of date.
        self.book.forget(task.name, [cell.path.name for cell in cells if self.retry_failed or cell not in todo])
        before = [cell for cell in todo if find_failure(task, cell, self.book)]
        untried = [cell for cell in todo if cell not in before]
        self._announce(task, cells, untried, len(before))
        found = self._run(task, untried) if untried else {}
        for cell in todo:
            if task.is_done(cell):
                continue
            failure = found.get(cell.path.name) or find_failure(task, cell, self.book)
            reason = failure.reason if failure else f"its {task.name} is not complete"
            self.missing.setdefault(cell.path.name, reason)
            self._failures.append((cell.path.name, reason, failure.log if failure else ""))
        self._has_old |= bool(before)

    def report(self) -> None:
        """List the failures on standard error, and end the process with status 1 if there are any."""
        if not self._failures:
            return
        cells = {name for name, _, _ in self._failures}
        echo(f"{len(cells)} cells failed:" if len(cells) > 1 else "1 cell failed:", err=True)
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, reason, log in self._failures:
            groups.setdefault(reason.replace(str(self.out / name), "CELL"), []).append((name, log))
        for reason, members in groups.items():
            name, log = members[0]
            others = f" and {len(members) - 1} more" if len(members) > 1 else ""
            where = f" (log: {self.out / log})" if log and (self.out / log).exists() else ""
            echo(f"  {name}{others}: {reason.replace('CELL', str(self.out / name))}{where}", err=True)
        old = "; those that failed before were not tried again" if self._has_old else ""
        echo(f"{self.book.file} lists them{old}; --retry-failed tries them again", err=True)
        sys.exit(1)

    def _announce(self, task: Any, cells: Sequence[Any], untried: Sequence[Any], failed: int) -> None:
        """Print how much there is to do."""
        from pyro_mmvae.run_files import RunFiles

        done = len(cells) - len(untried) - failed
        also = f", {failed} failed before" if failed else ""
        if task.name == "readings":
            echo(f"{len(cells)} cells to read, {done} already read{also}: {self.out}", err=True)
            return
        echo(f"{len(cells)} cells, {done} already finished{also}: {self.out}", err=True)
        outdated = sum(_exists(RunFiles(cell.path)) for cell in untried)
        if outdated:
            echo(
                f"{outdated} cells were evaluated with other options, by hand or incompletely, and are evaluated again",
                err=True,
            )

    def _run(self, task: Any, cells: Sequence[Any]) -> dict[str, Any]:
        """Do a task to cells with the engine, print each as it ends, and return the failures by name."""
        from pyro_mmvae import training

        found, started = dict[str, Any](), time.monotonic()
        try:
            for number, (cell, failure) in enumerate(self._start(task, cells)):
                remaining = (time.monotonic() - started) / (number + 1) * (len(cells) - number - 1)
                left = f"about {remaining / 60:.0f} minutes left"
                if failure is not None:
                    found[cell.path.name] = failure
                    echo(f"{cell.path} failed: {failure.reason}; {left}", err=True)
                elif task.name == "readings":
                    echo(f"{cell.path} read with {', '.join(task.names)}", err=True)
                else:
                    echo(f"{cell.path} done, {left}", err=True)
        except training.Interrupted as stop:
            echo(f"{stop}\nrepeat the command to continue", err=True)
            sys.exit(128 + stop.number)
        except KeyboardInterrupt as stop:
            line, status = describe_stop(stop)
            echo(f"{line}; everything is saved in {self.out}\nrepeat the command to continue", err=True)
            sys.exit(status)
        return found

    def _start(self, task: Any, cells: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Start the engine, and return the cells as they end."""
        from pyro_mmvae import experiments

        waits: Callable[[Any], None] = lambda cell: echo(  # noqa: E731  (which all engines get)
            f"{cell.path} is run by another process: waiting for it", err=True
        )
        progress = not self.quiet
        if self.engine == "ray":
            return experiments.run_on_ray(
                task, cells, self.book, address=self.ray_address, jobs=self.jobs, progress=progress
            )
        if (self.jobs or 1) > 1:
            return experiments.run_in_processes(
                task, cells, self.book, jobs=self.jobs or 1, progress=progress, waits=waits
            )
        return experiments.run_here(task, cells, self.book, progress=progress, waits=waits)


def _exists(files: Any) -> bool:
    """Return True if a run has a summary of an evaluation, whatever is in it."""
    try:
        return bool(files.evaluation_summary.exists())
    except (OSError, ValueError):
        return False
