"""Commands that are ended by a signal, or whose output cannot be written."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pyro_mmvae.cli.common import plain_errors


def run(body: Callable[[], None]) -> Any:
    @click.command()
    @plain_errors
    def command() -> None:
        body()

    return CliRunner().invoke(command, [])


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_command_ended_by_a_signal_cleans_up_and_says_so_in_one_line(name: str, status: int) -> None:
    number, cleaned = getattr(signal, name), list[str]()
    before = signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)

    def body() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            cleaned.append(name)

    try:
        result = run(body)
        assert signal.getsignal(number) == (signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
    finally:
        signal.signal(number, before)
    assert result.exit_code == status
    assert cleaned == [name]
    by = "" if name == "SIGINT" else f" by {name}"
    assert result.stderr == f"interrupted{by}; files that were written before are complete\n"


def test_command_that_ignores_hangups_goes_on_after_one() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = run(lambda: os.kill(os.getpid(), signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.exit_code == 0


def test_command_whose_reader_has_gone_ends_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    def body() -> None:
        with os.fdopen(writing, "w") as pipe:
            monkeypatch.setattr(sys.stdout, "stream", pipe)
            click.echo("lost")
            (tmp_path / "result").touch()
            sys.stdout.flush()

    assert run(body).exit_code == 0
    assert (tmp_path / "result").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_command_whose_output_is_lost_ends_its_work_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body() -> None:
        full = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115  (the command writes to it when this has ended)
        monkeypatch.setattr(sys.stdout, "stream", full)
        click.echo("lost")
        (tmp_path / "result").touch()

    result = run(body)
    assert result.exit_code == 1
    assert "error: standard output cannot be written: [Errno 28] No space left on device" in result.stderr
    assert (tmp_path / "result").exists()


def test_command_with_a_message_of_many_characters_prints_its_beginning_and_end() -> None:
    def body() -> None:
        raise ValueError(f"start {'x' * 9000} end")

    result = run(body)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: start x")
    assert result.stderr.endswith("x end\n")
    assert len(result.stderr) < 2000
