"""Images of digits from the files that they come in: MNIST as IDX, SVHN as ``.mat``, and either as ``.npz``."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.own.folder import plain_errors, read_npz
from pyro_mmvae.data.sets.idx import MD5, download_mnist, find_mnist, read_mnist
from pyro_mmvae.data.sets.polymnist_recipe import child_seed

DIGITS = 10

SVHN_FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
SVHN_MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
"""Of the published files."""

SVHN_FOLDERS = (".", "SVHN", "svhn")
"""Where in a folder they are looked for."""

SHAPES = {"mnist": (1, 28, 28), "svhn": (3, 32, 32)}
TEST_SHARE = 0.2
"""Of the images of an ``.npz`` that does not say which are for testing."""


@dataclass(frozen=True, eq=False)
class DigitImages:
    """The images of one part, train or test, of one set.

    Args:
        images: `(image, channel, height, width)`.
        labels: of each, 0 to 9.
        about: where they are from, fit for JSON.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    about: dict[str, Any]


def find_digits(folder: Path, *, npz: Mapping[str, str | None] | None = None, download: bool = False) -> dict[str, Any]:
    """The files of MNIST and SVHN.

    Args:
        folder: that holds MNIST's four IDX files, in torchvision's place or not, packed or not, or ``mnist.npz``; and
            SVHN's two ``.mat`` files or one ``svhn*.npz``.
        npz: ``mnist`` and ``svhn`` to an ``.npz`` that goes before what the folder holds.
        download: let torchvision fetch what is not there.

    Returns:
        ``mnist`` and ``svhn`` to their files: a path of an ``.npz``, or name of each file to its path.

    Raises:
        ValueError: if something is missing; it says which files belong where.
    """
    found: dict[str, Any] = {}
    lacking = []
    for name in SHAPES:
        given = (npz or {}).get(name)
        found[name] = _find(name, folder) if given is None else _existing(name, Path(given).expanduser())
        if found[name] is None and download:
            found[name] = download_mnist(folder) if name == "mnist" else download_svhn(folder)
        if found[name] is None:
            lacking.append(name)
    if lacking:
        wanted = "; ".join(_WANTED[name].format(folder=folder) for name in lacking)
        raise ValueError(f"{folder}: {wanted}; or let torchvision download them with --set data.download=true")
    return found


_WANTED = {
    "mnist": "MNIST is not there: put "
    + ", ".join(f"{name}.gz" for name in MD5)
    + " into {folder}/MNIST/raw, or mnist.npz (x_train, y_train, x_test, y_test) into {folder}",
    "svhn": "SVHN is not there: put train_32x32.mat and test_32x32.mat, or one svhn*.npz (images (item, 32, 32, 3) "
    "uint8, labels), into {folder}",
}


def has_digits(folder: Path) -> bool:
    """Whether a folder seems to hold both sets; nothing is opened."""
    try:
        return folder.is_dir() and all(_find(name, folder) is not None for name in SHAPES)
    except ValueError:
        return True


