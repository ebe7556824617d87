"""Data sets from Python: arrays, and anything that gives items one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pyro_mmvae.data.assemble import Source, assemble
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.meta import make_meta

_NOT_MODALITIES = ("label", "present")


def from_arrays(
    modalities: Mapping[str, ArrayLike | torch.Tensor],
    labels: ArrayLike | torch.Tensor | None = None,
    present: ArrayLike | torch.Tensor | None = None,
    *,
    name: str = "arrays",
    split: str = "train",
    meta: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> MultimodalDataset:
    """A data set of arrays, checked like files are. All items are taken: which split they are is for you to say.

    An array that is mapped from a large file (``numpy.load(…, mmap_mode="c")``) stays there.

    Args:
        modalities: name to `(item, …)`. Images are channel first; uint8 is divided by 255 in a batch.
        labels: class of each item, `(item,)`, integers.
        present: bool, `(item, modality)`, columns in the order of ``modalities``.
        name: of the data.
        split: what to call it.
        meta: what ``meta.yaml`` would say: ``{"modalities": {NAME: {"kind": "counts"}}, "missing_nan": True}``.
        provenance: what identifies the content, fit for JSON; what is computed from data is cached by it.

    Raises:
        ValueError: for whatever does not fit; the message names modality, item and what was expected.

    Example:
        >>> import numpy as np
        >>> counts = np.random.default_rng(0).poisson(3.0, (6, 4))
        >>> data = from_arrays({"rna": counts}, meta={"modalities": {"rna": {"kind": "counts"}}})
        >>> data.traits["rna"].kind, data.modalities["rna"].dtype
        ('counts', torch.float32)
    """
    arrays = {key: _array(value) for key, value in modalities.items()}
    source = Source(
        where=name,
        files={},
        modalities=arrays,
        labels=None if labels is None else _array(labels),
        present=None if present is None else _array(present),
        split=None,
        meta=make_meta("meta", None if meta is None else dict(meta)),
        name=name,
        provenance={} if provenance is None else dict(provenance),
    )
    data = assemble(source, None)
    return MultimodalDataset(data.modalities, data.labels, data.present, name, split, source.provenance, data.traits)


def from_items(
    items: Iterable[Mapping[str, Any]] | Any,
    *,
    name: str = "items",
    split: str = "train",
    meta: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> MultimodalDataset:
    """A data set of items, such as a torch ``Dataset`` or ``IterableDataset`` of dicts, read once and held in memory.

    Args:
        items: each a mapping of modality names to arrays, tensors or numbers, of one shape and type a modality. One
            that is None or not there is absent. ``"label"`` is the item's class, an integer, in all items or in none.
            What has a length and is indexed by whole numbers does as well as what is iterated over.
        name: see :func:`from_arrays`; and so on.
        split: likewise.
        meta: likewise.
        provenance: likewise.

    Returns:
        The data set, modalities in the order in which they first appear.

    Raises:
        ValueError: for no items, or items that do not fit together; the message names modality and item.
        TypeError: if an item is no mapping.
    """
    found: dict[str, dict[int, NDArray[Any]]] = {}
    labels: dict[int, Any] = {}
    count = 0
    for item in _each(items):
        if not isinstance(item, Mapping):
            raise TypeError(f"{name}: item {count}: found {type(item).__name__}, expected a mapping of modalities")
        for key, value in item.items():
            if value is None:
                continue
            if key == "label":
                labels[count] = value
            else:
                found.setdefault(str(key), {})[count] = _array(value)
        count += 1
    if not count:
        raise ValueError(f"{name}: found no items, expected at least one")
    if labels and len(labels) < count:
        lacking = next(i for i in range(count) if i not in labels)
        raise ValueError(f"{name}: item {lacking}: found no label, others have one")
    present = np.zeros((count, len(found)), dtype=bool)
    arrays = {}
    for number, (key, values) in enumerate(found.items()):
        present[list(values), number] = True
        arrays[key] = _stack(f"{name}: modality {key!r}", values, count)
    given = (
        np.array([int(_array(labels[i])) if _is_whole(labels[i]) else labels[i] for i in range(count)])
        if labels
        else None
    )
    return from_arrays(arrays, given, present, name=name, split=split, meta=meta, provenance=provenance)


def _each(items: Any) -> Iterable[Any]:
    """A torch ``Dataset`` need not be iterable, and has no end if it is iterated over by its index."""
    if hasattr(items, "__len__") and hasattr(items, "__getitem__") and not isinstance(items, (Sequence, Mapping)):
        return (items[i] for i in range(len(items)))
    return iter(items)


def _stack(where: str, values: dict[int, NDArray[Any]], count: int) -> NDArray[Any]:
    first, example = next(iter(values.items()))
    array = np.zeros((count, *example.shape), dtype=example.dtype)
    for item, value in values.items():
        if value.shape != example.shape or value.dtype != example.dtype:
            raise ValueError(
                f"{where}: item {item}: found {value.shape} of {value.dtype}, expected {example.shape} of "
                f"{example.dtype} as in item {first}"
            )
        array[item] = value
    return array


def _array(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asanyarray(value)


def _is_whole(value: Any) -> bool:
    array = _array(value)
    return array.shape == () and array.dtype.kind in "iu"
