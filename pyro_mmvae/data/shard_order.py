"""The order in which a training reads items that are stored in shards, a function of seed and epoch alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from pyro_mmvae._typing import Tensor

_MAX_ADVISED = 32  # shards that the system is asked to read ahead when a training goes on inside an epoch


class StoredMoments(NamedTuple):
    """The moments of a modality, as they were computed when the shards were written.

    Attributes:
        items: Number of items that have the modality.
        center: Mean of each feature, `(*shape)`, in float64.
        spread: Standard deviation of each feature, `(*shape)`, in float64.
    """

    items: int
    center: Tensor
    spread: Tensor


@dataclass(frozen=True, eq=False)
class Shards:
    """The shards that the items of a split are stored in, one after the other.

    Args:
        sizes: Number of items in each shard, all positive.
        buffer: Number of items among which a training chooses at random, beside those of the shard that it reads.
        files: Path of each shard, which the system is asked to read ahead; empty by default.
        digests: Digest of the content of each modality by its name; empty (default) if it is not known.
        moments: Moments of modalities by their names; empty by default.
    """

    sizes: tuple[int, ...]
    buffer: int
    files: tuple[Path, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    moments: Mapping[str, StoredMoments] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of shards."""
        return len(self.sizes)

    def batches(
        self, size: int, seed: int, epoch: int, *, rank: int = 0, world: int = 1, skip: int = 0
    ) -> Iterator[Tensor]:
        """Yield the batches of an epoch, in which every item occurs once.

        The shards come in random order. Each is put into a pool with at most ``buffer`` items of the shards before it,
        and the items that leave the pool are chosen at random. With several processes, each takes its own shards and
        as many batches as the others; the sizes of its batches then differ by at most one.

        Args:
            size: The number of items per batch of all processes together; the last one may have fewer.
            seed: The seed of the training.
            epoch: The number of the epoch, counted from 0.
            rank: The number of this process, counted from 0; 0 by default.
            world: The number of processes, 1 by default.
            skip: The number of batches to leave out at the start, whose shards are not opened; 0 by default.

        Yields:
            The indices of the items of each batch, int64.

        Raises:
            ValueError: If a process would get fewer items than batches.
        """
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.sizes), generator=generator).tolist()
        count = -(-sum(self.sizes) // size)
        own, items = self._deal(order, world)[rank]
        if items < count:
            raise ValueError(
                f"shards: each of {world} processes must have at least {count} items per epoch, one per batch, got "
                f"{items} items in {len(own)} of {len(self.sizes)} shards: use fewer processes or smaller shards"
            )

        def end(batch: int) -> int:
            return min(size * (batch + 1), items) if world == 1 else items * (batch + 1) // count

        waiting, left, done, number = list[int](), torch.empty(0, dtype=torch.int64), 0, 0
        for shard, part in self._chosen(own, generator):
            waiting = [*waiting, *shard][-_MAX_ADVISED:]
            left = torch.cat([left, part])
            start = 0
            while number < count and end(number) - done <= len(left) - start:
                length = end(number) - done
                if number >= skip:
                    self._read_ahead(waiting)
                    waiting = []
                    yield left[start : start + length]
                start, done, number = start + length, end(number), number + 1
            left = left[start:]

    def _deal(self, order: list[int], world: int) -> list[tuple[list[int], int]]:
        """Return the shards of each process, and their number of items, which are as equal as the shards allow."""
        parts, items = [list[int]() for _ in range(world)], [0] * world
        for shard in order:
            least = items.index(min(items))
            parts[least].append(shard)
            items[least] += self.sizes[shard]
        return list(zip(parts, items, strict=True))

    def _chosen(self, own: list[int], generator: torch.Generator) -> Iterator[tuple[list[int], Tensor]]:
        """Yield the shard that enters the pool, and the items that leave it, in order."""
        starts = torch.tensor([0, *self.sizes]).cumsum(0)
        pool = torch.empty(0, dtype=torch.int64)
        for shard in own:
            pool = torch.cat([pool, torch.arange(int(starts[shard]), int(starts[shard + 1]))])
            pool = pool[torch.randperm(len(pool), generator=generator)]
            leaving = max(len(pool) - self.buffer, 0)
            yield [shard], pool[:leaving]
            pool = pool[leaving:].clone()
        yield [], pool

    def _read_ahead(self, shards: list[int]) -> None:
        """Ask the system to read shards from the first byte to the last, before their items are read at random."""
        if not self.files or not hasattr(os, "posix_fadvise"):
            return
        for shard in shards:
            with suppress(OSError):  # the reader reports it
                descriptor = os.open(self.files[shard], os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(descriptor)
