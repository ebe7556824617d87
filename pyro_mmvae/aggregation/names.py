"""The names of aggregations: the table of built-in and registered ones, and the divergences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyro_mmvae.aggregation.barycenter import DivergenceBarycenter
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.dependent import ConsensusOfExperts
from pyro_mmvae.aggregation.holder import HellingerMoments, HolderPool
from pyro_mmvae.aggregation.mixtures import (
    MixtureOfBarycenters,
    MixtureOfExperts,
    MixtureOfPairs,
    MixtureOfProducts,
    MixtureOverSubsets,
)
from pyro_mmvae.aggregation.rules import LogLinearPool, MomentMatching, ProductOfExperts, WassersteinBarycenter
from pyro_mmvae.barycenters import divergences, find_divergence
from pyro_mmvae.registry import Registry
from pyro_mmvae.signatures import Option, describe_options

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


REGISTRY: Registry[Entry] = Registry(
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
    ("pairs", MixtureOfPairs, "mixture of single experts and Wasserstein barycenters of two experts"),
    (
        "code",
        ConsensusOfExperts,
        "consensus of experts with correlated errors (CoDE-VAE; code:ρ for another correlation than 0.5)",
    ),
    (
        "holder",
        HolderPool,
        "Hölder pool with exponent 1/2: the barycenter of the squared Hellinger distance (Hölder++)",
    ),
    ("helvae", HellingerMoments, "Gaussian with the moments of the Hölder pool (HELVAE)"),
):
    REGISTRY.register(_name, Entry(_class, _summary, _class), built_in=True)
_BUILT_IN = tuple(REGISTRY)


def aggregations() -> tuple[str, ...]:
    """Return the names of all aggregations: the built-in ones, the divergences, and the registered ones.

    A divergence may be given another parameter, ``renyi:0.9``, and so may ``code:0.3``. Both have a mixture over every
    subset, ``mixture:renyi:0.9`` and ``mixture:code:0.3``.
    """
    return tuple(dict.fromkeys([*_BUILT_IN, *divergences(), *REGISTRY]))


def describe_aggregation(name: str) -> str:
    """Return a one-line summary of an aggregation by name.

    Args:
        name: One of :func:`aggregations`, or a divergence with a parameter.

    Raises:
        ValueError: If the name is unknown.
    """
    return find_entry(name).summary


def aggregation_options(name: str) -> tuple[Option, ...]:
    """Return the options of an aggregation by name.

    Args:
        name: One of :func:`aggregations`, or a divergence with a parameter.

    Returns:
        The options with their defaults, annotations and descriptions.

    Raises:
        ValueError: If the name is unknown.
    """
    entry = find_entry(name)
    options = {} if entry.source is None else {option.name: option for option in describe_options(entry.source)}
    shared = {option.name: option for option in describe_options(Aggregation) if option.name in entry.shared}
    return tuple({**options, **shared}.values())


def find_entry(name: str) -> Entry:
    """Return a registered aggregation or a divergence's, by name."""
    if name not in REGISTRY:
        entry = find_built_in_entry(name)
        if entry is not None:
            return entry
    return REGISTRY.lookup(name)


def find_built_in_entry(name: str) -> Entry | None:
    """Return the aggregation of a name that is made up of others: of a divergence, with a parameter, or a mixture.

    Args:
        name: A name such as ``"hellinger"``, ``"code:0.3"`` or ``"mixture:renyi:0.9"``.

    Returns:
        The aggregation; None if the name is of another form.

    Raises:
        ValueError: If the parameter is outside of its domain.
    """
    return find_rule_entry(name) or find_divergence_entry(name)


def find_rule_entry(name: str) -> Entry | None:
    """Return the aggregation of a rule with a parameter, ``code:0.3``, or a mixture of it; None for other names.

    Raises:
        ValueError: If the parameter is not a number, or is outside of its domain.
    """
    inner = name.removeprefix("mixture:")
    stem, colon, parameter = inner.partition(":")
    if stem != "code":
        return None
    make: Callable[..., Aggregation] = ConsensusOfExperts
    if colon:
        try:
            rho = float(parameter)
        except ValueError:
            raise ValueError(f"aggregation {name!r} must have a number after the colon, as in 'code:0.5'") from None
        make = partial(ConsensusOfExperts, rho)
        make()  # which checks the parameter
    summary = "consensus of experts with errors of correlation " + (f"{rho:g}" if colon else "0.5")
    if inner == name:
        return Entry(make, summary, make)
    return Entry(partial(_mixture_of_rule, make), f"mixture over every subset of the {summary}", make)


def find_divergence_entry(name: str) -> Entry | None:
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
        partial(_mixture_of_rule, partial(DivergenceBarycenter, inner)),
        f"mixture over every subset of barycenters under {divergence.summary}",
        partial(DivergenceBarycenter, inner),
    )


def _mixture_of_rule(make: Callable[..., Aggregation], **options: Any) -> Aggregation:
    shared = {name: options.pop(name) for name in OPTIONS if name in options}
    rule = make(**options)
    mixture = MixtureOverSubsets(rule, **shared)
    mixture.name = f"mixture:{rule.name}"
    return mixture
