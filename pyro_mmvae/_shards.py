"""The share of a batch that one of several processes computes, with the random draws of the whole batch.

Every process draws the numbers of the whole batch from one common stream and keeps those of its own items, so that
several processes compute what one process would compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Shard:
    """All items of a batch, which one process computes alone.

    Args:
        count: The number of items in the batch.

    Attributes:
        start: The position of the first item of this process.
        stop: The position after the last one.
        weight: The weight of the loss of this process in that of the batch.
    """

    weight = 1.0

    def __init__(self, count: int) -> None:
        self.start, self.stop, self.count = 0, count, count

    def __enter__(self) -> Shard:
        """Begin the computation of the items."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the computation of the items."""


_ACTIVE: ContextVar[SharedShard | None] = ContextVar("shard", default=None)


class SharedShard(Shard):
    """The consecutive items of a batch that one of several processes computes.

    The items are divided as evenly as possible. A batch with fewer items than processes is computed by all of them as
    a whole, each with its part of the weight. Inside the context, draws of torch with a dimension of the size of the
    share are those of the whole batch. Where another dimension has that size by chance, they may be those of other
    items, which are as random.

    Args:
        count: The number of items in the batch, positive.
        rank: The rank of this process, from 0 on.
        processes: The number of processes.
        generators: The common generators by type of device, which are in equal states on all processes.
        group: The process group that values are gathered in, by default that of all processes.
    """

    def __init__(
        self,
        count: int,
        rank: int,
        processes: int,
        generators: Mapping[str, torch.Generator],
        group: torch.distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__(count)
        self.rank, self.generators, self.group = rank, generators, group
        self.sizes = [count * (r + 1) // processes - count * r // processes for r in range(processes)]
        self.is_divided = count >= processes
        if self.is_divided:
            self.start, self.stop = count * rank // processes, count * (rank + 1) // processes
        else:
            self.weight = 1 / processes
        self._is_wide = not self.is_divided
        self._mode = _WholeBatchDraws(self)
        self._token: Token[SharedShard | None] | None = None
        self._before: dict[str, Tensor] = {}

    def __enter__(self) -> SharedShard:
        """Let draws be those of the whole batch."""
        self._before = {kind: generator.get_state() for kind, generator in self.generators.items()}
        self._token = _ACTIVE.set(self)
        self._mode.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Restore ordinary draws; after an error also the states of the generators, so that the batch can be redone."""
        self._mode.__exit__(*error)
        _ACTIVE.reset(cast("Token[SharedShard | None]", self._token))
        if error[0] is not None:
            for kind, state in self._before.items():
                self.generators[kind].set_state(state)

    def axis(self, shape: torch.Size) -> int | None:
        """Return the dimension of the items in the shape of some draws; None if they have none.

        Args:
            shape: The shape of the draws, such as `(item, latent)` or `(draw, item, latent)`.
        """
        own = self.stop - self.start
        if self._is_wide:
            return None
        fitting = [axis for axis, size in enumerate(shape) if size == own]
        # Latents have one more dimension behind that of the items, and may have any number before it.
        return len(shape) - 2 if len(shape) - 2 in fitting else next(iter(fitting), None)

    def widened(self, shape: torch.Size, axis: int) -> torch.Size:
        """Return the shape of draws for the whole batch.

        Args:
            shape: The shape of the draws for the items of this process.
            axis: The dimension of the items.
        """
        return torch.Size([*shape[:axis], self.count, *shape[axis + 1 :]])

    def cut(self, draws: Tensor, axis: int) -> Tensor:
        """Return the draws for the items of this process, out of those of the whole batch.

        Args:
            draws: The draws for the whole batch.
            axis: The dimension of the items.
        """
        return draws.narrow(axis, self.start, self.stop - self.start)

    def over_batch(self, shape: torch.Size, draw: Callable[[torch.Size], Tensor]) -> Tensor:
        """Return draws that depend on each other over the batch, such as stratified ones, for the own items.

        Args:
            shape: The shape of the draws for the items of this process.
            draw: The function from a shape to draws of that shape.
        """
        axis = self.axis(shape)
        if axis is None:
            return draw(shape)
        self._is_wide = True
        try:
            return self.cut(draw(self.widened(shape, axis)), axis)
        finally:
            self._is_wide = False


def drawn_over_batch(shape: torch.Size, draw: Callable[[torch.Size], Tensor]) -> Tensor:
    """Return draws of a shape that depend on each other over the batch, which several processes may share.

    Args:
        shape: The shape of the draws.
        draw: The function from a shape to draws of that shape, with equal calls of torch's generators on each process.
    """
    shard = _ACTIVE.get()
    return draw(shape) if shard is None else shard.over_batch(shape, draw)


def loss_weight() -> float:
    """Return the weight of the loss of this process in that of the batch, inside the context of a shard."""
    shard = _ACTIVE.get()
    return 1.0 if shard is None else shard.weight


def gather_items(values: Tensor, dim: int = 0) -> Tensor:
    """Return the values of all items of a batch, where several processes share it in training.

    Gradients reach the values of this process only. A penalty over the batch computes one number per item of the
    whole batch from gathered values and returns :func:`own_items` of them; the gradients of all processes then add up
    to that of the penalty.

    Args:
        values: The values of the items of this process, with any number of other dimensions.
        dim: The dimension of the items, 0 by default.

    Returns:
        The values of the whole batch in the order of its items; ``values`` itself in a training by one process.

    Example:
        >>> gather_items(torch.ones(3, 2)).shape
        torch.Size([3, 2])
    """
    shard = _ACTIVE.get()
    if shard is None or not shard.is_divided:
        return values
    own = values.movedim(dim, 0).contiguous()
    padded = own.new_zeros(max(shard.sizes), *own.shape[1:])
    padded[: len(own)] = own.detach()
    parts = [torch.empty_like(padded) for _ in shard.sizes]
    torch.distributed.all_gather(parts, padded, group=shard.group)
    kept = [part[:size] for part, size in zip(parts, shard.sizes, strict=True)]
    kept[shard.rank] = own
    return torch.cat(kept).movedim(0, dim)


def own_items(values: Tensor, dim: int = 0) -> Tensor:
    """Return the part of the items of this process, out of terms of the loss of a whole batch.

    The gradient of its sum is that of the sum of ``values`` over the whole batch, since the terms of other items
    depend on the items of this process too.

    Args:
        values: One term of the loss per item of the batch, computed from values of :func:`gather_items`.
        dim: The dimension of the items, 0 by default.

    Returns:
        The terms of the items of this process; ``values`` itself in a training by one process.

    Example:
        >>> own_items(torch.ones(3)).shape
        torch.Size([3])
    """
    shard = _ACTIVE.get()
    if shard is None or not shard.is_divided:
        return values
    own = shard.cut(values, dim)
    others = values.sum(dim, keepdim=True) - own.sum(dim, keepdim=True)
    return own + (others - others.detach()) / own.shape[dim]


_Draw = Callable[[SharedShard, Any, tuple[Any, ...], dict[str, Any]], Any]


class _WholeBatchDraws(TorchFunctionMode):
    """A mode in which torch's functions draw for the whole batch and return the part of this process."""

    def __init__(self, shard: SharedShard) -> None:
        super().__init__()
        self.shard = shard

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        draw, options = _DRAWS.get(func), dict(kwargs or {})
        if draw is None or options.get("generator") is not None or options.get("out") is not None:
            return func(*args, **options)
        return draw(self.shard, func, args, options)


def _fill(shard: SharedShard, func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    """Call a method that fills a tensor in place, such as ``normal_``."""
    tensor, *rest = args
    generator, axis = shard.generators.get(tensor.device.type), shard.axis(tensor.shape)
    if axis is None:
        return cast("Tensor", func(tensor, *rest, generator=generator, **options))
    wide = torch.empty(shard.widened(tensor.shape, axis), dtype=tensor.dtype, device=tensor.device)
    func(wide, *rest, generator=generator, **options)
    return tensor.copy_(shard.cut(wide, axis))


def _make(shard: SharedShard, func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    """Call a function from a shape, such as ``rand``."""
    options.pop("generator", None)
    names = options.pop("size", None)
    given = names if names is not None else args[0] if len(args) == 1 and not isinstance(args[0], int) else args
    shape = torch.Size(given)
    device = torch.device(options.get("device") or torch.get_default_device())
    generator, axis = shard.generators.get(device.type), shard.axis(shape)
    if axis is None:
        return cast("Tensor", func(shape, generator=generator, **options))
    return shard.cut(func(shard.widened(shape, axis), generator=generator, **options), axis)


def _make_like(shard: SharedShard, func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    """Call a function from a tensor of the shape, such as ``rand_like``."""
    like = args[0]
    described = {"dtype": like.dtype, "device": like.device, **options}
    described.pop("memory_format", None)
    make = torch.rand if func is torch.rand_like else torch.randn
    return _make(shard, make, (like.shape,), described)


def _permute(shard: SharedShard, func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    """Call ``randperm``, which has no dimension of items."""
    options.pop("generator", None)
    device = torch.device(options.get("device") or torch.get_default_device())
    return cast("Tensor", func(*args, generator=shard.generators.get(device.type), **options))


_DRAWS: dict[Any, _Draw] = {
    torch.rand: _make,
    torch.randn: _make,
    torch.rand_like: _make_like,
    torch.randn_like: _make_like,
    torch.randperm: _permute,
    torch.Tensor.normal_: _fill,
    torch.Tensor.uniform_: _fill,
    torch.Tensor.exponential_: _fill,
    torch.Tensor.log_normal_: _fill,
    torch.Tensor.cauchy_: _fill,
}
"""The functions of torch whose numbers do not depend on the items.

Draws of all others, such as gamma variables, come from the default generator, which is another one on each process.
"""
