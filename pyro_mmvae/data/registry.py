"""Data sets by name or path: the tables of loaders and formats, and the function that reads from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from pyro_mmvae._bounded import refuse_special_files
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.missing import Missing
from pyro_mmvae.data.options import check_split
from pyro_mmvae.data.storage.patterns import matching_paths
from pyro_mmvae.registry import Registry
from pyro_mmvae.signatures import Option, check_options, describe_options

Loader = Callable[..., MultimodalDataset]
"""A function called as `loader(split, cache=cache, **options)`; its keyword-only parameters, except `cache`, are its
options."""

PathLoader = Callable[..., MultimodalDataset]
"""A function called as `loader(path, split, cache=cache, **options)`, with options as for a `Loader`."""

Sources: TypeAlias = Callable[[MultimodalDataset], dict[str, NDArray[np.int64]]]
"""A function from a split to codes `(item,)` of the observation behind each item, by modality."""

_L = TypeVar("_L", bound=Loader)

_SHARED_OPTIONS = dict(inspect.signature(Missing).parameters)


@dataclass(frozen=True)
class RegisteredLoader:
    """A loader, with what its registration says about it.

    Args:
        loader: The loader, called with a split or, for a format, with a path and a split.
        splits: Names of the splits that it can load.
        options: Its options by name, followed by those that every source has.
        detect: Predicate that returns True for a path in the loader's format; None for a loader of named data.
        loads_all: If True, the loader returns the items of all splits, in the order of the file, for the split None.
        sources: Function from a split to the codes of the observations behind its items; None if items share nothing.
    """

    loader: Loader
    splits: tuple[str, ...]
    options: dict[str, inspect.Parameter]
    detect: Callable[[Path], bool] | None = None
    loads_all: bool = False
    sources: Sources | None = None

    @property
    def hints(self) -> dict[str, Any]:
        """Types of the options, without the loader's own if their annotations cannot be resolved."""
        try:
            return {**get_type_hints(self.loader), **get_type_hints(Missing)}
        except NameError:
            return get_type_hints(Missing)

    @property
    def validated_hints(self) -> dict[str, Any]:
        """Types of the options with the validators that annotations hold."""
        try:
            return {**self.hints, **get_type_hints(self.loader, include_extras=True)}
        except NameError:
            return self.hints


class _Match(NamedTuple):
    """The loader of a name or path, with the format and the path if it is a path."""

    loader: RegisteredLoader
    format: str | None = None
    path: Path | None = None


DATA_SETS: Registry[RegisteredLoader] = Registry(
    "data set", "A path to existing files works too, and pyro_mmvae.data.register_data adds a custom data set."
)
FORMATS: Registry[RegisteredLoader] = Registry("data format")


@dataclass(frozen=True)
class DataSource:
    """A description of the data behind a name or path.

    Args:
        name: The name or path, as passed to :func:`load_data`.
        format: Name of the format of a path; None for a name.
        splits: Names of the splits that can be loaded.
        options: Names of the loader's options.
        loads_all: If True, the split ``"all"`` holds every item in the order of the file.
    """

    name: str
    format: str | None
    splits: tuple[str, ...]
    options: tuple[str, ...]
    loads_all: bool = False


def register_data(
    name: str, *, splits: Sequence[str] = ("train", "val", "test"), sources: Sources | None = None
) -> Callable[[_L], _L]:
    """Return a decorator that registers a loader under a name for :func:`load_data`.

    Args:
        name: Name of the data, not taken yet.
        splits: Names of the splits that the loader can load.
        sources: Function from a loaded split to codes `(item,)` by modality, equal for items that are made of one
            observation, such as a digit image on two backgrounds; modalities without such items are left out. None by
            default, for items that are independent.

    Returns:
        A decorator that registers the loader and returns it unchanged.

    Raises:
        ValueError: If the name is taken, or one of the loader's options has the name of an option of every source.
    """

    def register(loader: _L) -> _L:
        options = _read_options(name, loader)
        DATA_SETS.register(name, RegisteredLoader(loader, tuple(splits), options, sources=sources))
        return loader

    return register


