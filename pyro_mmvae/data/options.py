"""Options that several loaders have, and their checks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

VAL_SIZE = 5_000
"""Items that are set aside for validation where a data set has no such split of its own."""


def check_whole(option: str, name: str, value: object, least: int) -> None:
    """Check that an option is a whole number.

    Args:
        option: its name.
        name: of the data.
        value: what was given.
        least: the smallest value allowed.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{option} of {name!r}: found {value!r}, expected a whole number of at least {least}")


def choose_val_size(name: str, total: int, val_size: int | None) -> int:
    """How many of the items meant for training are set aside for validation: never more than a tenth of them.

    Args:
        name: of the data.
        total: number of items meant for training.
        val_size: what was asked for; by default 5,000 or a tenth, whichever is less.

    Returns:
        The number, which is 0 only if there are fewer than ten items and none were asked for.

    Raises:
        ValueError: if more than a tenth is asked for.
    """
    if val_size is None:
        return min(VAL_SIZE, total // 10)
    check_whole("val_size", name, val_size, 1)
    if val_size > total // 10:
        raise ValueError(f"val_size of {name!r}: found {val_size}, expected at most a tenth of the {total} of train")
    return val_size


def check_sizes(
    name: str,
    modalities: int | None,
    train_size: int | None,
    val_size: int | None,
    test_size: int | None,
    seed: int = 0,
) -> dict[str, int | None]:
    """Check the options of a loader of files, of which None stands for all there is.

    Returns:
        Name of each split to how many items of it are wanted.

    Raises:
        ValueError: if one is no whole number of at least 1, or the seed is none of at least 0.
    """
    sizes = {"train": train_size, "val": val_size, "test": test_size}
    for option, value in {"modalities": modalities, **{f"{split}_size": size for split, size in sizes.items()}}.items():
        if value is not None:
            check_whole(option, name, value, 1)
    check_whole("seed", name, seed, 0)
    return sizes


def at_most(name: str, split: str, wanted: int | None, there: int) -> int:
    """How many items of a split to take: as many as wanted, or all.

    Raises:
        ValueError: if there are not so many.
    """
    if wanted is not None and wanted > there:
        raise ValueError(f"{split}_size of {name!r}: found {wanted}, expected at most {there}, all there are")
    return there if wanted is None else wanted


def choose_modalities(found: Iterable[str], where: Path, modalities: int | None) -> tuple[str, ...]:
    """The modalities to read: `m0`, `m1`, … without a gap, all or the first so many.

    Args:
        found: names that are there; those of another form are passed over.
        where: they are there, for the message.
        modalities: how many; all by default.

    Raises:
        ValueError: if one is missing.
    """
    there = {name for name in found if re.fullmatch("m(0|[1-9][0-9]*)", name)}
    count = modalities or max((1 + int(name[1:]) for name in there), default=1)
    wanted = tuple(f"m{modality}" for modality in range(count))
    for name in wanted:
        if name not in there:
            listed = ", ".join(sorted(there, key=lambda one: int(one[1:]))) or "none"
            raise ValueError(f"{where}: modality {name} is missing, found {listed}, expected m0, m1, … to m{count - 1}")
    return wanted
