"""Seeding of torch's random number generators for a block of code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators of the CPU and of one device, and restore their states on leaving.

    Args:
        seed: The seed of both generators, a non-negative integer.
        device: The device whose generator is seeded in addition to that of the CPU.
    """
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        # torch.manual_seed would also seed every other accelerator, whose state fork_rng does not restore here.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
