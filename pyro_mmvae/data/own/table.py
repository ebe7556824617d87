"""The conversion of a table with a row per item to the arrays of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.options import Problems, describe_item
from pyro_mmvae.data.own.columns import is_missing
from pyro_mmvae.data.own.meta import Meta
from pyro_mmvae.data.own.raw_arrays import RawArrays
from pyro_mmvae.data.own.roles import Roles, choose_columns, first_names, refuse_shared_columns
from pyro_mmvae.data.storage.image_files import IMAGE_SUFFIXES, ImageFiles, find_format

Mask = NDArray[np.bool_]
"""True for the items that have a modality, `(item,)`."""

_NO_NUMBER = frozenset({"na", "n/a", "nan", "null", "none"})  # written for a missing number, in lower case
_TRUTH = {"true": 1.0, "false": 0.0}
_SPLIT_NAMES = {
    "training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test", "0": "train", "1": "val",
    "2": "test",
}  # fmt: skip


class TableReader:
    """A reader of the columns of one table.

    Args:
        where: Path of the table, the beginning of error messages.
        table: The table, a DataFrame of pandas.
        folder: Path of the folder that paths of images are relative to.
        meta: The description of the modalities.
        image_size: Height and width of the images, one number for both, or either by modality name; None for the size
            that the images have.
    """

    def __init__(self, where: str, table: Any, folder: Path, meta: Meta, image_size: Any = None) -> None:
        self.where, self.table, self.folder, self.meta, self.image_size = where, table, folder, meta, image_size
        self.ids: tuple[str, ...] | None = None

    def read(self, roles: Roles, path: Path, about: Mapping[str, Any]) -> RawArrays:
        """Return the arrays of the whole table.

        Args:
            roles: The roles of the columns.
            path: Path of the data set, whose name the data get.
            about: Everything that identifies the table, serialisable as JSON.

        Raises:
            DataError: If columns or cells are wrong, with all problems.
        """
        labels = [roles.labels] if isinstance(roles.labels, str) else list(roles.labels or ())
        names = [str(name) for name in self.table.columns]
        for column in filter(None, (roles.ids, roles.split_by, *labels, *roles.covariates)):
            if column in roles.covariates and column not in self.table.columns:
                raise ValueError(
                    f"{self.where}: covariates must be columns, got {column.lstrip('/')!r}, which is not one: add it, "
                    "or choose the covariates by the option covariates, which is [] for data without any"
                )
            if column not in self.table.columns:
                raise ValueError(f"{self.where}: must have a column {column!r}, got {first_names(names)}")
        self.ids = self._read_ids(roles.ids)
        used = {*filter(None, (roles.ids, roles.split_by)), *labels, *roles.covariates}
        chosen = choose_columns(self.where, names, roles.columns, used)
        refuse_shared_columns(self.where, chosen, roles.covariates)
        modalities, masks, features, problems = dict[str, Any](), list[Mask](), dict[str, NDArray[Any]](), Problems()
        for name, columns in chosen.items():
            with problems.collect():
                modalities[name], mask = self._read_modality(name, columns)
                masks.append(mask)
                if getattr(modalities[name], "shape", ())[1:] == (len(columns),):
                    features[name] = np.array(columns, dtype=np.str_)
        classes = None
        with problems.collect():
            classes = self._read_labels(labels, isinstance(roles.labels, (list, tuple)))
        problems.check()
        meta = self.meta
        if isinstance(roles.labels, (list, tuple)) and meta.label_names is None:
            meta = meta.model_copy(update={"label_names": tuple(label.lstrip("/") for label in labels)})
        unread = [str(c) for c in self.table.columns if c not in used and all(c not in m for m in chosen.values())]
        provenance: dict[str, Any] = {
            "files": {**about, "images": _describe_files(modalities)},
            "meta": meta.model_dump(exclude_defaults=True),
        }
        if unread:
            provenance["notes"] = [f"{self.where}: columns {', '.join(unread)} are not read"]
        return RawArrays(
            where=self.where,
            files={},
            modalities=modalities,
            labels=classes,
            present=np.stack(masks, -1),
            split=None if roles.split_by is None else self._read_splits(roles.split_by),
            meta=meta,
            name=path.name,
            provenance=provenance,
            ids=None if self.ids is None else np.array(self.ids, dtype=np.str_),
            feature_names=features,
            covariates={column.lstrip("/"): self._read_covariate(column) for column in roles.covariates},
        )

    def _read_splits(self, column: str) -> NDArray[np.str_]:
        names = [str("" if cell is None else cell) for cell in self._cells(column)]
        return np.array([_SPLIT_NAMES.get(name.lower(), name) for name in names], dtype=np.str_)

    def _read_covariate(self, column: str) -> NDArray[Any]:
        cells = np.empty(len(self.table), dtype=object)  # not np.array, which would join numbers and strings
        cells[:] = self._cells(column)
        return cells

    def _cells(self, column: str) -> list[Any]:
        """Return the cells of a column, None for those that are empty, strings without spaces at their ends."""
        cells = self.table[column].tolist()
        stripped = [cell.strip() if isinstance(cell, str) else cell for cell in cells]
        return [None if is_missing(cell) or (isinstance(cell, str) and not cell) else cell for cell in stripped]

    def _read_ids(self, column: str | None) -> tuple[str, ...] | None:
        if column is None:
            return None
        ids, rows = [], dict[str, int]()
        for row, cell in enumerate(self._cells(column)):
            if cell is None:
                raise ValueError(
                    f"{self.where}: row {row}: column {column!r} must hold an identifier, got an empty cell"
                )
            ids.append(str(cell))
            if rows.setdefault(ids[-1], row) != row:
                raise ValueError(
                    f"{self.where}: column {column!r} must name each item once, got {ids[-1]!r} in rows "
                    f"{rows[ids[-1]]} and {row}"
                )
        return tuple(ids)

    def _item(self, row: int) -> str:
        return describe_item(self.ids, row)

    def _read_modality(self, name: str, columns: Sequence[str]) -> tuple[Any, Mask]:
        """Return the values of one modality and the mask of the items that have it."""
        kind = self.meta.spec(name).data_type
        if len(columns) == 1:
            cells = self._cells(columns[0])
            texts = [cell for cell in cells if isinstance(cell, str)]
            if texts and (kind == "image" or (kind is None and _is_image(texts[0]))):
                return self._read_images(name, columns[0], cells)
            if texts and kind in {None, "tokens"} and sum(map(_is_number, texts)) <= len(texts) / 2:
                return self._read_texts(columns[0], cells)
            if any(np.ndim(cell) for cell in cells if cell is not None):
                return self._read_lists(columns[0], cells)
        return self._read_numbers(name, columns, kind)

    def _read_texts(self, column: str, cells: Sequence[Any]) -> tuple[NDArray[Any], Mask]:
        for row, cell in enumerate(cells):
            if cell is not None and not isinstance(cell, str):
                raise ValueError(f"{self.where}: {self._item(row)}: column {column!r} must hold text, got {cell!r}")
        return np.array([cell or "" for cell in cells], dtype=np.str_), np.array([cell is not None for cell in cells])

    def _read_lists(self, column: str, cells: Sequence[Any]) -> tuple[NDArray[Any], Mask]:
        """Return cells that are lists of numbers, as a ``.parquet`` file may hold them."""
        present = np.array([cell is not None for cell in cells])
        first = np.asarray(cells[int(np.argmax(present))], dtype=np.float64)
        values = np.zeros((len(cells), *first.shape))
        for row in np.flatnonzero(present).tolist():
            value = np.asarray(cells[row], dtype=np.float64)
            if value.shape != first.shape or np.isnan(value).any():
                raise ValueError(
                    f"{self.where}: {self._item(row)}: column {column!r} must hold {first.size} numbers, got "
                    f"{cells[row]}"
                )
            values[row] = value
        return values, present

    def _read_numbers(self, name: str, columns: Sequence[str], kind: str | None) -> tuple[NDArray[Any], Mask]:
        """Return columns of numbers `(item, feature)`."""
        parsed = [self._parse(column) for column in columns]
        values = np.stack([numbers for numbers, _ in parsed], -1)
        missing = np.isnan(values)
        present: Mask = np.asarray(~missing.all(-1))
        partial = missing.any(-1) & present
        if partial.any() and not self.meta.allows("missing_nan", name):
            row = int(np.argmax(partial))
            column = columns[int(np.argmax(missing[row]))]
            raise ValueError(
                f"{self.where}: {self._item(row)}: column {column!r} of modality {name!r} must hold a number, as other "
                "columns do, got an empty cell: fill it in, or set missing_nan to true if the item lacks the modality"
            )
        present &= ~partial
        values[~present] = 0
        if kind == "tokens" and (values == np.floor(values)).all():
            return values.astype(np.int64), present
        are_truth = kind is None and all(is_truth for _, is_truth in parsed)
        return values.astype(bool) if are_truth else values, present

    def _parse(self, column: str) -> tuple[NDArray[np.float64], bool]:
        """Return the numbers of a column, NaN for empty cells, and True if all of them were true or false."""
        values, are_truth = np.full(len(self.table), np.nan), True
        for row, cell in enumerate(self._cells(column)):
            if cell is None or (isinstance(cell, str) and cell.lower() in _NO_NUMBER):
                continue
            is_truth = isinstance(cell, (bool, np.bool_)) or (isinstance(cell, str) and cell.lower() in _TRUTH)
            are_truth &= is_truth
            try:
                values[row] = _TRUTH[cell.lower()] if is_truth and isinstance(cell, str) else float(cell)
            except (TypeError, ValueError):
                raise ValueError(
                    f"{self.where}: {self._item(row)}: column {column!r} must hold a number, got {cell!r}"
                ) from None
        return values, are_truth

    def _read_images(self, name: str, column: str, cells: Sequence[Any]) -> tuple[ImageFiles, Mask]:
        """Return the images behind a column of paths, of which only the first is opened."""
        where, problems = f"{self.where}: column {column!r}", Problems()
        files = [None if cell is None else self.folder / Path(str(cell)).expanduser() for cell in cells]
        for row, file in enumerate(files):
            with problems.collect():
                if file is not None and not file.is_file():
                    raise ValueError(f"{where}: {self._item(row)}: {file} must be an image file, got no such file")
        problems.check()
        first = next(row for row, file in enumerate(files) if file is not None)
        size, channels = find_format(f"{where}: {self._item(first)}", files[first] or Path())
        image_size = self._image_size(name)
        names = [self._item(row) for row in range(len(files))]
        images = ImageFiles(where, files, names, image_size or size, channels, resize=image_size is not None)
        return images, np.array([file is not None for file in files])

    def _image_size(self, name: str) -> tuple[int, int] | None:
        size = self.image_size.get(name) if isinstance(self.image_size, Mapping) else self.image_size
        if size is None:
            return None
        pair = (size, size) if isinstance(size, int) else tuple(size)
        if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in pair):
            raise ValueError(f"{self.where}: image_size must be a number of pixels, or height and width, got {size!r}")
        return pair[0], pair[1]

    def _read_labels(self, columns: Sequence[str], are_attributes: bool) -> NDArray[Any] | None:
        """Return classes, as numbers or strings, or attributes, or None without columns."""
        if not columns:
            return None
        if not are_attributes:
            cells = self._cells(columns[0])
            if all(cell is None or _is_number(cell) for cell in cells):
                return np.array([np.nan if cell is None else float(cell) for cell in cells])
            return np.array(["" if cell is None else str(cell) for cell in cells], dtype=np.str_)
        flags = np.stack([self._parse(column)[0] for column in columns], -1)
        invalid = np.argwhere((flags != 0) & (flags != 1))
        if len(invalid):
            row, number = invalid[0].tolist()
            raise ValueError(
                f"{self.where}: {self._item(row)}: column {columns[number]!r} must hold 0 or 1, as an attribute does, "
                f"got {self.table[columns[number]].iloc[row]!r}"
            )
        return flags.astype(bool)


def _is_number(cell: Any) -> bool:
    if isinstance(cell, str) and cell.lower() in {*_NO_NUMBER, *_TRUTH}:
        return True
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def _is_image(text: str) -> bool:
    return Path(text).suffix.lower() in IMAGE_SUFFIXES


def _describe_files(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the size of the images and a hash of sizes and times of their files, by modality name."""
    result = {}
    for name, images in arrays.items():
        if isinstance(images, ImageFiles):
            digest = hashlib.sha256()
            for file in images.files:
                stat = None if file is None else file.stat()
                digest.update(b"-" if stat is None else f"{file}:{stat.st_size}:{stat.st_mtime_ns}".encode())
            result[name] = {"size": list(images.size), "files": digest.hexdigest()[:16]}
    return result
