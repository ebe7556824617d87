"""The batch of items that model and guide are called with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from pyro_mmvae._typing import Bool, Float, Tensor

RESERVED = ("present", "covariates")
"""The keys of a mapping of tensors that do not name a modality."""


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of items with their observed modalities.

    The values in an absent slot never matter; they are replaced by 0 at construction.

    Args:
        values: The values of each modality by its name, `(item, …)`. A modality without values is absent for all items.
            Values of type uint8 are pixels and are divided by 255; other types are kept.
        present: True for each observed item of a modality, by its name, `(item,)`, bool; needed for modalities that are
            absent for some items only. On the CPU a mask without False is dropped.
        covariates: The indicators of the items' categories, `(item, covariate)`, see
            :meth:`pyro_mmvae.MultimodalVAE.covariate_vector`; integers and bool become floats. None (default) if no
            category is known or the model does not have covariates.

    Raises:
        ValueError: If modalities have different numbers of items, or a mask or the covariates have a wrong shape; the
            message names it.
        TypeError: If a value is not a tensor or a mask is not bool.
    """

    values: Mapping[str, Tensor]
    present: Mapping[str, Bool[Tensor, " item"]] = field(default_factory=dict)
    covariates: Float[Tensor, "item covariate"] | None = None

    def __post_init__(self) -> None:
        """Check the tensors, scale pixels, and fill absent slots."""
        values: dict[str, Tensor] = {}
        count: int | None = None
        for name, value in self.values.items():
            if not isinstance(value, Tensor) or value.dim() < 1:
                raise TypeError(f"batch: modality {name!r} must be a tensor (item, …), got {_describe(value)}")
            count = len(value) if count is None else count
            if len(value) != count:
                raise ValueError(f"batch: modality {name!r} must have {count} items as others have, got {len(value)}")
            values[name] = _scaled(value) if value.dtype == torch.uint8 else value
        masks: dict[str, Tensor] = {}
        for name, mask in self.present.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                raise TypeError(f"batch: the mask of modality {name!r} must be a bool tensor, got {_describe(mask)}")
            if name in values:
                if mask.shape != (count,):
                    raise ValueError(
                        f"batch: the mask of modality {name!r} must have shape ({count},), got {tuple(mask.shape)}"
                    )
                # A mask without False is dropped, so that the faster code for complete items runs. Reading the mask
                # would wait for a GPU, where it is kept.
                if mask.device.type == "cpu" and bool(mask.all()):
                    continue
                masks[name] = mask
                slots = mask.reshape(-1, *[1] * (values[name].dim() - 1))
                values[name] = values[name].masked_fill(~slots, 0)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "present", masks)
        if self.covariates is not None:
            object.__setattr__(self, "covariates", _check_covariates(self.covariates, count))

    @classmethod
    def of(cls, batch: Batch | Mapping[str, Tensor], names: tuple[str, ...]) -> Batch:
        """Convert a mapping of tensors to a batch, and check the names of the modalities.

        Args:
            batch: A batch, or a mapping from names of modalities to tensors. A mask `(item, modality)` may stand under
                the key ``"present"``, and covariates `(item, covariate)` under ``"covariates"``.
            names: The names of all modalities, in the order of the columns of the mask.

        Raises:
            ValueError: If a modality is unknown, or the mask has a wrong shape.
            TypeError: If ``batch`` is neither a batch nor a mapping.
        """
        if isinstance(batch, Batch):
            result = batch
        elif isinstance(batch, Mapping):
            values = {name: value for name, value in batch.items() if name not in RESERVED}
            mask = batch.get("present")
            if mask is not None and (mask.dim() != 2 or mask.shape[1] != len(names)):
                raise ValueError(f"batch: 'present' must have shape (item, {len(names)}), got {tuple(mask.shape)}")
            masks = {} if mask is None else dict(zip(names, mask.unbind(-1), strict=True))
            result = cls(values, masks, batch.get("covariates"))
        else:
            raise TypeError(f"batch must be a Batch or a mapping of tensors, got {type(batch).__name__}")
        unknown = [name for name in result.values if name not in names]
        if unknown:
            raise ValueError(f"batch: unknown modality {unknown[0]!r}; the model has {', '.join(names)}")
        return result

    def __len__(self) -> int:
        """Return the number of items; 0 for a batch without a modality."""
        return len(next(iter(self.values.values()))) if self.values else 0

    def select(self, names: tuple[str, ...] | list[str]) -> Batch:
        """Return a batch of all items with a selection of their modalities.

        Args:
            names: The names of the modalities to keep; names that the batch does not have are ignored.
        """
        return Batch({n: v for n, v in self.values.items() if n in names}, self.present, self.covariates)

    def rows(self, part: slice) -> Batch:
        """Return a batch of some of the items, with all of their modalities.

        Args:
            part: The positions of the items.
        """
        return Batch(
            {name: value[part] for name, value in self.values.items()},
            {name: mask[part] for name, mask in self.present.items()},
            None if self.covariates is None else self.covariates[part],
        )

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        return Batch(
            {name: value.to(device) for name, value in self.values.items()},
            {name: mask.to(device) for name, mask in self.present.items()},
            None if self.covariates is None else self.covariates.to(device),
        )


def _describe(value: object) -> str:
    return f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__


def _check_covariates(covariates: object, count: int | None) -> Tensor:
    """Return covariates as floats, checked for their shape."""
    if not isinstance(covariates, Tensor):
        raise TypeError(f"batch: covariates must be a tensor (item, covariate), got {_describe(covariates)}")
    if covariates.dim() != 2 or count not in {None, len(covariates)}:
        rows = "item" if count is None else count
        raise ValueError(f"batch: covariates must have shape ({rows}, covariate), got {tuple(covariates.shape)}")
    return covariates if covariates.is_floating_point() else covariates.to(torch.get_default_dtype())


def _scaled(pixels: Tensor) -> Tensor:
    """Return pixels of type uint8 as floats in [0, 1]."""
    return pixels.to(torch.get_default_dtype()).div_(255)
