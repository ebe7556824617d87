"""What is in a data set, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.registry import find_data, load_data
from pyro_mmvae.data.text import decode
from pyro_mmvae.modality_spec import ModalitySpec

_AT_ONCE = 4096  # items read


@dataclass(frozen=True)
class ModalitySummary:
    """One modality of one split.

    Args:
        name: of the modality.
        shape: of one item.
        dtype: such as `uint8`.
        missing: share of the items in which it was not observed, 0 to 1.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    missing: float


@dataclass(frozen=True)
class SplitSummary:
    """One split.

    Args:
        split: its name.
        items: how many.
        modalities: of them.
        labels: class, or name of an attribute, to the number of its items; empty where there are no labels.
        provenance: what the split was made from.
        has_attributes: whether labels are attributes.
    """

    split: str
    items: int
    modalities: tuple[ModalitySummary, ...]
    labels: dict[int, int] | dict[str, int]
    provenance: dict[str, Any]
    has_attributes: bool = False


def summarise(data: MultimodalDataset) -> SplitSummary:
    """What is in a split."""
    missing = 1 - data.present.double().mean(0)
    modalities = tuple(
        ModalitySummary(name, tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."), share)
        for (name, tensor), share in zip(data.modalities.items(), missing.tolist(), strict=True)
    )
    labels: dict[Any, int] = {}
    if data.labels is not None and data.label_names:
        labels = dict(zip(data.label_names, data.labels.sum(0).tolist(), strict=True))
    elif data.labels is not None:
        values, counts = data.labels.unique(return_counts=True)
        labels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return SplitSummary(data.split, len(data), modalities, labels, data.provenance, bool(labels and data.label_names))


def check_data(name: str) -> Iterator[str]:
    """Open every split of a data set from its sources, none from the cache, and say what is wrong.

    Args:
        name: of the data, or a path.

    Yields:
        One line a finding: a split that cannot be opened, for the reasons its loader gives; labels below 0, or that
        `train` never has; attributes of other names than its; modalities that are of another shape or type in another
        split, are never observed, hold values that are not finite, or are the same in every item; items of which
        nothing was observed.

    Raises:
        ValueError: if the name or the format is unknown.
    """
    first: SplitSummary | None = None
    for split in find_data(name).splits:
        try:
            data = load_data(name, split, cache=False)
        except (ValueError, TypeError, OSError, ImportError) as error:
            yield f"{split}: {' '.join(str(error).split())}"
            continue
        summary = summarise(data)
        first = first or summary
        yield from (f"{split}: {finding}" for finding in (*_check_split(data, summary), *_compare(first, summary)))


def contact_sheet(data: MultimodalDataset, count: int = 20) -> list[tuple[str, NDArray[Any] | None]]:
    """Rows of images and texts of some items, as `pyro_mmvae.reports.image_grid` draws them.

    Args:
        data: a split.
        count: how many items: of every class in turn the first, the second, …, sorted by class; the first ones where
            there are no classes.

    Returns:
        Name of each modality of images and `(item, channel, height, width)` uint8, grey where it was not observed; and
        of each of tokens with an alphabet and strings `(item,)`, empty where it was not.

    Raises:
        ValueError: if no modality holds images or text.
    """
    rows = _choose(data, count)
    sheet: list[tuple[str, NDArray[Any] | None]] = []
    for column, (name, tensor) in enumerate(data.modalities.items()):
        known = data.modality_specs.get(name, ModalitySpec())
        if known.alphabet is not None and tensor.dim() == 2:
            texts = decode(tensor[rows], known.alphabet, known.padding)
            sheet.append((name, np.where(data.present[rows, column].numpy(), texts, "")))
        if tensor.dim() != 4 or tensor.shape[1] not in {1, 3}:
            continue
        images = tensor[rows]
        if images.dtype != torch.uint8:
            images = (images.double().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
        images = torch.where(data.present[rows, column].reshape(-1, 1, 1, 1), images, images.new_tensor(128))
        sheet.append((name, images.numpy()))
    if not sheet:
        raise ValueError(f"{data.name}: no modality holds images (channel, height, width) of 1 or 3 channels, or text")
    return sheet


def _choose(data: MultimodalDataset, count: int) -> Tensor:
    if data.labels is None or data.label_names:
        return torch.arange(min(count, len(data)))
    labels = data.labels.numpy()
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    rank = np.arange(len(labels)) - starts  # 0 for the first item of a class, 1 for its second, …
    chosen = order[np.lexsort((labels[order], rank))][:count]
    return torch.from_numpy(chosen[np.argsort(labels[chosen], kind="stable")])


def _check_split(data: MultimodalDataset, summary: SplitSummary) -> Iterator[str]:
    negative = [label for label in summary.labels if isinstance(label, int) and label < 0]
    if negative:
        yield f"label {min(negative)} was found, expected none below 0"
    nothing = (~data.present.any(1)).nonzero().flatten().tolist()
    if nothing:
        yield f"item {nothing[0]} has no modality at all, and so have {len(nothing) - 1} others"
    for column, (name, values) in enumerate(data.modalities.items()):
        rows = data.present[:, column].nonzero()[:, 0]
        if not len(rows):
            yield f"modality {name} was never observed"
            continue
        yield from _check_values(name, values, rows)


def _check_values(name: str, values: Any, rows: Tensor) -> Iterator[str]:
    """What is wrong with the values of a modality, read some items at a time."""
    first, constant = values[rows[:1]], len(rows) > 1
    for part in rows.split(_AT_ONCE):
        some = values[part]
        if some.is_floating_point() and not bool(some.isfinite().all()):
            item = int((~some.isfinite()).reshape(len(some), -1).any(1).nonzero()[0])
            yield f"modality {name}: item {int(part[item])} holds a value that is not finite"
            return
        constant = constant and bool((some == first).all())
    if constant:
        yield f"modality {name} is the same in every item"


def _compare(first: SplitSummary, other: SplitSummary) -> Iterator[str]:
    """What does not fit the first split that could be opened."""
    known, found = ({one.name: (one.shape, one.dtype) for one in summary.modalities} for summary in (first, other))
    if _names(first) != _names(other):
        yield f"modalities {', '.join(found)}, expected {', '.join(known)} as in {first.split}"
    for name in known.keys() & found.keys():
        if known[name] != found[name]:
            yield f"modality {name}: {found[name]}, expected {known[name]} as in {first.split}"
    if bool(first.labels) != bool(other.labels):
        yield f"{'has' if other.labels else 'has no'} labels, unlike {first.split}"
    elif first.has_attributes or other.has_attributes:
        if list(first.labels) != list(other.labels):
            yield f"labels {_listed(other)}, expected {_listed(first)} as in {first.split}"
    elif not first.labels.keys() >= other.labels.keys():
        strange = sorted(map(int, other.labels.keys() - first.labels.keys()))
        yield f"labels {', '.join(map(str, strange))} were found that {first.split} never has"


def _listed(summary: SplitSummary) -> str:
    return f"{'attributes' if summary.has_attributes else 'classes'} {', '.join(map(str, summary.labels))}"


def _names(summary: SplitSummary) -> Sequence[str]:
    return [modality.name for modality in summary.modalities]
