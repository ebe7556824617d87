"""The data set that every loader returns: paired observations of several modalities, held as tensors."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Bool, Int, Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.data.covariates import Categories, Codes, check_covariates, one_hot
from pyro_mmvae.data.shard_order import Shards
from pyro_mmvae.data.storage.indexed import IndexedTensor
from pyro_mmvae.data.storage.mapped import MappedTensor
from pyro_mmvae.data.storage.selected import SelectedFeatures
from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.run_files import short_name

Values: TypeAlias = Tensor | MappedTensor | IndexedTensor | SelectedFeatures


@dataclass(frozen=True, eq=False, repr=False)
class MultimodalDataset:
    """A set of paired observations of several modalities: item `i` of every modality belongs to one tuple.

    Args:
        modalities: Observations by modality name, each with a leading `item` axis. Images are uint8 tensors
            `(item, channel, height, width)` with pixel values 0 to 255. An array too large for memory is a
            :class:`MappedTensor`, which reads only the items of a batch; one whose items repeat the rows of a smaller
            tensor is an :class:`IndexedTensor`; one whose features are chosen from those of another is a
            :class:`SelectedFeatures`.
        labels: Class of each item, int64, `(item,)`, -1 for items without a label; or the attributes of each item,
            bool, `(item, attribute)`; or None if the data is not labelled.
        present: True where an item's modality was observed, bool, `(item, modality)`, columns in the order of
            ``modalities``.
        name: Name of the data, as passed to :func:`load_data`.
        split: Name of the split, such as ``"train"``.
        provenance: Everything that the data was made from (seed, sizes, sources and their versions), serialisable as
            JSON.
        modality_specs: Description of each modality by name; by default, and for modalities left out, it is inferred.
        label_names: Names of the attributes if ``labels`` holds attributes, and empty otherwise.
        class_names: Names of the classes if ``labels`` holds classes that have names, and empty otherwise.
        item_ids: Identifier of each item, an array of strings `(item,)`, such as the cell barcodes of a table; None
            (default) if the items have none.
        feature_names: Names of the features of a modality whose items are vectors, such as the genes of an expression
            matrix, by modality; modalities without names are left out.
        covariates: Code of each item's category by the name of a categorical covariate, such as the donor, int64,
            `(item,)`, -1 for an unknown category; empty (default) if there are none.
        covariate_names: Names of the categories of each covariate by its name, in the order of their codes; empty by
            default.
        shards: The shards that the items are stored in, whose order a training follows; None (default) for data whose
            items are read in any order.

    Raises:
        ValueError: If there is no modality or no item, the modalities differ in their number of items, ``labels`` or
            ``present`` has the wrong shape or type, two attributes, items or features of one modality share a name, or
            the number of identifiers, feature names or covariates does not fit the data.

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
    class_names: tuple[str, ...] = ()
    item_ids: NDArray[np.str_] | None = None
    feature_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    covariates: Codes = field(default_factory=dict)
    covariate_names: Categories = field(default_factory=dict)
    shards: Shards | None = None

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        if not self.modalities:
            raise ValueError("modalities must hold at least one modality, got none")
        for name, tensor in self.modalities.items():
            if not isinstance(tensor, (Tensor, MappedTensor, IndexedTensor, SelectedFeatures)) or tensor.dim() < 1:
                raise ValueError(f"modality {name!r} must be a tensor (item, ...), got {_describe(tensor)}")
        first, num_items = self.names[0], len(self)
        if num_items < 1:
            raise ValueError(f"modality {first!r} must have at least one item, got 0 items")
        for name, tensor in self.modalities.items():
            if len(tensor) != num_items:
                raise ValueError(f"modality {name!r} must have {num_items} items as {first!r} has, got {len(tensor)}")
        _check_tensor("present", self.present, (num_items, len(self.modalities)), torch.bool, "(item, modality)")
        names = self.label_names
        _check_distinct("label_names", names)
        if self.labels is not None and names:
            _check_tensor("labels", self.labels, (num_items, len(names)), torch.bool, "(item, attribute)")
        elif self.labels is not None:
            _check_tensor("labels", self.labels, (num_items,), torch.int64, "(item,)")
        self._check_identity()
        check_covariates(self.covariates, self.covariate_names, num_items)
        if self.shards is not None and sum(self.shards.sizes) != num_items:
            raise ValueError(f"shards must hold {num_items} items, got {sum(self.shards.sizes)}")

    def _check_identity(self) -> None:
        """Check that identifiers and feature names are distinct and as many as the items and features."""
        if self.item_ids is not None:
            if len(self.item_ids) != len(self):
                raise ValueError(f"item_ids must have {len(self)} entries, one per item, got {len(self.item_ids)}")
            _check_distinct("item_ids", self.item_ids.tolist())
        for name, features in self.feature_names.items():
            shape = self.modalities[name].shape if name in self.modalities else None
            if shape is None or len(shape) != 2 or shape[1] != len(features):
                raise ValueError(
                    f"feature_names of {name!r} must name the features of a modality (item, feature), got "
                    f"{len(features)} names for {'no such modality' if shape is None else tuple(shape)}"
                )
            _check_distinct(f"feature_names of {name!r}", features)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(next(iter(self.modalities.values())))

    def __repr__(self) -> str:
        """Return one line with name, split, number of items, and the shape of one item per modality."""
        shapes = ", ".join(f"{name} {tuple(tensor.shape[1:])}" for name, tensor in self.modalities.items())
        return f"MultimodalDataset({self.name!r}, {self.split!r}, {len(self)} items: {shapes})"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the modalities, in the order of the columns of ``present``."""
        return tuple(self.modalities)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The modalities as tensors in memory; mapped and indexed ones are read completely."""
        return {name: value if isinstance(value, Tensor) else value[:] for name, value in self.modalities.items()}

    @cached_property
    def complete(self) -> bool:
        """True if every modality of every item was observed."""
        return bool(self.present.all())

    @property
    def fingerprint(self) -> str:
        """A short name derived from name, split and provenance, under which computed results are cached."""
        content = json.dumps([self.name, self.split, self.provenance], sort_keys=True, default=str)
        return f"{short_name(self.name.replace('/', '_'))}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    @property
    def labelled(self) -> Bool[Tensor, " item"]:
        """True for the items that have a label, bool, `(item,)`."""
        if self.labels is None:
            return torch.zeros(len(self), dtype=torch.bool, device=self.present.device)
        return torch.ones_like(self.labels[:, 0]) if self.label_names else self.labels >= 0

    def to(self, device: torch.device | str) -> MultimodalDataset:
        """Return a copy with every tensor on a device; mapped modalities stay on disk and are read onto it.

        Args:
            device: The device to move to, such as ``"cuda"``.
        """
        return replace(
            self,
            modalities={name: tensor.to(device) for name, tensor in self.modalities.items()},
            labels=None if self.labels is None else self.labels.to(device),
            present=self.present.to(device),
            covariates={name: codes.to(device) for name, codes in self.covariates.items()},
        )

    def at_epoch(self, epoch: int) -> MultimodalDataset:
        """Return the data of a training epoch, with the modalities redrawn that change from epoch to epoch.

        Args:
            epoch: Index of the epoch, counted from 0.

        Returns:
            A data set with redrawn modalities, or this one if no modality changes.
        """
        redrawn = {n: v.at_epoch(epoch) if isinstance(v, IndexedTensor) else v for n, v in self.modalities.items()}
        if all(redrawn[name] is value for name, value in self.modalities.items()):
            return self
        return replace(self, modalities=redrawn)

    def subset(self, index: Tensor | Sequence[int]) -> MultimodalDataset:
        """Return a data set with copies of some items, held in memory.

        Rows of a matrix that are made dense as they are read, such as those of a sparse one, remain so.

        Args:
            index: Indices of the items, in the order to return them, or a bool mask `(item,)`.

        Returns:
            A new data set with the selected items.

        Raises:
            ValueError: If ``index`` selects no item.
            IndexError: If an index is out of range or not an integer, or a mask has another length than the data.
        """
        rows = torch.as_tensor(index)
        if rows.numel() == 0 or (rows.dtype == torch.bool and not rows.any()):
            raise ValueError("index must select at least one item, got none")
        return replace(
            self,
            modalities={
                name: tensor.subset(rows) if isinstance(tensor, MappedTensor) else tensor[rows]
                for name, tensor in self.modalities.items()
            },
            labels=None if self.labels is None else self.labels[rows],
            present=self.present[rows],
            item_ids=None if self.item_ids is None else np.atleast_1d(self.item_ids[rows.cpu().numpy()]),
            covariates={name: codes[rows] for name, codes in self.covariates.items()},
            shards=None,
        )


