"""Data in NumPy files: a folder with one ``.npy`` file per modality, or an ``.npz`` archive of such files."""

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

from pyro_mmvae._printable import one_line
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.own.assemble import assemble
from pyro_mmvae.data.own.meta import Meta, read_meta
from pyro_mmvae.data.own.raw_arrays import RawArrays
from pyro_mmvae.data.registry import register_format
from pyro_mmvae.data.tokenizer import TokenizerOption

RESERVED_NAMES = ("labels", "present", "split", "ids")
"""Names of arrays that are not modalities."""

FEATURES = "features_"
"""The beginning of the names of arrays that hold the names of the features of a modality."""

COVARIATES = "covariate_"
"""The beginning of the names of arrays that hold the categories of a covariate."""

META_FILE = "meta.yaml"

_READ_ERRORS = (
    ValueError, OSError, EOFError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError, MemoryError,
    RecursionError, SyntaxError, NotImplementedError, RuntimeError, struct.error, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""The errors that NumPy and zipfile raise on damaged files; found by fuzzing, as they document none."""


@register_format("folder", detect=lambda path: path.is_dir() and any(path.glob("*.npy")), loads_all=True)
def load_folder(
    path: Path,
    split: str | None,
    *,
    cache: bool = True,
    kinds: Mapping[str, str] | None = None,
    missing_nan: bool | None = None,
    allow_constant: bool | None = None,
    split_seed: int = 0,
    tokenizer: TokenizerOption = None,
    memory_map: bool | None = None,
) -> MultimodalDataset:
    """Load one split of a folder with one file ``NAME.npy`` per modality, `(item, …)`, in alphabetical order.

    The folder may also hold ``labels.npy`` (integers `(item,)`, or bool or 0 and 1 `(item, attribute)`),
    ``present.npy`` (bool, `(item, modality)`, columns in alphabetical order of the modalities), ``split.npy`` (0, 1, 2,
    or the names of the splits, `(item,)`), ``ids.npy`` (identifiers of the items, strings or integers, `(item,)`),
    ``features_NAME.npy`` (names of the features of the modality NAME, strings, `(feature,)`), ``covariate_NAME.npy``
    (the category of each item of the covariate NAME, strings or integers, `(item,)`) and ``meta.yaml``.

    Args:
        path: Path of the folder.
        split: Name of the split: ``train``, ``val`` or ``test``; None for all items, in the order of the file.
        cache: Accepted for the common interface and ignored, since nothing is built.
        kinds: Data type by modality name, see :class:`~pyro_mmvae.ModalitySpec`; overrides ``meta.yaml``.
        missing_nan: If True, an item with a NaN in a modality lacks that modality; if False, a NaN is an error. By
            default ``meta.yaml`` decides.
        allow_constant: If True, a modality may have a single value everywhere; if False, that is an error. By default
            ``meta.yaml`` decides.
        split_seed: Seed of the random split into 80, 10 and 10 percent, used without ``split.npy``; 0 by default.
        tokenizer: Tokenizer of the strings in place of an alphabet, or tokenizers by modality name: the path of a file
            ``tokenizer.json``, or ``bpe:N`` for a byte-pair vocabulary of N tokens, trained on the training texts. None
            by default.
        memory_map: If True, modalities stay on disk, and only the items of a batch are read and checked; by default
            those of files of a gibibyte or more.

    Raises:
        ValueError: If the arrays do not fit together or a value is not allowed; the message names file, modality, item
            and what was expected.
    """
    files = {file.stem: file for file in sorted(path.glob("*.npy"), key=lambda file: file.stem)}
    arrays = {name: read_npy(file) for name, file in files.items()}
    meta = read_meta(path / META_FILE).with_options(str(path), kinds, missing_nan, allow_constant, tokenizer)
    stats = {file.name: file.stat() for file in files.values()}
    about = {name: {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns} for name, stat in stats.items()}
    raw = make_raw_arrays(path, {name: str(file) for name, file in files.items()}, arrays, meta, about)
    return assemble(raw, split, split_seed=split_seed, memory_map=memory_map)


@register_format("npz", detect=lambda path: path.is_file() and path.suffix == ".npz", loads_all=True)
def load_npz(
    path: Path,
    split: str | None,
    *,
    cache: bool = True,
    kinds: Mapping[str, str] | None = None,
    missing_nan: bool | None = None,
    allow_constant: bool | None = None,
    split_seed: int = 0,
    tokenizer: TokenizerOption = None,
) -> MultimodalDataset:
    """Load one split of an ``.npz`` archive of the arrays that :func:`load_folder` reads from files, into memory.

    Args:
        path: Path of the archive ``NAME.npz``. The file ``NAME.yaml`` beside it may describe the data as ``meta.yaml``
            does in a folder.
        split: Name of the split: ``train``, ``val`` or ``test``; None for all items, in the order of the file.
        cache: Accepted for the common interface and ignored, since nothing is built.
        kinds: Data type by modality name, see :class:`~pyro_mmvae.ModalitySpec`; overrides ``NAME.yaml``.
        missing_nan: If True, an item with a NaN in a modality lacks that modality; if False, a NaN is an error. By
            default ``NAME.yaml`` decides.
        allow_constant: If True, a modality may have a single value everywhere; if False, that is an error. By default
            ``NAME.yaml`` decides.
        split_seed: Seed of the random split into 80, 10 and 10 percent, used without an array ``split``; 0 by default.
        tokenizer: Tokenizer of the strings in place of an alphabet, or tokenizers by modality name: the path of a file
            ``tokenizer.json``, or ``bpe:N`` for a byte-pair vocabulary of N tokens, trained on the training texts. None
            by default.

    Raises:
        ValueError: If the arrays do not fit together or a value is not allowed; the message names array, modality,
            item and what was expected.
    """
    arrays = dict(sorted(read_npz(path).items()))
    meta = read_meta(path.with_suffix(".yaml")).with_options(str(path), kinds, missing_nan, allow_constant, tokenizer)
    stat = path.stat()
    about = {path.name: {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}}
    raw = make_raw_arrays(path, {name: f"{path}[{name}]" for name in arrays}, arrays, meta, about)
    return assemble(raw, split, split_seed=split_seed)


def make_raw_arrays(
    path: Path, files: Mapping[str, str], arrays: Mapping[str, NDArray[Any]], meta: Meta, about: Mapping[str, Any]
) -> RawArrays:
    """Separate the modalities from labels, presence, split, identifiers, names of features and covariates.

    Args:
        path: Path of the data set.
        files: File or key of each array, by the array's name, for messages.
        arrays: All arrays by name, modalities in the order of the columns of ``present``.
        meta: The description of the data.
        about: Everything that identifies the files, serialisable as JSON.
    """
    return RawArrays(
        where=str(path),
        files=files,
        modalities={name: array for name, array in arrays.items() if not is_reserved(name)},
        labels=arrays.get("labels"),
        present=arrays.get("present"),
        split=arrays.get("split"),
        meta=meta,
        name=path.name,
        provenance={"files": dict(about), "meta": meta.model_dump(exclude_defaults=True)},
        ids=arrays.get("ids"),
        feature_names={
            name.removeprefix(FEATURES): array for name, array in arrays.items() if name.startswith(FEATURES)
        },
        covariates={
            name.removeprefix(COVARIATES): array for name, array in arrays.items() if name.startswith(COVARIATES)
        },
    )


def is_reserved(name: str) -> bool:
    """Return True if an array of this name is not a modality."""
    return name in RESERVED_NAMES or name.startswith((FEATURES, COVARIATES))


def read_npy(path: Path) -> NDArray[Any]:
    """Map an ``.npy`` file, reading only its header. Changes to the array stay in memory.

    Args:
        path: Path of the file.

    Raises:
        ValueError: If the file is damaged, has another format, or holds Python objects.
    """
    with as_value_error(f"{path}: must be a readable .npy file"):
        array = np.lib.format.open_memmap(path, mode="c")
        excess = path.stat().st_size - array.offset - array.nbytes
        if excess:
            raise ValueError(f"{excess} bytes follow the array")
        return array


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read every array of an ``.npz`` archive.

    Args:
        path: Path of the archive.

    Returns:
        The arrays by name, in the order of the archive.

    Raises:
        ValueError: If the file is damaged, has another format, an array holds Python objects, or a name is a path.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with as_value_error(f"{path}: must be a readable .npz file"), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename or not name or "/" in name or "\\" in name:
                raise ValueError(f"members must be NAME.npy without folders, got {info.filename!r}")
            if name in arrays:
                raise ValueError(f"members must have distinct names, got {info.filename!r} twice")
            with archive.open(info) as file:
                _check_declared_size(file, info)
            with archive.open(info) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
                if file.read(1):  # zipfile verifies the checksum only once the end is reached
                    raise ValueError(f"bytes follow the array {name!r}")
    return arrays


def _check_declared_size(file: IO[bytes], info: zipfile.ZipInfo) -> None:
    """Check that an array is as large as its header declares, before NumPy allocates the memory for it."""
    version = np.lib.format.read_magic(file)
    if version not in {(1, 0), (2, 0)}:
        raise ValueError(f"{info.filename!r} must be in version 1 or 2 of the format, got {version}")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    num_bytes = dtype.itemsize
    for length in shape:  # Python integers, which cannot overflow
        num_bytes *= length
    if not dtype.hasobject and file.tell() + num_bytes != info.file_size:
        raise ValueError(f"{info.filename!r} must have {file.tell() + num_bytes} bytes, got {info.file_size}")


@contextmanager
def as_value_error(what: str, errors: tuple[type[Exception], ...] = _READ_ERRORS) -> Iterator[None]:
    """Raise errors of other libraries as a ValueError of one line, and suppress their warnings.

    Args:
        what: The beginning of the message, which the original message follows.
        errors: Types of the errors to convert; by default those that NumPy and zipfile raise on damaged files.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except errors as error:
        reason = one_line(error)
        raise ValueError(f"{what}, got an error: {reason}") from None
