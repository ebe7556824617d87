"""Aggregations from whatever describes one, and one-line functions that aggregate."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.custom import FunctionAggregation
from pyro_mmvae.aggregation.names import OPTIONS, REGISTRY, find_entry
from pyro_mmvae.experts import Experts
from pyro_mmvae.signatures import check_options, find_options

AggregationLike: TypeAlias = str | Mapping[str, Any] | Callable[[Experts], TorchDistribution]
"""A name, a mapping with a name and options, an aggregation, or any callable from experts to a distribution."""


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
        entry = find_entry(aggregation)
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
        if aggregation in REGISTRY:  # the name of a divergence says its parameter already
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
    raise ValueError(REGISTRY.unknown(aggregation))


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
