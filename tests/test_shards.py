"""Draws of the share of a batch that one of several processes computes, against those of the whole batch."""

from __future__ import annotations

from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_mmvae._shards import SharedShard, drawn_over_batch, gather_items, loss_weight, own_items
from pyro_mmvae.distributions.families import location_scale
from pyro_mmvae.distributions.stratified import stratified_uniform

COUNT, PROCESSES = 7, 3


def drawn(draw: Callable[[int], Tensor], rank: int, processes: int, count: int = COUNT) -> Tensor:
    """Return the draws of one process, whose own generator is another one than that of the others."""
    generator = torch.Generator()
    generator.manual_seed(5)
    torch.manual_seed(100 + rank)
    with SharedShard(count, rank, processes, {"cpu": generator}) as own:
        return draw(own.stop - own.start)


DRAWS: dict[str, tuple[int, Callable[[int], Tensor]]] = {
    "rand": (0, lambda n: torch.rand(n, 4)),
    "rand with a shape": (0, lambda n: torch.rand((n,), dtype=torch.float64)),
    "rand with size=": (0, lambda n: torch.rand(size=(n, 2))),
    "randn": (1, lambda n: torch.randn(4, n, 6)),
    "rand_like": (0, lambda n: torch.rand_like(torch.zeros(n, 2, dtype=torch.float64))),
    "randn_like": (0, lambda n: torch.randn_like(torch.zeros(n))),
    "exponential_": (0, lambda n: torch.empty(n, 5).exponential_()),
    "uniform_": (0, lambda n: torch.empty(n, 5).uniform_(-1, 1)),
    "stratified": (0, lambda n: stratified_uniform(torch.Size([n]), torch.device("cpu"))),
    "stratified over draws": (1, lambda n: stratified_uniform(torch.Size([4, n]), torch.device("cpu"), 1)),
    "a distribution of Pyro": (0, lambda n: dist.Normal(torch.zeros(n, 5), torch.ones(n, 5)).rsample()),
    **{
        family: (
            1,
            lambda n, family=family: location_scale(family, torch.zeros(n, 5), torch.ones(n, 5)).rsample(
                torch.Size([4])
            ),
        )
        for family in ("normal", "laplace", "logistic")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWS)
def test_draws_of_several_processes_together_equal_those_of_one(name: str) -> None:
    axis, draw = DRAWS[name]
    whole = drawn(draw, 0, 1)
    parts = [drawn(draw, rank, PROCESSES) for rank in range(PROCESSES)]
    assert [part.shape[axis] for part in parts] == [2, 2, 3]
    assert torch.equal(torch.cat(parts, axis), whole)
    torch.manual_seed(5)
    assert torch.equal(draw(COUNT), whole)  # a training by one process draws from torch's generator


def test_draws_without_items_are_equal_on_all_processes() -> None:
    def draw(_count: int) -> Tensor:
        return torch.cat([torch.randperm(9).double(), torch.rand(11).double()])

    first, second = (drawn(draw, rank, 2, count=6) for rank in (0, 1))
    assert torch.equal(first, second)


def test_draws_that_depend_on_values_differ_between_processes() -> None:
    first, second = (drawn(lambda n: torch.bernoulli(torch.full((n, 40), 0.5)), rank, 2, count=6) for rank in (0, 1))
    assert not torch.equal(first, second)


def test_gamma_of_values_per_item_leaves_the_common_stream_alone() -> None:
    def draw(count: int) -> Tensor:
        torch._standard_gamma(torch.rand(count, 3) + 1)
        return torch.rand(count)

    whole = drawn(draw, 0, 1)
    assert torch.equal(torch.cat([drawn(draw, rank, 2) for rank in (0, 1)]), whole)


def test_shard_of_fewer_items_than_processes_is_the_whole_batch_with_a_weight() -> None:
    with SharedShard(2, 1, 4, {"cpu": torch.Generator()}) as own:
        assert (own.start, own.stop, loss_weight()) == (0, 2, 0.25)
        values = torch.arange(2.0)
        assert gather_items(values) is values
        assert own_items(values) is values
    assert loss_weight() == 1.0


def test_shard_left_by_an_error_restores_the_common_stream() -> None:
    generator = torch.Generator()
    before = generator.get_state()

    def fail() -> None:
        with SharedShard(6, 0, 2, {"cpu": generator}):
            torch.rand(3)
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        fail()
    assert torch.equal(generator.get_state(), before)
    with SharedShard(6, 0, 2, {"cpu": generator}):
        torch.rand(3)
    assert not torch.equal(generator.get_state(), before)


def test_drawn_over_batch_by_one_process_draws_the_shape_itself() -> None:
    assert drawn_over_batch(torch.Size([3]), torch.ones).shape == (3,)
