r"""The divergences by name, built-in and user-defined.

A divergence is a callable ``(q, p)`` of elementwise ``torch.distributions.Normal`` that returns D(q, p) elementwise; a
barycenter minimises it over q. A name may carry a parameter, such as ``renyi:0.5``.
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
from pyro_mmvae.barycenters.divergences import BUILT_IN, Divergence, DivergenceFamily, by_newton
from pyro_mmvae.barycenters.newton import Convergence, Terms
from pyro_mmvae.registry import Registry

Function = TypeVar("Function", bound=Callable[..., Tensor])

DIVERGENCES: Registry[DivergenceFamily] = Registry(
    "divergence", "A user-defined one is a callable (q, p) of Normals, registered by @register_divergence('name')"
)
for _family in BUILT_IN.values():
    DIVERGENCES.register(_family.name, _family, built_in=True)


def terms_of(function: Callable[[Normal, Normal], Tensor], name: str = "divergence") -> Terms:
    """Return the terms of a user-defined divergence, by automatic differentiation.

    Args:
        function: The divergence, a callable ``(q, p)`` of elementwise Normals.
        name: The name of the divergence in error messages.

    Returns:
        The function that returns the divergence and its derivatives. It raises ValueError if the divergence does not
        return one value per element, or if the values do not depend on q.
    """

    def terms(loc: Tensor, log_scale: Tensor, member_loc: Tensor, member_scale: Tensor) -> tuple[Tensor, ...]:
        is_differentiated = torch.is_grad_enabled()
        shape = torch.broadcast_shapes(loc.shape, member_loc.shape)
        with torch.enable_grad():
            q_loc, q_log_scale = (t.detach().expand(shape).clone().requires_grad_() for t in (loc, log_scale))
            p = Normal(member_loc, member_scale, validate_args=False)
            value = function(Normal(q_loc, q_log_scale.exp(), validate_args=False), p)
            _check_value(value, shape, name)
            by_loc, by_log = _grad(value, (q_loc, q_log_scale))
            loc_loc, loc_log = _grad(by_loc, (q_loc, q_log_scale))
            log_log = _grad(by_log, (q_loc, q_log_scale))[1]
        unit = log_scale.exp()
        parts = value, unit * by_loc, by_log, unit.square() * loc_loc, unit * loc_log, log_log
        return parts if is_differentiated else tuple(part.detach() for part in parts)

    return terms


def _grad(value: Tensor, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the gradients of a sum, which are 0 for inputs that it does not depend on."""
    if not value.requires_grad:
        return torch.zeros_like(inputs[0]), torch.zeros_like(inputs[1])
    parts = torch.autograd.grad(value.sum(), inputs, create_graph=True, allow_unused=True)
    return parts[0] if parts[0] is not None else torch.zeros_like(inputs[0]), (
        parts[1] if parts[1] is not None else torch.zeros_like(inputs[1])
    )


def _check_value(value: Tensor, shape: torch.Size, name: str) -> None:
    if not isinstance(value, Tensor) or value.shape != shape:
        result = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"divergence {name!r} must return one value per element of its Normals, {tuple(shape)}, got {result}"
        )
    if not value.requires_grad:
        raise ValueError(f"divergence {name!r} must return values that depend on q and are differentiable in it")


def divergences() -> tuple[str, ...]:
    """Return the names of all divergences without parameters, the built-in ones first."""
    return tuple(DIVERGENCES)


def find_divergence(name: str) -> Divergence | None:
    """Return the divergence of a name with or without its parameter, or None if the name is unknown.

    Args:
        name: The name of a divergence, such as ``"w2"`` or ``"renyi:0.5"``.

    Raises:
        ValueError: If the parameter is not a number in the domain, or the divergence does not take a parameter.
    """
    head, colon, text = name.partition(":")
    family = DIVERGENCES.get(head)
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
    if not family.contains(value):
        raise ValueError(
            f"the parameter of divergence {head!r} must be a number {family.domain}, such as "
            f"{head}:{family.default:g}, got {name!r}"
        )
    return family.make(value)


