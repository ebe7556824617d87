"""Devices, precisions, thread counts, and the memory of the CPU's allocator."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from pyro_mmvae._compat import cpu_multiplies_bfloat16

if TYPE_CHECKING:
    from collections.abc import Iterator

PRECISIONS = ("auto", "fp32", "bf16")

MOST_THREADS = 4096
"""The largest number of CPU threads that a setting takes."""

_THREADS = "PYRO_MMVAE_THREADS"


def resolve_device(name: str) -> torch.device:
    """Return the device of a name.

    Apple's MPS is chosen where torch offers it, but no part of the package has been run on it.

    Args:
        name: ``"auto"`` for CUDA, else MPS, else the CPU; or the name of a torch device such as ``"cuda:1"``.

    Raises:
        ValueError: If torch does not know the device, or this machine does not have it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":  # which has no values
            raise RuntimeError("it only computes shapes")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # some devices need a package of their own
        reason = str(error).split("\n")[0].rstrip(".")
        raise ValueError(
            f"device {name!r} is unavailable: {reason}. It must be auto, cpu, cuda or mps, or a device torch can use"
        ) from None
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """Return the precision in which networks compute on a device.

    Args:
        name: ``"fp32"``, ``"bf16"``, or ``"auto"`` for bf16 where the device multiplies it faster than fp32: CPUs with
            AMX or AVX512-BF16, and GPUs that support it without emulation.
        device: The device that the networks are on.

    Raises:
        ValueError: If bf16 is asked for on MPS, where autocast of the networks is not supported.
    """
    if device.type == "mps":
        if name == "bf16":
            raise ValueError("precision must be fp32 or auto on device mps, got bf16")
        return "fp32"
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and cpu_multiplies_bfloat16() else "fp32"


def autocast(precision: str, device: torch.device) -> Any:
    """Return a context in which networks compute in the given precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def threads(count: int | str | None, processes: int = 1) -> Iterator[int]:
    """Set the number of threads and flush denormal numbers inside the context, and restore both after it.

    Memory that is freed inside is kept for the next step, see :func:`kept_heap`.

    Args:
        count: The number of threads; ``"auto"`` for the number of processors that this process may use, and None for
            the number in the environment variable ``PYRO_MMVAE_THREADS`` or, without it, that of the processors.
        processes: The number of processes that share the processors, 1 by default; each takes its part.

    Yields:
        The number of threads in use.

    Raises:
        ValueError: If the environment variable is not a positive integer, or the number is above ``MOST_THREADS``.
    """
    before = torch.get_num_threads()
    if not isinstance(count, int):
        count = _count_processors(processes) if count == "auto" else _default_threads(processes)
    elif count > MOST_THREADS:
        raise ValueError(f"threads must be at most {MOST_THREADS}, got {count}")
    torch.set_num_threads(count)
    torch.set_flush_denormal(True)
    try:
        with kept_heap():
            yield count
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)


def _count_processors(processes: int) -> int:
    """Return the number of processors that each of some processes may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // processes)


def _default_threads(processes: int) -> int:
    """Return the number of threads that the environment sets, by default that of the processors."""
    text = os.environ.get(_THREADS, "")
    if not text:
        return _count_processors(processes)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"the environment variable {_THREADS} must be a positive integer, got {text!r}")
    if int(text) > MOST_THREADS:
        raise ValueError(f"the environment variable {_THREADS} must be at most {MOST_THREADS}, got {text!r}")
    return int(text)


@contextmanager
def kept_heap() -> Iterator[bool]:
    """Let glibc keep large blocks that are freed, rather than return them to the system at every step.

    A step that allocates hundreds of megabytes otherwise spends a sixth of its time on the first touch of each page.
    Free memory is returned at the end of the context. With another C library, or where the environment has its own
    settings of malloc, nothing is done.

    Yields:
        True if the allocator was changed.
    """
    is_configured = any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ)
    libc = None if is_configured else _glibc()
    is_kept = libc is not None and all(libc.mallopt(option, value) for option, value in _KEEP)
    try:
        yield is_kept
    finally:
        if libc is not None:
            for option, value in _GIVE_BACK:
                libc.mallopt(option, value)
            libc.malloc_trim(0)


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # option numbers of glibc's malloc.h
_KEEP = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
# The values that malloc arrives at by itself in a program that has freed large blocks; glibc cannot be asked for the
# ones that were in force before.
_GIVE_BACK = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))


def _glibc() -> Any:
    """Return the C library of this process if it is glibc, else None."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if all(hasattr(libc, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None
