"""CelebA's list files: the attributes of its images and the official partition into splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ATTRIBUTES, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"

_ATTRIBUTE_VALUES = {"1": True, "-1": False}
_PARTITION_VALUES = {"0": 0, "1": 1, "2": 2}


@dataclass(frozen=True, eq=False)
class Lists:
    """The content of both list files, in the order of the list of attributes.

    Attributes:
        files: Name of each image's file.
        attribute_names: Names of the attributes, in the order of the file's columns.
        attributes: True for the attributes that an image shows, `(item, attribute)`.
        partition: 0 for train, 1 for val, 2 for test, `(item,)`.
    """

    files: tuple[str, ...]
    attribute_names: tuple[str, ...]
    attributes: NDArray[np.bool_]
    partition: NDArray[np.int64]

    def texts(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the text of some images: the names of their attributes, joined by a comma and a space.

        Names are in lower case, with underscores replaced by spaces.

        Args:
            rows: Indices of the images, `(row,)`.
        """
        names = np.array([name.lower().replace("_", " ") for name in self.attribute_names])
        return [", ".join(names[shown]) for shown in self.attributes[rows]]


def read_lists(folder: Path) -> Lists:
    """Read the list of attributes and the official partition.

    Args:
        folder: Path of the folder that holds both files.

    Raises:
        ValueError: If a file is missing or malformed; the message names file and line.
    """
    files, names, attributes = _read_attributes(folder / ATTRIBUTES)
    return Lists(files, names, attributes, _read_partition(folder / PARTITION, files))


def _read_attributes(path: Path) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.bool_]]:
    """Read the names of the files, the names of the attributes, and the attributes of each file."""
    lines = _read_lines(path, "CelebA's list of attributes")
    names, rows = _read_header(path, lines), lines[2:]
    files: dict[str, int] = {}
    attributes = []
    for number, line in enumerate(rows, 3):
        file, *values = line.split() or [""]
        if len(values) != len(names):
            raise ValueError(
                f"{path}: line {number}: must be an image's name and {len(names)} values, got {len(values)} values"
            )
        _check_name(path, number, file, files)
        try:
            attributes.append([_ATTRIBUTE_VALUES[value] for value in values])
        except KeyError as error:
            column = names[values.index(error.args[0])]
            raise ValueError(
                f"{path}: line {number}: {column} of {file} must be 1 or -1, got {error.args[0]!r}"
            ) from None
    return tuple(files), names, np.array(attributes, dtype=bool)


def _read_header(path: Path, lines: list[str]) -> tuple[str, ...]:
    """Check the first two lines of the list of attributes, and return the names of the attributes."""
    if len(lines) < 2 or not lines[0].strip().isdecimal():
        received = repr(lines[0][:40]) if lines else "an empty file"
        raise ValueError(
            f"{path}: line 1: must be the number of images, followed by the names of attributes in line 2, got "
            f"{received}"
        )
    names, num_rows = tuple(lines[1].split()), len(lines) - 2
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"{path}: line 2: names of attributes must be distinct and at least one, got {len(names)} names of which "
            f"{len(set(names))} are distinct"
        )
    if int(lines[0]) != num_rows:
        raise ValueError(
            f"{path}: line 1: number of images must be {num_rows}, the number of lines below line 2, got "
            f"{int(lines[0])}"
        )
    if not num_rows:
        raise ValueError(f"{path}: line 1: number of images must be at least 1, got 0")
    return names


def _read_partition(path: Path, files: tuple[str, ...]) -> NDArray[np.int64]:
    """Read the part of each file, in the order of ``files``."""
    lines = _read_lines(path, "CelebA's official partition")
    listed, first_lines, parts = set(files), dict[str, int](), dict[str, int]()
    for number, line in enumerate(lines, 1):
        words = line.split()
        if len(words) != 2 or words[1] not in _PARTITION_VALUES:
            raise ValueError(f"{path}: line {number}: must be an image's name and 0, 1 or 2, got {line[:60]!r}")
        _check_name(path, number, words[0], first_lines)
        if words[0] not in listed:
            raise ValueError(f"{path}: line {number}: image must be one that {ATTRIBUTES} lists, got {words[0]}")
        parts[words[0]] = _PARTITION_VALUES[words[1]]
    for number, file in enumerate(files, 3):
        if file not in parts:
            raise ValueError(
                f"{path}: must have a line for {file}, which line {number} of {ATTRIBUTES} lists, got none in "
                f"{len(lines)} lines"
            )
    return np.array([parts[file] for file in files], dtype=np.int64)


def _check_name(path: Path, number: int, file: str, first_lines: dict[str, int]) -> None:
    """Check that a name does not lead out of the folder or occur twice, and record its line in ``first_lines``."""
    if file in {"", ".", ".."} or "/" in file or "\\" in file or "\0" in file:
        raise ValueError(f"{path}: line {number}: must begin with the name of a file, got {file!r}")
    if first_lines.setdefault(file, number) != number:
        raise ValueError(
            f"{path}: line {number}: images must be listed once, got {file} again, after line {first_lines[file]}"
        )


def _read_lines(path: Path, content: str) -> list[str]:
    """Return the lines of a text file, without empty ones at its end."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ValueError(f"{path}: must be {content}, got no file of this name") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ValueError(f"{path}: must be {content}, got a file that cannot be read ({reason})") from None
    while lines and not lines[-1].strip():
        lines.pop()
    return lines
