"""The command ``data export``, which writes a data set in a format of other programs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyro_mmvae.cli.common import echo, plain_errors, plugin_option, set_option

if TYPE_CHECKING:
    from pyro_mmvae.data import MultimodalDataset


@click.command()
@click.argument("name", metavar="NAME|PATH")
@click.option(
    "--format", "format_name", type=click.Choice(["webdataset"]), default="webdataset", show_default=True,
    help="Format to write: webdataset is tar files with one member per modality and item.",
)  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="New folder to write to.")
@click.option(
    "--shard-size", type=click.IntRange(1), default=10_000, show_default=True, help="Largest number of items per shard."
)
@set_option
@plugin_option("data sets")
@plain_errors
def export(
    name: str, format_name: str, out: Path, shard_size: int, overrides: tuple[str, ...], plugins: tuple[str, ...]
) -> dict[str, Any]:
    """Write a data set into shards, from which a training reads without holding the data in memory.

    Reads every split of the data set NAME or PATH. Writes one tar file and one index per shard and shards.json to the
    new folder --out.
    """
    from pyro_mmvae import runs
    from pyro_mmvae.data import find_data, load_data, resolve_options, write_shards
    from pyro_mmvae.runs.config import make_config, parse_overrides

    runs.import_plugins(plugins)
    config = make_config(None, {**parse_overrides(overrides), "data.name": name})
    options = resolve_options(name, config.data.options())

    def splits() -> Iterator[tuple[str, MultimodalDataset]]:
        for split in find_data(name).splits:  # one after the other, so that only one is in memory
            yield split, load_data(name, split, **options)

    items = dict[str, int]()

    def announce(shard: str, count: int) -> None:
        items[shard] = count
        echo(f"{shard}: {count} items")

    count = write_shards(out, splits(), shard_size=shard_size, progress=announce)
    echo(f"{out}: {count} shards")
    echo(f"next: {shlex.join(['pyro-mmvae', 'train', '--data', str(out)])}")
    return {"folder": out, "shards": count, "items": items}
