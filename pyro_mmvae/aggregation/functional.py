"""Aggregations by name: the table of built-in and registered ones, and one-line functions."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.aggregation.barycenter import DivergenceBarycenter
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.custom import FunctionAggregation, check_kinds
from pyro_mmvae.aggregation.mixtures import (
    MixtureOfBarycenters,
    MixtureOfExperts,
    MixtureOfProducts,
    MixtureOverSubsets,
)
from pyro_mmvae.aggregation.rules import LogLinearPool, MomentMatching, ProductOfExperts, WassersteinBarycenter
from pyro_mmvae.aggregation.subsets import SubsetFamily, check_subsets
from pyro_mmvae.barycenters import divergences, find_divergence
from pyro_mmvae.experts import Experts
from pyro_mmvae.registry import Registry
from pyro_mmvae.signatures import Option, check_options, describe_options, find_options

AggregationLike: TypeAlias = str | Mapping[str, Any] | Callable[[Experts], TorchDistribution]
"""A name, a mapping with a name and options, an aggregation, or any callable from experts to a distribution."""

Part = TypeVar("Part", bound=Callable[..., Any])

OPTIONS = ("expert_weights", "subset_weights", "prior", "prior_expert")
"""The keywords that every aggregation by name takes."""


@dataclass(frozen=True)
class Entry:
    """A named aggregation.

    Attributes:
        make: The function that makes it from keywords.
        summary: A one-line summary of the aggregation.
        source: The class or function that defines its options; None if it has only those of every aggregation.
        shared: The keywords in ``OPTIONS`` that are taken in addition to those of ``source``.
    """

    make: Callable[..., Aggregation]
    summary: str
    source: Callable[..., Any] | None = None
    shared: tuple[str, ...] = ()


_REGISTRY: Registry[Entry] = Registry(
    "aggregation",
    "Every divergence is an aggregation too, and mixture:DIVERGENCE its mixture over subsets. Register your own with "
    "@pyro_mmvae.register_aggregation('name'), or give the object itself",
)
for _name, _class, _summary in (
    (
        "poe",
        ProductOfExperts,
        "product of all present experts and the prior (the posterior of MVAE; its objective adds ELBOs of subsets)",
    ),
    (
        "moe",
        MixtureOfExperts,
        "mixture of the present experts (the posterior of MMVAE; its objective is importance-weighted)",
    ),
    ("mopoe", MixtureOfProducts, "mixture of products over every subset (MoPoE)"),
    ("wb", WassersteinBarycenter, "2-Wasserstein barycenter of all present experts"),
    ("mwb", MixtureOfBarycenters, "mixture of Wasserstein barycenters over every subset"),
    ("pool", LogLinearPool, "log-linear pool: the barycenter of KL(q || q_m)"),
    ("moment", MomentMatching, "moment matching: the Gaussian barycenter of KL(q_m || q)"),
):
    _REGISTRY.register(_name, Entry(_class, _summary, _class), built_in=True)
_BUILT_IN = tuple(_REGISTRY)


def aggregations() -> tuple[str, ...]:
    """Return the names of all aggregations: the built-in ones, the divergences, and the registered ones.

    A divergence may be given another parameter, ``renyi:0.9``, and has a mixture over every subset,
    ``mixture:renyi:0.9``.
    """
    return tuple(dict.fromkeys([*_BUILT_IN, *divergences(), *_REGISTRY]))


def make_aggregation(aggregation: AggregationLike, **options: Any) -> Aggregation:
    """Return an aggregation from whatever describes one.

    Args:
        aggregation: A name, see :func:`aggregations`; a mapping with a ``"name"`` and options, as in a configuration;
            an :class:`Aggregation`, which is returned as it is; or any module or callable from experts to a
            distribution.
        **options: The keywords of the aggregation: those of :class:`Aggregation`, ``parameter`` for a divergence, and
            those of a registered class or factory.

    Returns:
        The aggregation; a new object for a name.

    Raises:
        ValueError: If the name is unknown (the message lists the names), a keyword is not one of the aggregation's or
            has a value that it does not take, or keywords are given beside an object.

    Example:
        >>> make_aggregation("mwb", subset_weights="by_size").subset_weights
        'by_size'
        >>> make_aggregation({"name": "renyi", "parameter": 0.3}).name
        'renyi:0.3'
    """
    if isinstance(aggregation, Mapping):
        keywords = dict(aggregation)
        name = keywords.pop("name", None)
        if twice := sorted(keywords.keys() & options.keys()):
            raise ValueError(f"aggregation {name!r}: {twice[0]} must be given once, got it twice")
        return make_aggregation(name, **keywords, **options)
    if isinstance(aggregation, str):
        entry = _entry(aggregation)
        names, is_open = ({}, False) if entry.source is None else find_options(entry.source)
        if not is_open:  # a callable refuses the others of OPTIONS by itself, and says why
            allowed = [*names, *entry.shared, *(OPTIONS if entry.source is None else ())]
            check_options(
                f"aggregation {aggregation!r}", [n for n in options if n not in allowed], [*names, *entry.shared]
            )
        try:
            made = entry.make(**options)
        except (TypeError, AttributeError, RuntimeError) as error:  # of a constructor that was given a wrong value
            given = ", ".join(f"{name}={reprlib.repr(value)}" for name, value in options.items())
            raise ValueError(f"aggregation {aggregation!r} cannot be made with {given}: {error}") from error
        if aggregation in _REGISTRY:  # the name of a divergence says its parameter already
            made.name = aggregation
        return made
    if isinstance(aggregation, Aggregation):
        if options:
            raise ValueError(
                f"{', '.join(options)} must be given to the aggregation, since it is an object: "
                f"{type(aggregation).__name__}({', '.join(f'{name}=…' for name in options)})"
            )
        return aggregation
    if callable(aggregation) and not isinstance(aggregation, type):
        if unknown := sorted(options.keys() - set(OPTIONS) - {"kinds"}):
            raise ValueError(f"{unknown[0]} must be left out: the aggregation is a callable without options")
        return FunctionAggregation(aggregation, **options)
    raise ValueError(_REGISTRY.unknown(aggregation))


def describe_aggregation(name: str) -> str:
    """Return a one-line summary of an aggregation by name.

    Args:
        name: One of :func:`aggregations`, or a divergence with a parameter.

    Raises:
        ValueError: If the name is unknown.
    """
    return _entry(name).summary


def aggregation_options(name: str) -> tuple[Option, ...]:
    """Return the options of an aggregation by name.

    Args:
        name: One of :func:`aggregations`, or a divergence with a parameter.

    Returns:
        The options with their defaults, annotations and descriptions.

    Raises:
        ValueError: If the name is unknown.
    """
    entry = _entry(name)
    options = {} if entry.source is None else {option.name: option for option in describe_options(entry.source)}
    shared = {option.name: option for option in describe_options(Aggregation) if option.name in entry.shared}
    return tuple({**options, **shared}.values())


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
        subsets: The family of subsets, ``"all"``, ``"singletons"``, ``"powerset"``, a bool membership matrix or a
            function from the number of modalities to one. With it the part is the rule for one subset, and the
            aggregation is ``MixtureOverSubsets(rule, subsets)``, which has the component bound too. By default the part
            is the whole aggregation.
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
    if name in _REGISTRY or _divergence_entry(name) is not None:
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
        _REGISTRY.register(name, Entry(make, summary, part if makes else None, shared))
        return part

    return register if part is None else register(part)


def unregister_aggregation(name: str) -> None:
    """Remove a registered aggregation.

    Args:
        name: The name it was registered under.

    Raises:
        ValueError: If there is no such aggregation, or it is built in.
    """
    if name not in _REGISTRY and _divergence_entry(name) is not None:
        raise ValueError(f"aggregation {name!r} is built in and cannot be removed")
    _REGISTRY.unregister(name)


def aggregate(experts: Experts, aggregation: AggregationLike, **options: Any) -> TorchDistribution:
    r"""Return the joint posterior of some experts.

    .. math:: q_S = \arg\min_q \sum_{m \in S} \lambda_m D(q, q_m), \qquad q = \sum_S \pi_S \, q_S

    Args:
        experts: The unimodal posteriors of the items.
        aggregation: A name, one of :func:`aggregations`, or anything else that :func:`make_aggregation` takes.
        **options: The keywords of the aggregation, see :class:`Aggregation`: ``expert_weights``, ``subset_weights``,
            ``prior``, ``prior_expert``.

    Returns:
        A distribution of batch shape `batch` and event shape `(latent,)`, in the experts' floating type, float32 at
        least, computed with autocast off: for one-component aggregations independent Normals, a
        :class:`~pyro_mmvae.distributions.MultivariateNormal` for experts of full covariance, or the family of the
        experts; else a :class:`~pyro_mmvae.SubsetMixture` of such.

    Raises:
        ValueError: If a name or option is unknown, weights or prior do not fit the experts, weights are negative, a
            mixture has more than 4,096 components, or the aggregation is not defined for experts of that kind.

    References:
        Qiu et al., 2025. Multimodal variational autoencoder: a barycentric view. AAAI 39(19), arXiv 2412.20487.

    Example:
        >>> import torch
        >>> experts = Experts(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]]))
        >>> posterior = aggregate(experts, "wb")
        >>> posterior.mean.item(), posterior.stddev.item()
        (1.0, 2.0)
    """
    return make_aggregation(aggregation, **options)(experts)


def draw_component(
    experts: Experts,
    aggregation: AggregationLike,
    *,
    members: Bool[Tensor, "*batch modality"] | None = None,
    **options: Any,
) -> TorchDistribution:
    """Return the posterior of one subset per item, drawn with its weight, see :meth:`Aggregation.component`.

    Args:
        experts: The unimodal posteriors of the items.
        aggregation: A name, one of :func:`aggregations`, or anything else that :func:`make_aggregation` takes.
        members: The subset of each item, as :meth:`Aggregation.draw` returns it; drawn here by default.
        **options: The keywords of the aggregation; expert weights of ``moe`` must not require a gradient.

    Returns:
        A distribution of batch shape `batch` and event shape `(latent,)` that is not a mixture.

    Raises:
        ValueError: If the aggregation has no component bound, and as for :func:`aggregate`.
    """
    return make_aggregation(aggregation, **options).component(experts, members)


def _entry(name: str) -> Entry:
    """Return a registered aggregation or a divergence's, by name."""
    if name not in _REGISTRY:
        entry = _divergence_entry(name)
        if entry is not None:
            return entry
    return _REGISTRY.lookup(name)


def _divergence_entry(name: str) -> Entry | None:
    """Return the aggregation of a divergence, or with ``mixture:`` its mixture; None if there is no such divergence.

    Raises:
        ValueError: If the parameter of the divergence is outside of its domain.
    """
    inner = name.removeprefix("mixture:")
    divergence = find_divergence(inner)
    if divergence is None:
        return None
    if inner == name:
        return Entry(
            partial(DivergenceBarycenter, name),
            f"barycenter under {divergence.summary}; mixture:{name} over every subset",
            partial(DivergenceBarycenter, name),
        )
    return Entry(
        partial(_mixture_of_divergence, inner),
        f"mixture over every subset of barycenters under {divergence.summary}",
        partial(DivergenceBarycenter, inner),
    )


def _mixture_of_divergence(divergence: str, **options: Any) -> Aggregation:
    shared = {name: options.pop(name) for name in OPTIONS if name in options}
    rule = DivergenceBarycenter(divergence, **options)
    mixture = MixtureOverSubsets(rule, **shared)
    mixture.name = f"mixture:{rule.name}"
    return mixture


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
