"""Some items as model and guide see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from pyro_mmvae._typing import Bool, Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Items with the modalities that were observed.

    What stands in an absent slot never matters: it is replaced by 0 here.

    Args:
        values: modality name to `(item, …)`. A name that is not there is absent for all items. uint8 is taken for
            pixels and divided by 255, other types are left alone.
        present: modality name to `(item,)` bool, for those absent for some items only. On the CPU a mask without any
            False is left out.

    Raises:
        ValueError: if two modalities have different numbers of items, or a mask does not fit; the message names it.
        TypeError: if a value is no tensor or a mask is not bool.
    """

    values: Mapping[str, Tensor]
    present: Mapping[str, Bool[Tensor, " item"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check, scale pixels, and fill absent slots."""
        values: dict[str, Tensor] = {}
        count: int | None = None
        for name, value in self.values.items():
            if not isinstance(value, Tensor) or value.dim() < 1:
                raise TypeError(f"batch: modality {name!r} must be a tensor (item, …), got {type(value).__name__}")
            count = len(value) if count is None else count
            if len(value) != count:
                raise ValueError(f"batch: modality {name!r} has {len(value)} items, others {count}")
            values[name] = _scaled(value) if value.dtype == torch.uint8 else value
        masks: dict[str, Tensor] = {}
        for name, mask in self.present.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                raise TypeError(f"batch: the mask of modality {name!r} must be a bool tensor")
            if name in values:
                if mask.shape != (count,):
                    raise ValueError(
                        f"batch: the mask of modality {name!r} has shape {tuple(mask.shape)}, not ({count},)"
                    )
                if mask.device.type == "cpu" and bool(mask.all()):
                    continue  # complete, so that it is computed as without a mask; a GPU would have to be waited for
                masks[name] = mask
                slots = mask.reshape(-1, *[1] * (values[name].dim() - 1))
                values[name] = values[name].masked_fill(~slots, 0)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "present", masks)

    @classmethod
    def of(cls, batch: Batch | Mapping[str, Tensor], names: tuple[str, ...]) -> Batch:
        """Accept a Batch, or a dict of tensors that may hold a mask `(item, modality)` under ``"present"``.

        Args:
            batch: what a user gave.
            names: of all modalities in order, which the columns of the mask follow.

        Raises:
            ValueError: for an unknown modality, or a mask of another shape.
            TypeError: if ``batch`` is neither.
        """
        if isinstance(batch, Batch):
            result = batch
        elif isinstance(batch, Mapping):
            values = {name: value for name, value in batch.items() if name != "present"}
            mask = batch.get("present")
            if mask is not None and (mask.dim() != 2 or mask.shape[1] != len(names)):
                raise ValueError(f"batch: 'present' must be (item, {len(names)}), got {tuple(mask.shape)}")
            result = cls(values, {} if mask is None else dict(zip(names, mask.unbind(-1), strict=True)))
        else:
            raise TypeError(f"a batch is a Batch or a dict of tensors, not {type(batch).__name__}")
        unknown = [name for name in result.values if name not in names]
        if unknown:
            raise ValueError(f"batch: unknown modality {unknown[0]!r}; the model has {', '.join(names)}")
        return result

    def __len__(self) -> int:
        """Number of items; 0 where there is no modality."""
        return len(next(iter(self.values.values()))) if self.values else 0

    def select(self, names: tuple[str, ...] | list[str]) -> Batch:
        """The same items with only some of their modalities."""
        return Batch({n: v for n, v in self.values.items() if n in names}, self.present)

    def to(self, device: torch.device | str) -> Batch:
        """The same items on ``device``."""
        return Batch(
            {name: value.to(device) for name, value in self.values.items()},
            {name: mask.to(device) for name, mask in self.present.items()},
        )


def _scaled(pixels: Tensor) -> Tensor:
    """From uint8 to [0, 1]."""
    return pixels.to(torch.get_default_dtype()).div_(255)
