"""The team of processes that train together, of which there is usually one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from torch import Tensor, nn

from pyro_mmvae._shards import Shard
from pyro_mmvae.batch import Batch

if TYPE_CHECKING:
    from pyro_mmvae.training.elbo import Terms

T = TypeVar("T")
LossFunction: TypeAlias = "Callable[[Batch], tuple[Tensor, Terms]]"


class Team:
    """The processes that train together; this class stands for a single one, which exchanges nothing.

    Attributes:
        rank: The rank of this process, 0 for the first, which alone writes.
        size: The number of processes.
        size_here: The number of processes on this machine.
    """

    rank, size, size_here = 0, 1, 1

    def describe(self) -> dict[str, Any]:
        """Return the number of processes and their backend, as the environment of a run records them."""
        return {"count": self.size}

    def device_name(self, name: str) -> str:
        """Return the name of the device of this process.

        Args:
            name: The device that ``train.device`` names.
        """
        return name

    def shard(self, count: int) -> Shard:
        """Return the part of a batch that this process computes, a context for the computation.

        Args:
            count: The number of items in the batch.
        """
        return Shard(count)

    def wrap(self, objective: nn.Module) -> LossFunction:
        """Return the function from the own items of a batch to the loss, whose gradients are those of all items.

        Args:
            objective: The objective, with all parameters that are trained.
        """
        return objective

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the loss of the whole batch, inside the context of its shard.

        Args:
            loss: The loss of the own items.
        """
        loss.backward()

    def add_up(self, loss: Tensor, terms: Terms) -> tuple[Tensor, Terms]:
        """Return the loss and the terms of the whole batch, inside the context of its shard.

        Args:
            loss: The loss of the own items, detached.
            terms: The terms of the own items.
        """
        return loss, terms

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        return values

    def largest(self, number: int) -> int:
        """Return the largest of the numbers that the processes have."""
        return number

    def share(self, function: Callable[[], T]) -> T:
        """Call a function on the first process only, and return its result on all.

        Args:
            function: The function, whose result can be pickled.
        """
        return function()

    def together(self, function: Callable[[], T]) -> T:
        """Call a function on all processes, and go on only if it raised an error on none.

        Args:
            function: The function without arguments, which all processes call.

        Raises:
            SystemExit: On all processes but the first, if there was an error, which the first one raises.
        """
        return function()

    @contextmanager
    def common_draws(self) -> Iterator[None]:
        """Let the common stream of random numbers begin where torch's generators are, and end with the context."""
        yield

    def adopt_draws(self) -> None:
        """Let the common stream go on where torch's generators are, as a checkpoint has restored them."""

    @contextmanager
    def lent_draws(self) -> Iterator[None]:
        """Let torch's generators be where the common stream is, inside the context, for a checkpoint."""
        yield

    @contextmanager
    def losses_explained(self, path: Path | None = None) -> Iterator[None]:
        """Turn an error of the connection to other processes into a :class:`ProcessLostError`.

        Args:
            path: The path of the run directory, which the message names; None if there is none yet.
        """
        yield
