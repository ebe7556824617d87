"""Deterministic arithmetic: only algorithms that give the same bits on the same machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # which cuBLAS reads when it is used first


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Let torch use deterministic algorithms only, and restore its choice on leaving.

    An operation that has no such algorithm on the device then raises an error, which names it.

    Args:
        enabled: If False, nothing is changed.
    """
    if not enabled:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
