"""A folder of images per modality, in which the files of one item have one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.own.assemble import assemble
from pyro_mmvae.data.own.covariates import column_names
from pyro_mmvae.data.own.folder import META_FILE
from pyro_mmvae.data.own.manifest import ImageSize, read_description, read_table
from pyro_mmvae.data.own.roles import Roles
from pyro_mmvae.data.own.table import TableReader
from pyro_mmvae.data.registry import register_format
from pyro_mmvae.data.storage.image_files import IMAGE_SUFFIXES

_LABELS = "labels.csv"


def _find_images(folder: Path) -> dict[str, dict[str, str]]:
    """Return the path of each image, relative to the folder, by modality and by its name without suffix."""
    found: dict[str, dict[str, str]] = {}
    for child in sorted(folder.iterdir()):
        if not child.is_dir() or child.name.startswith("."):
            continue
        for file in sorted(child.iterdir()):
            if file.suffix.lower() not in IMAGE_SUFFIXES or file.name.startswith("."):
                continue
            images = found.setdefault(child.name, {})
            if file.stem in images:
                raise ValueError(f"{child}: item {file.stem!r} must have one image, got two files of that name")
            images[file.stem] = f"{child.name}/{file.name}"
    return found


def _has_images(path: Path) -> bool:
    """Return True for a folder whose folders directly hold images."""
    if not path.is_dir():
        return False
    folders = (child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    return any(file.suffix.lower() in IMAGE_SUFFIXES for folder in folders for file in folder.iterdir())


@register_format("images", detect=_has_images, loads_all=True)
def load_images(
    path: Path,
    split: str | None,
    *,
    cache: bool = True,
    ids: str | None = None,
    labels: str | tuple[str, ...] | None = None,
    split_by: str | None = None,
    covariates: str | tuple[str, ...] | None = None,
    image_size: ImageSize | None = None,
    in_memory: bool = False,
    kinds: Mapping[str, str] | None = None,
    allow_constant: bool | None = None,
    split_seed: int = 0,
) -> MultimodalDataset:
    """Load one split of a folder with one folder of images per modality, such as ``photos`` and ``sketches``.

    Files with one name, such as ``photos/0001.png`` and ``sketches/0001.jpg``, belong to one item, whose identifier is
    that name. An item lacks the modalities in which it does not have a file. The folder may also hold ``labels.csv``, a
    table with a row per item, and ``meta.yaml``.

    Args:
        path: Path of the folder.
        split: Name of the split: ``train``, ``val`` or ``test``; None for all items, by their file names.
        cache: Accepted for the common interface and ignored, since nothing is built.
        ids: Column of ``labels.csv`` with the names of the items, with or without suffix; by default the first column.
        labels: Column of ``labels.csv`` with the classes, or several columns of attributes, 0 and 1; by default
            ``label`` if there is such a column.
        split_by: Column of ``labels.csv`` with the split of each item; by default ``split`` if there is such a column.
            Otherwise the split is random.
        covariates: Columns of ``labels.csv`` with categories that condition the decoders, such as the hospital or the
            device; an empty cell is an unknown category. None by default.
        image_size: Height and width of the images in pixels, one number for both, or a mapping from modality names to
            sizes; images are scaled to cover it and cropped at the centre. By default all images of a modality must
            have one size.
        in_memory: If True, all images are decoded at once; by default they are decoded for each batch.
        kinds: Data type by modality name, which must be ``image``; accepted for the common interface.
        allow_constant: If True, a modality may have a single value everywhere; by default ``meta.yaml`` decides.
        split_seed: Seed of the random split into 80, 10 and 10 percent; 0 by default.

    Raises:
        ValueError: If an image cannot be read, or a value is not allowed; the message names item and modality.
    """
    import pandas as pd  # noqa: PLC0415  (takes half a second, which only this format needs)

    description = read_description(path / META_FILE).with_options(
        ids=ids, labels=labels, split_by=split_by, covariates=covariates, image_size=image_size
    )
    meta = description.meta.with_options(str(path), kinds, None, allow_constant)
    images = _find_images(path)
    names = sorted(set().union(*images.values()))
    table = pd.DataFrame({name: [files.get(item) for item in names] for name, files in images.items()}, dtype=object)
    # Columns of labels.csv may have the name of a modality, so that roles get names that no folder can have.
    table["/id"] = names
    rest = _read_labels(path / _LABELS, description.ids, names)
    for column in rest:
        table[f"/{column}"] = rest[column]
    label_columns = _roles(description.labels, "label", rest)
    covariate_columns = tuple(f"/{name}" for name in column_names(description.covariates) or ())
    split_column = _roles(description.split_by, "split", rest)
    roles = Roles({name: name for name in images}, "/id", label_columns, split_column, covariate_columns)
    reader = TableReader(str(path), table, path, meta, description.image_size)
    data = assemble(reader.read(roles, path, {"roles": description.provenance()}), split, split_seed=split_seed)
    return replace(data, modalities=data.tensors) if in_memory else data


def _roles(chosen: Any, default: str, table: Any) -> Any:
    """Return the columns of a role under their names in the whole table, or None."""
    if chosen is None:
        return f"/{default}" if default in table else None
    return f"/{chosen}" if isinstance(chosen, str) else tuple(f"/{name}" for name in chosen)


def _read_labels(file: Path, ids: str | None, names: list[str]) -> Any:
    """Return the other columns of ``labels.csv`` with a row per item, empty where it lacks an item."""
    import pandas as pd  # noqa: PLC0415  (takes half a second, which only this format needs)

    if not file.is_file():
        return pd.DataFrame(index=range(len(names)))
    table = read_table(file)
    key = table.columns[0] if ids is None else ids
    if key not in table.columns:
        raise ValueError(f"{file}: ids must be one of the columns {', '.join(table.columns)}, got {key!r}")
    keys = [Path(name).stem if Path(name).suffix.lower() in IMAGE_SUFFIXES else name for name in table[key]]
    known = set(names)
    for row, name in enumerate(keys):
        if name not in known:
            raise ValueError(f"{file}: row {row}: column {key!r} must name an item with an image, got {name!r}")
    table.index = pd.Index(keys)
    if not table.index.is_unique:
        raise ValueError(
            f"{file}: column {key!r} must name each item once, got {table.index[table.index.duplicated()][0]!r} twice"
        )
    return table.drop(columns=key).reindex(names).reset_index(drop=True)
