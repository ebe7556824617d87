"""Which device, precision and how many threads."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


def resolve_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one.

    Raises:
        ValueError: for a device that torch does not know or this machine has not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise ValueError(f"device {name!r} is not to be had: {reason}; give auto, cpu or cuda") from None
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """``auto`` is bf16 where the device multiplies it faster than fp32: CPUs with AMX or AVX512-BF16, newer GPUs."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return "bf16" if any(getattr(torch.cpu, name, bool)() for name in names) else "fp32"
    return "fp32"


def autocast(precision: str, device: torch.device) -> Any:
    """A context in which networks compute in the given precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Use so many threads, by default as many as this process may, and flush denormal numbers; put both back after.

    Inside, memory that is freed is kept for the next step, see :func:`kept_heap`.
    """
    before = torch.get_num_threads()
    if count is None:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(count)
    torch.set_flush_denormal(True)
    try:
        with kept_heap():
            yield count
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)


@contextmanager
def kept_heap() -> Iterator[bool]:
    """Let glibc keep large blocks that are freed, instead of giving them back and getting them anew at every step.

    A step that allocates hundreds of megabytes otherwise spends a sixth of its time on the first touch of each page.
    After it what is free is given back. Elsewhere than with glibc, or where the environment has its own settings of
    malloc, nothing is done.

    Yields:
        Whether it is so.
    """
    own = [name for name in os.environ if name == "GLIBC_TUNABLES" or name.startswith("MALLOC_")]
    libc = None if own else _glibc()
    kept = libc is not None and all(libc.mallopt(option, value) for option, value in _KEEP)
    try:
        yield kept
    finally:
        if libc is not None:
            for option, value in _GIVE_BACK:
                libc.mallopt(option, value)
            libc.malloc_trim(0)


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of malloc.h
_KEEP = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
_GIVE_BACK = (  # what malloc comes to by itself in a program that has freed large blocks
    (_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20),
)  # fmt: skip


def _glibc() -> Any:
    """The C library of this process, if it is glibc."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None
