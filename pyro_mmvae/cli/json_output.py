"""The flag ``--json`` of every command: one JSON object on standard output, for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import click

FLAG = "--json"
"""The option of every command."""


@dataclass
class Messages:
    """The texts that a command has written while its result is collected.

    Attributes:
        out: The texts for standard output, which is kept free for the JSON object.
        err: The texts for standard error, where they are written too.
    """

    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)


_MESSAGES: ContextVar[Messages | None] = ContextVar("messages", default=None)


def collect(text: str, *, err: bool) -> bool:
    """Keep a text if the result of a command is collected.

    Args:
        text: The text that the command writes.
        err: If True, the text is for standard error.

    Returns:
        True if the text must not be written to standard output.
    """
    messages = _MESSAGES.get()
    if messages is None:
        return False
    (messages.err if err else messages.out).append(text)
    return not err


class JsonGroup(click.Group):
    """The group of all commands, which reports errors of use as JSON if the command line contains ``--json``."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line, see :meth:`click.Command.main`.

        Args:
            *args: The words of the command line; those of the process by default.
            **options: Further arguments of :meth:`click.Command.main`.
        """
        given = args[0] if args else options.get("args")
        words = list(sys.argv[1:] if given is None else given)
        if not options.get("standalone_mode", True) or FLAG not in words:
            return super().main(*args, **options)
        try:
            status = super().main(*args, **{**options, "standalone_mode": False})
        except click.ClickException as error:
            _write({"command": self._name(words), "exit_code": error.exit_code, "error": error.format_message()})
            sys.exit(error.exit_code)
        except click.Abort:
            _write({"command": self._name(words), "exit_code": 1, "error": "aborted"})
            sys.exit(1)
        # Click returns the status of an early end, such as that of --help, in this mode.
        sys.exit(status if isinstance(status, int) else 0)

    def _name(self, words: Sequence[str]) -> str:
        """Return the name of the command that a command line begins with."""
        command: click.Command | None = self
        names: list[str] = []
        for word in words:
            command = command.commands.get(word) if isinstance(command, click.Group) else None
            if command is None:
                break
            names.append(word)
        return " ".join(names)


def add_json(group: click.Group, name: str = "", leave_out: Sequence[str] = ()) -> None:
    """Add the flag ``--json`` to all commands of a group and of the groups inside of it.

    The flag makes a command print one object with the keys ``command``, ``exit_code``, ``result`` (what the function of
    the command returns), ``messages`` and ``notes`` (what it would have printed); after an error ``error`` takes the
    place of ``result``. A command that has such an option itself prints its own JSON.

    Args:
        group: The group of commands, which are changed.
        name: The name of the group, empty for the outermost one.
        leave_out: The names of commands that do not get the flag, since they run until they are stopped.
    """
    for key, command in group.commands.items():
        path = f"{name} {key}".strip()
        if path in leave_out:
            continue
        if isinstance(command, click.Group):
            add_json(command, path)
        elif command.callback is not None:
            own = next((p for p in command.params if FLAG in p.opts), None)
            if own is None:
                text = "Print one JSON object with the result, or the error, to standard output, and nothing else."
                command.params.append(click.Option([FLAG, "as_json"], is_flag=True, help=text))
            command.callback = _with_json(command.callback, path, has_own=own is not None)


def _with_json(function: Callable[..., Any], name: str, *, has_own: bool) -> Callable[..., Any]:
    """Return the function of a command, which prints its result as JSON if it is asked to."""

    @wraps(function)
    def wrapped(*args: Any, as_json: bool = False, **kwargs: Any) -> Any:
        if has_own:
            kwargs["as_json"] = as_json
        if not as_json:
            return function(*args, **kwargs)
        with _collected() as messages:
            try:
                result = function(*args, **kwargs)
            except SystemExit as stop:
                _write(_failure(name, stop, messages))
                sys.exit(_status(stop))
        if has_own:
            _print("\n".join(messages.out))
        else:
            _write({"command": name, "exit_code": 0, "result": result, **_texts(messages)})
        return None

    return wrapped


@contextmanager
def _collected() -> Iterator[Messages]:
    """Collect what a command writes inside the context."""
    messages = Messages()
    token = _MESSAGES.set(messages)
    try:
        yield messages
    finally:
        _MESSAGES.reset(token)


def _failure(name: str, stop: SystemExit, messages: Messages) -> dict[str, Any]:
    """Return the object of a command that has ended early, whose last message says why."""
    texts = messages.err or messages.out
    error = texts[-1].removeprefix("error: ") if texts else ""
    return {"command": name, "exit_code": _status(stop), "error": error, **_texts(messages)}


def _status(stop: SystemExit) -> int:
    """Return the exit status of the end of a process."""
    return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def _texts(messages: Messages) -> dict[str, list[str]]:
    """Return the lines that a command would have printed."""
    return {
        "messages": [line for text in messages.out for line in text.splitlines()],
        "notes": [line for text in messages.err for line in text.splitlines()],
    }


def _write(value: Mapping[str, Any]) -> None:
    """Print an object as JSON in ASCII, without figures that are not numbers."""
    _print(json.dumps(as_plain(value), indent=1, allow_nan=False))


def _print(text: str) -> None:
    """Print a text without control characters: JSON in ASCII, or lines that were escaped when they were collected."""
    with suppress(BrokenPipeError):  # the reader has what it wanted
        click.echo(text)


def as_plain(value: Any) -> Any:
    """Return a value with the types of JSON only: paths as text, and None for figures that are not finite.

    Args:
        value: A value of mappings, sequences, numbers, texts, paths and arrays of NumPy.
    """
    if hasattr(value, "tolist"):  # numbers and arrays of NumPy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        return [as_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int) or value is None else str(value)
