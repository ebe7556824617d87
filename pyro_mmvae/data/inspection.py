"""Summaries and checks of data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.covariates import unseen_categories
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.infer import range_problems
from pyro_mmvae.data.options import DataError
from pyro_mmvae.data.registry import find_data, load_data
from pyro_mmvae.data.storage.image_files import ImageSizeError

_UNKNOWN = "(unknown)"  # the name of the items without a category in a summary
_SHOWN = 5  # identifiers and names of features in a summary
_BLOCK_SIZE = 4096  # items read at once
_LAZY_BLOCK_SIZE = 256  # items read from disk at once, of which images may be large


@dataclass(frozen=True)
class ModalitySummary:
    """A summary of one modality of one split.

    Args:
        name: Name of the modality.
        shape: Shape of one item.
        dtype: Name of the type, such as ``"uint8"``.
        missing: Fraction of items without the modality, 0 to 1.
        features: Names of the first features, at most five; empty by default, for a modality without names.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    missing: float
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitSummary:
    """A summary of one split.

    Args:
        split: Name of the split.
        items: Number of items in it.
        modalities: Summary of each modality, in order.
        labels: Number of items per class, by its name if it has one, or per name of an attribute; empty without labels.
        provenance: Everything that the split was made from.
        has_attributes: If True, labels are attributes and not classes; False by default.
        item_ids: Identifiers of the first items, at most five; empty by default, for items without identifiers.
        covariates: Number of items per category by the name of the covariate; empty by default, without covariates.
    """

    split: str
    items: int
    modalities: tuple[ModalitySummary, ...]
    labels: dict[int | str, int]
    provenance: dict[str, Any]
    has_attributes: bool = False
    item_ids: tuple[str, ...] = ()
    covariates: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def summarise(data: MultimodalDataset) -> SplitSummary:
    """Summarise one split of a data set."""
    missing = 1 - data.present.double().mean(0)
    modalities = tuple(
        ModalitySummary(
            name,
            tuple(tensor.shape[1:]),
            str(tensor.dtype).removeprefix("torch."),
            fraction,
            tuple(data.feature_names.get(name, ()))[:_SHOWN],
        )
        for (name, tensor), fraction in zip(data.modalities.items(), missing.tolist(), strict=True)
    )
    labels: dict[Any, int] = {}
    if data.labels is not None and data.label_names:
        labels = dict(zip(data.label_names, data.labels.sum(0).tolist(), strict=True))
    elif data.labels is not None:
        values, counts = data.labels.unique(return_counts=True)
        names = dict(enumerate(data.class_names))
        labels = {names.get(value, value): n for value, n in zip(values.tolist(), counts.tolist(), strict=True)}
        if -1 in labels:
            labels["unlabelled"] = labels.pop(-1)
    ids = () if data.item_ids is None else tuple(data.item_ids[:_SHOWN].tolist())
    has_attributes = bool(labels and data.label_names)
    covariates = {name: _count_categories(data, name) for name in data.covariates}
    return SplitSummary(data.split, len(data), modalities, labels, data.provenance, has_attributes, ids, covariates)


def _count_categories(data: MultimodalDataset, name: str) -> dict[str, int]:
    """Return the number of items per category of a covariate, and of those without one if there are any."""
    categories = data.covariate_names[name]
    # An unknown category has the code -1, so that its count comes first.
    unknown, *counts = torch.bincount(data.covariates[name].cpu() + 1, minlength=len(categories) + 1).tolist()
    return {**dict(zip(categories, counts, strict=True)), **({_UNKNOWN: unknown} if unknown else {})}


def check_data(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    check_more: Callable[[MultimodalDataset], Iterable[str]] = lambda data: (),
) -> Iterator[str]:
    """Open every split of a data set from its sources, bypassing the cache, and report what is wrong.

    Args:
        name: Name of the data or path of its files.
        options: Options of the loader, see :func:`load_data`; none by default.
        check_more: A function that returns further findings about a split; none by default.

    Yields:
        One line per finding, with the names of all splits that have it: a split that cannot be opened, with all of its
        loader's reasons; labels below 0, or that the first split lacks; attributes other than those of the first
        split; modalities whose shape or type differs from the first split, that are never observed, hold values that
        are not finite, are constant, or are images of floats outside [0, 1]; items without any modality.

    Raises:
        ValueError: If the name or the format is unknown.
    """
    first: SplitSummary | None = None
    splits: dict[str, list[str]] = {}
    for split in find_data(name).splits:
        findings: list[str] = []
        try:
            data = load_data(name, split, cache=False, **(options or {}))
            summary = summarise(data)
            first = first or summary
            findings += _check_split(data, summary)
            findings += _compare_splits(first, summary)
            findings += check_more(data)
        except (ValueError, TypeError, OSError, ImportError) as error:
            findings += error.problems if isinstance(error, DataError) else [str(error)]
        for finding in findings:
            splits.setdefault(" ".join(finding.split()), []).append(split)
    yield from (f"{', '.join(dict.fromkeys(found_in))}: {finding}" for finding, found_in in splits.items())


