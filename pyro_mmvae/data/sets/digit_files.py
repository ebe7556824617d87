"""Images of digits from files: MNIST in IDX, SVHN in ``.mat``, and either in ``.npz``."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.own.folder import as_value_error, read_npz
from pyro_mmvae.data.sets.idx import MD5, download_mnist, find_mnist, read_mnist
from pyro_mmvae.data.sets.polymnist_recipe import child_seed

DIGITS = 10

SVHN_FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
SVHN_MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
"""The MD5 of the published files."""

SVHN_FOLDERS = (".", "SVHN", "svhn")
"""The folders below a given one that are searched for SVHN's files."""

SHAPES = {"mnist": (1, 28, 28), "svhn": (3, 32, 32)}
TEST_SHARE = 0.2
"""The fraction of the images kept for testing of an ``.npz`` archive without a split."""


@dataclass(frozen=True, eq=False)
class DigitImages:
    """The images of one part, train or test, of MNIST or SVHN.

    Args:
        images: Pixel values 0 to 255, `(image, channel, height, width)`.
        labels: Class of each image, 0 to 9, `(image,)`.
        about: Description of the files that they come from, serialisable as JSON.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    about: dict[str, Any]


def find_digits(folder: Path, *, npz: Mapping[str, str | None] | None = None, download: bool = False) -> dict[str, Any]:
    """Return the files of MNIST and SVHN.

    Args:
        folder: Path of the folder that holds MNIST's four IDX files, at torchvision's place or directly, compressed or
            not, or ``mnist.npz``; and SVHN's two ``.mat`` files or one ``svhn*.npz``.
        npz: Paths of ``.npz`` archives, by ``"mnist"`` and ``"svhn"``, that override what the folder holds; none by
            default.
        download: If True, torchvision downloads the missing files; False by default.

    Returns:
        The files by ``"mnist"`` and ``"svhn"``: the path of an ``.npz`` archive, or a dict from names to paths.

    Raises:
        ValueError: If a file is missing; the message says which files belong where.
    """
    files: dict[str, Any] = {}
    for name in SHAPES:
        archive = (npz or {}).get(name)
        files[name] = _find_files(name, folder) if archive is None else _check_archive(name, Path(archive).expanduser())
        if files[name] is None and download:
            files[name] = download_mnist(folder) if name == "mnist" else download_svhn(folder)
    instructions = [_INSTRUCTIONS[name].format(folder=folder) for name in SHAPES if files[name] is None]
    if instructions:
        raise ValueError(
            f"{folder}: {'; '.join(instructions)}; or let torchvision download them with --set data.download=true"
        )
    return files


_INSTRUCTIONS = {
    "mnist": "MNIST is missing: put "
    + ", ".join(f"{name}.gz" for name in MD5)
    + " into {folder}/MNIST/raw, or mnist.npz (x_train, y_train, x_test, y_test) into {folder}",
    "svhn": "SVHN is missing: put train_32x32.mat and test_32x32.mat, or one svhn*.npz (images (item, 32, 32, 3) "
    "uint8, labels), into {folder}",
}


def has_digits(folder: Path) -> bool:
    """Return True if a folder seems to hold both MNIST and SVHN, judged by names alone."""
    try:
        return folder.is_dir() and all(_find_files(name, folder) is not None for name in SHAPES)
    except ValueError:  # several archives of SVHN, which loading reports
        return True


def _check_archive(name: str, path: Path) -> Path:
    """Check that an archive exists, and return its path."""
    if not path.is_file():
        raise ValueError(f"{path}: must be an .npz archive of {name.upper()}, got no such file")
    return path


def _find_files(name: str, folder: Path) -> Any:
    """Return the files of MNIST or SVHN in a folder, or None."""
    if name == "mnist":
        try:
            return find_mnist(folder)
        except ValueError:
            path = folder / "mnist.npz"
            return path if path.is_file() else None
    # The last path of a name counts, hence the order of folders is reversed.
    files = {file: folder / place / file for file in SVHN_FILES.values() for place in reversed(SVHN_FOLDERS)
             if (folder / place / file).is_file()}  # fmt: skip
    if len(files) == len(SVHN_FILES):
        return files
    archives = sorted(folder.glob("svhn*.npz"))
    if len(archives) > 1:
        names = ", ".join(path.name for path in archives)
        raise ValueError(f"{folder}: must hold one archive svhn*.npz, got {names}: choose one by the option svhn")
    return archives[0] if archives else None


def download_svhn(folder: Path) -> dict[str, Path]:
    """Download SVHN's two files with torchvision.

    Args:
        folder: Path of the folder to download to.

    Returns:
        The paths by name of the file.

    Raises:
        ValueError: If the download fails; the message says which files belong where.
    """
    datasets = importlib.import_module("torchvision.datasets")
    try:
        for part in SVHN_FILES:
            datasets.SVHN(str(folder), split=part, download=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"SVHN cannot be downloaded ({error}): download {' and '.join(SVHN_FILES.values())} by other means and put "
            f"them into {folder}"
        ) from error
    return {file: folder / file for file in SVHN_FILES.values()}


def read_digits(name: str, files: Any, part: str, seed: int = 0) -> DigitImages:
    """Read the images of one part of MNIST or SVHN.

    Args:
        name: Name of the data, ``"mnist"`` or ``"svhn"``.
        files: Its files, as :func:`find_digits` returns them.
        part: Name of the part, ``"train"`` or ``"test"``.
        seed: Seed of the random split of an ``.npz`` archive without a split; 0 by default.

    Raises:
        ValueError: If a file is damaged or malformed; the message names it.
    """
    if isinstance(files, Path):
        return _read_npz(name, files, part, seed)
    if name == "mnist":
        digits = read_mnist(files, part)
        return DigitImages(np.array(digits.images[:, np.newaxis]), digits.labels, {"part": part, "files": digits.files})
    return read_svhn(files[SVHN_FILES[part]], part)


def read_svhn(path: Path, part: str) -> DigitImages:
    """Read SVHN's cropped digits from a ``.mat`` file, in which the label of the digit 0 is 10.

    Args:
        path: Path of the file.
        part: Name of the part, ``"train"`` or ``"test"``, for the description.

    Raises:
        ValueError: If the file is damaged or malformed; the message names it.
    """
    with as_value_error(f"{path}: must be a readable .mat file", (Exception,)):
        content = importlib.import_module("scipy.io").loadmat(str(path), variable_names=["X", "y"])
        images, labels = np.asarray(content["X"]), np.asarray(content["y"]).reshape(-1)
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3) or images.dtype != np.uint8:
        raise ValueError(f"{path}: X must be (32, 32, 3, item) of uint8, got {images.shape} of {images.dtype}")
    labels = np.where(labels == 10, 0, labels)
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    about = {"part": part, "files": [{"file": path.name, "md5": md5, "published": md5 == SVHN_MD5.get(path.name)}]}
    return _check_images("svhn", f"{path}", images.transpose(3, 2, 0, 1), labels, about)


def _read_npz(name: str, path: Path, part: str, seed: int) -> DigitImages:
    """Read one part of an ``.npz`` archive, split at random if the archive has no split."""
    arrays = read_npz(path)
    with path.open("rb") as file:
        about: dict[str, Any] = {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    keys = (f"x_{part}", f"y_{part}")
    if all(key in arrays for key in keys):
        images, labels = (arrays[key] for key in keys)
        return _check_images(name, f"{path}[{keys[0]}]", _channels_first(images), labels, {"part": part, **about})
    if not {"images", "labels"} <= set(arrays):
        raise ValueError(
            f"{path}: must hold images and labels, or x_train, y_train, x_test and y_test, got "
            f"{', '.join(arrays) or 'no array'}"
        )
    whole = _check_images(name, f"{path}[images]", _channels_first(arrays["images"]), arrays["labels"], about)
    for_test = choose_fraction(whole.labels, TEST_SHARE, np.random.default_rng(child_seed(seed, 0)))
    kept = for_test if part == "test" else ~for_test
    description = f"{int(kept.sum())} of {len(kept)} images, split at random by seed {seed}: not the set's own split"
    about["part"] = f"{part}, {description}"
    return DigitImages(whole.images[kept], whole.labels[kept], about)


def _channels_first(images: NDArray[Any]) -> NDArray[Any]:
    """Move or add the axis of channels, so that images are `(image, channel, height, width)`."""
    if images.ndim == 3:
        return images[:, np.newaxis]
    return np.moveaxis(images, -1, 1) if images.ndim == 4 and images.shape[-1] in {1, 3} else images


def _check_images(
    name: str, where: str, images: NDArray[Any], labels: NDArray[Any], about: dict[str, Any]
) -> DigitImages:
    """Check images and labels, and return them together."""
    shape = SHAPES[name]
    if images.shape[1:] != shape or images.dtype != np.uint8 or not len(images):
        raise ValueError(
            f"{where}: images must be (item, {', '.join(map(str, shape))}) of uint8, with at least one item, got "
            f"{images.shape} of {images.dtype}"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"{where}: labels must be ({len(images)},) of integers, got {labels.shape} of {labels.dtype}")
    invalid = (labels < 0) | (labels >= DIGITS)
    if invalid.any():
        first = int(np.argmax(invalid))
        raise ValueError(f"{where}: label {first} must be from 0 to {DIGITS - 1}, got {labels[first]}")
    return DigitImages(np.ascontiguousarray(images), labels.astype(np.int64), about)


def choose_fraction(labels: NDArray[np.int64], fraction: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Choose a random fraction of the images, stratified by class.

    Args:
        labels: Class of each image, `(image,)`.
        fraction: The fraction to choose, 0 to 1.
        generator: Source of the random choice.

    Returns:
        True for the chosen images, `(image,)`: the fraction of all, rounded down, to within one image per class.
    """
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    steps = np.floor(np.arange(len(labels) + 1) * fraction + 1e-9)  # the summand undoes rounding, as in 10 * 0.3
    chosen = np.zeros(len(labels), dtype=np.bool_)
    chosen[order[np.diff(steps) > 0]] = True
    return chosen