def select_items(data: MultimodalDataset, rows: NDArray[np.int64]) -> MultimodalDataset:
    """Return some items of a data set; modalities that are mapped from disk stay there.

    Args:
        data: The data set, on the CPU.
        rows: Indices of the items, in the order to return them, at least one.
    """
    index = torch.from_numpy(rows)
    return replace(
        data,
        modalities={
            name: MappedTensor(values.column, values.rows[rows]) if isinstance(values, MappedTensor) else values[index]
            for name, values in data.modalities.items()
        },
        labels=None if data.labels is None else data.labels[index],
        present=data.present[index],
        item_ids=None if data.item_ids is None else data.item_ids[rows],
        covariates={name: codes[index] for name, codes in data.covariates.items()},
        shards=None,
    )


def make_batch(data: MultimodalDataset, index: Tensor | slice) -> Batch:
    """Return some items of a data set as a batch.

    Args:
        data: The data set, on any device.
        index: Indices of the items, on the device of the data, or a slice.

    Returns:
        The batch, with masks of present modalities unless the whole data set is complete, and with the one-hot blocks
        of the covariates if there are any.
    """
    masks: dict[str, Tensor] = {}
    if not data.complete:
        masks = dict(zip(data.names, data.present[index].unbind(-1), strict=True))
    values = {name: value[index] for name, value in data.modalities.items()}
    known: dict[str, Any] = {}
    if data.covariates:
        known["covariates"] = one_hot(data.covariates, data.covariate_names, index)
    return Batch(values, masks, **known)


