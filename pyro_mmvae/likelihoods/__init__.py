"""What a decoder's output says about a modality: likelihoods by name."""

from __future__ import annotations

from pyro_mmvae.likelihoods.base import Likelihood
from pyro_mmvae.likelihoods.counts import LogRatePoisson, NegativeBinomialLikelihood, PoissonLikelihood
from pyro_mmvae.likelihoods.heads import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    LaplaceLikelihood,
    NormalLikelihood,
)
from pyro_mmvae.likelihoods.joint import join
from pyro_mmvae.likelihoods.shared_scale import SharedScaleLaplace, SharedScaleNormal

__all__ = [
    "LIKELIHOODS",
    "BernoulliLikelihood",
    "CategoricalLikelihood",
    "LaplaceLikelihood",
    "Likelihood",
    "LogRatePoisson",
    "NegativeBinomialLikelihood",
    "NormalLikelihood",
    "PoissonLikelihood",
    "SharedScaleLaplace",
    "SharedScaleNormal",
    "join",
    "make_likelihood",
]

OUTPUTS = ("identity", "sigmoid")
LIKELIHOODS = ("laplace", "normal", "bernoulli", "categorical", "poisson", "negative_binomial")


def make_likelihood(
    name: str,
    shape: tuple[int, ...],
    *,
    scale: float | str = 0.75,
    classes: int | None = None,
    size: float = 1.0,
    output: str = "identity",
) -> Likelihood:
    """A likelihood by name.

    Args:
        name: one of ``LIKELIHOODS``.
        shape: of one item.
        scale: of ``laplace`` and ``normal``: a positive number, or ``"learned"`` for one trained scalar that starts
            at 1.
        classes: of ``categorical``.
        size: of ``poisson`` and ``negative_binomial``: the total count of an item of which it is not known.
        output: of ``laplace`` and ``normal``: ``"identity"``, the decoder gives the mean, or ``"sigmoid"``, it gives
            its logit.

    Returns:
        A module whose forward gives a distribution of event shape ``shape``.

    Raises:
        ValueError: for an unknown name, a bad scale or size, missing classes, or an output that is unknown or of no use
            to the likelihood.
    """
    if output not in OUTPUTS or (output != "identity" and name not in {"laplace", "normal"}):
        raise ValueError(
            f"likelihood {name!r} has no output {output!r}; there are {', '.join(OUTPUTS)}, of laplace and normal"
        )
    if name == "laplace":
        return LaplaceLikelihood(shape, scale, output)
    if name == "normal":
        return NormalLikelihood(shape, scale, output)
    if name == "bernoulli":
        return BernoulliLikelihood(shape)
    if name == "categorical":
        if classes is None or classes < 2:
            raise ValueError(f"likelihood 'categorical' needs classes, two or more, got {classes}")
        return CategoricalLikelihood(shape, classes)
    if name == "poisson":
        return PoissonLikelihood(shape, size)
    if name == "negative_binomial":
        return NegativeBinomialLikelihood(shape, size)
    raise ValueError(f"unknown likelihood {name!r}; there are {', '.join(LIKELIHOODS)}")
