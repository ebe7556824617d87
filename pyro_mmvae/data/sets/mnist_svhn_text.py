"""MNIST-SVHN-TEXT: an MNIST digit, a house number and its name, paired by nothing but their label.

The recipe is that of Sutter, Daunhawer and Vogt, "Generalized Multimodal ELBO", ICLR 2021, arXiv 2105.02470. Images are
held once, however often they are paired; the name stands at another random place of the text in each epoch.
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
from pyro_mmvae.data.registry import register_data, register_format
from pyro_mmvae.data.sets.digit_files import DigitImages, find_digits, has_digits, read_digits, share
from pyro_mmvae.data.sets.polymnist_recipe import child_seed, draw_digits
from pyro_mmvae.data.storage.indexed import IndexedTensor
from pyro_mmvae.data.text import ALPHABET, ENGLISH, check_alphabet, check_vocabulary, placements
from pyro_mmvae.modality_spec import ModalitySpec

NAME = "mnist-svhn-text"
SPLITS = ("train", "val", "test")
IMAGES = ("mnist", "svhn")

_VALIDATION, _PAIRS, _TEXT = range(1, 4)  # keys of the seeds; 0 is that of the split of an .npz


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

    One pairing is every MNIST image once, each with an SVHN image of its label: within a label a random permutation,
    and a fresh one whenever it is used up. The text is the digit's name, padded with spaces, at a random start. In
    ``train`` the start is drawn anew for each epoch, from seed, epoch and item; in the others it is fixed.

    Args:
        split: ``train``, ``val`` or ``test``. The first two share out the training images of both sets, so that no
            image is in two splits.
        cache: taken, and not needed.
        root: folder of the files: MNIST's four IDX files, where torchvision puts them or not, or ``mnist.npz``; SVHN's
            two ``.mat`` files or one ``svhn*.npz``.
        mnist: an ``.npz`` of MNIST instead: ``x_train``, ``y_train``, ``x_test``, ``y_test``, or ``images`` and
            ``labels``, of which a fifth is then kept for testing at random.
        svhn: an ``.npz`` of SVHN instead, likewise.
        download: let torchvision fetch into ``root`` what is not there.
        pairings: how often every MNIST image is paired, in ``train``.
        test_pairings: likewise, in ``val`` and ``test``.
        val_share: of the training images of each set, for validation.
        vocabulary: the words of 0 to 9; English by default.
        alphabet: of the text. Its characters' places are the tokens.
        length: of the text.
        seed: where the shares, the pairings and the starts come from.

    Returns:
        The split. Its provenance says which files it is from, and how an ``.npz`` was split.

    Raises:
        ValueError: if files are missing or damaged, an option's value is not allowed, or a word is too long or has a
            character that is not in the alphabet.
    """
    _check_options(split, {"pairings": pairings, "test_pairings": test_pairings, "length": length}, val_share, seed)
    check_alphabet(alphabet)
    words = check_vocabulary(ENGLISH if vocabulary is None else vocabulary, length, alphabet)
    files = find_digits(Path(root).expanduser(), npz={"mnist": mnist, "svhn": svhn}, download=download)
    parts = {name: _part(name, files[name], split, val_share, seed) for name in IMAGES}
    times = pairings if split == "train" else test_pairings
    rows = _pair(parts["mnist"].labels, parts["svhn"].labels, times, split, seed)
    labels = parts["mnist"].labels[rows["mnist"]]
    modalities: dict[str, Any] = {
        name: IndexedTensor(torch.from_numpy(parts[name].images), torch.from_numpy(rows[name])) for name in IMAGES
    }
    modalities["text"] = _text(words, labels, length, alphabet, split, seed)
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
    """Load one split of MNIST-SVHN-TEXT from the folder of its files; see :func:`load_mnist_svhn_text`.

    Args:
        path: of the folder, ``root`` there; and so on.
        split: likewise.
        cache: likewise.
        pairings: likewise.
        test_pairings: likewise.
        val_share: likewise.
        vocabulary: likewise.
        alphabet: likewise.
        length: likewise.
        seed: likewise.

    Raises:
        ValueError: as there.
    """
    return load_mnist_svhn_text(
        split, cache=cache, root=str(path), pairings=pairings, test_pairings=test_pairings, val_share=val_share,
        vocabulary=vocabulary, alphabet=alphabet, length=length, seed=seed,
    )  # fmt: skip


def _check_options(split: str, counts: dict[str, int], val_share: float, seed: int) -> None:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of {NAME!r}, expected one of: {', '.join(SPLITS)}")
    for option, value in {**counts, "seed": seed}.items():
        least = 0 if option == "seed" else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{option} of {NAME!r}: found {value!r}, expected a whole number of at least {least}")
    if not 0 < val_share < 1:
        raise ValueError(f"val_share of {NAME!r}: found {val_share!r}, expected a share above 0 and below 1")


def _part(name: str, files: Any, split: str, val_share: float, seed: int) -> DigitImages:
    """The images of one set that a split may show."""
    source = child_seed(seed, IMAGES.index(name))
    found = read_digits(name, files, "test" if split == "test" else "train", seed)
    if split != "test":
        for_val = share(found.labels, val_share, np.random.default_rng(child_seed(source, _VALIDATION)))
        kept = for_val if split == "val" else ~for_val
        found = DigitImages(found.images[kept], found.labels[kept], found.about)
    if not len(found.labels):
        raise ValueError(f"{NAME}: split {split!r} has no image of {name!r}: give a larger val_share")
    return found


def _pair(
    mnist: NDArray[np.int64], svhn: NDArray[np.int64], times: int, split: str, seed: int
) -> dict[str, NDArray[np.int64]]:
    """Which image of each set is in each item: every MNIST image once a pairing, and one of SVHN of its label."""
    for label in np.unique(mnist):
        if label not in svhn:
            raise ValueError(f"{NAME}: split {split!r} has images of {label} in 'mnist' and none in 'svhn'")
    source = child_seed(child_seed(seed, _PAIRS), SPLITS.index(split))
    partners = [draw_digits(svhn, mnist, np.random.default_rng(child_seed(source, number))) for number in range(times)]
    return {"mnist": np.tile(np.arange(len(mnist)), times), "svhn": np.concatenate(partners)}


def _text(
    words: tuple[str, ...], labels: NDArray[np.int64], length: int, alphabet: str, split: str, seed: int
) -> IndexedTensor:
    table, spans = placements(words, length, alphabet)
    first, starts = spans[labels].T
    source = child_seed(child_seed(seed, _TEXT), SPLITS.index(split))

    def draw(epoch: int) -> Tensor:
        uniform = np.random.default_rng(child_seed(source, epoch)).random(len(labels))
        return torch.from_numpy(first + (uniform * starts).astype(np.int64))

    return IndexedTensor(table, draw(0), draw if split == "train" else None)
