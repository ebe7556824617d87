r"""Expert weights and subset weights that are learned.

Expert weights λ are a module from experts to `(*batch, modality)`. They are 1 on average over the modalities that an
item has, so that equal weights are the default of every aggregation, also of those in which λ is a raw exponent:

.. math:: \lambda_m = n \, \frac{e^{a_m}}{\sum_{j \text{ present}} e^{a_j}}, \qquad n \text{ modalities present}

Subset weights π are a module from the membership matrix to `(component,)`. Their gradient needs care, since the
component of a draw is discrete: see :meth:`pyro_mmvae.SubsetMixture.score_parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.aggregation.subsets import SubsetFamily, count_components
from pyro_mmvae.experts import Experts


def balanced(
    logits: Float[Tensor, "*#batch modality"], present: Bool[Tensor, "*batch modality"]
) -> Float[Tensor, "*batch modality"]:
    """Return weights that are 1 on average over the modalities present, and 0 elsewhere.

    Args:
        logits: Any finite numbers, one per modality.
        present: The modalities that each item has.

    Returns:
        The weights; all 0 for an item of which nothing is present.
    """
    masked = logits.expand(present.shape).masked_fill(~present, -torch.inf)
    # The softmax of an item without anything would be NaN, and so would its gradient.
    shares = torch.where(present.any(-1, keepdim=True), masked, 0.0).softmax(-1)
    return torch.where(present, shares * present.sum(-1, keepdim=True), 0.0)


def weights_entropy(weights: Float[Tensor, "*batch modality"]) -> Float[Tensor, "*batch"]:
    """Return the entropy, in nats, of weights divided by their sum; 0 where the sum is 0.

    Args:
        weights: Weights that are not negative.
    """
    total = weights.sum(-1, keepdim=True)
    shares = weights / torch.where(total > 0, total, 1.0)
    return torch.special.entr(torch.where(shares > 0, shares, 1.0)).sum(-1)  # at 0 the slope of entr is infinite


class LearnedWeights(nn.Module):
    """One expert weight per modality, equal for all items.

    Args:
        num_modalities: The number of modalities.
    """

    def __init__(self, num_modalities: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_modalities))

    def forward(self, experts: Experts) -> Float[Tensor, "*batch modality"]:
        """Return λ of each item."""
        return balanced(self.logits.to(experts.loc), experts.mask)


class PrecisionWeights(nn.Module):
    r"""Expert weights of each item that follow the precision of its experts.

    .. math:: a_m = \tau \, \overline{\log \sigma_m^{-2}} + b_m

    The mean of the log precision is over latent dimensions. With τ = 0 it is :class:`LearnedWeights`; with τ = 1, where
    training starts, weights are proportional to the geometric mean of the precisions.

    Args:
        num_modalities: The number of modalities.
    """

    def __init__(self, num_modalities: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(()))
        self.logits = nn.Parameter(torch.zeros(num_modalities))

    def forward(self, experts: Experts) -> Float[Tensor, "*batch modality"]:
        """Return λ of each item."""
        precision = -2 * experts.scale.log().mean(-1)
        return balanced(self.slope.to(precision) * precision + self.logits.to(precision), experts.mask)


class GateWeights(nn.Module):
    """Expert weights of each item from a small network that sees each expert's loc and log scale.

    The hidden layer is shared by the modalities, so the cost is linear in their number; each modality has a linear
    readout of its own that starts at zero, so that training starts from equal weights.

    Args:
        num_modalities: The number of modalities.
        latent_size: The number of latent dimensions.
        hidden: The number of units of the hidden layer, 16 by default.
    """

    def __init__(self, num_modalities: int, latent_size: int, hidden: int = 16) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * latent_size, hidden)
        self.out = nn.Parameter(torch.zeros(num_modalities, hidden))
        self.logits = nn.Parameter(torch.zeros(num_modalities))

    def forward(self, experts: Experts) -> Float[Tensor, "*batch modality"]:
        """Return λ of each item."""
        features = torch.cat([experts.loc, experts.scale.log()], -1)
        hidden = torch.nn.functional.silu(self.hidden(features.to(self.hidden.weight)))
        return balanced(((hidden * self.out).sum(-1) + self.logits).to(experts.loc), experts.mask)


class LearnedSubsetWeights(nn.Module):
    """One weight π per subset of a family, equal for all items and renormalised over the subsets that an item has.

    Args:
        num_components: The number of subsets of the family.
    """

    def __init__(self, num_components: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_components))

    def forward(self, membership: Bool[Tensor, "component modality"]) -> Float[Tensor, " component"]:
        """Return π of each subset, not normalised.

        Args:
            membership: The membership matrix, one row per subset.

        Raises:
            ValueError: If the matrix has another number of subsets.
        """
        if len(membership) != len(self.logits):
            raise ValueError(
                f"subset_weights must be for {len(membership)} subsets, as the family has, got {len(self.logits)}"
            )
        return (self.logits - self.logits.detach().amax()).exp()


EXPERT_WEIGHTS = ("learned", "precision", "gate")
"""Names of learned expert weights."""


def check_expert_weights(
    expert_weights: Tensor | Sequence[float] | Callable[[Experts], Tensor] | str | None,
) -> Tensor | Callable[[Experts], Tensor] | str | None:
    """Check that expert weights are of a form that aggregations take.

    Args:
        expert_weights: A tensor, numbers, a callable or module, or one of ``EXPERT_WEIGHTS``.

    Returns:
        The weights, numbers as a tensor.

    Raises:
        ValueError: If they are an unknown name, or not numbers that are finite and not negative.
    """
    if isinstance(expert_weights, str):
        if expert_weights not in EXPERT_WEIGHTS:
            raise ValueError(
                f"expert_weights must be {', '.join(map(repr, EXPERT_WEIGHTS))}, or one number per modality, got "
                f"{expert_weights!r}"
            )
        return expert_weights
    if expert_weights is None or isinstance(expert_weights, Tensor) or callable(expert_weights):
        return expert_weights
    try:
        weights = torch.as_tensor(expert_weights, dtype=torch.get_default_dtype())
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"expert_weights must be numbers, one per modality, got {expert_weights!r}") from None
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError(f"expert_weights must be finite and not negative, got {expert_weights!r}")
    return weights


def make_expert_weights(name: str, num_modalities: int, latent_size: int) -> nn.Module:
    """Return a module that learns expert weights.

    Args:
        name: One of ``EXPERT_WEIGHTS``: ``"learned"``, ``"precision"`` or ``"gate"``.
        num_modalities: The number of modalities.
        latent_size: The number of latent dimensions, which only "gate" needs.

    Raises:
        ValueError: If the name is unknown.
    """
    check_expert_weights(str(name))
    if name == "learned":
        return LearnedWeights(num_modalities)
    return PrecisionWeights(num_modalities) if name == "precision" else GateWeights(num_modalities, latent_size)


def make_subset_weights(subsets: SubsetFamily | None, num_modalities: int) -> nn.Module:
    """Return a module that learns subset weights.

    Args:
        subsets: The family of subsets of the aggregation; None if it is not made of subsets.
        num_modalities: The number of modalities.

    Raises:
        ValueError: If there are not several subsets.
    """
    if subsets is None or (isinstance(subsets, str) and subsets == "all"):
        raise ValueError("subset_weights='learned' needs an aggregation that is a mixture over subsets, such as mwb")
    return LearnedSubsetWeights(count_components(subsets, num_modalities))
