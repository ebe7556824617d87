"""Functions that tensor subclasses see, though a custom autograd Function is inside."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def overridable(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate a function of positional tensors to follow torch's protocol ``__torch_function__``.

    ``autograd.Function.apply`` does not: a tensor subclass goes in, and what it carries is lost. Pyro's
    ``TraceGraph_ELBO`` marks the values that depend on a draw with such a subclass, and terms that lose the mark lose
    their gradient. With the decorator the subclass unwraps the arguments and wraps the results itself.

    Args:
        function: The function, called with positional arguments only.
    """

    @wraps(function)
    def dispatch(*args: Any, **kwargs: Any) -> Result:
        if has_torch_function(args):
            return handle_torch_function(dispatch, args, *args, **kwargs)
        return function(*args, **kwargs)

    return dispatch
