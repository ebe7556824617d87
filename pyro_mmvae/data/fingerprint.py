"""Fingerprints of the content of data sets, by which a run notices that its data changed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.dataset import MultimodalDataset

_MAX_ITEMS = 1024  # items of a modality whose values are read
_MAX_BYTES = 2**24  # of these items, so that large ones are read in a fraction of a second too
_MAX_COLUMNS = 2**15  # columns with digests of their own
_PROBES = 16  # numbers that are kept, which show a factor or a shift of all values


@dataclass(frozen=True)
class ModalityFingerprint:
    """A fingerprint of one modality, from its mask and from evenly spaced items that have it.

    Attributes:
        shape: Shape of one item.
        dtype: Name of the type, where floats of all sizes are float32 and signed integers int64.
        present_count: Number of items that have the modality.
        present: Digest of the mask of present items.
        values: Digest of the values of the items that were read, in order.
        items: Digest of the values of these items, in any order of the items.
        columns: Digest of the values at each index of the first axis of an item, a column of a table or a channel of an
            image; empty if there are fewer than 2 of them or more than 32,768.
        probes: Some of the numbers, evenly spaced among those that were read.
        features: Digest of the names of the features, in order; None without names.
        feature_set: Digest of the sorted names of the features; None without names.
    """

    shape: tuple[int, ...]
    dtype: str
    present_count: int
    present: str
    values: str
    items: str
    columns: tuple[str, ...] = ()
    probes: tuple[float, ...] = ()
    features: str | None = None
    feature_set: str | None = None


@dataclass(frozen=True)
class Fingerprint:
    """A fingerprint of one split of a data set, which depends on its content and not on how it is stored.

    Attributes:
        num_items: Number of items in the split.
        modalities: Fingerprint of each modality by name, in order.
        labels: Digest of the labels of all items, in order; None without labels.
        label_counts: Digest of the number of items per class or attribute; None without labels.
        label_names: Digest of the names of classes and attributes; None without labels.
        ids: Digest of the identifiers of all items, in order; None without identifiers.
        id_set: Digest of the sorted identifiers; None without identifiers.
        covariates: Digest of the categories of all items, in order, by covariate name; empty without covariates.
    """

    num_items: int
    modalities: Mapping[str, ModalityFingerprint]
    labels: str | None = None
    label_counts: str | None = None
    label_names: str | None = None
    ids: str | None = None
    id_set: str | None = None
    covariates: Mapping[str, str] = field(default_factory=dict)


def take_fingerprint(data: MultimodalDataset) -> Fingerprint:
    """Return the fingerprint of a data set, in a fraction of a second for data of any size.

    Masks, labels, identifiers and covariates are read completely, values of at most 1,024 evenly spaced items or
    16 MiB per modality; exported shards are compared by the checksums in their description. Permuted columns, changed
    units and lost pairing are seen; a change of a few items among many may not be.

    Args:
        data: One split of a data set, on any device, in memory or mapped.
    """
    labels = label_counts = label_names = ids = id_set = None
    if data.labels is not None:
        values = data.labels.cpu()
        counts = values.sum(0) if data.label_names else torch.bincount(values + 1)
        labels, label_counts = _digest(values.numpy()), _digest(counts.numpy())
        label_names = _digest_names((*data.class_names, *data.label_names))
    if data.item_ids is not None:
        names = data.item_ids.tolist()
        ids, id_set = _digest_names(names), _digest_names(sorted(names))
    modalities = {name: _take_modality(data, name, column) for column, name in enumerate(data.names)}
    covariates = {
        name: _digest_names([data.covariate_names[name][code] if code >= 0 else "" for code in codes.tolist()])
        for name, codes in data.covariates.items()
    }
    return Fingerprint(len(data), modalities, labels, label_counts, label_names, ids, id_set, covariates)


def _take_modality(data: MultimodalDataset, name: str, column: int) -> ModalityFingerprint:
    """Return the fingerprint of one modality."""
    mask = data.present[:, column].cpu()
    features = data.feature_names.get(name)
    feature_digests = (None, None) if features is None else (_digest_names(features), _digest_names(sorted(features)))
    tensor = data.modalities[name]
    stored = None if data.shards is None else data.shards.digests.get(name)
    if stored is not None:
        dtype = _canonical(torch.empty(0, dtype=tensor.dtype)).dtype.name
        about = (tuple(tensor.shape[1:]), dtype, int(mask.sum()), _digest(mask.numpy()), stored, stored)
        return ModalityFingerprint(*about, (), (), *feature_digests)
    rows = mask.nonzero()[:, 0]
    values = _canonical(tensor[_choose(rows, tensor).to(data.present.device)])
    items = [_digest(item, size=8) for item in values]
    columns: tuple[str, ...] = ()
    if values.ndim > 1 and 1 < values.shape[1] <= _MAX_COLUMNS:
        columns = tuple(_digest(part, size=4) for part in np.swapaxes(values, 0, 1))
    return ModalityFingerprint(
        tuple(values.shape[1:]),
        values.dtype.name,
        len(rows),
        _digest(mask.numpy()),
        _digest_names(items),
        _digest_names(sorted(items)),
        columns,
        tuple(map(float, values.flat[np.arange(_PROBES) * (values.size - 1) // (_PROBES - 1)])) if values.size else (),
        *feature_digests,
    )


def _choose(rows: Tensor, values: object) -> Tensor:
    """Return evenly spaced ones of some rows, the first and the last among them."""
    shape, dtype = values.shape[1:], values.dtype  # type: ignore[attr-defined]
    item_bytes = max(math.prod(shape) * max(torch.empty(0, dtype=dtype).element_size(), 1), 1)
    count = min(_MAX_ITEMS, len(rows), max(_MAX_BYTES // item_bytes, 1))
    return rows[torch.arange(count) * (len(rows) - 1) // max(count - 1, 1)]


def _canonical(values: Tensor) -> NDArray[np.generic]:
    """Return values in a type that does not depend on how they are stored."""
    if values.is_floating_point():
        values = values.float() + 0.0  # which makes -0.0 and 0.0 equal
    elif values.dtype not in {torch.uint8, torch.bool}:
        values = values.long()
    return values.cpu().numpy()


def _digest(array: NDArray[np.generic], size: int = 16) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=size).hexdigest()


def _digest_names(names: Sequence[str]) -> str:
    return hashlib.blake2b("\0".join(names).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def find_changes(
    before: Fingerprint, after: Fingerprint, feature_names: Mapping[str, Sequence[str]] | None = None
) -> tuple[str, ...]:
    """Return a line about each difference between two fingerprints of a split, as specific as they allow.

    Labels, identifiers and names of features that only the later one has are no difference.

    Args:
        before: The earlier fingerprint, such as that of the data that a model was trained on.
        after: The later fingerprint, to be compared with it.
        feature_names: Names of the features by modality name, for the messages; by default columns are numbered.

    Returns:
        One line per difference; empty if there is none.
    """
    lines = list(_compare_names(tuple(before.modalities), tuple(after.modalities)))
    if before.num_items != after.num_items:
        lines.insert(0, f"the number of items was {before.num_items} and is {after.num_items}")
    both = [name for name in before.modalities if name in after.modalities]
    pairs = {name: (before.modalities[name], after.modalities[name]) for name in both}
    moved = [name for name, (old, new) in pairs.items() if old.values != new.values and old.items == new.items]
    is_reordered = len(moved) == len(both) and before.num_items == after.num_items
    if is_reordered and moved:
        return (*lines, "the items are in another order")
    for name, (old, new) in pairs.items():
        names = (feature_names or {}).get(name)
        if before.num_items != after.num_items:
            lines += [f"modality {name!r}: {line}" for line in _compare_layout(old, new)]
        elif name in moved:
            lines.append(f"modality {name!r} now pairs with other items")
        else:
            lines += [f"modality {name!r}: {line}" for line in _compare_modality(old, new, names)]
    if before.num_items == after.num_items:
        lines += _compare_labels(before, after)
        lines += _compare_ids(before, after)
        lines += _compare_covariates(before.covariates, after.covariates)
    return tuple(lines)


def _compare_names(before: tuple[str, ...], after: tuple[str, ...]) -> Iterator[str]:
    yield from (f"modality {name!r} is missing" for name in before if name not in after)
    yield from (f"modality {name!r} is new" for name in after if name not in before)
    if before != after and sorted(before) == sorted(after):
        yield f"the modalities were {', '.join(before)} and are {', '.join(after)}"


def _compare_layout(old: ModalityFingerprint, new: ModalityFingerprint) -> Iterator[str]:
    """Yield the differences of shape, type and names of features."""
    if tuple(old.shape) != tuple(new.shape):
        yield f"items were of shape {tuple(old.shape)} and are of shape {tuple(new.shape)}"
    if old.dtype != new.dtype:
        yield f"the values were {old.dtype} and are {new.dtype}"
    if None not in {old.features, new.features} and old.features != new.features:
        is_permuted = old.feature_set == new.feature_set
        yield f"the {_axis(new)} are in another order" if is_permuted else "the features have other names"


def _compare_modality(old: ModalityFingerprint, new: ModalityFingerprint, names: Sequence[str] | None) -> Iterator[str]:
    """Yield the differences of one modality: those of its layout, or else of its mask, or else of its values."""
    layout = list(_compare_layout(old, new))
    if layout:
        yield from layout
    elif old.present_count != new.present_count:
        yield f"it was present in {old.present_count} items and is in {new.present_count}"
    elif old.present != new.present:
        yield "it is present in other items"
    elif old.values != new.values:
        yield _describe_values(old, new, names)


def _describe_values(old: ModalityFingerprint, new: ModalityFingerprint, names: Sequence[str] | None) -> str:
    """Return what the digests of the columns tell about values that differ."""
    if sorted(old.columns) == sorted(new.columns) and list(old.columns) != list(new.columns):
        return f"the {_axis(new)} are in another order"
    pairs = list(zip(old.columns, new.columns, strict=True))
    changed = [number for number, (first, second) in enumerate(pairs) if first != second]
    if len(changed) in {0, len(pairs)}:
        return _describe_units(old, new)
    axis = _axis(new)
    if len(changed) > 1:
        return f"the values of {len(changed)} of {len(pairs)} {axis} differ"
    label = changed[0] if names is None else repr(names[changed[0]])
    return f"the values of {axis.removesuffix('s')} {label} differ"


def _describe_units(old: ModalityFingerprint, new: ModalityFingerprint) -> str:
    """Return how all values differ, which is by a factor or a shift if the units are others."""
    before, after = np.array(old.probes), np.array(new.probes)
    if len(before) == len(after) and len(set(old.probes)) > _PROBES // 2:
        nonzero = before != 0
        factor = float(np.median(after[nonzero] / before[nonzero]))
        shift = float(np.median(after - before))
        size = np.abs(before).max() + np.abs(after).max()
        if factor != 0 and np.allclose(after, factor * before, rtol=1e-5, atol=0):
            return f"the values are {factor:.5g} times what they were"
        if np.allclose(after - before, shift, rtol=0, atol=1e-6 * size):
            return f"the values are shifted by {shift:.5g}"
    return "the values differ"


def _axis(modality: ModalityFingerprint) -> str:
    """Return the plural name of the first axis of an item."""
    return "channels" if len(modality.shape) == 3 else "columns"


def _compare_labels(before: Fingerprint, after: Fingerprint) -> Iterator[str]:
    if before.labels is None:
        return
    if after.labels is None:
        yield "the labels are missing"
    elif before.label_names != after.label_names:
        yield "labels: the classes or attributes have other names or another order"
    elif before.labels != after.labels:
        yield "the labels belong to other items" if before.label_counts == after.label_counts else "the labels differ"


def _compare_ids(before: Fingerprint, after: Fingerprint) -> Iterator[str]:
    if None not in {before.ids, after.ids} and before.ids != after.ids:
        is_permuted = before.id_set == after.id_set
        yield "the item ids are in another order" if is_permuted else "the item ids differ"


def _compare_covariates(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """Yield the differences of the covariates, of which new ones count too, since the model does not know them."""
    yield from (f"covariate {name!r} is missing" for name in before if name not in after)
    yield from (f"covariate {name!r} is new" for name in after if name not in before)
    for name, digest in before.items():
        if name in after and after[name] != digest:
            yield f"covariate {name!r}: the categories of the items differ"
