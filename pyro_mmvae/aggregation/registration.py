"""The registration of user-defined aggregations under names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.custom import FunctionAggregation, check_kinds
from pyro_mmvae.aggregation.mixtures import MixtureOverSubsets
from pyro_mmvae.aggregation.names import OPTIONS, REGISTRY, Entry, find_built_in_entry
from pyro_mmvae.aggregation.subsets import SubsetFamily, check_subsets

Part = TypeVar("Part", bound=Callable[..., Any])


def register_aggregation(
    name: str,
    part: Callable[..., Any] | None = None,
    *,
    subsets: SubsetFamily | None = None,
    kinds: Sequence[str] = ("normal",),
    factory: bool = False,
) -> Any:
    """Register an aggregation under a name, as a call or as a decorator.

    A name is needed only by configurations and the command line; in Python the object itself serves everywhere. A
    class, such as a subclass of :class:`Aggregation`, is made anew for each model from the keywords of
    :func:`make_aggregation`, or of a configuration: ``aggregation: {name: tempered, tau: 0.5}``. A function is called
    with experts. :func:`pyro_mmvae.testing.check_aggregation` checks the contract that guides rely on.

    Args:
        name: The name, which must be new.
        part: A class, a factory, or a callable from experts to a distribution; None makes this a decorator.
        subsets: The family of subsets, ``"all"``, ``"singletons"``, ``"pairs"``, ``"powerset"``, a bool membership
            matrix or a function from the number of modalities to one. With it the part is the rule for one subset, and
            the aggregation is ``MixtureOverSubsets(rule, subsets)``, which has the component bound too. By default the
            part is the whole aggregation.
        kinds: The kinds of experts that a callable takes, see :class:`FunctionAggregation`; a subclass of
            :class:`Aggregation` says so itself with ``accepts``.
        factory: If True, a function is called with keywords and returns an aggregation or a callable of experts.

    Returns:
        ``part`` unchanged, or the decorator.

    Raises:
        ValueError: If the name is taken, ``subsets`` is not a family, or ``kinds`` are unknown.
        TypeError: If the name is not a string, or the part is not callable.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from pyro_mmvae import Aggregation, Experts, WassersteinBarycenter, aggregate
        >>> @register_aggregation("tempered", subsets="powerset")
        ... class Tempered(Aggregation):
        ...     def __init__(self, tau=1.0, **options):
        ...         super().__init__(**options)
        ...         self.tau = tau
        ...
        ...     def forward(self, experts):
        ...         q = WassersteinBarycenter()(experts).base_dist
        ...         present = experts.mask.any(-1, keepdim=True)
        ...         return dist.Normal(q.loc, torch.where(present, self.tau * q.scale, q.scale)).to_event(1)
        >>> aggregate(Experts(torch.zeros(8, 2, 3), torch.ones(8, 2, 3)), "tempered", tau=0.5).batch_shape
        torch.Size([8])
        >>> unregister_aggregation("tempered")
    """
    if not isinstance(name, str):
        raise TypeError(
            f"the name of an aggregation must be a string, as in register_aggregation('name'), got {name!r}"
        )
    if name in REGISTRY or find_built_in_entry(name) is not None:
        raise ValueError(f"aggregation {name!r} is registered already; unregister_aggregation({name!r}) first")
    if subsets is not None:
        check_subsets(subsets)
    check_kinds(kinds)

    def register(part: Part) -> Part:
        if not callable(part):
            raise TypeError(f"aggregation {name!r} must be a class, a factory or a callable of experts, got {part!r}")
        summary = str(inspect.getdoc(part) or getattr(part, "__name__", name)).split("\n")[0]
        makes, is_class = factory or isinstance(part, type), isinstance(part, type)
        hands_on = makes and subsets is None and (not is_class or issubclass(part, Aggregation))  # type: ignore[arg-type]
        make = partial(_make_registered, part, makes, hands_on, subsets, tuple(kinds))
        shared = () if hands_on else OPTIONS if subsets is not None else ("prior",)
        REGISTRY.register(name, Entry(make, summary, part if makes else None, shared))
        return part

    return register if part is None else register(part)


def unregister_aggregation(name: str) -> None:
    """Remove a registered aggregation.

    Args:
        name: The name it was registered under.

    Raises:
        ValueError: If there is no such aggregation, or it is built in.
    """
    if name not in REGISTRY and find_built_in_entry(name) is not None:
        raise ValueError(f"aggregation {name!r} is built in and cannot be removed")
    REGISTRY.unregister(name)


def _make_registered(
    part: Callable[..., Any],
    makes: bool,
    hands_on: bool,
    subsets: SubsetFamily | None,
    kinds: tuple[str, ...],
    **options: Any,
) -> Aggregation:
    """Return an aggregation of a registered part, which is given all options if ``hands_on``, else those of its own."""
    shared = {} if hands_on else {name: options.pop(name) for name in OPTIONS if name in options}
    rule = part(**options) if makes else part
    if not isinstance(rule, Aggregation):
        rule = FunctionAggregation(rule, kinds, **({} if subsets is not None else shared))
        shared = shared if subsets is not None else {}
    return rule if subsets is None else MixtureOverSubsets(rule, subsets, **shared)
