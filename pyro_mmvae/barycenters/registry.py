r"""Divergences by name: the built-in ones, with their parameters, and anyone's own.

A divergence is a callable ``(q, p)`` of elementwise ``torch.distributions.Normal`` that gives D(q, p) elementwise, to
be minimised over q. Names may carry a parameter, ``renyi:0.5``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch.distributions import Normal

from pyro_mmvae._typing import Tensor
from pyro_mmvae.barycenters.divergences import BUILT_IN, Divergence, Family, by_newton
from pyro_mmvae.barycenters.newton import Convergence, Terms

Function = TypeVar("Function", bound=Callable[..., Tensor])


def terms_of(function: Callable[[Normal, Normal], Tensor], name: str = "divergence") -> Terms:
    """The terms of anyone's callable, by automatic differentiation.

    Raises:
        ValueError: at the call, if the callable does not give a tensor of the shape of the Normals that depends on q,
            or holds parameters that require a gradient, which would be lost.
    """

    def terms(loc: Tensor, log_scale: Tensor, member_loc: Tensor, member_scale: Tensor) -> tuple[Tensor, ...]:
        outer = torch.is_grad_enabled()
        shape = torch.broadcast_shapes(loc.shape, member_loc.shape)
        with torch.enable_grad():
            at_loc, at_log = (tensor.detach().expand(shape).clone().requires_grad_() for tensor in (loc, log_scale))
            p = Normal(member_loc, member_scale, validate_args=False)
            value = function(Normal(at_loc, at_log.exp(), validate_args=False), p)
            _check_value(value, shape, name)
            by_loc, by_log = _grad(value, (at_loc, at_log))
            loc_loc, loc_log = _grad(by_loc, (at_loc, at_log))
            log_log = _grad(by_log, (at_loc, at_log))[1]
        unit = log_scale.exp()
        parts = value, unit * by_loc, by_log, unit.square() * loc_loc, unit * loc_log, log_log
        return parts if outer else tuple(part.detach() for part in parts)

    return terms


def _grad(value: Tensor, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    if not value.requires_grad:
        return torch.zeros_like(inputs[0]), torch.zeros_like(inputs[1])
    parts = torch.autograd.grad(value.sum(), inputs, create_graph=True, allow_unused=True)
    return parts[0] if parts[0] is not None else torch.zeros_like(inputs[0]), (
        parts[1] if parts[1] is not None else torch.zeros_like(inputs[1])
    )


def _check_value(value: Tensor, shape: torch.Size, name: str) -> None:
    if not isinstance(value, Tensor) or value.shape != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"divergence {name!r} must give one value for each element of its Normals, {tuple(shape)}, got {got}"
        )
    if not value.requires_grad:
        raise ValueError(f"divergence {name!r} gives what does not depend on q, or is not differentiable in it")


_REGISTRY: dict[str, Family] = dict(BUILT_IN)


def divergences() -> tuple[str, ...]:
    """The names of all divergences, without parameters, the built-in ones first."""
    return tuple(_REGISTRY)


def find_divergence(name: str) -> Divergence | None:
    """The divergence of a name with or without its parameter; None if there is no such family.

    Raises:
        ValueError: if the parameter is none, or outside of its domain.
    """
    head, colon, text = name.partition(":")
    family = _REGISTRY.get(head)
    if family is None:
        return None
    if family.default is None:
        if colon:
            raise ValueError(f"divergence {head!r} takes no parameter, got {name!r}")
        return family.make(math.nan)
    if not colon:
        return family.make(family.default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not family.inside(value):
        raise ValueError(
            f"divergence {head!r} takes a number {family.domain} after the colon, such as {head}:{family.default:g}, "
            f"got {name!r}"
        )
    return family.make(value)


def get_divergence(divergence: str | Callable[[Normal, Normal], Tensor]) -> Divergence:
    """A divergence by name, or anyone's callable as one.

    Raises:
        ValueError: for an unknown name, with the list of those there are, or a parameter outside of its domain.
    """
    if isinstance(divergence, Divergence):
        return divergence
    if callable(divergence):
        return _own(str(getattr(divergence, "__name__", type(divergence).__name__)), divergence)
    found = find_divergence(divergence) if isinstance(divergence, str) else None
    if found is None:
        raise ValueError(
            f"unknown divergence {divergence!r}; there are {', '.join(_REGISTRY)}. Your own is a callable (q, p) of "
            "Normals, registered with @pyro_mmvae.register_divergence('name')"
        )
    return found


def _own(name: str, function: Callable[[Normal, Normal], Tensor], summary: str | None = None) -> Divergence:
    text = summary or str(inspect.getdoc(function) or name).split("\n")[0]
    minimiser = by_newton(terms_of(function, name))

    def solve(
        weights: Tensor, loc: Tensor, scale: Tensor, tolerance: float, limit: int
    ) -> tuple[Tensor, Tensor, Convergence]:
        standard = Normal(loc.new_zeros(1), scale.new_ones(1), validate_args=False)
        with torch.enable_grad():
            value = function(standard, standard)
        if isinstance(value, Tensor) and value.requires_grad:
            raise ValueError(
                f"divergence {name!r} holds parameters that require a gradient, which a barycenter does not pass on: "
                "detach them"
            )
        return minimiser(weights, loc, scale, tolerance, limit)

    return Divergence(name, text, function, solve)


def register_divergence(
    name: str, *, default: float | None = None, domain: tuple[float, float] = (-math.inf, math.inf)
) -> Callable[[Function], Function]:
    """Register a callable ``(q, p)`` of elementwise Normals as a divergence, and so as two aggregations.

    ``aggregate(experts, name)`` is then the coordinate-wise barycenter of everything present, and ``mixture:name`` the
    mixture of those of every subset; an aggregation that is registered under the same name goes first. The callable
    must be twice differentiable in q by torch, once more in p, and needs no gradient of its own parameters.

    Args:
        name: a new name, without a colon.
        default: with it the callable is ``(q, p, parameter)``, and ``name:0.3`` gives it another parameter than this.
        domain: the open interval of the parameter.

    Returns:
        A decorator that gives the callable back unchanged.

    Raises:
        ValueError: if the name is taken or no name, or the default outside of the domain.

    Example:
        >>> @register_divergence("quartic")
        ... def quartic(q, p):
        ...     return (q.loc - p.loc) ** 4 + (q.scale.log() - p.scale.log()) ** 2
        >>> divergences()[-1]
        'quartic'
        >>> unregister_divergence("quartic")
    """
    if name in _REGISTRY:
        raise ValueError(f"divergence {name!r} is registered already; unregister_divergence({name!r}) first")
    if not name or ":" in name or "," in name or name == "mixture":
        raise ValueError(f"a divergence cannot be called {name!r}: no colon, no comma, not empty, not 'mixture'")
    low, high = domain
    if default is not None and not low < default < high:
        raise ValueError(f"divergence {name!r}: the default {default:g} is not between {low:g} and {high:g}")

    def make(function: Callable[..., Tensor], parameter: float) -> Divergence:
        if default is None:
            return _own(name, function)
        chosen: Callable[[Normal, Normal], Tensor] = lambda q, p: function(q, p, parameter)  # noqa: E731
        return _own(f"{name}:{parameter:g}", chosen, str(inspect.getdoc(function) or name).split("\n")[0])

    def decorate(function: Function) -> Function:
        text = f"between {low:g} and {high:g}"
        _REGISTRY[name] = Family(name, partial(make, function), default, text, lambda x: low < x < high, False)
        return function

    return decorate


def unregister_divergence(name: str) -> None:
    """Forget a divergence of somebody's own.

    Raises:
        ValueError: if there is none of that name or it is built in.
    """
    if name not in _REGISTRY:
        get_divergence(name)
        raise ValueError(f"{name!r} names a parameter; unregister {name.partition(':')[0]!r}")
    if _REGISTRY[name].built_in:
        raise ValueError(f"divergence {name!r} is built in")
    del _REGISTRY[name]