def get_divergence(divergence: str | Callable[[Normal, Normal], Tensor]) -> Divergence:
    """Return a divergence by its name, or wrap a user-defined callable.

    Args:
        divergence: The name of a divergence with or without its parameter, or a callable ``(q, p)`` of Normals.

    Raises:
        ValueError: If the name is unknown, or the parameter is outside of its domain.
    """
    if isinstance(divergence, Divergence):
        return divergence
    if callable(divergence):
        return _wrap(str(getattr(divergence, "__name__", type(divergence).__name__)), divergence)
    result = find_divergence(divergence) if isinstance(divergence, str) else None
    if result is None:
        raise ValueError(DIVERGENCES.unknown(divergence))
    return result


def _wrap(name: str, function: Callable[[Normal, Normal], Tensor], summary: str | None = None) -> Divergence:
    """Return a user-defined callable as a divergence, solved by Newton's method."""
    text = summary or str(inspect.getdoc(function) or name).split("\n")[0]
    minimiser = by_newton(terms_of(function, name))

    def solve(
        weights: Tensor, loc: Tensor, scale: Tensor, tolerance: float, limit: int
    ) -> tuple[Tensor, Tensor, Convergence]:
        standard = Normal(loc.new_zeros(1), scale.new_ones(1), validate_args=False)
        with torch.enable_grad():
            value = function(standard, standard)
        # Neither q nor p requires a gradient here, so that a parameter of the callable must be the one that does.
        if isinstance(value, Tensor) and value.requires_grad:
            raise ValueError(
                f"divergence {name!r} must not have parameters that require a gradient, since a barycenter does not "
                "pass gradients on to them; detach them"
            )
        return minimiser(weights, loc, scale, tolerance, limit)

    return Divergence(name, text, function, solve)


def register_divergence(
    name: str, *, default: float | None = None, domain: tuple[float, float] = (-math.inf, math.inf)
) -> Callable[[Function], Function]:
    """Register a callable ``(q, p)`` of elementwise Normals as a divergence, and thereby as two aggregations.

    ``aggregate(experts, name)`` is then the coordinate-wise barycenter of all present experts, and ``mixture:name`` the
    mixture of the barycenters of all subsets; an aggregation registered under the name takes precedence. Torch must be
    able to differentiate the callable twice in q and once more in p. Its own parameters get no gradient.

    Args:
        name: A new name, without a colon.
        default: The default of the parameter. With it the callable is ``(q, p, parameter)``, and ``name:0.3`` sets the
            parameter. By default there is no parameter.
        domain: The open interval that contains the parameter; by default all real numbers.

    Returns:
        A decorator that returns the callable unchanged.

    Raises:
        ValueError: If the name is taken or not allowed, or the default is outside of the domain.

    Example:
        >>> @register_divergence("quartic")
        ... def quartic(q, p):
        ...     return (q.loc - p.loc) ** 4 + (q.scale.log() - p.scale.log()) ** 2
        >>> divergences()[-1]
        'quartic'
        >>> unregister_divergence("quartic")
    """
    if name in DIVERGENCES:
        raise ValueError(f"divergence {name!r} is already registered; call unregister_divergence({name!r}) first")
    if not name or ":" in name or "," in name or name == "mixture":
        raise ValueError(
            f"the name of a divergence must be non-empty, without colon or comma, and not 'mixture', got {name!r}"
        )
    low, high = domain
    if default is not None and not low < default < high:
        raise ValueError(f"the default of divergence {name!r} must be between {low:g} and {high:g}, got {default:g}")

    def make(function: Callable[..., Tensor], parameter: float) -> Divergence:
        if default is None:
            return _wrap(name, function)
        with_parameter: Callable[[Normal, Normal], Tensor] = lambda q, p: function(q, p, parameter)  # noqa: E731
        return _wrap(f"{name}:{parameter:g}", with_parameter, str(inspect.getdoc(function) or name).split("\n")[0])

    def decorate(function: Function) -> Function:
        text = f"between {low:g} and {high:g}"
        family = DivergenceFamily(name, partial(make, function), default, text, lambda x: low < x < high)
        DIVERGENCES.register(name, family)
        return function

    return decorate


def unregister_divergence(name: str) -> None:
    """Remove a user-defined divergence.

    Args:
        name: The name under which the divergence was registered, without a parameter.

    Raises:
        ValueError: If the name is unknown, has a parameter, or belongs to a built-in divergence.
    """
    head, colon, _ = name.partition(":")
    if colon and head in DIVERGENCES:
        raise ValueError(f"the name must be {head!r}, without a parameter, got {name!r}")
    DIVERGENCES.unregister(name)
