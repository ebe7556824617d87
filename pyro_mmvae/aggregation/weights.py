r"""Weights of modalities and of subsets that are learned.

Modality weights λ are a module from experts to `(*batch, modality)`. They are 1 on average over the modalities that an
item has, so that equal ones are the default of every aggregation, also of those in which λ is a raw exponent:

.. math:: \lambda_m = n \, \frac{e^{a_m}}{\sum_{j \text{ present}} e^{a_j}}, \qquad n \text{ modalities present}

Mixture weights π are a module from the membership matrix to `(component,)`. Their gradient needs care, since the
component of a draw is discrete: see :meth:`pyro_mmvae.SubsetMixture.score_parts`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.aggregation.subsets import Family, MixtureWeights, count_components
from pyro_mmvae.experts import Experts


def balanced(
    logits: Float[Tensor, "*#batch modality"], present: Bool[Tensor, "*batch modality"]
) -> Float[Tensor, "*batch modality"]:
    """Weights that are 1 on average over the modalities present, and 0 elsewhere; 0 where nothing is present.

    Args:
        logits: any finite numbers.
        present: which modality each item has.
    """
    hidden = logits.expand(present.shape).masked_fill(~present, -torch.inf)
    some = present.any(-1, keepdim=True)
    shares = torch.where(some, hidden, 0.0).softmax(-1)  # of an item without anything: no NaN, also in its gradient
    return torch.where(present, shares * present.sum(-1, keepdim=True), 0.0)


def weights_entropy(weights: Float[Tensor, "*batch modality"]) -> Float[Tensor, "*batch"]:
    """Entropy in nats of weights divided by their sum; 0 where that is 0."""
    total = weights.sum(-1, keepdim=True)
    shares = weights / torch.where(total > 0, total, 1.0)
    return torch.special.entr(torch.where(shares > 0, shares, 1.0)).sum(-1)  # at 0 its slope is infinite


class LearnedWeights(nn.Module):
    """One weight a modality, the same for every item.

    Args:
        num_modalities: how many.
    """

    def __init__(self, num_modalities: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_modalities))

    def forward(self, experts: Experts) -> Float[Tensor, "*batch modality"]:
        """λ of each item."""
        return balanced(self.logits.to(experts.loc), experts.mask)


class PrecisionWeights(nn.Module):
    r"""Weights of each item by how sure its experts are, :math:`a_m = \tau \, \overline{\log \sigma_m^{-2}} + b_m`.

    The mean of the log precision is over latent dimensions. With τ = 0 it is :class:`LearnedWeights`, with τ = 1, where
    training starts, weights are proportional to the geometric mean of the precisions.

    Args:
        num_modalities: how many.
    """

    def __init__(self, num_modalities: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(()))
        self.logits = nn.Parameter(torch.zeros(num_modalities))

    def forward(self, experts: Experts) -> Float[Tensor, "*batch modality"]:
        """λ of each item."""
        precision = -2 * experts.scale.log().mean(-1)
        return balanced(self.slope.to(precision) * precision + self.logits.to(precision), experts.mask)


class GateWeights(nn.Module):
    """Weights of each item by a small network that sees each expert's loc and log scale, and knows its modality.

    The network is shared by the modalities, so the cost is linear in them; a linear part of each modality's own starts
    at zero, and so do all weights' differences.

    Args:
        num_modalities: how many.
        latent_size: number of latent dimensions.
        hidden: size of the hidden layer.
    """

    def __init__(self, num_modalities: int, latent_size: int, hidden: int = 16) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * latent_size, hidden)
        self.out = nn.Parameter(torch.zeros(num_modalities, hidden))
        self.logits = nn.Parameter(torch.zeros(num_modalities))

    def forward(self, experts: Experts) -> Float[Tensor, "*batch modality"]:
        """λ of each item."""
        features = torch.cat([experts.loc, experts.scale.log()], -1)
        hidden = torch.nn.functional.silu(self.hidden(features.to(self.hidden.weight)))
        return balanced(((hidden * self.out).sum(-1) + self.logits).to(experts.loc), experts.mask)


class LearnedMixtureWeights(nn.Module):
    """One weight π a subset of a family, the same for every item and renormalised over the subsets it has.

    Args:
        num_components: how many subsets the family has.
    """

    def __init__(self, num_components: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_components))

    def forward(self, membership: Bool[Tensor, "component modality"]) -> Float[Tensor, " component"]:
        """π of each subset, not normalised.

        Raises:
            ValueError: for another number of subsets.
        """
        if len(membership) != len(self.logits):
            raise ValueError(f"mixture weights of {len(self.logits)} subsets, the family has {len(membership)}")
        return (self.logits - self.logits.detach().amax()).exp()


MODALITY_WEIGHTS = ("learned", "precision", "gate")


def make_weights(
    weights: Sequence[float] | Tensor | str | None, num_modalities: int, latent_size: int
) -> Tensor | nn.Module | None:
    """Modality weights as they are given, or a module that learns them, by name.

    Args:
        weights: numbers, one of ``MODALITY_WEIGHTS``, or None for equal ones.
        num_modalities: how many.
        latent_size: number of latent dimensions.

    Raises:
        ValueError: for an unknown name.
    """
    if weights is None or not isinstance(weights, str):
        return None if weights is None else torch.as_tensor(weights, dtype=torch.get_default_dtype())
    if weights == "learned":
        return LearnedWeights(num_modalities)
    if weights == "precision":
        return PrecisionWeights(num_modalities)
    if weights == "gate":
        return GateWeights(num_modalities, latent_size)
    raise ValueError(f"unknown weights {weights!r}; there are {', '.join(MODALITY_WEIGHTS)}, or a number a modality")


def make_mixture_weights(
    mixture_weights: MixtureWeights, family: Family | None, num_modalities: int, bound: str
) -> MixtureWeights:
    """Mixture weights as they are given, or a module that learns them.

    Args:
        mixture_weights: what :func:`~pyro_mmvae.aggregate` takes, or ``"learned"``.
        family: of subsets, of the aggregation; None if it has none.
        num_modalities: how many.
        bound: that the guide is trained with.

    Raises:
        ValueError: if there is nothing to learn, or no gradient to learn it by.
    """
    if mixture_weights != "learned":
        return mixture_weights
    if family is None or (isinstance(family, str) and family == "all"):
        raise ValueError("mixture_weights='learned' needs an aggregation that is a mixture over subsets, such as mwb")
    if bound != "mixture":
        raise ValueError("mixture_weights='learned' needs bound='mixture': a drawn component has no gradient for them")
    return LearnedMixtureWeights(count_components(family, num_modalities))
