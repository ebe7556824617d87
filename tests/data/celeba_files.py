"""A small folder in CelebA's official layout: images of noise and gradients, with lists in the official format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("5_o_Clock_Shadow", "Bald", "Smiling", "Wearing_Hat")
COUNT = 30
PARTITION = [0] * 18 + [1] * 5 + [2] * 7


def attributes() -> np.ndarray:
    flags = np.random.default_rng(0).random((COUNT, len(NAMES))) < 0.4
    flags[0] = False
    flags[1] = True
    return flags


def files() -> list[str]:
    return [f"{number:06d}.jpg" for number in np.random.default_rng(1).permutation(COUNT) + 1]


def picture(number: int, width: int = 178, height: int = 218) -> Image.Image:
    generator = np.random.default_rng(number)
    coarse = generator.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def attribute_lines() -> list[str]:
    rows = [
        f"{file} " + " ".join("1" if v else "-1" for v in row) for file, row in zip(files(), attributes(), strict=True)
    ]
    return [str(COUNT), " ".join(NAMES) + " ", *rows]


def partition_lines() -> list[str]:
    return [f"{file} {part}" for file, part in zip(files(), PARTITION, strict=True)]


def write(parent: Path) -> Path:
    """Write the folder ``celeba`` into a folder, and return its path."""
    home = parent / "celeba"
    (home / "img_align_celeba").mkdir(parents=True)
    (home / "list_attr_celeba.txt").write_text("\n".join(attribute_lines()) + "\n")
    (home / "list_eval_partition.txt").write_text("\n".join(partition_lines()) + "\n")
    for number, file in enumerate(files()):
        picture(number).save(home / "img_align_celeba" / file, quality=95)
    return home


def write_npz(home: Path, path: Path, **changes: np.ndarray | None) -> Path:
    """Write the content of the folder as an archive of arrays."""
    parts = [(home / "img_align_celeba" / file).read_bytes() for file in files()]
    arrays = {
        "jpeg": np.frombuffer(b"".join(parts), dtype=np.uint8),
        "offsets": np.cumsum([0, *map(len, parts)]),
        "attributes": np.where(attributes(), 1, -1).astype(np.int8),
        "attribute_names": np.array(NAMES),
        "partition": np.array(PARTITION, dtype=np.uint8),
        "filenames": np.array(files()),
        **changes,
    }
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})
    return path
