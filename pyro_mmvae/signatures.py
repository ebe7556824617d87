"""The options that a callable takes, by its signature and docstring, and the error for one that it does not take."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, get_type_hints

_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Option:
    """An option of a callable.

    Attributes:
        name: The name of the option.
        default: Its default value; ``inspect.Parameter.empty`` if it has to be given.
        hint: Its annotation, ``Any`` if there is none.
        meaning: The description of the option in a docstring, in plain text; empty if there is none.
    """

    name: str
    default: Any
    hint: Any
    meaning: str


def find_options(function: Callable[..., Any], positional: int = 0) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the options of a callable, those included that a class hands on to its base classes.

    Args:
        function: A function, a class, or a partial of one.
        positional: The number of leading parameters that are not options, 0 by default.

    Returns:
        The parameters by name, and True if the callable takes keywords of any other name too.
    """
    parameters = list(inspect.signature(function).parameters.values())
    options = {p.name: p for p in parameters[positional:] if p.kind in _KEYWORD}
    is_open, owner = any(p.kind is p.VAR_KEYWORD for p in parameters), _owner(function)
    for base in _constructors(owner)[1:] if isinstance(owner, type) else ():
        if not is_open:
            break
        inherited = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        # A parameter without a default is one that the subclass itself passes on.
        optional = {p.name: p for p in inherited if p.kind in _KEYWORD and p.default is not p.empty}
        options = {**options, **{name: p for name, p in optional.items() if name not in options}}
        is_open = any(p.kind is p.VAR_KEYWORD for p in inherited)
    return options, is_open


def describe_options(function: Callable[..., Any], positional: int = 0) -> list[Option]:
    """Return the options of a callable with their annotations and descriptions.

    Args:
        function: A function, a class, or a partial of one, with docstrings in Google's style.
        positional: The number of leading parameters that are not options, 0 by default.
    """
    owner = _owner(function)
    documented = list(reversed(_constructors(owner))) if isinstance(owner, type) else [owner]
    hints: dict[str, Any] = {}
    meanings: dict[str, str] = {}
    for part in documented:
        meanings |= read_entries(part.__doc__ or "")
        with suppress(NameError, TypeError, AttributeError):  # an annotation that cannot be resolved is left out
            hints |= get_type_hints(vars(part)["__init__"] if isinstance(part, type) else part)
    options, _ = find_options(function, positional)
    return [Option(n, p.default, hints.get(n, Any), meanings.get(n, "")) for n, p in options.items()]


def _owner(function: Callable[..., Any]) -> Any:
    """Return the class or function of a partial."""
    return _owner(function.func) if isinstance(function, partial) else function


def _constructors(owner: type) -> list[type]:
    """Return the classes whose constructors run when an object of a class is made, the class itself first."""
    return [base for base in owner.__mro__ if "__init__" in vars(base) and base is not object]


def check_options(what: str, given: Collection[str], names: Collection[str]) -> None:
    """Check that all options that were given exist.

    Args:
        what: The owner of the options as messages name it, such as ``"aggregation 'wb'"``.
        given: The names of the options that were given.
        names: The names of the options that exist.

    Raises:
        ValueError: If one does not exist; the message lists those that do and suggests the closest one.

    Example:
        >>> check_options("aggregation 'tempered'", ["taus"], ["tau", "prior"])
        Traceback (most recent call last):
        ValueError: option of aggregation 'tempered' must be one of tau, prior, got 'taus'; did you mean 'tau'?
    """
    for option in given:
        if option not in names:
            close = difflib.get_close_matches(option, names, n=1, cutoff=0.7)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            if not names:
                raise ValueError(f"option {option!r} of {what} must be left out, since it does not have options")
            raise ValueError(f"option of {what} must be one of {', '.join(names)}, got {option!r}{hint}")


def check_arguments(what: str, function: Callable[..., Any], given: Collection[str], positional: int = 0) -> None:
    """Check that a part can be made from some options: that all of them exist, and that none is missing.

    Args:
        what: The part as messages name it, such as ``"penalty 'frechet'"``.
        function: The class of the part, or the function that makes it.
        given: The names of the options that were given.
        positional: The number of leading parameters that are not options, 0 by default.

    Raises:
        ValueError: If an option does not exist, or one without a default was not given.

    Example:
        >>> check_arguments("shape 'square'", lambda side: side, [])
        Traceback (most recent call last):
        ValueError: option 'side' of shape 'square' must be given, as it has no default, got none
    """
    options, is_open = find_options(function, positional)
    if not is_open:
        check_options(what, given, options)
    for name, parameter in options.items():
        if parameter.default is parameter.empty and name not in given:
            raise ValueError(f"option {name!r} of {what} must be given, as it has no default, got none")


def summary_line(part: Any, name: str) -> str:
    """Return the first line of the docstring of a part in plain text, or its name if it does not have one.

    Args:
        part: The class or function of the part.
        name: The name under which it is registered.
    """
    return plain_text(inspect.getdoc(part) or name).split("\n")[0]


def read_entries(docstring: str) -> dict[str, str]:
    """Return the entries of the sections Args and Attributes of a docstring in plain text, by name.

    Args:
        docstring: A docstring in Google's style.

    Example:
        >>> read_entries('''Return a thing.
        ...
        ...     Args:
        ...         size: The size, see :class:`~package.module.Size`,
        ...             such as ``"small"``.
        ... ''')
        {'size': 'The size, see Size, such as "small".'}
    """
    entries: dict[str, list[str]] = {}
    is_inside, indent, name = False, None, ""
    for line in inspect.cleandoc(docstring).splitlines():
        depth = len(line) - len(line.lstrip())
        if line.strip() and not depth:
            is_inside, indent = line.strip() in {"Args:", "Attributes:"}, None
        elif is_inside and line.strip():
            indent = depth if indent is None else indent
            match = re.match(r"(\w+): (.*)", line.strip()) if depth == indent else None
            if match:
                name = match.group(1)
                entries[name] = [match.group(2)]
            elif depth > indent and name:
                entries[name].append(line.strip())
            else:
                name = ""
    return {name: plain_text(" ".join(lines)) for name, lines in entries.items()}


def plain_text(text: str) -> str:
    """Return the text of a docstring without the marks of reStructuredText.

    Args:
        text: The text, in which a role such as ``:class:`~package.Name``` becomes the last name of its target.
    """
    text = re.sub(r":mod:`~?([\w.]+)`", r"\1", text)
    text = re.sub(r":\w+:`~?([\w.]+)`", lambda match: match.group(1).split(".")[-1], text)
    return text.replace("``", "").replace("`", "")
