"""Subset weights that give single modalities a fixed share of the draws: ``"singles:0.5"``."""

from __future__ import annotations

import torch

from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.distributions.stratified import stratified_uniform

_PREFIX = "singles:"


def singles_share(subset_weights: object) -> float | None:
    """Return the share of single modalities that subset weights ask for, or None if they are of another form.

    Args:
        subset_weights: The weights of subsets, such as ``"singles:0.5"``, in any form.

    Raises:
        ValueError: If what follows the colon is not a number between 0 and 1.

    Example:
        >>> singles_share("singles:0.5"), singles_share("uniform")
        (0.5, None)
    """
    if not isinstance(subset_weights, str) or not subset_weights.startswith(_PREFIX):
        return None
    try:
        share = float(subset_weights.removeprefix(_PREFIX))
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(
            f"subset_weights='singles:SHARE' must have a share between 0 and 1, as in 'singles:0.5', got "
            f"{subset_weights!r}"
        )
    return share


def singles_weights(
    matrix: Bool[Tensor, "component modality"],
    live: Bool[Tensor, "*batch component"],
    share: float,
    dtype: torch.dtype,
) -> Float[Tensor, "*batch component"]:
    """Return weights that sum to ``share`` over the live single modalities and to the rest over the other live subsets.

    Within each of the two groups all weights are equal. An item for which one group is empty gives everything to the
    other group.

    Args:
        matrix: The membership matrix of the subsets.
        live: The subsets that each item has.
        share: The share of the single modalities, between 0 and 1.
        dtype: The dtype of the result.
    """
    is_single = matrix.sum(-1) == 1
    singles, others = (live & is_single).to(dtype), (live & ~is_single).to(dtype)
    num_singles, num_others = singles.sum(-1, keepdim=True), others.sum(-1, keepdim=True)
    portion = torch.where(num_others > 0, share, 1.0).to(dtype)
    portion = torch.where(num_singles > 0, portion, 0.0)
    return singles * portion / num_singles.clamp(min=1) + others * (1 - portion) / num_others.clamp(min=1)


def draw_with_singles(present: Bool[Tensor, "*batch modality"], share: float) -> Bool[Tensor, "*batch modality"]:
    """Draw one subset of the present modalities per item, without a list of all subsets.

    The size of the subset is drawn first: 1 with probability ``share``, and each larger size with a probability that is
    proportional to the number of subsets of that size. The members are then drawn uniformly.

    Args:
        present: The modalities that each item has.
        share: The share of the single modalities, between 0 and 1.

    Returns:
        The members of each item's subset; none for an item without any modality.
    """
    count = present.sum(-1, keepdim=True).double()
    size = torch.arange(1, present.shape[-1] + 1, dtype=torch.float64, device=present.device)
    log_subsets = torch.lgamma(count + 1) - torch.lgamma(size + 1) - torch.lgamma((count - size).clamp(min=0) + 1)
    is_larger = (size > 1) & (size <= count)
    has_larger = is_larger.any(-1, keepdim=True)
    larger = torch.where(has_larger, log_subsets.masked_fill(~is_larger, -torch.inf), 0.0).softmax(-1)
    portion = torch.where(has_larger, share, 1.0).to(larger)
    probabilities = torch.where(size == 1, portion, (1 - portion) * torch.where(is_larger, larger, 0.0))
    cumulative = probabilities.cumsum(-1)
    u = stratified_uniform(count.shape[:-1], present.device).to(cumulative)
    index = torch.searchsorted(cumulative / cumulative[..., -1:], u.unsqueeze(-1), right=True)
    chosen = size[index.clamp(max=present.shape[-1] - 1)]
    keys = torch.rand(present.shape, device=present.device).masked_fill(~present, 2.0)
    return (keys.argsort(-1).argsort(-1) < chosen) & present
