"""MNIST-SVHN-TEXT: an MNIST digit, a house number and the digit's name, paired by their label alone.

The recipe is that of Sutter, Daunhawer and Vogt, "Generalized Multimodal ELBO", ICLR 2021, arXiv 2105.02470. Images are
held once, however often they are paired; the name is at another random position of the text in each epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.options import check_integer, check_split
from pyro_mmvae.data.registry import register_data, register_format
from pyro_mmvae.data.sets.digit_files import DigitImages, choose_fraction, find_digits, has_digits, read_digits
from pyro_mmvae.data.sets.polymnist_recipe import child_seed, draw_digits
from pyro_mmvae.data.storage.indexed import IndexedTensor
from pyro_mmvae.data.text import ALPHABET, ENGLISH_DIGITS, check_alphabet, check_vocabulary, placements
from pyro_mmvae.modality_spec import ModalitySpec

NAME = "mnist-svhn-text"
SPLITS = ("train", "val", "test")
IMAGES = ("mnist", "svhn")

_VALIDATION_KEY, _PAIRS_KEY, _TEXT_KEY = range(1, 4)  # keys of child seeds; 0 is that of the split of an .npz


@register_data(NAME, splits=SPLITS)
def load_mnist_svhn_text(
    split: str,
    *,
    cache: bool = True,
    root: str = "data",
    mnist: str | None = None,
    svhn: str | None = None,
    download: bool = False,
    pairings: int = 20,
    test_pairings: int = 1,
    val_share: float = 0.05,
    vocabulary: Sequence[str | None] | None = None,
    alphabet: str = ALPHABET,
    length: int = 8,
    seed: int = 0,
) -> MultimodalDataset:
    """Load one split of MNIST-SVHN-TEXT: modalities ``mnist`` (1, 28, 28), ``svhn`` (3, 32, 32) and ``text`` (length,).

    One pairing contains every MNIST image once, each with an SVHN image of its label: within a label the SVHN images
    are randomly permuted, and permuted anew whenever all have been used. The text is the digit's name, padded with
    spaces, at a random position. In ``train`` the position is drawn anew for each epoch, from seed, epoch and item; in
    the other splits it is fixed.

    Args:
        split: Name of the split: ``train``, ``val`` or ``test``. The first two divide the training images of both sets,
            so that no image is in two splits.
        cache: Accepted for the common interface and ignored, since nothing is built.
        root: Path of the folder with the files: MNIST's four IDX files, at torchvision's place or directly, or
            ``mnist.npz``; SVHN's two ``.mat`` files or one ``svhn*.npz``. ``data`` by default.
        mnist: Path of an ``.npz`` archive of MNIST to use instead, with ``x_train``, ``y_train``, ``x_test`` and
            ``y_test``, or with ``images`` and ``labels``, of which a random fifth is then kept for testing.
        svhn: Path of an ``.npz`` archive of SVHN to use instead, with arrays of these names.
        download: If True, torchvision downloads missing files into ``root``; False by default.
        pairings: Number of times that every MNIST image is paired in ``train``; 20 by default.
        test_pairings: Number of times that every MNIST image is paired in ``val`` and in ``test``; 1 by default.
        val_share: Fraction of the training images of each set used for validation; 0.05 by default.
        vocabulary: The words for 0 to 9; in English by default.
        alphabet: The characters of the text, whose positions are the tokens; :data:`ALPHABET` by default.
        length: Number of characters of the text; 8 by default.
        seed: Seed of the shares, the pairings and the positions; 0 by default.

    Returns:
        The split. Its provenance names the files, and the random split of an ``.npz`` archive.

    Raises:
        ValueError: If a file is missing or damaged, the value of an option is not allowed, or a word is too long or
            has a character that the alphabet lacks.
    """
    _check_options(split, {"pairings": pairings, "test_pairings": test_pairings, "length": length}, val_share, seed)
    check_alphabet(alphabet)
    words = check_vocabulary(ENGLISH_DIGITS if vocabulary is None else vocabulary, length, alphabet)
    files = find_digits(Path(root).expanduser(), npz={"mnist": mnist, "svhn": svhn}, download=download)
    parts = {name: _read_part(name, files[name], split, val_share, seed) for name in IMAGES}
    times = pairings if split == "train" else test_pairings
    rows = _pair_images(parts["mnist"].labels, parts["svhn"].labels, times, split, seed)
    labels = parts["mnist"].labels[rows["mnist"]]
    modalities: dict[str, Any] = {
        name: IndexedTensor(torch.from_numpy(parts[name].images), torch.from_numpy(rows[name])) for name in IMAGES
    }
    modalities["text"] = _place_words(words, labels, length, alphabet, split, seed)
    provenance = {
        "format": 1,
        "seed": seed,
        "sources": {name: parts[name].about for name in IMAGES},
        "images": {name: len(parts[name].labels) for name in IMAGES},
        "val_share": val_share,
        "pairings": times,
        "text": {"vocabulary": list(words), "alphabet": alphabet, "length": length},
    }
    pixels = ModalitySpec(data_type="image", pixels=True)
    tokens = ModalitySpec(data_type="tokens", classes=len(alphabet), alphabet=alphabet)
    specs = {"mnist": pixels, "svhn": pixels, "text": tokens}
    present = torch.ones(len(labels), len(modalities), dtype=torch.bool)
    return MultimodalDataset(modalities, torch.from_numpy(labels), present, NAME, split, provenance, specs)


@register_format(NAME, detect=has_digits, splits=SPLITS)
def load_mnist_svhn_text_folder(
    path: Path,
    split: str,
    *,
    cache: bool = True,
    pairings: int = 20,
    test_pairings: int = 1,
    val_share: float = 0.05,
    vocabulary: Sequence[str | None] | None = None,
    alphabet: str = ALPHABET,
    length: int = 8,
    seed: int = 0,
) -> MultimodalDataset:
    """Load one split of MNIST-SVHN-TEXT from the folder of its files, see :func:`load_mnist_svhn_text`.

    Args:
        path: Path of the folder with the files of MNIST and SVHN.
        split: Name of the split: ``train``, ``val`` or ``test``.
        cache: Accepted for the common interface and ignored, since nothing is built.
        pairings: Number of times that every MNIST image is paired in ``train``; 20 by default.
        test_pairings: Number of times that every MNIST image is paired in ``val`` and in ``test``; 1 by default.
        val_share: Fraction of the training images of each set used for validation; 0.05 by default.
        vocabulary: The words for 0 to 9; in English by default.
        alphabet: The characters of the text, whose positions are the tokens; :data:`ALPHABET` by default.
        length: Number of characters of the text; 8 by default.
        seed: Seed of the shares, the pairings and the positions; 0 by default.

    Raises:
        ValueError: If a file is missing or damaged, or the value of an option is not allowed.
    """
    return load_mnist_svhn_text(
        split, cache=cache, root=str(path), pairings=pairings, test_pairings=test_pairings, val_share=val_share,
        vocabulary=vocabulary, alphabet=alphabet, length=length, seed=seed,
    )  # fmt: skip


def _check_options(split: str, counts: dict[str, int], val_share: float, seed: int) -> None:
    """Check the options that do not concern the text."""
    check_split(NAME, split, SPLITS)
    for option, value in counts.items():
        check_integer(option, NAME, value, 1)
    check_integer("seed", NAME, seed, 0)
    if not 0 < val_share < 1:
        raise ValueError(f"val_share of {NAME!r} must be a number above 0 and below 1, got {val_share!r}")


def _read_part(name: str, files: Any, split: str, val_share: float, seed: int) -> DigitImages:
    """Read the images of one set that belong to a split."""
    source = child_seed(seed, IMAGES.index(name))
    digits = read_digits(name, files, "test" if split == "test" else "train", seed)
    if split != "test":
        for_val = choose_fraction(digits.labels, val_share, np.random.default_rng(child_seed(source, _VALIDATION_KEY)))
        kept = for_val if split == "val" else ~for_val
        digits = DigitImages(digits.images[kept], digits.labels[kept], digits.about)
    if not len(digits.labels):
        raise ValueError(f"{NAME}: split {split!r} must have an image of {name!r}, got none: choose another val_share")
    return digits


def _pair_images(
    mnist: NDArray[np.int64], svhn: NDArray[np.int64], times: int, split: str, seed: int
) -> dict[str, NDArray[np.int64]]:
    """Pair every MNIST image, once per pairing, with an SVHN image of its label.

    Args:
        mnist: Class of each MNIST image, `(image,)`.
        svhn: Class of each SVHN image, `(image,)`.
        times: Number of pairings to draw.
        split: Name of the split, which determines the draws.
        seed: Seed of the data set.

    Returns:
        Index of the image in each item, `(item,)`, by ``"mnist"`` and ``"svhn"``.
    """
    for label in np.unique(mnist):
        if label not in svhn:
            raise ValueError(
                f"{NAME}: split {split!r} must have images of {label} in 'svhn', as it has in 'mnist', got none"
            )
    source = child_seed(child_seed(seed, _PAIRS_KEY), SPLITS.index(split))
    partners = [draw_digits(svhn, mnist, np.random.default_rng(child_seed(source, number))) for number in range(times)]
    return {"mnist": np.tile(np.arange(len(mnist)), times), "svhn": np.concatenate(partners)}


def _place_words(
    words: tuple[str, ...], labels: NDArray[np.int64], length: int, alphabet: str, split: str, seed: int
) -> IndexedTensor:
    """Return the texts of items: each label's word at a random position, drawn anew per epoch in ``train``."""
    table, spans = placements(words, length, alphabet)
    first_rows, starts = spans[labels].T
    source = child_seed(child_seed(seed, _TEXT_KEY), SPLITS.index(split))

    def draw(epoch: int) -> Tensor:
        uniform = np.random.default_rng(child_seed(source, epoch)).random(len(labels))
        return torch.from_numpy(first_rows + (uniform * starts).astype(np.int64))

    return IndexedTensor(table, draw(0), draw if split == "train" else None)
