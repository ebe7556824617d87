"""The private API of torch and Pyro that the package relies on, in one place, so that a new version breaks one file.

Each function names the versions in which the private name was seen. The names that every subclass of
``torch.distributions.Distribution`` has to touch (``_validate_args``, ``_get_checked_instance``) stay in those classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from pyro.poutine.runtime import _PYRO_STACK  # pyro-ppl 1.9.1
from pyro.poutine.subsample_messenger import _Subsample  # pyro-ppl 1.9.1
from torch import Tensor
from torch.distributions import Distribution


def validates_by_default() -> bool:
    """Return True if distributions check their arguments unless told otherwise.

    ``Distribution.set_default_validate_args`` has no public counterpart that reads the value (torch 2.9 to 2.14).
    """
    return bool(Distribution._validate_args)


def handler_stack() -> list[Any]:
    """Return Pyro's stack of effect handlers, outermost first; changing the list changes what is at work.

    A handler that has to outlive the call which installs it cannot be a context manager (pyro-ppl 1.9.1).
    """
    return cast("list[Any]", _PYRO_STACK)


def is_plate_site(function: object) -> bool:
    """Return True if the function of a sample site draws the indices of a plate rather than a random variable.

    Plates announce themselves as sample sites of a private class (pyro-ppl 1.9.1).
    """
    return isinstance(function, _Subsample)


def norms(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the Euclidean norm of each tensor, computed in one call.

    ``torch.nn.utils.get_total_norm`` uses the same function but gives their total only (torch 2.9 to 2.14).
    """
    return cast("Sequence[Tensor]", torch._foreach_norm(list(tensors)))


def cpu_multiplies_bfloat16() -> bool:
    """Return True if this CPU has instructions that multiply bfloat16 faster than float32 (AMX or AVX512-BF16).

    Torch keeps the queries private (torch 2.9 to 2.14); a version without them counts as a CPU that cannot.
    """
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


def watch_gradients(tensor: torch.Tensor, message: str) -> None:
    """Let the backward pass through a tensor fail where the gradient of a leaf that it came from is not finite.

    The hooks belong to the graph, and are freed with it. The attribute ``variable`` of the nodes that accumulate the
    gradient of a leaf is not documented (torch 2.9 to 2.14).

    Args:
        tensor: The result of differentiable operations.
        message: The message of the ValueError that the backward pass then raises.
    """

    def check(gradients: tuple[torch.Tensor | None, ...]) -> None:
        if any(gradient is not None and not bool(gradient.isfinite().all()) for gradient in gradients):
            raise ValueError(message)

    seen, nodes = set[Any](), [tensor.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        if hasattr(node, "variable"):
            node.register_prehook(check)
