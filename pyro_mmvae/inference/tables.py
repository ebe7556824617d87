"""Tables with one row per item, written to files in the format that the suffix names."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.files import replacing, write_npz

SUFFIXES = (".npz", ".csv", ".parquet", ".h5ad", ".h5mu")
"""The suffixes of files that a table can be written to."""

_EXTRAS = {"pyarrow": "tables", "anndata": "omics", "mudata": "omics"}
_KEY = "X_mmvae"  # of obsm


@dataclass(frozen=True, eq=False)
class ItemTable:
    """A table with one row per item.

    Args:
        ids: The identifier of each item, `(item,)`.
        arrays: The content by name: numbers or strings, `(item,)` or `(item, column)`.
        columns: The names of the columns of two-dimensional arrays, by name of the array; ``NAME_0``, ``NAME_1``, … by
            default.
        summary: Figures about the table as a whole, by name; empty by default.

    Example:
        >>> table = ItemTable(np.array(["a", "b"]), {"z": np.zeros((2, 2))})
        >>> list(table.flat()), table["z"].shape
        (['z_0', 'z_1'], (2, 2))
    """

    ids: NDArray[np.str_]
    arrays: dict[str, NDArray[Any]]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.ids)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return an array by its name."""
        return self.arrays[name]

    def take(self, rows: NDArray[np.int64]) -> ItemTable:
        """Return a table of some rows.

        Args:
            rows: The numbers of the rows, in the order to return them.
        """
        arrays = {name: array[rows] for name, array in self.arrays.items()}
        return ItemTable(self.ids[rows], arrays, self.columns, self.summary)

    def flat(self) -> dict[str, NDArray[Any]]:
        """Return the columns `(item,)` by name, without the identifiers."""
        result: dict[str, NDArray[Any]] = {}
        for name, array in self.arrays.items():
            if array.ndim == 1:
                result[name] = array
                continue
            names = self.columns.get(name, tuple(f"{name}_{number}" for number in range(array.shape[1])))
            result.update(zip(names, array.T, strict=True))
        return result

    def frame(self) -> Any:
        """Return the table as a pandas DataFrame whose index holds the identifiers."""
        pandas = importlib.import_module("pandas")
        return pandas.DataFrame(self.flat(), index=pandas.Index(self.ids, name="id"))

    def write(self, path: str | Path, *, force: bool = False, source: str | Path | None = None) -> Path:
        """Write the table to a file, atomically.

        ``.csv`` and ``.parquet`` have a column ``id`` and one column per number; ``.npz`` has the arrays by name and
        ``ids``. ``.h5ad`` and ``.h5mu`` have the array ``z`` of latents in ``obsm["X_mmvae"]`` and everything else in
        ``obs``; NaN stands for observations of ``source`` that the table does not have.

        Args:
            path: The path of the file, with one of the suffixes in ``SUFFIXES``.
            force: If True, a file that exists is replaced; False by default.
            source: An ``.h5ad`` or ``.h5mu`` file to copy and add to; by default such a file holds the table only.

        Returns:
            The path of the file.

        Raises:
            ValueError: If the suffix is not one of these.
            FileExistsError: If the file exists and ``force`` is False.
            ImportError: If the package that writes the format is not installed.
        """
        file = Path(path)
        check_suffix(file)
        with replacing(file, force=force) as temporary:
            if file.suffix == ".npz":
                arrays: dict[str, Any] = {"ids": self.ids, **self.arrays}
                write_npz(temporary, arrays)
            elif file.suffix == ".csv":
                self.frame().to_csv(temporary)
            elif file.suffix == ".parquet":
                import_extra("pyarrow", file)
                self.frame().to_parquet(temporary)
            else:
                self._write_omics(temporary, None if source is None else Path(source))
        return file

    def _write_omics(self, path: Path, source: Path | None) -> None:
        package = "anndata" if path.suffix == ".h5ad" else "mudata"
        module, anndata = import_extra(package, path), import_extra("anndata", path)
        with warnings.catch_warnings(), ExitStack() as settings:
            warnings.simplefilter("ignore")  # of anndata and mudata, about their own future
            if hasattr(anndata.settings, "allow_write_nullable_strings"):
                # Strings of pandas 3 are refused otherwise.
                settings.enter_context(anndata.settings.override(allow_write_nullable_strings=True))
            if source is not None and source.suffix == path.suffix:
                tree = getattr(module, f"read_{path.suffix[1:]}")(source)
            else:
                pandas = importlib.import_module("pandas")
                shape: Any = np.zeros((len(self), 0), dtype=np.float32)
                tree = anndata.AnnData(shape, obs=pandas.DataFrame(index=self.ids))
                if package == "mudata":
                    tree = module.MuData({"mmvae": tree})
            self._add_to(tree)
            tree.write(path)

    def _add_to(self, tree: Any) -> None:
        """Add the table to an AnnData or MuData object."""
        rows = importlib.import_module("pandas").Index(self.ids).get_indexer(tree.obs_names)
        found = rows >= 0
        if not found.any():
            raise ValueError(
                f"obs_names of the source must hold identifiers of the items, such as {str(self.ids[0])!r}, got "
                f"{tree.obs_names[0]!r}"
            )
        for name, array in self.arrays.items():
            is_text = array.dtype.kind == "U"
            filled: NDArray[Any] = np.full(
                (len(rows), *array.shape[1:]), "" if is_text else np.nan, dtype=object if is_text else np.float32
            )
            filled[found] = array[rows[found]]
            if array.ndim == 2:
                tree.obsm[_KEY if name == "z" else f"{_KEY}_{name}"] = filled
            else:
                tree.obs[f"mmvae_{name}"] = filled


def check_suffix(path: Path) -> None:
    """Check that a table can be written to a file of this suffix.

    Args:
        path: The path of the file, which need not exist.

    Raises:
        ValueError: If the suffix is not one of ``SUFFIXES``.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}, got {path.suffix!r}")


def import_extra(package: str, path: Path) -> Any:
    """Import a package of an extra, without its warnings.

    Args:
        package: The name of the package to import.
        path: The file that it is needed for, which the message names.

    Raises:
        ImportError: If it is not installed; the message names the extra.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{path.suffix} files need the package {package}, got: {error}: pip install "
            f"'pyro-mmvae[{_EXTRAS[package]}]'",
            name=package,
        ) from error
