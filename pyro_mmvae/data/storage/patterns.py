"""Paths with braces, such as ``shards-{0000..0099}.tar``, which stand for several files."""

from __future__ import annotations

import re
from pathlib import Path

_MAX_PATHS = 1_000_000
_RANGE = re.compile(r"(\d{1,12})\.\.(\d{1,12})", re.ASCII)


def expand_braces(pattern: str) -> list[str]:
    """Return the texts that a pattern stands for, in order, as a shell expands it.

    Args:
        pattern: A text with any number of ranges ``{0000..0099}``, whose zeros at the front are kept, and of lists
            ``{a,b}``, which are not nested. Braces around anything else are kept.

    Raises:
        ValueError: If a range is backwards, or there are more than a million texts.

    Example:
        >>> expand_braces("{a,b}-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    texts = [""]
    for part in re.split(r"(\{[^{}]*\})", pattern):
        choices = _choices(pattern, part)
        if len(texts) * len(choices) > _MAX_PATHS:
            raise ValueError(f"{pattern}: must stand for at most {_MAX_PATHS:,} paths, got more")
        texts = [text + choice for text in texts for choice in choices]
    return texts


def _choices(pattern: str, part: str) -> list[str]:
    if not (part.startswith("{") and part.endswith("}")):
        return [part]
    match = _RANGE.fullmatch(part[1:-1])
    if match is None:
        return part[1:-1].split(",") if "," in part else [part]
    first, last = int(match[1]), int(match[2])
    if last < first or last - first >= _MAX_PATHS:
        raise ValueError(f"{pattern}: a range must run upwards over at most {_MAX_PATHS:,} numbers, got {part}")
    width = len(match[1]) if match[1].startswith("0") else 0
    return [str(number).zfill(width) for number in range(first, last + 1)]


def matching_paths(path: Path) -> list[Path]:
    """Return the paths that a path with braces stands for; the path alone if it exists or does not have braces.

    Args:
        path: The path, such as ``shards-{0000..0099}.tar``.

    Raises:
        ValueError: If the pattern is not valid.
    """
    if "{" not in path.as_posix() or path.exists():
        return [path]
    return [Path(text) for text in expand_braces(str(path))]
