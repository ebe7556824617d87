"""Likelihoods by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pyro_mmvae.likelihoods.base import Likelihood
from pyro_mmvae.likelihoods.counts import NegativeBinomialLikelihood, PoissonLikelihood
from pyro_mmvae.likelihoods.heads import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    LaplaceLikelihood,
    NormalLikelihood,
)
from pyro_mmvae.likelihoods.standardized import StandardizedLikelihood
from pyro_mmvae.likelihoods.zero_inflated import ZeroInflatedNegativeBinomialLikelihood, ZeroInflatedPoissonLikelihood
from pyro_mmvae.registry import Registry

OPTIONS = ("scale", "output", "classes", "reference_total", "standardize")
"""Settings of a modality that a likelihood may take."""

Factory = TypeVar("Factory", bound=Callable[..., Likelihood])


@dataclass(frozen=True)
class LikelihoodEntry:
    """A registered likelihood.

    Attributes:
        factory: Callable that is given the shape of one item and, by keyword, the settings named by ``options``.
        data_types: Types of data that the likelihood fits; the first one is assumed where the shape of an item says
            nothing else. Empty for a likelihood that fits every type.
        options: Settings of the modality that the factory takes, some of ``OPTIONS``. ``standardize`` among them says
            that values may be any real numbers, so that the likelihood can be standardized; the factory is not given
            it, see :class:`~pyro_mmvae.likelihoods.StandardizedLikelihood`.
    """

    factory: Callable[..., Likelihood]
    data_types: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


LIKELIHOODS: Registry[LikelihoodEntry] = Registry("likelihood", "Custom ones: register_likelihood(name).")

_BUILT_IN = {
    "laplace": LikelihoodEntry(LaplaceLikelihood, ("image", "vector"), ("scale", "output", "standardize")),
    "normal": LikelihoodEntry(NormalLikelihood, ("vector", "image"), ("scale", "output", "standardize")),
    "bernoulli": LikelihoodEntry(BernoulliLikelihood, ("binary", "image")),
    "categorical": LikelihoodEntry(CategoricalLikelihood, ("tokens",), ("classes",)),
    "poisson": LikelihoodEntry(PoissonLikelihood, ("counts",), ("reference_total",)),
    "negative_binomial": LikelihoodEntry(NegativeBinomialLikelihood, ("counts",), ("reference_total",)),
    "zero_inflated_poisson": LikelihoodEntry(ZeroInflatedPoissonLikelihood, ("counts",), ("reference_total",)),
    "zero_inflated_negative_binomial": LikelihoodEntry(
        ZeroInflatedNegativeBinomialLikelihood, ("counts",), ("reference_total",)
    ),
}
for _name, _entry in _BUILT_IN.items():
    LIKELIHOODS.register(_name, _entry, built_in=True)


def register_likelihood(
    name: str, *, data_types: Sequence[str] = (), options: Sequence[str] = ()
) -> Callable[[Factory], Factory]:
    """Return a decorator that registers a class or function under a name for configurations, meta.yaml and Python.

    Args:
        name: The name, not taken yet.
        data_types: Types of data that the likelihood fits, some of ``pyro_mmvae.modality_spec.DATA_TYPES``; every type
            by default.
        options: Settings of a modality that the factory takes by keyword, some of ``scale``, ``output``, ``classes``
            and ``reference_total``; none by default. Where nothing was set, ``scale`` and, from the training data,
            ``classes`` and ``reference_total`` have the defaults of the built-in likelihoods; ``output`` is left out.
            ``standardize``, which the factory is not given, lets the modality be standardized as ``normal`` is.

    Returns:
        A decorator of a callable ``factory(shape, **options) -> Likelihood``, which it returns unchanged.

    Raises:
        ValueError: If the name is taken, or an option is unknown.

    Example:
        >>> from pyro_mmvae.likelihoods import LIKELIHOODS, Likelihood
        >>> @register_likelihood("cauchy", data_types=("vector",), options=("scale",))
        ... class Cauchy(Likelihood):
        ...     def __init__(self, shape, scale):
        ...         super().__init__(shape)
        ...         self.scale = scale
        >>> LIKELIHOODS.unregister("cauchy")
    """
    unknown = [option for option in options if option not in OPTIONS]
    if unknown:
        raise ValueError(f"options of likelihood {name!r} must be some of {', '.join(OPTIONS)}, got {unknown[0]!r}")

    def register(factory: Factory) -> Factory:
        LIKELIHOODS.register(name, LikelihoodEntry(factory, tuple(data_types), tuple(options)))
        return factory

    return register


def make_likelihood(
    name: str,
    shape: tuple[int, ...],
    *,
    scale: float | str | None = 0.75,
    classes: int | None = None,
    reference_total: float | None = None,
    output: str | None = None,
    standardize: bool | None = None,
) -> Likelihood:
    """Return a new likelihood by its registered name.

    Args:
        name: A name of ``LIKELIHOODS``.
        shape: Shape of one item.
        scale: Scale of ``laplace`` and ``normal``: a positive number, ``"learned"`` for one trained scalar that starts
            at 1, or ``"calibrated"`` or ``"calibrated_per_feature"``, see :class:`LaplaceLikelihood`. 0.75 by default.
        classes: Number of classes of ``categorical``, two or more.
        reference_total: Total count that the likelihoods of counts assume for an item whose total is unknown. 1 by
            default.
        output: Link of ``laplace`` and ``normal``: ``"identity"`` if the decoder returns the mean, the default, or
            ``"sigmoid"`` if it returns the logit of the mean.
        standardize: If True, networks see standardised values and the scale is relative to the spread of each feature,
            see :class:`~pyro_mmvae.likelihoods.StandardizedLikelihood`. None, the default, and False do not.

    Returns:
        A module whose forward returns a distribution of event shape ``shape``.

    Raises:
        ValueError: If the name is unknown, an option has a wrong value, or ``output`` or ``standardize`` is set for a
            likelihood that does not take it.
        TypeError: If the registered factory does not return a :class:`Likelihood`.
    """
    entry = LIKELIHOODS.lookup(name)
    if output not in {None, "identity"}:
        check_option(name, "output", output)
    if standardize:
        check_option(name, "standardize", standardize)
    values: dict[str, Any] = {"scale": scale, "classes": classes, "reference_total": reference_total, "output": output}
    options = {key: values[key] for key in entry.options if values.get(key) is not None}
    if "classes" in entry.options and classes is None:
        raise ValueError(f"classes of likelihood {name!r} must be at least 2, got None")
    likelihood = entry.factory(shape, **options)
    if not isinstance(likelihood, Likelihood):
        raise TypeError(f"the factory of likelihood {name!r} must return a Likelihood, got {type(likelihood).__name__}")
    return StandardizedLikelihood(likelihood) if standardize else likelihood


def check_option(name: str, option: str, value: object) -> None:
    """Check that a likelihood takes a setting.

    Raises:
        ValueError: If it does not; the message names the likelihoods that do.
    """
    if option not in LIKELIHOODS.lookup(name).options:
        takers = [other for other, entry in LIKELIHOODS.items() if option in entry.options]
        raise ValueError(f"likelihood {name!r} does not take {option}, got {value!r}; {', '.join(takers)} do")
