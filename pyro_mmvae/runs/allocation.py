"""A limit of the memory of new tensors, so that the configuration of a foreign run cannot exhaust the machine."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_FACTORIES = frozenset(
    {
        torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye, torch.arange,
        torch.linspace, torch.empty_strided, torch.randperm, torch.randint,
    }
)  # fmt: skip


class AllocationError(ValueError):
    """An error about tensors that would take more memory than allowed; the message is one line."""


class AllocationLimit(TorchFunctionMode):
    """A context in which torch's factories of tensors raise an error before they exceed a limit together.

    Args:
        max_bytes: The largest number of bytes of all new tensors.
        max_calls: The largest number of new tensors.
    """

    def __init__(self, max_bytes: int, max_calls: int) -> None:
        super().__init__()
        self.max_bytes, self.max_calls = max_bytes, max_calls
        self._bytes = self._calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count the memory of a new tensor by its twin on the meta device, which has none, and make it."""
        kwargs = kwargs or {}
        if func in _FACTORIES:
            options = {key: value for key, value in kwargs.items() if key not in {"generator", "out", "pin_memory"}}
            try:
                size = func(*args, **{**options, "device": "meta"}).nbytes
            except (RuntimeError, OverflowError):  # a number of elements beyond 64 bits
                size = self.max_bytes + 1
            except TypeError:  # which the call itself reports
                size = 0
            self._bytes, self._calls = self._bytes + size, self._calls + 1
            if self._bytes > self.max_bytes or self._calls > self.max_calls:
                raise AllocationError(
                    f"must take at most {self.max_bytes / 2**20:,.0f} MiB in {self.max_calls:,} tensors, which its "
                    "weights stand for, got more"
                )
        return func(*args, **kwargs)
