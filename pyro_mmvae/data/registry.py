"""Data by name: a registry of loaders, and the one function that asks it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.missing import Missing

Loader = Callable[..., MultimodalDataset]
"""Called as `loader(split, cache=cache, **options)`; its keyword-only parameters besides `cache` are its options."""

PathLoader = Callable[..., MultimodalDataset]
"""Called as `loader(path, split, cache=cache, **options)`; options as for a `Loader`."""

_L = TypeVar("_L", bound=Loader)


@dataclass(frozen=True)
class _Entry:
    loader: Loader
    splits: tuple[str, ...]
    options: dict[str, inspect.Parameter]
    """Of the loader, then those that every source has."""

    @property
    def hints(self) -> dict[str, Any]:
        """Types of the options, as far as they are annotated with names that can be found."""
        try:
            return {**get_type_hints(self.loader), **get_type_hints(Missing)}
        except NameError:
            return get_type_hints(Missing)


_SHARED = dict(inspect.signature(Missing).parameters)


@dataclass(frozen=True)
class DataSource:
    """What `load_data` reads under a name or a path.

    Args:
        name: the name or path.
        format: name of the format of a path; None for a name.
        splits: names of the splits.
        options: names of the loader's options.
    """

    name: str
    format: str | None
    splits: tuple[str, ...]
    options: tuple[str, ...]


_ENTRIES: dict[str, _Entry] = {}
_FORMATS: dict[str, tuple[Callable[[Path], bool], _Entry]] = {}


def register_data(name: str, *, splits: Sequence[str] = ("train", "val", "test")) -> Callable[[_L], _L]:
    """Decorator that makes a loader known to `load_data`.

    Args:
        name: name of the data.
        splits: names of its splits.

    Returns:
        A decorator that registers the loader and returns it as it is.

    Raises:
        ValueError: if the name is taken.
    """

    def register(loader: _L) -> _L:
        if name in _ENTRIES:
            raise ValueError(f"data {name!r} is registered already, choose another name")
        _ENTRIES[name] = _Entry(loader, tuple(splits), _options(name, loader))
        return loader

    return register


def register_format(
    name: str,
    *,
    detect: Callable[[Path], bool],
    splits: Sequence[str] = ("train", "val", "test"),
    first: bool = False,
) -> Callable[[_L], _L]:
    """Decorator that makes a loader of files known to `load_data`, which is then given a path instead of a name.

    Args:
        name: of the format.
        detect: whether a path, which exists, is in this format. It looks at names, and opens nothing large.
        splits: names of the splits.
        first: whether it is tried before those that there are already, as a special case of one of them must be.

    Returns:
        A decorator that registers the loader, called as `loader(path, split, cache=cache, **options)`, and returns it
        as it is.

    Raises:
        ValueError: if the name is taken.
    """

    def register(loader: _L) -> _L:
        if name in _FORMATS:
            raise ValueError(f"data format {name!r} is registered already, choose another name")
        others = dict(_FORMATS)
        if first:
            _FORMATS.clear()
        _FORMATS[name] = (detect, _Entry(loader, tuple(splits), _options(name, loader)))
        _FORMATS.update(others)
        return loader

    return register


def format_names() -> tuple[str, ...]:
    """Names of the formats of files that `load_data` reads, in the order in which they are tried."""
    return tuple(_FORMATS)


def _options(name: str, loader: Loader) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(loader).parameters
    own = {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and n != "cache"}
    for option in own:
        if option in _SHARED or option == "name":
            raise ValueError(f"data {name!r}: the option {option!r} is taken, choose another name for it")
    return {**own, **_SHARED}


def _find(name: str) -> tuple[_Entry, tuple[Path, ...]]:
    """The entry of a name or of a path, and what its loader gets before the split."""
    if name in _ENTRIES:
        return _ENTRIES[name], ()
    path = Path(name).expanduser()
    if not path.exists():
        raise ValueError(
            f"unknown data {name!r}, expected a path or one of: {', '.join(data_names())} "
            "(add your own with pyro_mmvae.data.register_data)"
        )
    for detect, entry in _FORMATS.values():
        if detect(path):
            return entry, (path,)
    raise ValueError(f"{name}: in none of the known formats: {', '.join(_FORMATS)}")


def find_data(name: str) -> DataSource:
    """What `load_data` would read under a name or a path; nothing large is opened.

    Raises:
        ValueError: if the name or the format is unknown.
    """
    entry, _ = _find(name)
    formats = (known for known, (_, other) in _FORMATS.items() if other is entry)
    return DataSource(name, next(formats, None), entry.splits, tuple(entry.options))


def _check_known(name: str, entry: _Entry, options: Mapping[str, Any]) -> None:
    for option in options:
        if option not in entry.options:
            raise ValueError(f"unknown option {option!r} of {name!r}, expected one of: {', '.join(entry.options)}")


def resolve_options(name: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every option of a source: as given, converted to the annotated type, or else the loader's default.

    Args:
        name: as for `load_data`.
        options: by name. A string such as "3" or "1e-3" is converted where a number is wanted, a path made absolute.

    Returns:
        Keyword arguments for `load_data`, in the order of the loader's parameters.

    Raises:
        ValueError: if the name or an option is unknown, or a value is not of the option's type.
    """
    entry, _ = _find(name)
    options = options or {}
    _check_known(name, entry, options)
    hints, result = entry.hints, {}
    for option, parameter in entry.options.items():
        if option in options:
            result[option] = _convert(f"option {option!r} of {name!r}", options[option], hints.get(option, Any))
        elif parameter.default is parameter.empty:
            raise ValueError(f"option {option!r} of {name!r} is missing, and it has no default")
        else:
            result[option] = parameter.default
    return result


