"""The contestants that run in a process of their own, with the default settings of torch and of the C library."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import torch

from benchmarks.timing import Clock, Seconds


@contextmanager
def in_own_process(make: Callable[..., Callable[[], object]], *arguments: object) -> Iterator[Callable[[], Seconds]]:
    """Run a contestant in a new process, as its users run it.

    Args:
        make: A function of a module that returns the function to time.
        *arguments: The arguments of ``make``, which must be picklable.

    Yields:
        A function that runs the contestant once and returns the seconds that it took in its process.

    Raises:
        RuntimeError: If the process ends while the contestant runs.
    """
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    settings = (torch.get_num_threads(), Clock.seconds)
    process = context.Process(target=_serve, args=(theirs, settings, make, arguments), daemon=True)
    process.start()
    theirs.close()

    def run() -> Seconds:
        try:
            ours.send(True)
            return Seconds(ours.recv())
        except (EOFError, BrokenPipeError):
            raise RuntimeError("the process of the contestant ended before it returned a time") from None

    try:
        yield run
    finally:
        ours.close()
        process.join(10)
        process.terminate()


def _serve(
    connection: Connection,
    settings: tuple[int, Callable[[], float]],
    make: Callable[..., Callable[[], object]],
    arguments: tuple[object, ...],
) -> None:
    threads, seconds = settings
    torch.set_num_threads(threads)
    run = make(*arguments)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        started = seconds()
        run()
        connection.send(seconds() - started)
