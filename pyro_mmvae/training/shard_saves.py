"""Checkpoints inside the epochs of a training from shards, whose epochs may take days."""

from __future__ import annotations

import time

from pyro_mmvae.data import Shards

SECONDS = 60.0
"""The least number of seconds between two checkpoints inside an epoch."""


class ShardSaves:
    """The times at which a training from shards is saved inside an epoch: after as many items as a shard has.

    Args:
        shards: The shards of the training items; None for data that are not in shards, which are never due.
        size: The number of items per batch.
        batches_done: The number of batches of the epoch that were completed before.
    """

    def __init__(self, shards: Shards | None, size: int, batches_done: int) -> None:
        self._batches = None
        if shards is not None:
            self._total = -(-sum(shards.sizes) // size)
            self._batches = -(-sum(shards.sizes) // (len(shards) * size))
        self._last, self._time = batches_done, time.monotonic()

    def are_due(self, batches_done: int) -> bool:
        """Return True if the training shall be saved now.

        Args:
            batches_done: The number of batches of the epoch that are completed.
        """
        if self._batches is None or batches_done - self._last < self._batches or batches_done >= self._total:
            return False  # the end of an epoch is saved anyway
        if time.monotonic() - self._time < SECONDS:
            return False
        self._last, self._time = batches_done, time.monotonic()
        return True
