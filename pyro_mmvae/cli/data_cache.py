"""The command ``data cache``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from pyro_mmvae.cli.common import echo, plain_errors


@click.command()
@click.option(
    "--clear", is_flag=False, flag_value="", metavar="[NAME]",
    help="Remove all entries, or those whose names begin with NAME, such as polymnist-mini.",
)  # fmt: skip
@click.option(
    "--limit", metavar="SIZE",
    help="Remove the entries that were not used for longest until the rest takes at most SIZE, such as 20GB.",
)  # fmt: skip
@plain_errors
def cache(clear: str | None, limit: str | None) -> dict[str, Any]:
    """List the files of built data sets and of classifiers that are kept on disk, or remove them.

    Reads the folder of the cache: the environment variable PYRO_MMVAE_CACHE, or pyro_mmvae in the folder of caches of
    the system. Writes one line per entry to the terminal, with its size and the time of its last use. With --clear or
    --limit, removes entries, but none that another process builds at the moment; they are built again when they are
    needed. The environment variable PYRO_MMVAE_CACHE_LIMIT keeps a limit all the time.
    """
    from pyro_mmvae.data.storage.cache import cache_folder
    from pyro_mmvae.data.storage.cache_entries import (
        clear_cache,
        limit_cache,
        list_entries,
        parse_size,
        size_in_words,
    )

    if clear is not None and limit is not None:
        raise ValueError("--clear and --limit must not be given together: leave one of them out")
    folder = cache_folder()
    if clear is None and limit is None:
        entries = list_entries(folder)
        total = size_in_words(sum(entry.size for entry in entries))
        echo(f"{folder}: {len(entries)} {'entry' if len(entries) == 1 else 'entries'}, {total}")
        for entry in entries:
            used = datetime.fromtimestamp(entry.last_used).strftime("%Y-%m-%d %H:%M")
            echo(f"  {size_in_words(entry.size):>8}  last used {used}  {entry.name}")
        return {"folder": folder, "entries": [asdict(entry) for entry in entries]}
    if limit is None:
        removed, kept = clear_cache(folder, clear or "")
    else:
        try:
            size = parse_size(limit)
        except ValueError as error:
            raise ValueError(f"--limit {error}") from None
        removed, kept = limit_cache(folder, size)
    for entry in removed:
        echo(f"removed {entry.name}")
    for entry in kept:
        echo(f"kept {entry.name}, which another process uses, or which cannot be removed")
    left = size_in_words(sum(entry.size for entry in list_entries(folder)))
    freed = size_in_words(sum(entry.size for entry in removed))
    echo(f"{folder}: {len(removed)} removed, {freed}; {left} left")
    return {"folder": folder, "removed": [entry.name for entry in removed], "kept": [entry.name for entry in kept]}
