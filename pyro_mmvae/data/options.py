"""Checks of the options that several loaders share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pyro_mmvae._printable import printable_line

VAL_SIZE = 5_000
"""The default number of items set aside for validation if a data set has no validation split."""


class DataError(ValueError):
    """An error about data with several problems, whose message is the first of them and the number of the others.

    Args:
        problems: All problems, at least one. Line breaks and control characters in them are escaped.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(map(printable_line, problems))  # a cell of a table may hold line breaks
        more = len(self.problems) - 1
        others = f" (and {more} more problem{'s' * (more > 1)}: see pyro-mmvae data check)" if more else ""
        super().__init__(self.problems[0] + others)


class Problems:
    """A collector of errors, so that all problems of a data set are reported and not only the first."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Record a ValueError that is raised inside instead of passing it on."""
        try:
            yield
        except DataError as error:
            self.messages += error.problems
        except ValueError as error:
            self.messages.append(str(error))

    def check(self) -> None:
        """Raise what was collected.

        Raises:
            DataError: If something was collected.
        """
        if self.messages:
            raise DataError(list(dict.fromkeys(self.messages)))


def describe_item(ids: Sequence[Any] | NDArray[Any] | None, row: int) -> str:
    """Return the words that name an item in a message: its identifier, or its position if it has no other name.

    Args:
        ids: The identifiers of the items, or None.
        row: The position of the item.
    """
    return f"item {row}" if ids is None or str(ids[row]) == str(row) else f"item {str(ids[row])!r}"


def check_integer(option: str, name: str, value: object, minimum: int) -> None:
    """Check that the value of an option is an integer of at least a minimum.

    Args:
        option: Name of the option, for the message.
        name: Name of the data, for the message.
        value: The value that the user passed.
        minimum: The smallest value allowed.

    Raises:
        ValueError: If the value is not an integer or is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"{option} of {name!r} must be an integer of at least {minimum}, got {value!r}")


def check_split(name: str, split: str, splits: Sequence[str]) -> None:
    """Check that a split exists.

    Args:
        name: Name or path of the data, for the message.
        split: Name of the split that the user asked for.
        splits: Names of the splits that there are.

    Raises:
        ValueError: If there is no split of that name.
    """
    if split not in splits:
        raise ValueError(f"split of {name!r} must be one of {', '.join(splits)}, got {split!r}")


def resolve_val_size(name: str, num_items: int, val_size: int | None) -> int:
    """Return the number of training items to set aside for validation: at most a tenth of them.

    Args:
        name: Name of the data, for messages.
        num_items: Number of items meant for training, including those to set aside.
        val_size: The number that the user asked for; by default 5,000 or a tenth, whichever is less.

    Returns:
        The number of items, which is 0 only if there are fewer than ten and ``val_size`` is None.

    Raises:
        ValueError: If ``val_size`` is not a positive integer or is more than a tenth.
    """
    if val_size is None:
        return min(VAL_SIZE, num_items // 10)
    check_integer("val_size", name, val_size, 1)
    if val_size > num_items // 10:
        raise ValueError(
            f"val_size of {name!r} must be at most a tenth of the {num_items} items of train, got {val_size}"
        )
    return val_size


def check_sizes(
    name: str,
    modalities: int | None,
    train_size: int | None,
    val_size: int | None,
    test_size: int | None,
    seed: int = 0,
) -> dict[str, int | None]:
    """Check the options of a loader of files, where None stands for everything that the files hold.

    Args:
        name: Name of the data, for messages.
        modalities: Number of modalities, or None for all.
        train_size: Number of items of ``train``, or None for all.
        val_size: Number of items of ``val``, or None for the default.
        test_size: Number of items of ``test``, or None for all.
        seed: The seed, an integer of at least 0.

    Returns:
        The number of items by name of the split.

    Raises:
        ValueError: If a number is not an integer of at least 1, or the seed is not one of at least 0.
    """
    sizes = {"train": train_size, "val": val_size, "test": test_size}
    for option, value in {"modalities": modalities, **{f"{split}_size": size for split, size in sizes.items()}}.items():
        if value is not None:
            check_integer(option, name, value, 1)
    check_integer("seed", name, seed, 0)
    return sizes


def resolve_split_size(name: str, split: str, requested: int | None, available: int) -> int:
    """Return the number of items of a split to use: the number requested, or all.

    Args:
        name: Name of the data, for the message.
        split: Name of the split, for the message.
        requested: The number that the user asked for, or None for all.
        available: The number of items that there are.

    Raises:
        ValueError: If more items are requested than there are.
    """
    if requested is not None and requested > available:
        raise ValueError(
            f"{split}_size of {name!r} must be at most {available}, the number of items available, got {requested}"
        )
    return available if requested is None else requested


def choose_modalities(names: Iterable[str], where: Path, modalities: int | None) -> tuple[str, ...]:
    """Return the names of the modalities to read, `m0`, `m1`, … without a gap.

    Args:
        names: Names of the modalities that are available; names of any other form are ignored.
        where: Folder or file that holds them, for the message.
        modalities: Number of modalities to read, from the first; all by default.

    Raises:
        ValueError: If one of the modalities to read is missing.
    """
    available = {name for name in names if re.fullmatch("m(0|[1-9][0-9]*)", name)}
    count = modalities or max((1 + int(name[1:]) for name in available), default=1)
    chosen = tuple(f"m{modality}" for modality in range(count))
    for name in chosen:
        if name not in available:
            listed = ", ".join(sorted(available, key=lambda modality: int(modality[1:]))) or "none"
            raise ValueError(
                f"{where}: modality {name!r} is missing: the modalities must be m0, m1, … to m{count - 1}, got {listed}"
            )
    return chosen
