"""Tables with a row per item: columns of numbers, texts, and paths of image files."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pyro_mmvae._bounded import load_yaml, read_text
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.own.assemble import assemble
from pyro_mmvae.data.own.covariates import column_names
from pyro_mmvae.data.own.folder import as_value_error
from pyro_mmvae.data.own.meta import Meta, make_meta
from pyro_mmvae.data.own.roles import Roles
from pyro_mmvae.data.own.table import TableReader
from pyro_mmvae.data.registry import register_format
from pyro_mmvae.data.tokenizer import TokenizerOption

_SUFFIXES = {".csv": ",", ".tsv": "\t", ".parquet": ""}
_STEM = "manifest"

Columns = Mapping[str, str | tuple[str, ...]]
ImageSize = int | tuple[int, int] | Mapping[str, int | tuple[int, int]]

_ROLES: dict[str, tuple[Any, str]] = {
    "columns": (Columns, "a mapping from modality names to a column or a list of columns"),
    "ids": (str, "the name of a column"),
    "labels": (str | tuple[str, ...], "the name of a column, or a list of names"),
    "split_by": (str, "the name of a column"),
    "covariates": (str | tuple[str, ...], "the name of a column, or a list of names"),
    "image_size": (ImageSize, "a size, a list of height and width, or a mapping from modality names to these"),
}
"""Type of each key of the YAML file beside a table, and the type in words."""


def _find_manifest(path: Path) -> Path | None:
    """Return the table that a path is or, if it is a folder, holds; None if there is none."""
    if path.is_dir():
        return next((file for suffix in _SUFFIXES if (file := path / f"{_STEM}{suffix}").is_file()), None)
    return path if path.is_file() and path.suffix in _SUFFIXES else None


@register_format("manifest", detect=lambda path: _find_manifest(path) is not None, first=True, loads_all=True)
def load_manifest(
    path: Path,
    split: str | None,
    *,
    cache: bool = True,
    columns: Columns | None = None,
    ids: str | None = None,
    labels: str | tuple[str, ...] | None = None,
    split_by: str | None = None,
    covariates: str | tuple[str, ...] | None = None,
    image_size: ImageSize | None = None,
    in_memory: bool = False,
    kinds: Mapping[str, str] | None = None,
    missing_nan: bool | None = None,
    allow_constant: bool | None = None,
    allow_missing_columns: bool = False,
    split_seed: int = 0,
    tokenizer: TokenizerOption = None,
) -> MultimodalDataset:
    """Load one split of a table ``.csv``, ``.tsv`` or ``.parquet`` with a row per item.

    Columns of numbers are vectors, columns of paths of image files, relative to the table, are images, and other
    columns are text. An empty cell means that the item lacks the modality. ``NAME.yaml`` beside ``NAME.csv`` describes
    the data as ``meta.yaml`` does in a folder, and may hold the options ``columns``, ``ids``, ``labels``, ``split_by``,
    ``covariates`` and ``image_size`` too.

    Args:
        path: Path of the table, or of a folder with a table ``manifest.csv``, ``.tsv`` or ``.parquet``.
        split: Name of the split: ``train``, ``val`` or ``test``; None for all items, in the order of the table.
        cache: Accepted for the common interface and ignored, since nothing is built.
        columns: Column, or columns of numbers, of each modality by its name. A ``*`` stands for any characters, so that
            ``s*`` names all columns that begin with s. By default each column that has no other role is a modality.
        ids: Column with the identifiers of the items; by default ``id`` if there is such a column.
        labels: Column with the classes of the items, or several columns of attributes, 0 and 1; by default ``label`` if
            there is such a column. An item with an empty cell is not labelled.
        split_by: Column with the split of each item; by default ``split`` if there is such a column. Otherwise the
            split is random.
        covariates: Columns with categories that condition encoders of vectors and counts and all decoders, such as the
            hospital or the device; an empty cell is an unknown category. None by default.
        image_size: Height and width of the images in pixels, one number for both, or a mapping from modality names to
            sizes; images are scaled to cover it and cropped at the centre. By default all images of a modality must
            have one size.
        in_memory: If True, all images are decoded at once; by default they are decoded for each batch.
        kinds: Data type by modality name, see :class:`~pyro_mmvae.ModalitySpec`; overrides the file.
        missing_nan: If True, an item with some empty cells of a modality of several columns lacks that modality; by
            default that is an error.
        allow_constant: If True, a modality may have a single value everywhere; by default the file decides.
        allow_missing_columns: If True, columns that ``columns`` names and the table lacks are left out, and a modality
            without any column too; by default they are an error.
        split_seed: Seed of the random split into 80, 10 and 10 percent; 0 by default.
        tokenizer: Tokenizer of the strings in place of an alphabet, or tokenizers by modality name: the path of a file
            ``tokenizer.json``, or ``bpe:N`` for a byte-pair vocabulary of N tokens, trained on the training texts. None
            by default.

    Raises:
        ValueError: If the table or an image cannot be read, a column is missing, or a value is not allowed; the message
            names item and column.
        ImportError: If the table is ``.parquet`` and the extra ``tables`` is not installed.
    """
    file = _find_manifest(path) or path
    description = read_description(file.with_suffix(".yaml")).with_options(
        columns=columns, ids=ids, labels=labels, split_by=split_by, covariates=covariates, image_size=image_size
    )
    meta = description.meta.with_options(str(file), kinds, missing_nan, allow_constant, tokenizer)
    table, stat = read_table(file), file.stat()
    if allow_missing_columns:
        description = description.with_options(columns=_existing(description.columns, table.columns))
    reader = TableReader(str(file), table, file.parent, meta, description.image_size)
    about = {file.name: {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}, "roles": description.provenance()}
    raw = reader.read(description.roles(table.columns), path, about)
    data = assemble(raw, split, split_seed=split_seed)
    return replace(data, modalities=data.tensors) if in_memory else data


def _existing(columns: Columns | None, names: Iterable[str]) -> Columns | None:
    """Return the columns or patterns of each modality that match a column of a table, without empty modalities."""
    if columns is None:
        return None
    names, existing = list(names), dict[str, str | tuple[str, ...]]()
    for modality, patterns in columns.items():
        several = [patterns] if isinstance(patterns, str) else patterns
        kept = tuple(p for p in several if p in names or any(fnmatchcase(name, p) for name in names))
        if kept:
            existing[modality] = patterns if isinstance(patterns, str) else kept
    return existing


@dataclass(frozen=True)
class TableDescription:
    """The content of the YAML file beside a table.

    Attributes:
        meta: The description of the modalities.
        columns: Columns of each modality by its name, or None for one modality per column.
        ids: Column of the identifiers, or None.
        labels: Column of the classes, or columns of attributes, or None.
        split_by: Column of the splits, or None.
        covariates: Columns of covariates, or None.
        image_size: Size of the images, for all modalities or by name, or None.
    """

    meta: Meta
    columns: Columns | None = None
    ids: str | None = None
    labels: str | tuple[str, ...] | None = None
    split_by: str | None = None
    covariates: str | tuple[str, ...] | None = None
    image_size: ImageSize | None = None

    def with_options(self, **options: Any) -> TableDescription:
        """Return a copy in which the options of a loader that are not None take precedence."""
        given = {name: value for name, value in options.items() if value is not None}
        return TableDescription(**{**self.__dict__, **given})

    def roles(self, names: Container[str]) -> Roles:
        """Return the roles of the columns of a table: those that were set, or ``id``, ``label`` and ``split``.

        Args:
            names: Names of the columns that there are.
        """
        ids, labels, split_by = (name if name in names else None for name in ("id", "label", "split"))
        return Roles(
            self.columns,
            self.ids or ids,
            self.labels or labels,
            self.split_by or split_by,
            column_names(self.covariates) or (),
        )

    def provenance(self) -> dict[str, Any]:
        """Return everything but the meta as JSON can hold it."""
        return {name: value for name, value in self.__dict__.items() if name != "meta" and value is not None}


def read_description(path: Path) -> TableDescription:
    """Read the YAML file beside a table; a file that does not exist is an empty one.

    Args:
        path: Path of the YAML file.

    Raises:
        ValueError: If it cannot be read, or a key or value is wrong; the message names the key.
    """
    if not path.exists():
        return TableDescription(Meta())
    with as_value_error(f"{path}: must be a readable YAML file", (OSError, ValueError)):
        tree = load_yaml(read_text(path)) or {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: must be a mapping, got {type(tree).__name__}")
    given = {key: tree.pop(key) for key in _ROLES if key in tree}
    own = {key: _check_role(path, key, value) for key, value in given.items() if value is not None}
    return TableDescription(make_meta(str(path), tree), **own)


def _check_role(path: Path, key: str, value: Any) -> Any:
    """Return the value of a key of the YAML file beside a table, with text for names that YAML takes for numbers."""
    kind, words = _ROLES[key]
    try:
        return TypeAdapter(kind).validate_python(value if key == "image_size" else _as_names(value))
    except ValidationError:
        shown = repr(value)
        shown = shown if len(shown) <= 200 else f"{shown[:200]}…"
        raise ValueError(f"{path}: {key} must be {words}, got {shown}") from None


def _as_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _as_names(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(str(item) if isinstance(item, (int, float)) else item for item in value)
    return str(value) if isinstance(value, (int, float)) else value


def read_table(file: Path) -> Any:
    """Read a table as a DataFrame, in which all cells of a text file are strings.

    Args:
        file: Path of a ``.csv``, ``.tsv`` or ``.parquet`` file.

    Raises:
        ValueError: If it cannot be read or has no rows.
        ImportError: If it is ``.parquet`` and pyarrow is not installed.
    """
    import pandas as pd  # noqa: PLC0415  (takes half a second, which only this format needs)

    if file.suffix == ".parquet" and not any(map(find_spec, ("pyarrow", "fastparquet"))):
        raise ImportError(
            f"{file}: the package pyarrow must be installed to read this file, got none: pip install "
            "'pyro-mmvae[tables]'"
        )
    with as_value_error(f"{file}: must be a readable {file.suffix} file", (Exception,)):
        if file.suffix == ".parquet":
            table = pd.read_parquet(file)
        else:
            separator = _SUFFIXES[file.suffix]
            table = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    if not len(table):
        raise ValueError(f"{file}: must have at least one row, got none")
    return table.rename(columns=str)