def register_format(
    name: str,
    *,
    detect: Callable[[Path], bool],
    splits: Sequence[str] = ("train", "val", "test"),
    first: bool = False,
    loads_all: bool = False,
) -> Callable[[_L], _L]:
    """Return a decorator that registers a loader of files, which :func:`load_data` calls with a path.

    Args:
        name: Name of the format, not taken yet.
        detect: Predicate that returns True if an existing path is in this format. It should look at names only and
            open no large file.
        splits: Names of the splits that the loader can load.
        first: If True, the format is tried before all formats registered so far, as a special case of one of them
            must be.
        loads_all: If True, the loader takes the split None for the items of all splits, in the order of the file;
            False by default.

    Returns:
        A decorator that registers the loader, called as `loader(path, split, cache=cache, **options)`, and returns it
        unchanged.

    Raises:
        ValueError: If the name is taken, or one of the loader's options has the name of an option of every source.
    """

    def register(loader: _L) -> _L:
        earlier = FORMATS.snapshot()
        FORMATS.register(name, RegisteredLoader(loader, tuple(splits), _read_options(name, loader), detect, loads_all))
        if first:
            FORMATS.restore({name: FORMATS[name], **earlier})
        return loader

    return register


def data_names() -> tuple[str, ...]:
    """Return the names of the registered data sets, sorted."""
    return tuple(sorted(DATA_SETS))


def shared_observations(data: MultimodalDataset) -> dict[str, NDArray[np.int64]]:
    """Return which items are known to be made of one observation, by the registration of their data set.

    Args:
        data: A split as it was loaded, without a selection of items.

    Returns:
        Codes `(item,)` by modality, equal for items that are made of one observation; empty if nothing is known.
    """
    sources = DATA_SETS[data.name].sources if data.name in DATA_SETS else None
    return sources(data) if sources is not None else {}


def format_names() -> tuple[str, ...]:
    """Return the names of the registered formats of files, in the order in which they are tried."""
    return tuple(FORMATS)


def _read_options(name: str, loader: Loader) -> dict[str, inspect.Parameter]:
    """Return the options of a loader and those of every source, and check that no name is in both."""
    parameters = inspect.signature(loader).parameters
    options = {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and n != "cache"}
    for option in options:
        if option in _SHARED_OPTIONS or option == "name":
            raise ValueError(
                f"data {name!r}: the name of an option must be none of name, {', '.join(_SHARED_OPTIONS)}, got "
                f"{option!r}: rename this keyword-only parameter of the loader"
            )
    return {**options, **_SHARED_OPTIONS}


def _lookup_source(name: str) -> _Match:
    """Return the loader of a name, or of a path in one of the known formats."""
    if name in DATA_SETS:
        return _Match(DATA_SETS[name])
    path = Path(name).expanduser()
    # A pattern such as shards-{0000..0099}.tar stands for several files, which the loader looks for.
    if not matching_paths(path)[0].exists():
        if path.suffix or len(path.parts) > 1:  # not meant as a name
            raise ValueError(
                f"{name!r} must be an existing file or folder, or the name of a data set, got neither: check the path; "
                f"the names are {', '.join(sorted(DATA_SETS))}"
            )
        raise ValueError(DATA_SETS.unknown(name))
    for format_name, entry in FORMATS.items():
        if entry.detect is not None and entry.detect(path):
            return _Match(entry, format_name, path)
    raise ValueError(
        f"{name}: the files must be in one of the formats {', '.join(FORMATS)}, got none of them: see the manual for "
        "what each holds, or add a format with pyro_mmvae.data.register_format"
    )


def find_data(name: str) -> DataSource:
    """Describe what :func:`load_data` would read under a name or path, without opening large files.

    Args:
        name: Name of the data or path of its files.

    Raises:
        ValueError: If the name or the format is unknown.
    """
    match = _lookup_source(name)
    loader = match.loader
    return DataSource(name, match.format, loader.splits, tuple(loader.options), loader.loads_all)


def data_options(name: str) -> tuple[Option, ...]:
    """Return the options of a source of data.

    Args:
        name: Name of the data or path of its files.

    Returns:
        The options of its loader, and those of every source, with their defaults, annotations and descriptions.

    Raises:
        ValueError: If the name or the format is unknown.
    """
    entry = _lookup_source(name).loader
    options = [*describe_options(entry.loader), *describe_options(Missing)]
    return tuple(option for option in options if option.name in entry.options)


