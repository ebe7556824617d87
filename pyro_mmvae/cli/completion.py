"""The completion of names in the shell: aggregations, settings, data, recipes, configurations, modalities and rows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from pyro_mmvae._version import __version__

Source = Callable[[click.Context], Sequence[str]]


def add_completion(group: click.Group) -> None:
    """Let the shell complete the names that options of commands take.

    Args:
        group: The group of commands, of which those in groups inside of it are changed, too.
    """
    for command in group.commands.values():
        if isinstance(command, click.Group):
            add_completion(command)
        for parameter in command.params:
            if parameter.name in _SOURCES:
                complete = partial(_complete, parameter.name)
                parameter.shell_complete = complete  # type: ignore[method-assign]


def _complete(name: str, context: click.Context, incomplete: str) -> list[CompletionItem]:
    """Return the names that a word of the command line can become; errors make an empty list.

    Args:
        name: The name of the parameter.
        context: The context with the words before.
        incomplete: The beginning of the word.
    """
    source, is_list, has_files = _SOURCES[name]
    names: Sequence[str] = ()
    # A message in the middle of a line that is being typed would be of no use.
    with suppress(ValueError, OSError, ImportError, LookupError, TypeError):
        names = source(context)
    before, comma, last = incomplete.rpartition(",") if is_list else ("", "", incomplete)
    chosen = before.split(",")
    found = [f"{before}{comma}{name}" for name in names if name.startswith(last) and name not in chosen]
    items = [CompletionItem(text) for text in found]
    return [*items, CompletionItem(incomplete, type="file")] if has_files else items


def _known(kind: str, _context: click.Context) -> Sequence[str]:
    """Return the names of a kind of part, from the cache if these files of the package have written it."""
    place = os.environ.get("PYRO_MMVAE_CACHE")
    if not place:
        import platformdirs

        place = platformdirs.user_cache_dir("pyro_mmvae")
    file = Path(place) / f"completion-{__version__}.json"
    stamp = _stamp(Path(__file__).parents[1])
    with suppress(OSError, ValueError, LookupError, TypeError):
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["stamp"] == stamp:
            return [str(name) for name in known[kind]]
    names = _read_names()
    with suppress(OSError):
        from pyro_mmvae.files import write_text

        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({"stamp": stamp, **names}))
    return names[kind]


def _stamp(package: Path) -> str:
    """Return a text that changes with the files of the package, which a checkout changes without its version."""
    times = [file.stat().st_mtime_ns for file in package.rglob("*.py")]
    return f"{package}, {len(times)} modules, the newest of {max(times)}"


def _read_names() -> dict[str, list[str]]:
    """Return the names of all parts of the package, which imports it and takes seconds."""
    from pyro_mmvae.aggregation import aggregations
    from pyro_mmvae.data import data_names
    from pyro_mmvae.runs.recipes import RECIPES
    from pyro_mmvae.runs.settings import list_settings

    keys = [setting.key for setting in list_settings(None)]
    sections = dict.fromkeys(key.rpartition(".")[0] for key in keys if "." in key)
    parts = ("aggregations", "objectives", "penalties", "priors", "recipes")
    return {
        "aggregations": list(aggregations()),
        "data": list(data_names()),
        "recipes": list(RECIPES),
        "settings": [f"{key}=" for key in keys],
        "sections": [*sections, *parts, *keys],
    }


def _configs(_context: click.Context) -> Sequence[str]:
    from pyro_mmvae.runs.config_files import config_names

    return config_names()


def _modalities(context: click.Context) -> Sequence[str]:
    """Return the names of the modalities of the run before on the line, by its metrics and without its model."""
    from pyro_mmvae.run_files import read_metrics

    # Click does not assign arguments where the last option has no value yet, and leaves them in a list.
    run = context.params.get("run") or context.args[0]
    return list(read_metrics(Path(run))[-1]["log_likelihood"])


def _rows(context: click.Context) -> Sequence[str]:
    """Return the names of the rows of a comparison: its aggregations, and their variants on the line."""
    names = [name for name in str(context.params.get("names") or "poe,moe,mopoe,wb,mwb").split(",") if name]
    variants = [str(text).partition(":")[0].strip() for text in context.params.get("variants") or ()]
    return [f"{name}, {variant}" for name in names for variant in variants] or names


def _splits(_context: click.Context) -> Sequence[str]:
    return ("train", "val", "test")


_SOURCES: dict[str | None, tuple[Source, bool, bool]] = {
    "aggregation": (partial(_known, "aggregations"), False, False),
    "aggregations": (partial(_known, "aggregations"), False, False),
    "baseline": (_rows, False, False),
    "choices": (_modalities, True, False),
    "config": (_configs, False, True),
    "data": (partial(_known, "data"), False, True),
    "generate": (_modalities, True, False),
    "given": (_modalities, True, False),
    "name": (partial(_known, "data"), False, True),
    "names": (partial(_known, "aggregations"), True, False),
    "overrides": (partial(_known, "settings"), False, False),
    "read_with": (partial(_known, "aggregations"), True, False),
    "recipe": (partial(_known, "recipes"), False, False),
    "section": (partial(_known, "sections"), False, False),
    "split": (_splits, False, False),
    "targets": (_modalities, True, False),
}
"""For each parameter: the source of its names, True if it takes several with commas, True if it takes paths, too."""
