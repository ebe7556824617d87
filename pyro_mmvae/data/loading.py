"""Data by name: a registry of loaders, and the one function that asks it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pyro_mmvae.data.dataset import MultimodalDataset

Loader = Callable[..., MultimodalDataset]
"""Called as `loader(split, cache=cache, **options)`; its keyword-only parameters besides `cache` are its options."""

PathLoader = Callable[..., MultimodalDataset]
"""Called as `loader(path, split, cache=cache, **options)`; options as for a `Loader`."""

_L = TypeVar("_L", bound=Loader)


@dataclass(frozen=True)
class _Entry:
    loader: Loader
    splits: tuple[str, ...]
    options: tuple[str, ...]


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
        _ENTRIES[name] = _Entry(loader, tuple(splits), _options(loader))
        return loader

    return register


def register_format(
    name: str, *, detect: Callable[[Path], bool], splits: Sequence[str] = ("train", "val", "test")
) -> Callable[[_L], _L]:
    """Decorator that makes a loader of files known to `load_data`, which is then given a path instead of a name.

    Args:
        name: of the format.
        detect: whether a path, which exists, is in this format. It looks at names, and opens nothing large.
        splits: names of the splits.

    Returns:
        A decorator that registers the loader, called as `loader(path, split, cache=cache, **options)`, and returns it
        as it is.

    Raises:
        ValueError: if the name is taken.
    """

    def register(loader: _L) -> _L:
        if name in _FORMATS:
            raise ValueError(f"data format {name!r} is registered already, choose another name")
        _FORMATS[name] = (detect, _Entry(loader, tuple(splits), _options(loader)))
        return loader

    return register


def format_names() -> tuple[str, ...]:
    """Names of the formats of files that `load_data` reads, in the order in which they are tried."""
    return tuple(_FORMATS)


def _options(loader: Loader) -> tuple[str, ...]:
    parameters = inspect.signature(loader).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "cache")


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
        options: keyword arguments of the loader.

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
    unknown = [option for option in options if option not in entry.options]
    if unknown:
        allowed = ", ".join(entry.options) or "none"
        raise ValueError(f"unknown option {unknown[0]!r} of {name!r}, expected one of: {allowed}")
    return entry.loader(*where, split, cache=cache, **options)
