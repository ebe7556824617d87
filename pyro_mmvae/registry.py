"""A table of named parts that users extend: aggregations, likelihoods, networks, objectives, data sets, statistics."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

Part = TypeVar("Part")


class Registry(Mapping[str, Part], Generic[Part]):
    """A mapping from names to parts of one kind, whose errors say which names exist.

    Args:
        kind: The noun that messages use, such as ``"likelihood"``.
        hint: A sentence on how users register their own part, appended to the error for an unknown name.

    Example:
        >>> shapes = Registry("shape")
        >>> shapes.register("square", 4)
        >>> shapes.lookup("sqare")
        Traceback (most recent call last):
        ValueError: unknown shape 'sqare', did you mean 'square'? Available: square
    """

    def __init__(self, kind: str, hint: str = "") -> None:
        self.kind, self.hint = kind, hint
        self._parts: dict[str, Part] = {}
        self._built_in: set[str] = set()

    def register(self, name: str, part: Part, *, built_in: bool = False) -> None:
        """Add a part under a new name.

        Args:
            name: The name, not taken yet.
            part: The part to register.
            built_in: Whether the part belongs to the package, so that :meth:`unregister` refuses to remove it.

        Raises:
            ValueError: If the name is taken or is not a non-empty string.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(f"the name of the {self.kind} must be a non-empty string, got {name!r}")
        if name in self._parts:
            raise ValueError(f"{self.kind} {name!r} is already registered")
        self._parts[name] = part
        if built_in:
            self._built_in.add(name)

    def unregister(self, name: str) -> None:
        """Remove a user's part.

        Raises:
            ValueError: If the name is unknown or belongs to the package.
        """
        self.lookup(name)
        if name in self._built_in:
            raise ValueError(f"{self.kind} {name!r} is built in and cannot be removed")
        del self._parts[name]

    def lookup(self, name: str) -> Part:
        """Return the part of a name.

        Raises:
            ValueError: If the name is unknown; the message lists the names that exist and suggests the closest one.
        """
        try:
            return self._parts[name]
        except (KeyError, TypeError):
            raise ValueError(self.unknown(name)) from None

    def unknown(self, name: object) -> str:
        """Return the error message for an unknown name."""
        close = difflib.get_close_matches(str(name), self._parts, n=1)
        suggestion = f", did you mean {close[0]!r}?" if close else "."
        hint = f". {self.hint}" if self.hint else ""
        return f"unknown {self.kind} {name!r}{suggestion} Available: {', '.join(self._parts)}{hint}"

    def snapshot(self) -> dict[str, Part]:
        """Return a copy of the table, to be put back with :meth:`restore`."""
        return dict(self._parts)

    def restore(self, parts: Mapping[str, Part]) -> None:
        """Replace the table by an earlier :meth:`snapshot`."""
        self._parts = dict(parts)

    def __getitem__(self, name: str) -> Part:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)
