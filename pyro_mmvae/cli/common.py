"""Options and helpers that several commands share."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import click

from pyro_mmvae._printable import printable
from pyro_mmvae.cli.json_output import collect
from pyro_mmvae.cli.process import describe_stop, signals_raise, streams_survive

Command = Callable[..., Any]

SEEDS = click.IntRange(0, 2**32 - 1)
"""The seeds that every generator of random numbers takes."""

MOST_DRAWS = 2**31 - 1
"""The largest number of draws that an option takes."""

_LONGEST = 2000  # the number of characters of a message


def echo(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a line in which control characters are escaped, since names in it may come from data of anyone.

    Args:
        text: What to print, which may have line breaks.
        err: If True, it is printed to standard error; False by default.
        nl: If True (default), a line break follows.
    """
    line = printable(str(text))
    if not collect(line, err=err):
        click.echo(line, err=err, nl=nl)


def checkpoint_option(command: Command) -> Command:
    """Add the option ``--checkpoint`` to a command."""
    return click.option(
        "--checkpoint", type=click.Choice(["best", "last"]), default="best", show_default=True,
        help="Checkpoint to load: best, which train.select chooses, or last, from which a training is resumed.",
    )(command)  # fmt: skip


def device_option(command: Command) -> Command:
    """Add the option ``--device`` to a command that loads a run."""
    return click.option(
        "--device", default="auto", show_default=True, metavar="auto|cpu|cuda",
        help="Device to compute on; auto takes a GPU if there is one.",
    )(command)  # fmt: skip


def threads_option(command: Command) -> Command:
    """Add the option ``--threads`` to a command."""
    return click.option(
        "--threads", type=click.IntRange(1, 4096), show_default="all cores", help="Number of CPU threads to use."
    )(command)


def quiet_option(command: Command) -> Command:
    """Add the flag ``--quiet`` to a command."""
    return click.option("--quiet", is_flag=True, help="Do not show progress bars.")(command)


def changed_data_option(command: Command) -> Command:
    """Add the flag ``--allow-changed-data`` to a command that uses the data of a run."""
    return click.option(
        "--allow-changed-data", is_flag=True,
        help="Go on if the data have changed since the run was trained; otherwise that is an error.",
    )(command)  # fmt: skip


def log_level_option(command: Command) -> Command:
    """Add the option ``--log-level`` to a command, which writes the messages of the package to standard error."""

    def configure(context: click.Context, _parameter: click.Parameter, level: str) -> None:
        logger, handler = logging.getLogger("pyro_mmvae"), logging.StreamHandler()
        handler.setFormatter(_PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        before = logger.level
        logger.addHandler(handler)
        logger.setLevel(level.upper())
        context.call_on_close(lambda: logger.removeHandler(handler))
        context.call_on_close(lambda: logger.setLevel(before))

    return click.option(
        "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="warning", show_default=True,
        callback=configure, expose_value=False,
        help="Lowest level of the messages that are written to standard error.",
    )(command)  # fmt: skip


def picture_options(*, one_file: bool = False) -> Callable[[Command], Command]:
    """Return a decorator that adds the options ``--format`` and ``--dpi`` to a command that draws.

    The command gets one argument ``pictures`` with the keyword arguments ``formats`` and ``dpi`` of the functions of
    :mod:`pyro_mmvae.reports` that draw.

    Args:
        one_file: If True, the command writes one picture to a file that an option names, whose suffix is the default
            format; by default it writes pictures to a folder.
    """

    def decorate(command: Command) -> Command:
        @click.option(
            "--format", "formats", multiple=True, type=click.Choice(["png", "pdf", "svg"]),
            default=None if one_file else ("png",), show_default="the suffix of the file" if one_file else True,
            help="Format of the pictures; may be repeated.",
        )  # fmt: skip
        @click.option(
            "--dpi", type=click.IntRange(10, 2400), default=150, show_default=True,
            help="Pixels per inch of PNG pictures, and of the images inside of PDF and SVG pictures.",
        )  # fmt: skip
        @wraps(command)
        def wrapped(*args: Any, formats: tuple[str, ...], dpi: int, **kwargs: Any) -> Any:
            return command(*args, pictures={"formats": formats, "dpi": dpi}, **kwargs)

        return wrapped

    return decorate


def plugin_option(parts: str) -> Callable[[Command], Command]:
    """Return a decorator that adds the option ``--plugin`` for modules that register user-defined parts."""
    return click.option(
        "--plugin", "plugins", multiple=True, metavar="MODULE",
        help=f"Python module or installed plugin to import first, which registers {parts}; may be repeated.",
    )  # fmt: skip


def plugin_words(names: Sequence[str]) -> list[str]:
    """Return the words of a command line that import plugins, for commands that messages suggest."""
    return [word for name in names for word in ("--plugin", name)]


def config_options(command: Command) -> Command:
    """Add the options ``--config``, ``--set``, ``--data`` and ``--epochs`` to a command that trains."""
    for option in reversed(_CONFIG_OPTIONS):
        command = option(command)
    return command


def set_option(command: Command) -> Command:
    """Add the option ``--set`` to a command that takes settings of a configuration."""
    return click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE",
        help="Override one setting of the configuration, as in --set train.lr=1e-3; may be repeated. The command "
        "'settings' lists all.",
    )(command)  # fmt: skip