def complete_dataset(
    modalities: dict[str, Tensor],
    labels: Int[Tensor, " item"],
    name: str,
    split: str,
    provenance: dict[str, Any] | None = None,
) -> MultimodalDataset:
    """Return a data set in which every modality of every item was observed.

    Args:
        modalities: Observations by modality name, each with a leading `item` axis.
        labels: Class of each item, int64, `(item,)`.
        name: Name of the data, as passed to :func:`load_data`.
        split: Name of the split, such as ``"train"``.
        provenance: Everything that the data was made from, serialisable as JSON; empty by default.
    """
    present = torch.ones(len(labels), len(modalities), dtype=torch.bool)
    return MultimodalDataset(modalities, labels, present, name, split, provenance or {})


def _check_distinct(what: str, names: Sequence[str]) -> None:
    """Check that no name occurs twice."""
    if len(set(names)) < len(names):
        repeated = next(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"{what} must be distinct, got {repeated!r} twice")


def _check_tensor(name: str, value: object, shape: tuple[int, ...], dtype: torch.dtype, axes: str) -> None:
    """Check that a value is a tensor of a shape and type."""
    if not isinstance(value, Tensor) or value.shape != shape or value.dtype != dtype:
        raise ValueError(f"{name} must be {axes} = {shape} of {dtype}, got {_describe(value)}")


def _describe(value: object) -> str:
    """Return shape and type of a tensor, and the type of any other object."""
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
