"""Labels of new data, with the numbers that the training data gave to the classes of their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.dataset import MultimodalDataset


class MatchedLabels(NamedTuple):
    """Labels in the numbering of the training data.

    Attributes:
        values: Classes, int64 `(item,)`, or attributes, bool `(item, attribute)`, or None.
        class_names: Names of the classes if labels are classes with names, and empty otherwise.
        label_names: Names of the attributes if labels are attributes, and empty otherwise.
    """

    values: Tensor | None = None
    class_names: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()


def match_labels(
    data: MultimodalDataset, class_names: Sequence[str], label_names: Sequence[str]
) -> tuple[MatchedLabels, list[str]]:
    """Match the labels of new data by name to those of the training data.

    Args:
        data: The new data set.
        class_names: Names of the classes of the training data; empty if they have none.
        label_names: Names of the attributes of the training data; empty if they have none.

    Returns:
        The labels, and a line about each change. Labels of another kind than those of the training data, and attributes
        that are not all known, are left out. Without names on the side of the training data, labels are unchanged.
    """
    if data.labels is None or not (class_names or label_names):
        return MatchedLabels(data.labels, data.class_names, data.label_names), []
    if bool(label_names) != bool(data.label_names):
        kinds = ("attributes", "classes")
        expected, received = kinds if label_names else kinds[::-1]
        return MatchedLabels(), [f"labels left out, since they are {received} and not {expected} as in training"]
    if label_names:
        return _match_attributes(data.labels, data.label_names, tuple(label_names))
    return _match_classes(data.labels, data.class_names, tuple(class_names))


def _match_attributes(
    labels: Tensor, names: tuple[str, ...], reference: tuple[str, ...]
) -> tuple[MatchedLabels, list[str]]:
    absent = [name for name in reference if name not in names]
    if absent:
        return MatchedLabels(), [f"labels left out, since the attribute {absent[0]!r} of the training data is missing"]
    notes = [] if names == reference else ["labels: the attributes were matched to those of the training data by name"]
    return MatchedLabels(labels[:, [names.index(name) for name in reference]], (), reference), notes


def _match_classes(
    labels: Tensor, names: tuple[str, ...], reference: tuple[str, ...]
) -> tuple[MatchedLabels, list[str]]:
    if names == reference:
        return MatchedLabels(labels, reference), []
    number = {name: position for position, name in enumerate(reference)}
    if not names:  # integers, which can only be the training data's numbers
        codes, notes = list(range(len(reference))), list[str]()
    else:
        codes = [number.get(name, -1) for name in names]
        notes = ["labels: the classes were matched to those of the training data by name"]
    table = torch.full((int(labels.max()) + 2,), -1, device=labels.device)  # the last entry serves label -1
    known = torch.tensor(codes[: len(table) - 1], device=labels.device)
    table[: len(known)] = known
    matched = table[labels]
    unknown = int(((matched < 0) & (labels >= 0)).sum())
    if unknown:
        notes.append(f"labels: {unknown} of {len(labels)} items have an unknown class and are taken as unlabelled")
    return MatchedLabels(matched, reference), notes
