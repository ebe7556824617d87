"""The modalities of shards that other programs wrote, by a first pass over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_mmvae.data.own.manifest import ImageSize
from pyro_mmvae.data.own.shards.decoding import SUFFIXES, Format, find_item_format
from pyro_mmvae.data.own.shards.index import ShardIndex
from pyro_mmvae.data.own.shards.scanning import read_first
from pyro_mmvae.data.own.strings import choose_alphabet, choose_length
from pyro_mmvae.data.text import encode_texts
from pyro_mmvae.modality_spec import ModalitySpec, check_modality_name

_PICKLES = {"pkl", "pickle", "pyd", "pt", "pth"}


def foreign_formats(
    path: Path,
    indices: Mapping[Path, ShardIndex],
    modalities: Sequence[str] | None,
    image_size: ImageSize | None,
) -> tuple[dict[str, ModalitySpec], dict[str, Format]]:
    """Return the description and the format of each modality that is to be read, in alphabetical order.

    Args:
        path: Path of the data, for messages.
        indices: Index of each shard by its path.
        modalities: Names of the modalities to read; None for all.
        image_size: Size that images are resized to, or sizes by modality name; None to keep them.

    Raises:
        ValueError: If there is no modality, one has a suffix that cannot be read, or its first member is damaged.
    """
    found = sorted({name for index in indices.values() for name in index.modalities})
    names = [name for name in found if modalities is None or name in modalities]
    if not found:
        raise ValueError(f"{path}: items must have members {', '.join(sorted(SUFFIXES))}, got none of them")
    if not names:
        raise ValueError(f"{path}: modalities must be some of {', '.join(found)}, got {list(modalities or ())}")
    if isinstance(image_size, Mapping) and not set(image_size) <= set(found):
        raise ValueError(f"{path}: image_size must name some of {', '.join(found)}, got {', '.join(image_size)}")
    specs, forms = dict[str, ModalitySpec](), dict[str, Format]()
    for name in names:
        check_modality_name(name, str(path))
        holders = {file: index for file, index in indices.items() if name in index.modalities}
        about = [index.about.get(name, {}) for index in holders.values()]
        suffix = str(about[0].get("suffix"))
        _check_suffix(path, name, suffix)
        if SUFFIXES[suffix] == "txt":
            specs[name], forms[name] = _describe_texts(f"{path}: modality {name!r}", about)
            continue
        file, index = next(iter(holders.items()))
        content = read_first(file, index, index.modalities.index(name))
        place = f"{file}: the first member of {name!r}"
        forms[name] = find_item_format(SUFFIXES[suffix], content or b"", _size(path, name, image_size), place)
        specs[name] = ModalitySpec(data_type="image") if forms[name].encoding == "image" else ModalitySpec()
    return specs, forms


def _check_suffix(path: Path, name: str, suffix: str) -> None:
    if suffix not in SUFFIXES:
        reason = ", and pickles are never loaded" if suffix in _PICKLES else ""
        raise ValueError(
            f"{path}: members of modality {name!r} must have one of the suffixes {', '.join(SUFFIXES)}, got "
            f"{suffix!r}{reason}: name the modalities to read by the option modalities"
        )


def _size(path: Path, name: str, image_size: ImageSize | None) -> tuple[int, int] | None:
    size: Any = image_size.get(name) if isinstance(image_size, Mapping) else image_size
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in pair):
        raise ValueError(f"{path}: image_size must be a number of pixels, or height and width, got {size!r}")
    return pair[0], pair[1]


def _describe_texts(where: str, about: Sequence[Mapping[str, Any]]) -> tuple[ModalitySpec, Format]:
    """Return the description and the format of texts whose characters and lengths are known by shard."""
    characters = "".join(sorted({character for part in about for character in part["characters"]}))
    alphabet, padding = choose_alphabet(where, characters)
    length = choose_length(max(int(part["longest"]) for part in about))
    tokens, _ = encode_texts([""], length, padding, alphabet)
    spec = ModalitySpec(data_type="tokens", alphabet=alphabet, padding=padding, classes=len(alphabet))
    return spec, Format("txt", (length,), tokens.dtype.name, alphabet, padding)
