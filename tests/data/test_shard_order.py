"""The order of items in shards: each once per epoch, a function of seed and epoch, and disjoint among processes."""

from __future__ import annotations

import pytest
import torch

from pyro_mmvae.data.shard_order import Shards

SHARDS = Shards((7, 7, 7, 7, 7, 3, 1), buffer=5)


@pytest.mark.parametrize("buffer", [0, 5, 1000])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_batches_contain_each_item_once(buffer: int, size: int) -> None:
    batches = list(Shards(SHARDS.sizes, buffer).batches(size, 0, 3))
    assert torch.cat(batches).sort().values.tolist() == list(range(39))
    assert [len(batch) for batch in batches] == [size] * (39 // size) + [39 % size] * (39 % size > 0)


def test_batches_depend_on_seed_and_epoch_only() -> None:
    first, again, other_epoch, other_seed = (
        torch.cat(list(SHARDS.batches(4, seed, epoch))).tolist() for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1))
    )
    assert first == again
    assert first not in (other_epoch, other_seed)


@pytest.mark.parametrize("skip", [0, 1, 5, 9, 10])
def test_batches_after_a_skip_are_the_rest(skip: int) -> None:
    whole, rest = list(SHARDS.batches(4, 0, 0)), list(SHARDS.batches(4, 0, 0, skip=skip))
    assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in whole[skip:]]


@pytest.mark.parametrize("world", [2, 3])
def test_batches_of_several_processes_are_as_many_from_disjoint_shards(world: int) -> None:
    parts = [list(SHARDS.batches(6, 0, 0, rank=rank, world=world)) for rank in range(world)]
    assert {len(part) for part in parts} == {7}
    for part in parts:
        sizes = [len(batch) for batch in part]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1
    items = [set(torch.cat(part).tolist()) for part in parts]
    assert sorted(item for part in items for item in part) == list(range(39))
    shard_of = torch.repeat_interleave(torch.arange(7), torch.tensor(SHARDS.sizes))
    shards = [set(shard_of[list(part)].tolist()) for part in items]
    assert not set.intersection(*shards)


def test_batches_of_too_many_processes_raise() -> None:
    with pytest.raises(ValueError, match="each of 8 processes must have at least 10 items per epoch"):
        list(SHARDS.batches(4, 0, 0, rank=7, world=8))


def test_batches_mix_the_items_of_several_shards() -> None:
    shards = Shards((50,) * 20, buffer=200)
    first = next(iter(shards.batches(32, 0, 0)))
    assert len(set((first // 50).tolist())) >= 4


def test_batches_read_few_shards_ahead(tmp_path: object) -> None:
    read: list[int] = []

    class Noted(Shards):
        def _read_ahead(self, shards: list[int]) -> None:
            read.extend(shards)

    batches = Noted((10,) * 30, buffer=20).batches(10, 0, 0)
    next(batches)
    assert len(read) <= 4
    list(batches)
    assert sorted(read) == list(range(30))
