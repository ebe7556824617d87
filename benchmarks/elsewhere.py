"""Contestants in a process of their own, with torch's and the C library's own settings, as their users run them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import torch

from benchmarks.timing import Clock, Seconds


@contextmanager
def elsewhere(make: Callable[..., Callable[[], object]], *arguments: object) -> Iterator[Callable[[], Seconds]]:
    """A contestant that another process makes and runs.

    Args:
        make: a function of a module, which gives what is to be timed.
        *arguments: of it, that can be sent.

    Yields:
        A function that runs it once and gives the seconds that it took there.

    Raises:
        RuntimeError: if the process ends.
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
            raise RuntimeError("the process of a contestant has ended") from None

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
