"""Options and helpers of the commands that answer questions about the items of a data set."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from pyro_mmvae.cli.common import (
    SEEDS,
    Command,
    changed_data_option,
    checkpoint_option,
    device_option,
    echo,
    plugin_option,
    quiet_option,
    split_names,
    threads_option,
)

_SETTING = "data."

DATA_SETTINGS = ("data", "split", "overrides", "missing_features", "surplus_features")
"""The names of the arguments that :func:`data_options` adds to a command."""


def data_options(command: Command) -> Command:
    """Add the options ``--data``, ``--split`` and ``--set`` to a command that uses a trained run."""
    for option in reversed(_DATA_OPTIONS):
        command = option(command)
    return command


def answer_options(command: Command) -> Command:
    """Add the options that all commands for the items of a data set share."""
    options = (
        data_options, items_option, _BATCH_SIZE, _SEED, force_option, plugin_option("data sets or other parts"),
        checkpoint_option, device_option, changed_data_option, threads_option, quiet_option,
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def items_option(command: Command) -> Command:
    """Add the option ``--items`` to a command that uses items of a data set."""
    return click.option(
        "--items", metavar="N|A:B|FILE", show_default="all items",
        help="Items to use: the first N, the rows A to B (B excluded), or those whose identifiers FILE lists, one per "
        "line.",
    )(command)  # fmt: skip


def given_option(command: Command) -> Command:
    """Add the option ``--given`` to a command that conditions on modalities."""
    return click.option(
        "--given", metavar="NAMES", show_default="all",
        help="Modalities to condition on, where an item has them, separated by commas; 'none' for the prior.",
    )(command)  # fmt: skip


def force_option(command: Command) -> Command:
    """Add the flag ``--force`` to a command that writes a file or folder of the user's choice."""
    return click.option("--force", is_flag=True, help="Replace the output if it exists.")(command)


def covariate_option(command: Command) -> Command:
    """Add the option ``--covariate`` to a command that decodes items."""
    return click.option(
        "--covariate", "covariates", multiple=True, metavar="NAME=CATEGORY", show_default="the items' own categories",
        help="Decode all items under one category of a covariate, as in --covariate donor=A, which removes the effect "
        "of the donor; encoders see the items' own categories. May be repeated.",
    )(command)  # fmt: skip


def table_option(command: Command) -> Command:
    """Add the option ``--out`` to a command that writes one row per item."""
    return click.option(
        "--out", type=click.Path(path_type=Path), required=True, metavar="FILE",
        help="Output file: .csv, .npz, .parquet (needs the extra 'tables'), .h5ad or .h5mu (need the extra 'omics').",
    )(command)  # fmt: skip


_DATA_OPTIONS = (
    click.option(
        "--data", metavar="NAME|PATH", show_default="the data of the run",
        help="Data set with the items: a name from the command 'data info', or the path of its files.",
    ),
    click.option(
        "--split", metavar="NAME", show_default="test, or all items of files passed by --data",
        help="Split of the data set with the items: train, val, test or, for files, all.",
    ),
    click.option(
        "--set", "overrides", multiple=True, metavar="data.KEY=VALUE",
        help="Override one option of the loader of the data set, as in --set data.labels=cell_type; may be repeated.",
    ),
    click.option(
        "--missing-features", type=click.Choice(["error", "fill"]), default="error", show_default=True,
        help="Treatment of features that --data lacks: an error, or their training means.",
    ),
    click.option(
        "--surplus-features", type=click.Choice(["error", "drop"]), default="error", show_default=True,
        help="Treatment of features that only --data has: an error, or to leave them out.",
    ),
)  # fmt: skip
_BATCH_SIZE = click.option(
    "--batch-size", type=click.IntRange(1), default=500, show_default=True, help="Number of items to read at once."
)
_SEED = click.option("--seed", type=SEEDS, default=0, show_default=True, help="Seed of all random draws.")


def parse_items(text: str | None) -> int | slice | list[str] | None:
    """Return the selection of items that a text describes.

    Args:
        text: A number, a slice ``A:B``, the path of a file with one identifier per line, or None for all items.

    Raises:
        ValueError: If it is none of these.
    """
    if text is None:
        return None
    if text.isdecimal():
        return int(text)
    match = re.fullmatch(r"(\d*):(\d*)", text)
    if match:
        return slice(*(int(part) if part else None for part in match.groups()))
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"--items must be a number, rows A:B, or a file of identifiers, got {text!r}")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def parse_given(text: str | None, names: tuple[str, ...], option: str = "--given") -> tuple[str, ...] | None:
    """Return the modalities that ``--given`` names, in the order of the model; None for all.

    Args:
        text: Names separated by commas, ``all``, ``none``, or None if the option was left out.
        names: The names of the modalities of the run.
        option: The name of the option, for the error message; ``--given`` by default.

    Raises:
        ValueError: If a name is unknown.
    """
    if text is None or (text.strip() == "all" and "all" not in names):
        return None
    if text.strip() in {"", "none"} and text.strip() not in names:
        return ()
    chosen = split_names(text, names)
    for name in chosen:
        if name not in names:
            raise ValueError(f"{option} must name modalities of the run ({', '.join(names)}), got {name!r}")
    return tuple(name for name in names if name in chosen)


