"""The items of a data set that a model is asked about: their selection, identifiers and batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._seeding import seeded
from pyro_mmvae.batch import Batch
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.data.covariates import one_hot
from pyro_mmvae.vae.vae import MultimodalVAE

ItemsLike: TypeAlias = int | slice | Sequence[int] | Sequence[str] | NDArray[Any] | None
"""A selection of items: a number of first items, a slice, row numbers, identifiers, or None for all."""


@dataclass(frozen=True, eq=False)
class Items:
    """The selected items of a data set, which are read batch by batch.

    Args:
        data: The data set, on any device.
        rows: The row number of each selected item, `(item,)`.
        ids: The identifier of each selected item, `(item,)`: that of the data set, or its row number as a string.
    """

    data: MultimodalDataset
    rows: NDArray[np.int64]
    ids: NDArray[np.str_]

    def __len__(self) -> int:
        """Return the number of selected items."""
        return len(self.rows)

    def read(self, part: slice, names: Sequence[str], device: torch.device | str = "cpu") -> Batch:
        """Read some modalities of some items, and their covariates.

        Args:
            part: The positions of the items among the selected ones.
            names: The modalities to read; those that the data lacks are left out.
            device: The device of the batch, the CPU by default.
        """
        data, rows = self.data, torch.from_numpy(self.rows[part]).to(self.data.present.device)
        values = {name: value[rows] for name, value in data.modalities.items() if name in names}
        masks = {} if data.complete else dict(zip(data.names, data.present[rows].unbind(-1), strict=True))
        return Batch(values, masks, one_hot(data.covariates, data.covariate_names, rows)).to(device)

    def present(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Return True for each observed modality of each item, `(item, modality)`, in the order of ``names``."""
        columns = self.data.present[torch.from_numpy(self.rows).to(self.data.present.device)].cpu().numpy()
        absent = np.zeros(len(self), dtype=bool)
        own = self.data.names
        return np.stack([columns[:, own.index(name)] if name in own else absent for name in names], -1)

    def parts(self, size: int) -> Iterator[slice]:
        """Yield slices that divide the items into batches.

        Args:
            size: The largest number of items per batch.
        """
        for start in range(0, len(self), size):
            yield slice(start, min(start + size, len(self)))


def select_items(data: MultimodalDataset, items: ItemsLike = None) -> Items:
    """Select items of a data set.

    Args:
        data: The data set to select from.
        items: The selection: a number n for the first n items, a slice, row numbers, identifiers, or None (default) for
            all items.

    Raises:
        ValueError: If a row or an identifier does not exist, or nothing is selected.
    """
    count = len(data)
    ids = np.arange(count).astype(str) if data.item_ids is None else np.asarray(data.item_ids, dtype=np.str_)
    if items is None or isinstance(items, slice):
        rows = np.arange(count)[slice(None) if items is None else items]
    elif isinstance(items, (int, np.integer)):
        if items < 1:
            raise ValueError(f"items must be a positive number, got {items}")
        rows = np.arange(min(int(items), count))
    else:
        rows = _find_rows(np.asarray(items), ids)
    if not len(rows):
        got = f"rows {items.start}:{items.stop}".replace("None", "") if isinstance(items, slice) else repr(items)
        raise ValueError(f"items must select at least one of the {count} items, got {got}")
    return Items(data, rows.astype(np.int64), ids[rows])


def _find_rows(items: NDArray[Any], ids: NDArray[np.str_]) -> NDArray[Any]:
    """Return the rows of row numbers or identifiers."""
    if items.ndim != 1 or items.dtype.kind not in "iuU" and len(items):
        raise ValueError(f"items must be row numbers or identifiers (item,), got {items.dtype} of shape {items.shape}")
    if items.dtype.kind != "U":
        outside = items[(items < 0) | (items >= len(ids))]
        if len(outside):
            raise ValueError(f"items must be row numbers from 0 to {len(ids) - 1}, got {outside[0]}")
        return items
    position = {name: row for row, name in enumerate(ids.tolist())}
    unknown = [name for name in items.tolist() if name not in position]
    if unknown:
        others = f" and {len(unknown) - 1} more that it lacks" if len(unknown) > 1 else ""
        raise ValueError(f"items must be identifiers of the data, such as {str(ids[0])!r}, got {unknown[0]!r}{others}")
    return np.array([position[name] for name in items.tolist()], dtype=np.int64)


def choose_given(vae: MultimodalVAE, given: Sequence[str] | None, what: str = "given") -> tuple[str, ...]:
    """Return the modalities to condition on, in the order of the model.

    Args:
        vae: The model whose modalities there are.
        given: Their names, or None for all modalities.
        what: The name of the argument, for the error message.

    Raises:
        ValueError: If the model does not have a modality of that name.
    """
    if isinstance(given, str):
        given = (given,)
    for name in given or ():
        if name not in vae.names:
            raise ValueError(f"{what} must name modalities of the model ({', '.join(vae.names)}), got {name!r}")
    return vae.names if given is None else tuple(name for name in vae.names if name in given)


def check_shapes(vae: MultimodalVAE, data: MultimodalDataset) -> None:
    """Check that the modalities that data and model share have items of one shape.

    Args:
        vae: The model that the data is shown to.
        data: The data set to check.

    Raises:
        ValueError: If they share no modality, or a shape differs; the message names the modality.
    """
    shapes = {modality.name: tuple(modality.shape) for modality in vae.modalities}
    shared = [name for name in data.names if name in shapes]
    if not shared:
        raise ValueError(
            f"data {data.name!r} must have a modality of the model ({', '.join(vae.names)}), got "
            f"{', '.join(data.names)}"
        )
    for name in shared:
        shape = tuple(data.modalities[name].shape[1:])
        if shape != shapes[name]:
            raise ValueError(
                f"data {data.name!r}: modality {name!r} must have items of shape {shapes[name]}, got {shape}"
            )


def batch_multiple(batch_size: int, chunk: int) -> int:
    """Return a batch size rounded up to a multiple of the chunk within which random numbers are drawn.

    Args:
        batch_size: The number of items to read at once, positive.
        chunk: The number of items per chunk, which does not depend on the batch size, so that draws do not either.

    Raises:
        ValueError: If the batch size is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    return -(-batch_size // chunk) * chunk


def seeded_chunk(device: torch.device, *key: int) -> AbstractContextManager[None]:
    """Return a context in which torch's generators are seeded for the draws of one chunk of items.

    Args:
        device: The device that is drawn on.
        *key: Non-negative integers that name the chunk: the seed, the position of its first item, and others.
    """
    return seeded(int(np.random.SeedSequence(key).generate_state(1)[0]), device)