def recipe_option(command: Command) -> Command:
    """Add the option ``--recipe`` to a command that trains."""
    return click.option(
        "--recipe", metavar="NAME", show_default="that of the aggregation, or that of --config",
        help="Recipe whose settings replace the defaults: plain, or one that the command 'settings' lists.",
    )(command)  # fmt: skip


_CONFIG_OPTIONS = (
    click.option(
        "--config", type=click.Path(path_type=Path), metavar="FILE.yaml|NAME", show_default="the built-in settings",
        help="Configuration file with the sections data, model and train, or the name of one that comes with the "
        "package, such as polymnist-cpu.",
    ),
    set_option,
    click.option(
        "--data", metavar="NAME|PATH", show_default="polymnist-mini, or that of --config",
        help="Data set to train on: a name from the command 'data info', or the path of its files.",
    ),
    click.option(
        "--epochs", type=click.IntRange(0), show_default="10, or that of --config",
        help="Number of passes over the training data.",
    ),
)  # fmt: skip


def plain_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Report errors of use in one line with exit status 2; with ``PYRO_MMVAE_DEBUG=1`` they raise.

    An interruption ends in one line too, with the exit status 128 and the number of the signal. Output that cannot be
    written, since its reader or its disk has gone, does not keep the command from its work.
    """

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with signals_raise(), streams_survive() as out:
            result = _call(function, *args, **kwargs)
            out.flush()
            if out.was_lost:
                echo(f"error: standard output cannot be written: {out.error}; everything else is done", err=True)
                sys.exit(1)
        return result

    return wrapped


@contextmanager
def _printable_warnings() -> Iterator[None]:
    """Escape control characters in warnings inside the context."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda *args, **kwargs: printable(before(*args, **kwargs))
    try:
        yield
    finally:
        warnings.formatwarning = before


class _PrintableFormatter(logging.Formatter):
    """A formatter of log messages in which control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function, and end the process with one line if it fails in a way that its user can mend."""
    try:
        with _printable_warnings():
            return function(*args, **kwargs)
    except KeyboardInterrupt as stop:
        line, status = describe_stop(stop)
        echo(f"{line}; files that were written before are complete", err=True)
        sys.exit(status)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("PYRO_MMVAE_DEBUG"):
            raise
        text = str(error).split("Trace Shapes:")[0]  # which Pyro appends to errors inside of models
        echo("error: " + _abridged(" ".join(text.split())), err=True)
        sys.exit(2)


def _abridged(text: str) -> str:
    """Return a message without its middle if it is so long that the terminal would show nothing else."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 4 :]}"


def read_config(
    *,
    config: Path | None,
    overrides: tuple[str, ...],
    plugins: tuple[str, ...],
    **options: Any,
) -> Any:
    """Return the resolved configuration of a file, ``key=value`` overrides and options, and import plugins.

    Args:
        config: The configuration file, or None for the built-in settings.
        overrides: Settings of the form ``section.key=value``, which take precedence over the file.
        plugins: Modules to import; those that the file names must be among them, or imported.
        **options: Values of the command's options by name, which take precedence over both; None for those left out.

    Returns:
        The resolved configuration.
    """
    from pyro_mmvae import runs
    from pyro_mmvae.aggregation import make_aggregation
    from pyro_mmvae.runs.config import make_config, parse_overrides

    settings = {
        "aggregation": "model.aggregation",
        "bound": "model.bound",
        "data": "data.name",
        "epochs": "train.epochs",
        "seed": "train.seed",
        "device": "train.device",
        "precision": "train.precision",
        "threads": "train.threads",
        "deterministic": "train.deterministic",
        "recipe": "recipe",
    }
    values = parse_overrides(overrides)
    for name, value in options.items():
        if value is not None:
            _set_option(values, name, settings[name], value)
    result = make_config(config, values)
    runs.require_plugins(config or "the configuration", result.plugins, plugins)
    result = result.model_copy(update={"plugins": tuple(dict.fromkeys((*result.plugins, *plugins)))})
    make_aggregation(result.model.aggregation_options)
    return runs.resolve(result)


def _set_option(values: dict[str, Any], name: str, key: str, value: Any) -> None:
    """Add the value of an option to settings, which must not set it to another one.

    Args:
        values: The settings by key, which are changed.
        name: The name of the option.
        key: The key of the setting that the option stands for.
        value: The value of the option.

    Raises:
        ValueError: If ``--set`` says something else.
    """
    given = values.get(key, value)
    chosen = given.get("name", value) if isinstance(given, dict) else given
    chosen = values.get(f"{key}.name", chosen) if name == "aggregation" else chosen
    if str(chosen) != str(value):
        flag = {"aggregation": "agg"}.get(name, name)
        raise ValueError(f"--{flag} {value} must agree with --set {key}, got {chosen!r} there: leave one of them out")
    values[key] = given if isinstance(given, dict) else value


def split_names(text: str, names: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names in a comma-separated text.

    Args:
        text: The names, with spaces around them or not.
        names: The names that exist, of which those with commas are recognised; none by default.
    """
    parts, result = text.split(","), list[str]()
    while parts:
        joined = [",".join(parts[:count]).strip() for count in range(len(parts), 0, -1)]
        name = next((name for name in joined if name in names), joined[-1])
        result.append(name)
        del parts[: len(joined) - joined.index(name)]
    return tuple(name for name in result if name)