def _check_split(data: MultimodalDataset, summary: SplitSummary) -> Iterator[str]:
    """Report what is wrong with one split, seen by itself."""
    negative = [label for label in summary.labels if isinstance(label, int) and label < 0]
    if negative:
        yield f"labels must be at least 0, or -1 for items without a label, got {min(negative)}"
    if data.split == "train":
        try:
            unseen_categories(data.covariates, data.covariate_names)
        except ValueError as error:  # which a training would raise
            yield str(error)
    empty = (~data.present.any(1)).nonzero().flatten().tolist()
    if empty:
        first = empty[0] if data.item_ids is None else repr(str(data.item_ids[empty[0]]))
        others = f" and for {len(empty) - 1} others" if len(empty) > 1 else ""
        yield f"every item must have a modality, got none for item {first}{others}"
    for column, (name, values) in enumerate(data.modalities.items()):
        rows = data.present[:, column].nonzero()[:, 0]
        if not len(rows):
            yield f"modality {name!r} must be present in some item, got none"
            continue
        yield from _check_values(name, values, rows)
    yield from range_problems(data)


def _check_values(name: str, values: Any, rows: Tensor) -> Iterator[str]:
    """Report values of a modality that are not finite or constant, reading a block of items at a time."""
    first, constant = None, len(rows) > 1
    errors: list[ValueError] = []
    for part in rows.split(_BLOCK_SIZE if isinstance(values, Tensor) else _LAZY_BLOCK_SIZE):
        try:
            block = values[part]
        except ValueError:
            errors += _unreadable_items(values, part)
            constant = False
            continue
        first = block[:1] if first is None else first
        if block.is_floating_point() and not bool(block.isfinite().all()):
            item = int((~block.isfinite()).reshape(len(block), -1).any(1).nonzero()[0])
            yield f"modality {name!r}: values must be finite, got others in item {int(part[item])}"
            return
        constant = constant and bool((block == first).all())
    yield from _list_errors(errors)
    if constant:
        yield f"modality {name!r} must vary between items, got one value in all of them"


def _unreadable_items(values: Any, rows: Tensor) -> Iterator[ValueError]:
    """Yield the error of each item that cannot be read."""
    for row in rows.split(1):
        try:
            values[row]
        except ValueError as error:
            yield error


def _list_errors(errors: Sequence[ValueError]) -> Iterator[str]:
    """Yield a line per error, and one line for all images that only lack the size of the first one."""
    sizes = [error for error in errors if isinstance(error, ImageSizeError)]
    if sizes:
        others = f"; {len(sizes) - 1} other images of the split have another size too" if len(sizes) > 1 else ""
        yield f"{sizes[0]}{others}"
    yield from (str(error) for error in errors if not isinstance(error, ImageSizeError))


def _compare_splits(first: SplitSummary, other: SplitSummary) -> Iterator[str]:
    """Report how a split differs from the first split that could be opened."""
    expected, received = ({m.name: (m.shape, m.dtype) for m in summary.modalities} for summary in (first, other))
    if list(expected) != list(received):
        yield f"modalities must be {', '.join(expected)} as in {first.split}, got {', '.join(received)}"
    for name in expected.keys() & received.keys():
        if expected[name] != received[name]:
            yield (
                f"modality {name!r} must be {_describe(*expected[name])} as in {first.split}, got "
                f"{_describe(*received[name])}"
            )
    known, found = ({n: {*c} - {_UNKNOWN} for n, c in summary.covariates.items()} for summary in (first, other))
    if known != found:
        listed = [{name: sorted(categories) for name, categories in parts.items()} for parts in (known, found)]
        yield f"covariates must have the categories {listed[0]} as in {first.split}, got {listed[1]}"
    if bool(first.labels) != bool(other.labels):
        expected_state, received_state = ("absent", "some") if other.labels else ("present", "none")
        yield f"labels must be {expected_state} as in {first.split}, got {received_state}"
    elif first.has_attributes or other.has_attributes:
        if list(first.labels) != list(other.labels):
            yield f"labels must be {_list_labels(first)} as in {first.split}, got {_list_labels(other)}"
    elif not first.labels.keys() | {"unlabelled"} >= other.labels.keys():
        unexpected = [label for label in other.labels if label not in {*first.labels, "unlabelled"}]
        yield f"labels must be among those of {first.split}, got {', '.join(map(str, unexpected))} as well"


def _describe(shape: tuple[int, ...], dtype: str) -> str:
    return f"{shape} of {dtype}"


def _list_labels(summary: SplitSummary) -> str:
    return f"{'attributes' if summary.has_attributes else 'classes'} {', '.join(map(str, summary.labels))}"