def _existing(name: str, path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected an .npz of {name.upper()}")
    return path


def _find(name: str, folder: Path) -> Any:
    """Files of one set, or None."""
    if name == "mnist":
        try:
            return find_mnist(folder)
        except ValueError:
            path = folder / "mnist.npz"
            return path if path.is_file() else None
    files = {file: folder / place / file for file in SVHN_FILES.values() for place in reversed(SVHN_FOLDERS)
             if (folder / place / file).is_file()}  # fmt: skip
    if len(files) == len(SVHN_FILES):
        return files
    npz = sorted(folder.glob("svhn*.npz"))
    if len(npz) > 1:
        names = ", ".join(path.name for path in npz)
        raise ValueError(f"{folder}: found {names}, expected one: say which with the option svhn")
    return npz[0] if npz else None


def download_svhn(folder: Path) -> dict[str, Path]:
    """SVHN's two files, fetched by torchvision into a folder.

    Raises:
        ValueError: if they cannot be had; it says which files belong where.
    """
    datasets = importlib.import_module("torchvision.datasets")
    try:
        for part in SVHN_FILES:
            datasets.SVHN(str(folder), split=part, download=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"SVHN cannot be downloaded ({error}): put {' and '.join(SVHN_FILES.values())} into {folder} by other means"
        ) from error
    return {file: folder / file for file in SVHN_FILES.values()}


def read_digits(name: str, files: Any, part: str, seed: int = 0) -> DigitImages:
    """The images of one part of a set.

    Args:
        name: ``mnist`` or ``svhn``.
        files: as :func:`find_digits` gives them.
        part: ``train`` or ``test``.
        seed: of the split of an ``.npz`` that has none.

    Raises:
        ValueError: if a file is not what it should be; the message names it.
    """
    if isinstance(files, Path):
        return _read_npz(name, files, part, seed)
    if name == "mnist":
        digits = read_mnist(files, part)
        return DigitImages(np.array(digits.images[:, np.newaxis]), digits.labels, {"part": part, "files": digits.files})
    return read_svhn(files[SVHN_FILES[part]], part)


def read_svhn(path: Path, part: str) -> DigitImages:
    """SVHN's cropped digits from a ``.mat`` file, in which the label of 0 is 10.

    Raises:
        ValueError: if the file is damaged or holds something else; the message names it.
    """
    with plain_errors(f"{path}: no readable .mat file", (Exception,)):
        content = importlib.import_module("scipy.io").loadmat(str(path), variable_names=["X", "y"])
        images, labels = np.asarray(content["X"]), np.asarray(content["y"]).reshape(-1)
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3) or images.dtype != np.uint8:
        raise ValueError(f"{path}: found X of {images.shape} of {images.dtype}, expected (32, 32, 3, item) of uint8")
    labels = np.where(labels == 10, 0, labels)
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    about = {"part": part, "files": [{"file": path.name, "md5": md5, "published": md5 == SVHN_MD5.get(path.name)}]}
    return _checked("svhn", f"{path}", images.transpose(3, 2, 0, 1), labels, about)


def _read_npz(name: str, path: Path, part: str, seed: int) -> DigitImages:
    arrays = read_npz(path)
    with path.open("rb") as file:
        about: dict[str, Any] = {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    keys = (f"x_{part}", f"y_{part}")
    if all(key in arrays for key in keys):
        images, labels = (arrays[key] for key in keys)
        return _checked(name, f"{path}[{keys[0]}]", _channels_first(images), labels, {"part": part, **about})
    if not {"images", "labels"} <= set(arrays):
        raise ValueError(
            f"{path}: found {', '.join(arrays) or 'nothing'}, expected images and labels, or x_train, y_train, x_test "
            "and y_test"
        )
    whole = _checked(name, f"{path}[images]", _channels_first(arrays["images"]), arrays["labels"], about)
    for_test = share(whole.labels, TEST_SHARE, np.random.default_rng(child_seed(seed, 0)))
    kept = for_test if part == "test" else ~for_test
    how = f"{int(kept.sum())} of {len(kept)} images, split at random by seed {seed}: not the set's own split"
    about["part"] = f"{part}, {how}"
    return DigitImages(whole.images[kept], whole.labels[kept], about)


def _channels_first(images: NDArray[Any]) -> NDArray[Any]:
    if images.ndim == 3:
        return images[:, np.newaxis]
    return np.moveaxis(images, -1, 1) if images.ndim == 4 and images.shape[-1] in {1, 3} else images


def _checked(name: str, where: str, images: NDArray[Any], labels: NDArray[Any], about: dict[str, Any]) -> DigitImages:
    shape, wanted = SHAPES[name], ", ".join(map(str, SHAPES[name]))
    if images.shape[1:] != shape or images.dtype != np.uint8 or not len(images):
        raise ValueError(
            f"{where}: found images of {images.shape} of {images.dtype}, expected (item, {wanted}) of uint8"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{where}: found labels {labels.shape} of {labels.dtype}, expected ({len(images)},) of integers"
        )
    bad = (labels < 0) | (labels >= DIGITS)
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(f"{where}: label {first} is {labels[first]}, expected 0 to {DIGITS - 1}")
    return DigitImages(np.ascontiguousarray(images), labels.astype(np.int64), about)


def share(labels: NDArray[np.int64], part: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Some of the images, at random and of each class as nearly as can be in proportion.

    Args:
        labels: of each image.
        part: how large a share, 0 to 1.
        generator: of the choice.

    Returns:
        Which ones, `(image,)`: the share of all, rounded down, to within one of each class.
    """
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    steps = np.floor(np.arange(len(labels) + 1) * part + 1e-9)
    chosen = np.zeros(len(labels), dtype=np.bool_)
    chosen[order[np.diff(steps) > 0]] = True
    return chosen
