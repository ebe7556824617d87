"""What every loader returns: paired observations of several modalities, held as tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch

from pyro_mmvae._typing import Bool, Int, Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.data.storage.indexed import IndexedTensor
from pyro_mmvae.data.storage.mapped import MappedTensor
from pyro_mmvae.modality_spec import ModalitySpec

Values: TypeAlias = Tensor | MappedTensor | IndexedTensor


@dataclass(frozen=True, eq=False, repr=False)
class MultimodalDataset:
    """Paired observations of several modalities: item `i` of every modality belongs to one tuple.

    Args:
        modalities: modality name to observations, one leading `item` axis each. Images are uint8 tensors
            `(item, channel, height, width)` with pixel values 0 to 255. What is too large for memory is a
            `MappedTensor`, of which only the items of a batch are ever read; what is rows of something smaller an
            `IndexedTensor`.
        labels: class of each item, int64, `(item,)`; or which attributes each item has, bool, `(item, attribute)`; or
            None where there are none.
        present: which modality of which item was observed, bool, `(item, modality)`, columns in the order of
            ``modalities``.
        name: name of the data, as `load_data` knows it.
        split: name of the split, such as `train`.
        provenance: what the data was made from (seed, sizes, sources and their versions), fit for JSON.
        modality_specs: Modality name to its description; what it leaves open is inferred from the values.
        label_names: names of the attributes, where labels are attributes.

    Raises:
        ValueError: if there is no modality or no item, if a modality has another number of items than the first one,
            if ``labels`` or ``present`` has the wrong shape or type, or if two attributes have one name.

    Example:
        >>> images = torch.zeros(4, 3, 28, 28, dtype=torch.uint8)
        >>> data = MultimodalDataset({"m0": images}, None, torch.ones(4, 1, dtype=torch.bool), "blank", "train")
        >>> len(data), data.names, len(data.subset([0, 2]))
        (4, ('m0',), 2)
    """

    modalities: Mapping[str, Values]
    labels: Int[Tensor, " item"] | Bool[Tensor, "item attribute"] | None
    present: Bool[Tensor, "item modality"]
    name: str
    split: str
    provenance: dict[str, Any] = field(default_factory=dict)
    modality_specs: Mapping[str, ModalitySpec] = field(default_factory=dict)
    label_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        if not self.modalities:
            raise ValueError("modalities: found none, expected at least one")
        for name, tensor in self.modalities.items():
            if not isinstance(tensor, (Tensor, MappedTensor, IndexedTensor)) or tensor.dim() < 1:
                raise ValueError(f"modality {name!r}: found {_describe(tensor)}, expected a tensor (item, ...)")
        first, size = self.names[0], len(self)
        if size < 1:
            raise ValueError(f"modality {first!r}: found 0 items, expected at least one")
        for name, tensor in self.modalities.items():
            if len(tensor) != size:
                raise ValueError(f"modality {name!r}: found {len(tensor)} items, expected {size} as in {first!r}")
        _check("present", self.present, (size, len(self.modalities)), torch.bool, "(item, modality)")
        names = self.label_names
        if len(set(names)) < len(names):
            raise ValueError(f"label_names: found {len(names)} names, expected no two alike")
        if self.labels is not None and names:
            _check("labels", self.labels, (size, len(names)), torch.bool, "(item, attribute)")
        elif self.labels is not None:
            _check("labels", self.labels, (size,), torch.int64, "(item,)")

    def __len__(self) -> int:
        """Number of items."""
        return len(next(iter(self.modalities.values())))

    def __repr__(self) -> str:
        """One line: name, split, number of items, shape of one observation of each modality."""
        shapes = ", ".join(f"{name} {tuple(tensor.shape[1:])}" for name, tensor in self.modalities.items())
        return f"MultimodalDataset({self.name!r}, {self.split!r}, {len(self)} items: {shapes})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of the columns of ``present``."""
        return tuple(self.modalities)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The modalities as tensors; what is on disk or rows of something is read whole."""
        return {name: value if isinstance(value, Tensor) else value[:] for name, value in self.modalities.items()}

    @cached_property
    def complete(self) -> bool:
        """Whether every modality of every item was observed."""
        return bool(self.present.all())

    @property
    def fingerprint(self) -> str:
        """A short name for this very content, by its provenance: a folder for what is computed from it."""
        content = json.dumps([self.name, self.split, self.provenance], sort_keys=True, default=str)
        return f"{self.name.replace('/', '_')}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def to(self, device: torch.device | str) -> MultimodalDataset:
        """The same data with every tensor on ``device``; what is on disk stays there, and is read onto it."""
        return replace(
            self,
            modalities={name: tensor.to(device) for name, tensor in self.modalities.items()},
            labels=None if self.labels is None else self.labels.to(device),
            present=self.present.to(device),
        )

    def at_epoch(self, epoch: int) -> MultimodalDataset:
        """The same items as a training sees them in an epoch, counted from 0: some data draw something anew in each."""
        drawn = {n: v.at_epoch(epoch) if isinstance(v, IndexedTensor) else v for n, v in self.modalities.items()}
        if all(drawn[name] is value for name, value in self.modalities.items()):
            return self
        return replace(self, modalities=drawn)

    def subset(self, index: Tensor | Sequence[int]) -> MultimodalDataset:
        """The items at ``index``, in its order.

        Args:
            index: whole numbers below the number of items, or a bool mask `(item,)`.

        Returns:
            A new dataset with copies of those items, all of them in memory.

        Raises:
            ValueError: if ``index`` selects no item.
            IndexError: if an index is out of range or not a whole number, or a mask has another length than the data.
        """
        rows = torch.as_tensor(index)
        if rows.numel() == 0:
            raise ValueError("subset: the index is empty, expected at least one item")
        return replace(
            self,
            modalities={name: tensor[rows] for name, tensor in self.modalities.items()},
            labels=None if self.labels is None else self.labels[rows],
            present=self.present[rows],
        )


def make_batch(data: MultimodalDataset, index: Tensor | slice) -> Batch:
    """Some items of a data set as a batch.

    Args:
        data: on any device.
        index: which items, on the same device.
    """
    masks: dict[str, Tensor] = {}
    if not data.complete:
        masks = dict(zip(data.names, data.present[index].unbind(-1), strict=True))
    return Batch({name: value[index] for name, value in data.modalities.items()}, masks)


def complete_dataset(
    modalities: dict[str, Tensor],
    labels: Int[Tensor, " item"],
    name: str,
    split: str,
    provenance: dict[str, Any] | None = None,
) -> MultimodalDataset:
    """A data set in which every modality of every item was observed; arguments as of `MultimodalDataset`."""
    present = torch.ones(len(labels), len(modalities), dtype=torch.bool)
    return MultimodalDataset(modalities, labels, present, name, split, provenance or {})


def _check(name: str, value: object, shape: tuple[int, ...], dtype: torch.dtype, axes: str) -> None:
    if not isinstance(value, Tensor) or value.shape != shape or value.dtype != dtype:
        raise ValueError(f"{name}: found {_describe(value)}, expected {axes} = {shape} of {dtype}")


def _describe(value: object) -> str:
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