def resolve_options(name: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the value of every option of a source: the user's, converted to the annotated type, or the default.

    Args:
        name: Name of the data or path of its files.
        options: Values by name of the option. A string such as "3" or "1e-3" is converted where a number is expected,
            and a path is made absolute.

    Returns:
        Keyword arguments for :func:`load_data`, in the order of the loader's parameters.

    Raises:
        ValueError: If the name or an option is unknown, an option without default is missing, or a value is not of the
            option's type.
    """
    entry = _lookup_source(name).loader
    options = options or {}
    _check_option_names(name, entry, options)
    hints, validated, resolved = entry.hints, entry.validated_hints, dict[str, Any]()
    for option, parameter in entry.options.items():
        if option in options:
            what, hint = f"option {option!r} of {name!r}", hints.get(option, Any)
            resolved[option] = _convert(what, options[option], hint, validated.get(option, hint))
        elif parameter.default is parameter.empty:
            raise ValueError(f"option {option!r} of {name!r} must be given, as it has no default, got none")
        else:
            resolved[option] = parameter.default
    return resolved


def _check_option_names(name: str, entry: RegisteredLoader, options: Mapping[str, Any]) -> None:
    check_options(repr(name), options, entry.options)


def _convert(what: str, value: Any, hint: Any, validated: Any) -> Any:
    """Convert a value to an annotated type, or raise a ValueError that begins with ``what``."""
    try:
        # Pydantic would take True for 1, which hides a mistake.
        if isinstance(value, bool) and not _allows_type(hint, bool):
            raise ValueError
        converted = TypeAdapter(validated).validate_python(value)
        # A path in the configuration of a run must mean the same from every folder, and be as YAML gives it back.
        return str(converted.expanduser().absolute()) if isinstance(converted, Path) else converted
    except PydanticSchemaGenerationError:  # a type without validation in pydantic
        return value
    except (ValidationError, ValueError):
        expected = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
        expected = expected.replace("typing.", "").replace("collections.abc.", "").replace("NoneType", "None")
        raise ValueError(f"{what} must be of type {expected}, got {value!r}") from None


def _allows_type(hint: Any, allowed: type) -> bool:
    """Return True if a type hint is a type or Any, or mentions one of them in a union or container."""
    return hint in {Any, allowed} or any(_allows_type(part, allowed) for part in get_args(hint))


def _paths_in(values: Iterable[object]) -> Iterator[Path]:
    """Yield the paths that options hold, which :func:`resolve_options` has made absolute."""
    for value in values:
        if isinstance(value, str):
            with suppress(OSError, ValueError):  # a text that cannot be a path
                if Path(value).is_absolute() and Path(value).exists():
                    yield Path(value)
        elif isinstance(value, (list, tuple)):
            yield from _paths_in(value)


def load_data(
    name: str = "polymnist-mini", split: str = "train", *, cache: bool = True, **options: object
) -> MultimodalDataset:
    """Load one split of a data set. Files of other splits are neither opened nor built.

    Args:
        name: Name of the data, one of :func:`data_names`, or path of files in one of :func:`format_names`.
        split: Name of the split, ``"train"`` by default; ``"all"`` for every item of a file of the user, in its order.
        cache: If True, data that was built is kept on disk and read from there the next time. The folder is the
            environment variable `PYRO_MMVAE_CACHE`, else `pyro_mmvae` in the platform's folder of caches, such as
            `~/.cache`.
        options: Keyword arguments of the loader, and those of :class:`Missing`, which is applied to what the loader
            returns: `missing_rate`, `missing_by_label`, `missing_seed`, `missing_splits`, `allow_empty`.

    Returns:
        The items of the split.

    Raises:
        ValueError: If the name, the format, the split or an option is unknown, or the value of an option is not
            allowed.
        ImportError: If the data is made from packages that are not installed.

    Example:
        >>> data = load_data("polymnist-mini", "val", modalities=3, val_size=500)  # doctest: +SKIP
    """
    entry, _, path = _lookup_source(name)
    every = split == "all" and entry.loads_all
    check_split(name, split, entry.splits + ("all",) * entry.loads_all)
    _check_option_names(name, entry, options)
    shared: dict[str, Any] = {option: value for option, value in options.items() if option in _SHARED_OPTIONS}
    missing = Missing(**shared)
    loader_options = {option: value for option, value in options.items() if option not in _SHARED_OPTIONS}
    location = () if path is None else (path,)
    places = [place for pattern in location for place in matching_paths(pattern) if place.exists()]
    for place in [*places, *_paths_in(loader_options.values())]:
        refuse_special_files(place)
    data = entry.loader(*location, None if every else split, cache=cache, **loader_options)
    return missing.apply(replace(data, split="all") if every else data, (*entry.splits, *["all"] * every))
