"""``data``: what data sets there are, building PolyMNIST, checking files."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyro_mmvae.cli.common import plain_errors

if TYPE_CHECKING:
    from pyro_mmvae.data.inspection import SplitSummary


@click.group()
def data() -> None:
    """Data sets: what there is, building PolyMNIST, checking files."""


@data.command()
@click.argument("name", required=False, metavar="[NAME|PATH]")
@click.option("--split", help="One split only.")
@click.option("--sheet", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw some items of a split.")
@click.option("-n", "count", type=click.IntRange(1), default=20, show_default=True, help="Items on the sheet.")
@plain_errors
def info(name: str | None, split: str | None, sheet: Path | None, count: int) -> None:
    """List names and formats, or describe one data set."""
    from pyro_mmvae.data import data_names, find_data, format_names, load_data
    from pyro_mmvae.data.inspection import contact_sheet, summarise

    if name is None:
        if split is not None or sheet is not None:
            raise ValueError("--split and --sheet need the name or the path of a data set")
        click.echo("by name: " + ", ".join(data_names()))
        click.echo("by path, formats: " + (", ".join(format_names()) or "none"))
        return
    source = find_data(name)
    click.echo(f"{name}: {'a name' if source.format is None else 'format ' + source.format}")
    click.echo(f"  splits: {', '.join(source.splits)}")
    click.echo(f"  options: {', '.join(source.options) or 'none'}")
    summaries = []
    for one in source.splits if split is None else (split,):
        opened = load_data(name, one)
        summaries.append(summarise(opened))
        _describe(summaries[-1])
        if sheet is not None and len(summaries) == 1:
            _draw(contact_sheet(opened, count), sheet, f"{name}, {one}")
    _describe_sources(summaries)


def _describe(summary: SplitSummary) -> None:
    click.echo(f"{summary.split}: {summary.items} items")
    width = max(len(modality.name) for modality in summary.modalities)
    for modality in summary.modalities:
        shape = " x ".join(map(str, modality.shape)) or "scalar"
        missing = f"{modality.missing:.1%} missing" if modality.missing else "none missing"
        click.echo(f"  {modality.name:<{width}}  {shape} {modality.dtype}, {missing}")
    labels, most = summary.labels, 20
    kind = "attributes" if summary.has_attributes else "classes"
    listed = ", ".join(f"{label}: {count}" for label, count in list(labels.items())[:most])
    click.echo(f"  labels  {f'{len(labels)} {kind}, {listed}' if labels else 'none'}{', …' * (len(labels) > most)}")


def _describe_sources(summaries: list[SplitSummary]) -> None:
    """What all splits were made from, then what is its own of each."""
    import yaml

    first, *others = [summary.provenance for summary in summaries]
    shared = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    parts = {"made from": shared}
    for summary in summaries:
        own = {key: value for key, value in summary.provenance.items() if key not in shared}
        parts[f"{summary.split} from"] = own
    for title, about in parts.items():
        if about:
            text = yaml.safe_dump(about, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
            click.echo(f"{title}:\n" + "".join(f"  {line}\n" for line in text.splitlines()), nl=False)


def _draw(rows: Any, file: Path, title: str) -> None:
    from pyro_mmvae import reports

    file.parent.mkdir(parents=True, exist_ok=True)
    reports.image_grid(rows, file, title=title)
    click.echo(f"  sheet  {file}")


@data.command()
@click.argument("name", metavar="NAME|PATH")
@plain_errors
def check(name: str) -> None:
    """Open every split from its files; one line a finding, exit status 1 if there is one."""
    from pyro_mmvae.data import find_data
    from pyro_mmvae.data.inspection import check_data

    wrong = 0
    for finding in check_data(name):
        click.echo(finding)
        wrong += 1
    if wrong:
        sys.exit(1)
    click.echo(f"{name}: {', '.join(find_data(name).splits)}: nothing is wrong")


@data.group()
def build() -> None:
    """Build a data set from its sources."""


@build.command()
@click.option("--mnist", required=True, type=click.Path(path_type=Path), metavar="DIR", help="MNIST's files, or above.")
@click.option("--photographs", required=True, type=click.Path(path_type=Path), metavar="DIR", help="One a modality.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The new folder.")
@click.option("--modalities", type=click.IntRange(1), default=5, show_default=True, help="Needs as many photographs.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything that is drawn.")
@click.option(
    "--train-size", type=click.IntRange(10), default=60_000, show_default=True, help="Tuples of train and val together."
)
@click.option("--val-size", type=click.IntRange(1), help="Of these for val; 5000 or a tenth by default.")
@click.option("--test-size", type=click.IntRange(1), default=10_000, show_default=True, help="Tuples of test.")
@click.option("--download", is_flag=True, help="Let torchvision download MNIST into DIR/MNIST/raw if it is not there.")
@plain_errors
def polymnist(out: Path, **options: Any) -> None:
    """Build PolyMNIST: digits of MNIST on crops of photographs, one photograph a modality."""
    from pyro_mmvae.data import build_polymnist

    started = time.monotonic()
    provenance = build_polymnist(out, **options)
    for warning in provenance["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    for photograph in provenance["photographs"]:
        click.echo(f"{photograph['modality']}: {photograph['file']}")
    sizes = ", ".join(f"{split} {size}" for split, size in provenance["sizes"].items())
    click.echo(f"{out}: {sizes} tuples in {time.monotonic() - started:.0f} s")
    click.echo(f"next: pyro-mmvae train --data {out}")
