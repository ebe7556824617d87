"""Readers of text, JSON and YAML that may come from anyone: bounded in size, depth and time, and of real files only."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 64 << 20
"""The largest size of a text file; a record of the data of a large run has a few megabytes."""

MAX_DEPTH = 64
"""The largest number of lists and mappings around a value."""

MAX_VALUES = 200_000
"""The largest number of values in YAML, where those behind an anchor count every time that they are repeated."""

_SHORT, _FEW = 50_000, 500  # characters and brackets up to which the parser in Python, whose marks are right, is fast

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISLNK, "a symbolic link"),
)


class TextError(ValueError):
    """An error in a text of JSON or YAML; the message is one line that does not name the file.

    Attributes:
        where: The place in the text, such as ``", line 3"``, to be appended to the name of the file; may be empty.
    """

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.where = "" if line is None else f", line {line}"


def kind_of(mode: int) -> str:
    """Return the kind of a file in words.

    Args:
        mode: The mode of the file, as :func:`os.stat` returns it.
    """
    return next((words for test, words in _KINDS if test(mode)), "a file of another kind")


def check_regular(path: Path) -> None:
    """Check that a path is a regular file or a link to one, so that reading it cannot wait for ever.

    Args:
        path: The path of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it is a folder, a FIFO, a socket or a device.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"must be a regular file, got {kind_of(mode)}", str(path))


def refuse_special_files(path: Path) -> None:
    """Check that a path holds regular files and folders only, so that no reader of data waits for a FIFO or a device.

    Args:
        path: The path of a file, or of a folder, which is searched without following links to folders.

    Raises:
        ValueError: If there is another kind of file; the message names it.
    """
    if not path.is_dir():
        _refuse_special(path, path.stat().st_mode)
        return
    for entry in _entries(path):
        # The kinds come with the listing of the folder, so that large folders cost no further calls.
        if not entry.is_file(follow_symlinks=False) and not entry.is_dir(follow_symlinks=False):
            try:
                _refuse_special(Path(entry.path), entry.stat().st_mode)
            except OSError:  # a link without a target, which the reader reports if it needs the file
                continue


def refuse_links(folder: Path) -> None:
    """Check that a folder holds no symbolic links, which could lead out of it.

    Args:
        folder: The path of the folder; nothing is checked if there is none.

    Raises:
        ValueError: If there is a link; the message names it.
    """
    for entry in _entries(folder) if folder.is_dir() else ():
        if entry.is_symlink():
            raise ValueError(f"{entry.path} must be a file or folder of its own, got a symbolic link: replace it")


def _refuse_special(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"{path}: data must be regular files and folders, got {kind_of(mode)}")


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    waiting = [str(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def read_text(path: Path, limit: int = MAX_BYTES, errors: str = "strict") -> str:
    """Read a UTF-8 text file.

    Args:
        path: The path of the file.
        limit: The largest size in bytes, 64 MiB by default.
        errors: The treatment of bytes that are not UTF-8, as :func:`open` takes it; by default they are an error.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the file cannot be read, is not a regular file, or is larger than the limit.
        UnicodeDecodeError: If it is not UTF-8.
    """
    check_regular(path)
    size = path.stat().st_size
    if size > limit:
        raise OSError(errno.EFBIG, f"must be a text file of at most {limit:,} bytes, got {size:,}", str(path))
    return path.read_text(encoding="utf-8", errors=errors)


def load_json(text: str) -> Any:
    """Return the value of a text of JSON.

    Args:
        text: The text in JSON, of any length.

    Raises:
        json.JSONDecodeError: If it is not JSON, holds a number of thousands of digits, or is nested too deeply.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise json.JSONDecodeError(reason, text[:100], 0) from None
    if _depth_exceeds(value, MAX_DEPTH):
        raise json.JSONDecodeError(f"nested deeper than {MAX_DEPTH} levels", text[:100], 0)
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The path of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the file cannot be read.
        ValueError: If it is not UTF-8 text, not JSON, nested too deeply, or not an object; the message names the file.
    """
    try:
        value = load_json(read_text(path))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: must be UTF-8 text, got other bytes") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: must be JSON, got an error: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold an object of JSON, got {type(value).__name__}")
    return value


def load_yaml(text: str) -> Any:
    """Return the value of a text of YAML, of plain types only.

    Args:
        text: The text in YAML, of any length.

    Raises:
        TextError: If it is not valid YAML, or nested deeper or larger than this module allows.
    """
    fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    is_simple = len(text) <= _SHORT and text.count("[") + text.count("{") <= _FEW
    loader = yaml.SafeLoader if is_simple else fast
    try:
        _check_yaml(text, loader)
        return yaml.load(text, Loader=loader)  # noqa: S506  (a safe loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        # The parser in C has a limit of its own, which it may reach before the first of the brackets is an event.
        is_deep = "nesting depth" in str(getattr(error, "problem", ""))
        reason = f"nested deeper than {MAX_DEPTH} levels" if is_deep else "not valid YAML"
        raise TextError(reason, None if mark is None else mark.line + 1) from None
    except TextError:
        raise
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError, MemoryError) as error:
        # A date such as 2020-13-01 has a reason in words; those of other types are words of Python.
        words = " ".join(str(error).split())[:100]
        is_plain = type(error) is ValueError and not words.startswith(("invalid literal", "could not convert"))
        raise TextError(f"not a valid value of YAML ({words})" if is_plain else "not a valid value of YAML") from None


def _check_yaml(text: str, loader: Any) -> None:
    """Check depth and size of a text before its values are made, from which repeated anchors multiply."""
    counts, names, sizes, total = list[int](), list[str | None](), dict[str, int](), 0
    for event in yaml.parse(text, Loader=loader):
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.CollectionStartEvent):
            if len(counts) >= MAX_DEPTH:
                raise TextError(f"nested deeper than {MAX_DEPTH} levels", line)
            counts.append(1)
            names.append(event.anchor)
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            size, anchor = counts.pop(), names.pop()
        elif isinstance(event, yaml.AliasEvent):
            target = str(event.anchor)
            if target in names:
                raise TextError(f"the anchor {target[:40]!r} must not contain itself", line)
            size, anchor = sizes.get(target, 1), None
        elif isinstance(event, yaml.ScalarEvent):
            size, anchor = 1, event.anchor
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        if counts:
            counts[-1] += size
        total = counts[-1] if counts else size
        if total > MAX_VALUES:
            raise TextError(f"more than {MAX_VALUES:,} values, with those that anchors repeat", line)


def _depth_exceeds(value: Any, limit: int) -> bool:
    """Return True if lists and mappings are nested deeper than a limit."""
    level = [value]
    for _ in range(limit + 1):
        level = [
            item for part in level if isinstance(part, (dict, list))
            for item in (part.values() if isinstance(part, dict) else part) if isinstance(item, (dict, list))
        ]  # fmt: skip
        if not level:
            return False
    return True
