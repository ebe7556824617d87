"""Reading of ``.h5ad`` and ``.h5mu`` files, into memory or with matrices that stay in the file."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_mmvae._printable import one_line
from pyro_mmvae.data.own.folder import as_value_error
from pyro_mmvae.data.own.omics.safety import check_hdf5

SUFFIXES = (".h5mu", ".h5ad")

ANY_ERROR = (Exception,)
"""The errors of a damaged file, since anndata and mudata do not document what they raise."""


@dataclass(frozen=True, eq=False)
class StoredTable:
    """An AnnData group of an open file, with annotations in memory and matrices in the file.

    Attributes:
        obs: Table of the observations.
        var: Table of the variables.
        obsm: Arrays of the observations by name, in memory.
        X: The matrix, an open HDF5 data set or group, or a sparse matrix in memory if its rows cannot be read one by
            one; None if there is none.
        layers: Other matrices by name, which are opened when they are looked up.
    """

    obs: Any
    var: Any
    obsm: Mapping[str, Any]
    X: Any
    layers: Mapping[str, Any]

    @property
    def obs_names(self) -> Any:
        """The names of the observations."""
        return self.obs.index

    @property
    def var_names(self) -> Any:
        """The names of the variables."""
        return self.var.index


@dataclass(frozen=True, eq=False)
class StoredTables:
    """A MuData file that is open, with annotations in memory and matrices in the file.

    Attributes:
        mod: Table of each modality.
        obs: Table of the observations of all modalities.
        obsm: Arrays of the observations of all modalities by name, in memory.
        axis: The axis that the modalities share, 0 for observations.
    """

    mod: Mapping[str, StoredTable]
    obs: Any
    obsm: Mapping[str, Any]
    axis: int

    @property
    def obs_names(self) -> Any:
        """The names of the observations."""
        return self.obs.index


class _StoredLayers(Mapping[str, Any]):
    """A mapping of the layers of a file that opens a matrix when it is looked up."""

    def __init__(self, group: Any, read_elem: Any) -> None:
        self.group, self.read_elem = group, read_elem

    def __getitem__(self, name: str) -> Any:
        if self.group is None:
            raise KeyError(name)
        return _open_matrix(self.group[name], self.read_elem)

    def __iter__(self) -> Iterator[str]:
        return iter(() if self.group is None else self.group)

    def __len__(self) -> int:
        return 0 if self.group is None else len(self.group)


def open_omics(path: Path, *, backed: bool) -> Any:
    """Read an ``.h5ad`` or ``.h5mu`` file.

    Args:
        path: Path of the file.
        backed: If True, dense matrices and those in CSR format stay in the file, which stays open; all others, and
            annotations, are read into memory.

    Returns:
        An ``AnnData`` or ``MuData``; if ``backed``, a :class:`StoredTable` or :class:`StoredTables` with the attributes
        of theirs that :func:`~pyro_mmvae.data.own.omics.read_omics` uses.

    Raises:
        ValueError: If the file cannot be read.
        ImportError: If the extra ``omics`` is not installed.
    """
    package, function = ("mudata", "read_h5mu") if path.suffix == ".h5mu" else ("anndata", "read_h5ad")
    module = _import("anndata.io" if backed else package, path)
    h5py = _import("h5py", path)  # a dependency of anndata
    with as_value_error(f"{path}: must be a readable {path.suffix} file", ANY_ERROR):
        file = h5py.File(path, "r")
    try:
        check_hdf5(file, path, whole=not backed)
    except ValueError:
        file.close()
        raise
    except ANY_ERROR as error:
        file.close()
        reason = one_line(error)
        raise ValueError(f"{path}: must be a readable {path.suffix} file, got an error: {reason}") from None
    with as_value_error(f"{path}: must be a readable {path.suffix} file", ANY_ERROR):
        if not backed:
            file.close()
            return getattr(module, function)(path)
        if path.suffix == ".h5ad":
            return _open_table(file, module.read_elem)
        tables = {name: _open_table(group, module.read_elem) for name, group in file["mod"].items()}
        obsm = module.read_elem(file["obsm"]) if "obsm" in file else {}
        return StoredTables(tables, module.read_elem(file["obs"]), obsm, int(file.attrs.get("axis", 0)))


@contextmanager
def damage_explained(where: str) -> Iterator[None]:
    """Raise errors of pandas and NumPy about contents that no package would write as a ValueError of one line.

    Args:
        where: Path or name of the data, the beginning of the message.

    Raises:
        ValueError: If another error was raised; a ValueError of one line is raised as it is.
    """
    try:
        yield
    except ImportError:
        raise
    except ANY_ERROR as error:
        if isinstance(error, ValueError) and "\n" not in str(error):
            raise
        reason = one_line(error)
        raise ValueError(f"{where}: must be a readable AnnData or MuData, got an error: {reason}") from None


def _open_table(group: Any, read_elem: Any) -> StoredTable:
    """Open one AnnData group of a file."""
    obs, var = read_elem(group["obs"]), read_elem(group["var"])
    if "X" in group:
        shape = tuple(map(int, group["X"].attrs["shape"] if "shape" in group["X"].attrs else group["X"].shape))
        if shape != (len(obs), len(var)):
            raise ValueError(f"X must be {(len(obs), len(var))} as obs and var are, got {shape}")
    return StoredTable(
        obs=obs,
        var=var,
        obsm=read_elem(group["obsm"]) if "obsm" in group else {},
        X=_open_matrix(group["X"], read_elem) if "X" in group else None,
        layers=_StoredLayers(group.get("layers"), read_elem),
    )


def _open_matrix(element: Any, read_elem: Any) -> Any:
    """Return a matrix that stays in the file, or the matrix in memory if its rows cannot be read one by one."""
    is_dense = hasattr(element, "dtype")
    if is_dense and (element.ndim != 2 or element.dtype.kind not in "biuf"):
        raise ValueError(f"{element.name} must be numbers (item, feature), got {element.shape} of {element.dtype}")
    return element if is_dense or element.attrs.get("encoding-type") == "csr_matrix" else read_elem(element)


def _import(package: str, path: Path) -> Any:
    """Import the package that reads a file, without its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{path}: the package {package} must be installed to read this file, got: {error}: "
            "pip install 'pyro-mmvae[omics]'",
            name=package,
        ) from error