def loader_options(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Return the options of a loader that ``--set data.KEY=VALUE`` overrides.

    Args:
        overrides: The texts of the option, each with a key that begins with ``data.``.

    Raises:
        ValueError: If a key is not one of the data.
    """
    from pyro_mmvae.runs.config import parse_overrides

    values = parse_overrides(overrides)
    for key in values:
        if not key.startswith(_SETTING) or key == "data.name":
            raise ValueError(f"--set must override an option of the data, as in data.KEY=VALUE, got {key!r}")
    return {key.removeprefix(_SETTING): value for key, value in values.items()}


def parse_covariates(texts: Sequence[str]) -> dict[str, str] | None:
    """Return the category of each covariate that texts ``NAME=CATEGORY`` name, or None without any.

    Args:
        texts: The values of the option ``--covariate``.

    Raises:
        ValueError: If a text lacks a part, or a covariate is named twice.
    """
    result: dict[str, str] = {}
    for text in texts:
        name, equals, category = text.partition("=")
        if not (name and equals and category):
            raise ValueError(f"--covariate must be NAME=CATEGORY, as in donor=A, got {text!r}")
        if name in result:
            raise ValueError(f"--covariate must name each covariate once, got {name!r} twice")
        result[name] = category
    return result or None


def open_run(run: Path, options: dict[str, Any], *, load: bool = True) -> tuple[Any, Any]:
    """Open a run and the data that a command is about, and take their options out of those of the command.

    Args:
        run: The path of the run directory.
        options: The options of the command by name, of which those of :func:`data_options` and those that a run is
            opened with are removed.
        load: If True (default), the data is loaded; if False, a function that loads it takes its place, whose argument
            holds further options of the loader.

    Returns:
        The run, and the data set or the function that loads it.
    """
    from pyro_mmvae import runs

    names = ("checkpoint", "device", "allow_changed_data", "plugins")
    opened = runs.load_run(run, **{name: options.pop(name) for name in names})
    data, overrides = options.pop("data"), loader_options(options.pop("overrides"))
    matching = {name: options.pop(name) for name in ("split", "missing_features", "surplus_features")}

    def load_data(further: Mapping[str, Any]) -> Any:
        return opened.dataset(data, options={**further, **overrides}, **matching)

    return opened, load_data({}) if load else load_data


def choose_data(opened: Any, options: dict[str, Any]) -> tuple[Any, bool]:
    """Return the data of ``--data``, ``--split`` and ``--set``, or the test items, and take the options out.

    Args:
        opened: The trained run, already opened.
        options: The options of the command by name, of which those of :func:`data_options` are removed.

    Returns:
        The data set, and True if it is not the test split of the run.
    """
    data, overrides = options.pop("data"), loader_options(options.pop("overrides"))
    matching = {name: options.pop(name) for name in ("split", "missing_features", "surplus_features")}
    result = opened.dataset(data, options=overrides, **matching)
    echo_notes(result)
    return result, data is not None or bool(overrides) or matching["split"] not in {None, "test"}


def folder_for(run: Path, data: Any, *, is_other: bool) -> Path:
    """Return the folder of results: the run directory, or a folder in it that is named after other data.

    Args:
        run: The path of the run directory.
        data: The data set that the results are about.
        is_other: True if it is not the test split of the run.
    """
    from pyro_mmvae.run_files import RunFiles

    return RunFiles(run).results(data.name).path if is_other else run


def echo_notes(data: Any) -> None:
    """Print what was changed to match a data set to the training data.

    Args:
        data: The data set, as :meth:`pyro_mmvae.Run.dataset` returns it.
    """
    for note in data.provenance.get("matched", ()):
        echo(f"note: {note}")


@contextmanager
def item_progress(label: str, total: int | None, threads: int | None, quiet: bool) -> Iterator[Any]:
    """Show a progress bar of items, and use a number of threads.

    Args:
        label: The label of the bar.
        total: The number of items; None for several bars one after the other.
        threads: The number of CPU threads to use; None for all cores.
        quiet: If True, no bar is shown.

    Yields:
        A callback that receives numbers of finished items; for several bars, a function from a title and a number of
        items to such a callback.
    """
    import sys

    from tqdm import tqdm

    from pyro_mmvae.device import threads as use_threads

    with use_threads(threads), ExitStack() as bars:

        def start(title: str, count: int) -> Callable[[int], object]:
            bars.close()  # a bar that is still open would be drawn again below the next one
            bar = bars.enter_context(tqdm(total=count, desc=title, unit=" items", disable=quiet, file=sys.stderr))
            update: Callable[[int], object] = bar.update
            return update

        yield start if total is None else start(label, total)