def _convert(what: str, value: Any, hint: Any) -> Any:
    try:
        if isinstance(value, bool) and not _mentions(hint, bool):
            raise ValueError
        result = TypeAdapter(hint).validate_python(value)
        # A path of a run's configuration must mean the same from every folder, and be as YAML gives it back.
        return str(result.expanduser().absolute()) if isinstance(result, Path) else result
    except PydanticSchemaGenerationError:  # a type that pydantic knows nothing of
        return value
    except (ValidationError, ValueError):
        expected = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
        expected = expected.replace("typing.", "").replace("collections.abc.", "").replace("NoneType", "None")
        raise ValueError(f"{what}: found {value!r}, expected {expected}") from None


def _mentions(hint: Any, kind: type) -> bool:
    return hint in {Any, kind} or any(_mentions(part, kind) for part in get_args(hint))


def data_names() -> tuple[str, ...]:
    """Names that `load_data` knows, sorted."""
    return tuple(sorted(_ENTRIES))


def load_data(
    name: str = "polymnist-mini", split: str = "train", *, cache: bool = True, **options: object
) -> MultimodalDataset:
    """Load one split of a data set. No other split's file is opened or built.

    Args:
        name: name of the data, one of `data_names()`, or the path of files in one of `format_names()`.
        split: name of the split.
        cache: keep what was built on disk, and read it from there the next time. The folder is the environment's
            `PYRO_MMVAE_CACHE`, else `pyro_mmvae` in `XDG_CACHE_HOME`, else `~/.cache/pyro_mmvae`.
        options: keyword arguments of the loader, and of `Missing`, which is applied on top of what the loader gives:
            `missing_rate`, `missing_by_label`, `missing_seed`, `missing_splits`, `allow_empty`.

    Returns:
        The split.

    Raises:
        ValueError: if the name, the format, the split or an option is unknown, or an option's value is not allowed.
        ImportError: if the data is made from packages that are not installed.

    Example:
        >>> data = load_data("polymnist-mini", "val", modalities=3, val_size=500)  # doctest: +SKIP
    """
    entry, where = _find(name)
    if split not in entry.splits:
        raise ValueError(f"unknown split {split!r} of {name!r}, expected one of: {', '.join(entry.splits)}")
    _check_known(name, entry, options)
    shared: dict[str, Any] = {option: value for option, value in options.items() if option in _SHARED}
    missing = Missing(**shared)
    own = {option: value for option, value in options.items() if option not in _SHARED}
    return missing.apply(entry.loader(*where, split, cache=cache, **own), entry.splits)
