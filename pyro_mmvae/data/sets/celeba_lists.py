"""What is said of CelebA's images: the two list files of the official folder, or the same in arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ATTRIBUTES, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"

_VALUES = {"1": True, "-1": False}
_PARTS = {"0": 0, "1": 1, "2": 2}


@dataclass(frozen=True, eq=False)
class Lists:
    """Every image that is listed, in the order of the list of attributes.

    Attributes:
        files: name of each image's file.
        attribute_names: in the file's column order.
        attributes: which of them an image shows, `(item, attribute)`.
        partition: 0 for train, 1 for val, 2 for test, `(item,)`.
    """

    files: tuple[str, ...]
    attribute_names: tuple[str, ...]
    attributes: NDArray[np.bool_]
    partition: NDArray[np.int64]

    def texts(self, rows: NDArray[np.int64]) -> list[str]:
        """Names of the attributes that are present: lower case, underscores as spaces, joined by a comma and a space.

        Args:
            rows: which images, `(row,)`.
        """
        words = np.array([name.lower().replace("_", " ") for name in self.attribute_names])
        return [", ".join(words[there]) for there in self.attributes[rows]]


def read_lists(folder: Path) -> Lists:
    """Read the list of attributes and the official partition.

    Args:
        folder: that holds both files.

    Raises:
        ValueError: if one is missing or not what it should be; the message names file and line.
    """
    files, names, attributes = _read_attributes(folder / ATTRIBUTES)
    return Lists(files, names, attributes, _read_partition(folder / PARTITION, files))


def _read_attributes(path: Path) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.bool_]]:
    lines = _lines(path, "CelebA's list of attributes")
    if len(lines) < 2 or not lines[0].strip().isdecimal():
        found = repr(lines[0][:40]) if lines else "an empty file"
        raise ValueError(
            f"{path}: line 1: found {found}, expected the number of images, and their attributes in line 2"
        )
    names, rows = tuple(lines[1].split()), lines[2:]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{path}: line 2: found {len(names)} names of attributes, expected some and no two alike")
    if int(lines[0]) != len(rows):
        raise ValueError(f"{path}: line 1: found {int(lines[0])} images, expected {len(rows)}, as many as lines follow")
    if not rows:
        raise ValueError(f"{path}: line 1: found no image, expected at least one")
    files: dict[str, int] = {}
    values = []
    for number, line in enumerate(rows, 3):
        file, *words = line.split() or [""]
        if len(words) != len(names):
            raise ValueError(
                f"{path}: line {number}: found {len(words)} values, expected an image's name and {len(names)} values"
            )
        _take_name(path, number, file, files)
        try:
            values.append([_VALUES[word] for word in words])
        except KeyError as error:
            column = names[words.index(error.args[0])]
            raise ValueError(
                f"{path}: line {number}: found {error.args[0]!r} for {column} of {file}, expected 1 or -1"
            ) from None
    return tuple(files), names, np.array(values, dtype=bool)


def _read_partition(path: Path, files: tuple[str, ...]) -> NDArray[np.int64]:
    lines = _lines(path, "CelebA's official partition")
    known, places, parts = set(files), dict[str, int](), dict[str, int]()
    for number, line in enumerate(lines, 1):
        words = line.split()
        if len(words) != 2 or words[1] not in _PARTS:
            raise ValueError(f"{path}: line {number}: found {line[:60]!r}, expected an image's name and 0, 1 or 2")
        _take_name(path, number, words[0], places)
        if words[0] not in known:
            raise ValueError(f"{path}: line {number}: found {words[0]}, which {ATTRIBUTES} does not name")
        parts[words[0]] = _PARTS[words[1]]
    for number, file in enumerate(files, 3):
        if file not in parts:
            raise ValueError(
                f"{path}: found {len(lines)} lines and none for {file}, which line {number} of {ATTRIBUTES} names"
            )
    return np.array([parts[file] for file in files], dtype=np.int64)


def _take_name(path: Path, number: int, file: str, seen: dict[str, int]) -> None:
    """Refuse a name that leads out of the folder, or comes again."""
    if file in {"", ".", ".."} or "/" in file or "\\" in file or "\0" in file:
        raise ValueError(f"{path}: line {number}: found {file!r}, expected the name of a file")
    if seen.setdefault(file, number) != number:
        raise ValueError(f"{path}: line {number}: found {file}, which line {seen[file]} names already")


def _lines(path: Path, what: str) -> list[str]:
    """Of a text file, without empty ones at its end."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ValueError(f"{path}: missing, expected {what}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ValueError(f"{path}: cannot be read ({reason}), expected {what}") from None
    while lines and not lines[-1].strip():
        lines.pop()
    return lines
