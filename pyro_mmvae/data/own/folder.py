"""A user's own data: a folder with one ``.npy`` file a modality, or one ``.npz`` of the same names."""

from __future__ import annotations

import lzma
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.own.assemble import assemble
from pyro_mmvae.data.own.meta import Meta, read_meta
from pyro_mmvae.data.own.raw_arrays import Source
from pyro_mmvae.data.registry import register_format

OTHERS = ("labels", "present", "split")
"""Arrays that are no modalities."""

META = "meta.yaml"

_BROKEN = (
    ValueError, OSError, EOFError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError, MemoryError,
    RecursionError, SyntaxError, NotImplementedError, RuntimeError, struct.error, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What NumPy and zipfile raise on files that are not what their names say."""


@register_format("folder", detect=lambda path: path.is_dir() and any(path.glob("*.npy")))
def load_folder(
    path: Path,
    split: str,
    *,
    cache: bool = True,
    kinds: Mapping[str, str] | None = None,
    missing_nan: bool | None = None,
    allow_constant: bool | None = None,
    split_seed: int = 0,
    memory_map: bool | None = None,
) -> MultimodalDataset:
    """Load one split of a folder of ``NAME.npy``, one a modality `(item, …)`, in alphabetical order.

    Beside them may lie ``labels.npy`` (integers `(item,)`, or bool or 0 and 1 `(item, attribute)`), ``present.npy``
    (bool, `(item, modality)`, columns in alphabetical order of the modalities), ``split.npy`` (0, 1, 2, or the names of
    the splits) and ``meta.yaml``.

    Args:
        path: of the folder.
        split: ``train``, ``val`` or ``test``.
        cache: taken, and not needed.
        kinds: modality name to data type, see :class:`~pyro_mmvae.ModalitySpec`; goes before ``meta.yaml``.
        missing_nan: whether a NaN makes an item lack a modality; goes before ``meta.yaml``.
        allow_constant: whether a modality may have one value everywhere; likewise.
        split_seed: of a split at random, 80, 10 and 10 in a hundred items, where there is no ``split.npy``.
        memory_map: leave modalities on disk, and read and check only the items of a batch; by default those of files of
            a gibibyte or more.

    Raises:
        ValueError: for whatever does not fit; the message names file, modality, item and what was expected.
    """
    files = {file.stem: file for file in sorted(path.glob("*.npy"), key=lambda file: file.stem)}
    arrays = {name: read_npy(file) for name, file in files.items()}
    meta = read_meta(path / META).with_options(str(path), kinds, missing_nan, allow_constant)
    stats = {file.name: file.stat() for file in files.values()}
    about = {name: {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns} for name, stat in stats.items()}
    source = make_source(path, {name: str(file) for name, file in files.items()}, arrays, meta, about)
    return assemble(source, split, split_seed=split_seed, memory_map=memory_map)


@register_format("npz", detect=lambda path: path.is_file() and path.suffix == ".npz")
def load_npz(
    path: Path,
    split: str,
    *,
    cache: bool = True,
    kinds: Mapping[str, str] | None = None,
    missing_nan: bool | None = None,
    allow_constant: bool | None = None,
    split_seed: int = 0,
) -> MultimodalDataset:
    """Load one split of an ``.npz`` with the arrays that :func:`load_folder` takes from files; all are held in memory.

    Args:
        path: of the file. What ``meta.yaml`` would say may lie beside ``NAME.npz`` in ``NAME.yaml``.
        split: as there; and so are the other options.
        cache: likewise.
        kinds: likewise.
        missing_nan: likewise.
        allow_constant: likewise.
        split_seed: likewise.

    Raises:
        ValueError: as there.
    """
    arrays = dict(sorted(read_npz(path).items()))
    meta = read_meta(path.with_suffix(".yaml")).with_options(str(path), kinds, missing_nan, allow_constant)
    stat = path.stat()
    about = {path.name: {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}}
    source = make_source(path, {name: f"{path}[{name}]" for name in arrays}, arrays, meta, about)
    return assemble(source, split, split_seed=split_seed)


def make_source(
    path: Path, files: Mapping[str, str], arrays: Mapping[str, NDArray[Any]], meta: Meta, about: Mapping[str, Any]
) -> Source:
    """Modalities apart from the other arrays."""
    return Source(
        where=str(path),
        files=files,
        modalities={name: array for name, array in arrays.items() if name not in OTHERS},
        labels=arrays.get("labels"),
        present=arrays.get("present"),
        split=arrays.get("split"),
        meta=meta,
        name=path.name,
        provenance={"files": dict(about), "meta": meta.model_dump(exclude_defaults=True)},
    )


def read_npy(path: Path) -> NDArray[Any]:
    """Map an ``.npy`` file, of which nothing is read but the header. Changes to the array stay in memory.

    Raises:
        ValueError: if it is no whole file of that format, or holds Python objects.
    """
    with plain_errors(f"{path}: no readable .npy file"):
        array = np.lib.format.open_memmap(path, mode="c")
        rest = path.stat().st_size - array.offset - array.nbytes
        if rest:
            raise ValueError(f"{rest} bytes follow the array")
        return array


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array of an ``.npz``.

    Raises:
        ValueError: if it is no whole file of that format, an array holds Python objects, or a name is a path.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with plain_errors(f"{path}: no readable .npz file"), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename or not name.isidentifier():
                raise ValueError(f"it holds {info.filename!r}, expected NAME.npy, a name of letters, digits and _")
            if name in arrays:
                raise ValueError(f"it holds {info.filename!r} twice")
            with archive.open(info) as file:
                _check_size(file, info)
            with archive.open(info) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
                if file.read(1):  # which also checks the sum of all bytes
                    raise ValueError(f"bytes follow the array {name!r}")
    return arrays


def _check_size(file: IO[bytes], info: zipfile.ZipInfo) -> None:
    """Refuse an array that says it is larger than the file before memory is set aside for it."""
    version = np.lib.format.read_magic(file)
    if version not in {(1, 0), (2, 0)}:
        raise ValueError(f"{info.filename!r} is of version {version}, expected 1 or 2")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    size = dtype.itemsize
    for side in shape:
        size *= side
    if not dtype.hasobject and file.tell() + size != info.file_size:
        raise ValueError(f"{info.filename!r} has {info.file_size} bytes, expected {file.tell() + size}")


@contextmanager
def plain_errors(what: str, errors: tuple[type[Exception], ...] = _BROKEN) -> Iterator[None]:
    """Whatever goes wrong as a ValueError of one line, and no warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except errors as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{what} ({reason})") from None
