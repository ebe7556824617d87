"""The commands of ``data``, which list, describe, check, build and export data sets."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyro_mmvae.cli.common import MOST_DRAWS, SEEDS, echo, picture_options, plain_errors, plugin_option, set_option
from pyro_mmvae.cli.data_cache import cache
from pyro_mmvae.cli.data_export import export

if TYPE_CHECKING:
    from pyro_mmvae.data.inspection import SplitSummary


@click.group()
def data() -> None:
    """List, describe, check, build and export data sets."""


data.add_command(cache)
data.add_command(export)


@data.command()
@click.argument("name", required=False, metavar="[NAME|PATH]")
@click.option("--split", metavar="NAME", show_default="all splits", help="Split to describe, such as train or test.")
@click.option(
    "--sheet", type=click.Path(path_type=Path), metavar="FILE.png",
    help="Picture of some items to draw, from --split or else the first split.",
)  # fmt: skip
@click.option(
    "-n",
    "count",
    type=click.IntRange(1, MOST_DRAWS),
    default=20,
    show_default=True,
    help="Number of items in the --sheet picture.",
)
@picture_options(one_file=True)
@set_option
@plugin_option("data sets")
@plain_errors
def info(
    name: str | None,
    split: str | None,
    sheet: Path | None,
    count: int,
    pictures: dict[str, Any],
    overrides: tuple[str, ...],
    plugins: tuple[str, ...],
) -> dict[str, Any]:
    """List the available data sets, or describe one.

    Reads the files of the data set NAME or PATH; without it, lists the names and file formats. Writes to the terminal
    and, with --sheet, a picture.
    """
    from pyro_mmvae import runs
    from pyro_mmvae.data import data_names, find_data, format_names, load_data
    from pyro_mmvae.data.contact_sheets import contact_sheet
    from pyro_mmvae.data.inspection import summarise

    if name is None:
        if split is not None or sheet is not None or overrides:
            raise ValueError("--split, --sheet and --set must come with the name or the path of a data set")
        runs.import_plugins(plugins)
        echo("by name: " + ", ".join(data_names()))
        echo("by path, formats: " + (", ".join(format_names()) or "none"))
        return {"names": data_names(), "formats": format_names()}
    options = _read_options(name, overrides, plugins)[1]
    source = find_data(name)
    echo(f"{name}: {'a name' if source.format is None else 'format ' + source.format}")
    echo(f"  splits: {', '.join(source.splits)}")
    echo(f"  options: {', '.join(source.options) or 'none'}")
    summaries = []
    for split_name in source.splits if split is None else (split,):
        opened = load_data(name, split_name, **options)
        summaries.append(summarise(opened))
        _describe(summaries[-1])
        if sheet is not None and len(summaries) == 1:
            _draw(contact_sheet(opened, count), sheet, f"{name}, {split_name}", pictures)
    _describe_sources(summaries)
    return {"name": name, "format": source.format, "splits": {s.split: asdict(s) for s in summaries}}


def _describe(summary: SplitSummary) -> None:
    """Print the modalities, labels and covariates of one split."""
    from pyro_mmvae.cli.data_table import covariate_lines

    echo(f"{summary.split}: {summary.items} items")
    width = max(len(modality.name) for modality in summary.modalities)
    for modality in summary.modalities:
        shape = " x ".join(map(str, modality.shape)) or "scalar"
        missing = f"{modality.missing:.1%} missing" if modality.missing else "none missing"
        features = f", features {_abridge(modality.features, modality.shape[0])}" if modality.features else ""
        echo(f"  {modality.name:<{width}}  {shape} {modality.dtype}, {missing}{features}")
    labels, limit = summary.labels, 20
    kind = "attributes" if summary.has_attributes else "classes"
    listed = ", ".join(f"{label}: {count}" for label, count in list(labels.items())[:limit])
    echo(f"  labels  {f'{len(labels)} {kind}, {listed}' if labels else 'none'}{', …' * (len(labels) > limit)}")
    for line in covariate_lines(summary.covariates):
        echo(f"  {line}")
    if summary.item_ids:
        echo(f"  ids     {_abridge(summary.item_ids, summary.items)}")


def _abridge(names: Sequence[str], count: int) -> str:
    """Return the first names of a list, with an ellipsis if it is longer."""
    return ", ".join(names) + ", …" * (count > len(names))


def _describe_sources(summaries: list[SplitSummary]) -> None:
    """Print the provenance that all splits share, then that of each split alone."""
    import yaml

    first, *others = [summary.provenance for summary in summaries]
    shared = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    parts = {"made from": shared}
    for summary in summaries:
        specific = {key: value for key, value in summary.provenance.items() if key not in shared}
        parts[f"{summary.split} from"] = specific
    for title, provenance in parts.items():
        if provenance:
            text = yaml.safe_dump(provenance, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
            echo(f"{title}:\n" + "".join(f"  {line}\n" for line in text.splitlines()), nl=False)


def _draw(rows: Any, sheet: Path, title: str, pictures: dict[str, Any]) -> None:
    """Draw a contact sheet in each format and print its path."""
    from pyro_mmvae import reports

    for file in reports.picture_files(sheet, pictures["formats"]):
        file.parent.mkdir(parents=True, exist_ok=True)
        reports.image_grid(rows, file, title=title, dpi=pictures["dpi"])
        echo(f"  sheet  {file}")


@data.command()
@click.argument("name", metavar="NAME|PATH")
@set_option
@plugin_option("data sets")
@plain_errors
def check(name: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> dict[str, Any]:
    """Check the files of a data set, and that a model can be built for it.

    Reads every split of the data set NAME or PATH. Writes one line per problem to the terminal, and exits with status 1
    if there is one. Otherwise writes a table of the modalities, with the likelihood and the network that a training
    will use.
    """
    from pyro_mmvae.data import find_data
    from pyro_mmvae.data.inspection import check_data

    config, options = _read_options(name, overrides, plugins)
    table: list[str] = []
    notes: dict[str, None] = {}

    def check_model(data: Any) -> list[str]:
        notes.update(dict.fromkeys(data.provenance.get("notes", [])))
        return _check_model(config, data, table) if data.split == "train" else []

    problems = 0
    for problem in check_data(name, options, check_more=check_model):
        echo(problem)
        problems += 1
    if problems:
        sys.exit(1)
    for line in [*table, *(f"note: {note}" for note in notes)]:
        echo(line)
    echo(f"{name}: {', '.join(find_data(name).splits)}: no problems")
    return {"name": name, "splits": find_data(name).splits, "notes": list(notes)}


def _read_options(name: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """Return the configuration of a data set with overrides, and the options of its loader."""
    from pyro_mmvae import runs
    from pyro_mmvae.data import resolve_options
    from pyro_mmvae.runs.config import make_config, parse_overrides

    runs.import_plugins(plugins)
    config = make_config(None, {**parse_overrides(overrides), "data.name": name})
    return config, resolve_options(name, config.data.options())


def _check_model(config: Any, data: Any, table: list[str]) -> list[str]:
    """Return the reason, if there is one, for which training would refuse the data; otherwise add to the table."""
    from pyro_mmvae import runs
    from pyro_mmvae.cli.data_table import covariate_lines, format_rows, table_rows
    from pyro_mmvae.data import complete_specs, infer_specs
    from pyro_mmvae.data.inspection import summarise

    try:
        config = runs.adapt_recipe(config, data)
        specs = complete_specs(data, runs.resolve_modalities(config, infer_specs(data)))
        shapes = {name: tuple(value.shape[1:]) for name, value in data.modalities.items()}
        vae = runs.build_vae(config, shapes, specs, data.covariate_names)
        table += [*format_rows(table_rows(data, vae)), *covariate_lines(summarise(data).covariates)]
    except (ValueError, TypeError) as error:
        return [str(error)]
    return []


@data.group()
def build() -> None:
    """Build a data set from its sources."""


@build.command()
@click.option(
    "--mnist", required=True, type=click.Path(path_type=Path), metavar="DIR",
    help="Folder with the files of MNIST, or the folder above MNIST/raw.",
)  # fmt: skip
@click.option(
    "--photographs", required=True, type=click.Path(path_type=Path), metavar="DIR",
    help="Folder with photographs as backgrounds, one per modality.",
)  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="New folder to write to.")
@click.option(
    "--modalities", type=click.IntRange(1), default=5, show_default=True,
    help="Number of modalities, at most the number of photographs.",
)  # fmt: skip
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Seed of all random choices.")
@click.option(
    "--train-size", type=click.IntRange(10), default=60_000, show_default=True,
    help="Number of items of the splits train and val together.",
)  # fmt: skip
@click.option(
    "--val-size", type=click.IntRange(1), show_default="a tenth of --train-size, at most 5000",
    help="Number of these items for the split val.",
)  # fmt: skip
@click.option(
    "--test-size", type=click.IntRange(1), default=10_000, show_default=True, help="Number of items of the split test."
)
@click.option(
    "--download", is_flag=True, help="Let torchvision download MNIST to MNIST/raw in the folder --mnist if needed."
)
@plain_errors
def polymnist(out: Path, **options: Any) -> dict[str, Any]:
    """Build PolyMNIST from MNIST digits and photographs.

    Each modality shows the digit on a crop of one photograph. Reads the MNIST files and the photographs. Writes one
    file per split and provenance.json to the new folder --out.
    """
    from pyro_mmvae.data import build_polymnist

    started = time.monotonic()
    provenance = build_polymnist(out, **options)
    for warning in provenance["warnings"]:
        echo(f"warning: {warning}", err=True)
    for photograph in provenance["photographs"]:
        echo(f"{photograph['modality']}: {photograph['file']}")
    sizes = ", ".join(f"{split} {size}" for split, size in provenance["sizes"].items())
    echo(f"{out}: {sizes} items in {time.monotonic() - started:.0f} s")
    echo(f"next: {shlex.join(['pyro-mmvae', 'train', '--data', str(out)])}")
    made = {key: provenance[key] for key in ("sizes", "photographs", "warnings")}
    return {"folder": out, **made}
