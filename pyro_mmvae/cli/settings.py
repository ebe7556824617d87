"""The command ``settings``, which lists the settings of a configuration and the options of its parts."""

from __future__ import annotations

import difflib
import json
import shutil
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pyro_mmvae.cli.common import echo, plain_errors, plugin_option

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyro_mmvae.runs.settings import Setting
    from pyro_mmvae.signatures import Option

_PARTS = ("aggregations", "objectives", "penalties", "priors", "recipes")


@click.command()
@click.argument("section", required=False)
@click.option(
    "--data", metavar="NAME|PATH", show_default="polymnist-mini",
    help="Data set whose options are listed: a name from the command 'data info', or the path of its files.",
)  # fmt: skip
@click.option(
    "--json", "as_json", is_flag=True, help="Print a list of JSON objects, with the JSON schema of each value."
)
@plugin_option("aggregations, objectives, penalties or data sets")
@plain_errors
def settings(section: str | None, data: str | None, as_json: bool, plugins: tuple[str, ...]) -> None:
    """List the settings of a configuration: key, default, type and meaning.

    SECTION is a section or the beginning of keys: data, model, model.network, model.modalities, train, or train.lr; or
    aggregations, objectives, penalties, priors or recipes for the options of these parts, or of one of them with its
    name as in aggregations.renyi. Without SECTION, all settings but those options are listed. Each is set in a
    configuration file or by --set KEY=VALUE. Writes to the terminal only.
    """
    from pyro_mmvae import runs
    from pyro_mmvae.runs.settings import list_settings

    runs.import_plugins(plugins)
    kind, _, name = (section or "").partition(".")
    if kind in _PARTS:
        parts = _list_parts(kind, name)
        echo(json.dumps([_as_object(s, part) for part, _, found in parts for s in found], indent=1)
                   if as_json else _describe_parts(kind, parts))  # fmt: skip
        return
    found = _select(list_settings(data), section)
    echo(json.dumps([_as_object(s) for s in found], indent=1) if as_json else _describe(found))


def _select(every: Sequence[Setting], section: str | None) -> list[Setting]:
    """Return the settings of a section, or those whose keys begin with it."""
    found = [s for s in every if section is None or f"{s.key}.".startswith(f"{section}.")]
    if found or section is None:
        return found
    keys = [setting.key for setting in every]
    sections = list(dict.fromkeys([key.rpartition(".")[0] for key in keys if "." in key] + list(_PARTS)))
    close = difflib.get_close_matches(section, [*sections, *keys], n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(f"SECTION must be one of {', '.join(sections)}, or a key, got {section!r}{hint}")


def _list_parts(kind: str, name: str) -> list[tuple[str, str, list[Setting]]]:
    """Return name, summary and options of each part of a kind, or of the one of a name."""
    from pyro_mmvae import aggregation, guides, training
    from pyro_mmvae.runs.recipes import RECIPES
    from pyro_mmvae.runs.settings import recipe_settings, settings_of_options
    from pyro_mmvae.vae import priors

    if kind == "recipes":
        recipes = [name] if name else list(RECIPES)
        return [(recipe, RECIPES.lookup(recipe).summary, recipe_settings(recipe)) for recipe in recipes]
    names: Sequence[str]
    describe: Callable[[str], str]
    options: Callable[[str], Sequence[Option]]
    if kind == "aggregations":
        names, describe = aggregation.aggregations(), aggregation.describe_aggregation
        options, key = aggregation.aggregation_options, "model.aggregation"
    elif kind == "penalties":
        names, describe = guides.penalty_names(), guides.describe_penalty
        options, key = guides.penalty_options, "train.penalties"
    elif kind == "priors":
        names, describe = tuple(priors.PRIORS), priors.describe_prior
        options, key = priors.prior_options, "model.prior"
    else:
        names, describe = training.objective_names(), training.describe_objective
        options, key = training.objective_options, "train.objective"
    return [(n, describe(n), settings_of_options(options(n), key)) for n in ([name] if name else names)]


def _describe_parts(kind: str, parts: list[tuple[str, str, list[Setting]]]) -> str:
    """Return the options of parts as text, those that several parts have in common only once."""
    common = set.intersection(*({s.key for s in found} for _, _, found in parts)) if len(parts) > 1 else set()
    names: dict[str, list[str]] = {}
    for name, summary, found in parts:
        own = [setting for setting in found if setting.key not in common]
        names.setdefault(_describe(own), []).append(f"{name}: {summary}")
    blocks = ["\n".join([*lines, text or "no options" + " of its own" * bool(common)]) for text, lines in names.items()]
    if common:
        blocks.append(f"all {kind}\n" + _describe([s for s in parts[0][2] if s.key in common]))
    return "\n\n".join(blocks)


def _describe(found: Sequence[Setting]) -> str:
    """Return settings as text, each with its meaning on indented lines."""
    width = max(40, min(shutil.get_terminal_size().columns, 120))
    blocks = []
    for setting in found:
        meaning = textwrap.fill(setting.meaning, width, initial_indent="    ", subsequent_indent="    ")
        blocks.append(f"{setting.key} = {setting.default_text}  ({setting.type})" + (f"\n{meaning}" if meaning else ""))
    return "\n".join(blocks)


def _as_object(setting: Setting, part: str | None = None) -> dict[str, Any]:
    """Return a setting as an object of JSON, with the name of its part if it is an option of one."""
    named = {} if part is None else {"part": part}
    return json.loads(json.dumps({**named, **asdict(setting)}, default=str))
