"""Families of subsets of modalities: their membership matrices, their weights, and draws of one subset per item.

A family is a membership matrix `(component, modality)`, one row per subset. Four families have names: ``"all"``, the
one set of everything present in the item; ``"singletons"``, each present modality alone; ``"pairs"``, each present
modality alone and every two of them; ``"powerset"``, every non-empty subset of the present modalities. A user-defined
family is a bool tensor or a function from the number of modalities to one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from pyro_mmvae._compat import validates_by_default
from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.aggregation.singles import draw_with_singles, singles_share, singles_weights
from pyro_mmvae.distributions.stratified import stratified_uniform

MAX_COMPONENTS = 4096
"""The largest number of components that a mixture may have; the component bound has no such limit."""

SubsetFamily: TypeAlias = str | Tensor | Callable[[int], Tensor]
SubsetWeights: TypeAlias = str | Callable[[Tensor], Tensor]

FAMILIES = ("all", "singletons", "pairs", "powerset")
SUBSET_WEIGHTS = ("uniform", "by_size", "learned")

_HEAD_BITS = 40  # an index of so many bits is exact in float64, with bits to spare


def check_subsets(subsets: SubsetFamily) -> None:
    """Check that subsets are a family: a name, a bool matrix without empty rows, or a function.

    Args:
        subsets: The family of subsets.

    Raises:
        ValueError: If it is another string, or a tensor that is not a bool matrix or has an empty row.
        TypeError: If it is neither a string, a tensor nor a function.
    """
    if isinstance(subsets, str):
        if subsets not in FAMILIES:
            raise ValueError(
                f"subsets must be {', '.join(map(repr, FAMILIES))}, a bool matrix or a function, got {subsets!r}"
            )
    elif isinstance(subsets, Tensor):
        if subsets.dtype != torch.bool or subsets.dim() != 2 or not bool(subsets.any(-1).all()):
            raise ValueError(
                "a family of subsets must be a bool matrix (component, modality) with no empty row, got "
                f"{subsets.dtype} of shape {tuple(subsets.shape)}"
            )
    elif not callable(subsets):
        raise TypeError(f"subsets must be a name, a bool matrix or a function, got {type(subsets).__name__}")


def count_components(subsets: SubsetFamily, num_modalities: int) -> int:
    """Return the number of subsets of a family, without making a named family.

    Args:
        subsets: The family of subsets.
        num_modalities: The number of modalities.
    """
    if isinstance(subsets, str):
        pairs = num_modalities * (num_modalities + 1) // 2
        return {"all": 1, "singletons": num_modalities, "pairs": pairs, "powerset": 2**num_modalities - 1}[subsets]
    return membership(subsets, num_modalities).shape[0]


def check_components(subsets: SubsetFamily, num_modalities: int, name: str) -> None:
    """Check that a mixture over a family does not have too many components.

    Args:
        subsets: The family of subsets.
        num_modalities: The number of modalities.
        name: The name of the aggregation, for the message.

    Raises:
        ValueError: If there are more than ``MAX_COMPONENTS`` components.
    """
    count = count_components(subsets, num_modalities)
    if count > MAX_COMPONENTS:
        raise ValueError(
            f"aggregation {name!r} over {num_modalities} modalities is a mixture of {count:,} components, more than "
            f"{MAX_COMPONENTS:,}: use the component bound (bound='component'), which draws one subset per item"
        )


def membership(
    subsets: SubsetFamily, num_modalities: int, device: torch.device | None = None
) -> Bool[Tensor, "component modality"]:
    """Return the membership matrix of a family.

    In the powerset, component ``k`` is the subset whose members are the bits of ``k + 1``, modality 0 the lowest. The
    pairs come after the single modalities, in the order (0, 1), (0, 2), …, (1, 2), ….

    Args:
        subsets: A name, a bool matrix or a function of ``num_modalities``.
        num_modalities: The number of modalities, and of columns.
        device: The device of the result. A named family is made there, so that nothing waits for an accelerator.

    Returns:
        One row per subset. The family "all" is a row of ones, to be cut to what each item has.

    Raises:
        ValueError: If a user-defined matrix has another number of columns, an empty row or another dtype.
    """
    if isinstance(subsets, str):
        if subsets == "all":
            return torch.ones(1, num_modalities, dtype=torch.bool, device=device)
        if subsets == "singletons":
            return torch.eye(num_modalities, dtype=torch.bool, device=device)
        if subsets == "pairs":
            single = torch.eye(num_modalities, dtype=torch.bool, device=device)
            first, second = torch.triu_indices(num_modalities, num_modalities, 1, device=device)
            return torch.cat([single, single[first] | single[second]])
        index = torch.arange(1, 2**num_modalities, device=device).unsqueeze(-1)
        return ((index >> torch.arange(num_modalities, device=device)) & 1).bool()
    matrix = subsets if isinstance(subsets, Tensor) else subsets(num_modalities)
    check_subsets(matrix)
    if matrix.shape[-1] != num_modalities:
        raise ValueError(
            f"the family of subsets must be over the {num_modalities} modalities of the experts, got {matrix.shape[-1]}"
        )
    return matrix.to(device)


def members_of(
    subsets: SubsetFamily, present: Bool[Tensor, "*batch modality"]
) -> tuple[Bool[Tensor, "*#batch component modality"], Bool[Tensor, "*batch component"]]:
    """Return the subsets of a family, and which of them each item has.

    Args:
        subsets: The family of subsets.
        present: The modalities that each item has.

    Returns:
        members: `(*batch, component, modality)` or, where the items do not differ, `(component, modality)`.
        live: `(*batch, component)`, the non-empty subsets whose members are all present.
    """
    if isinstance(subsets, str) and subsets == "all":
        return present.unsqueeze(-2), present.any(-1, keepdim=True)
    matrix = membership(subsets, present.shape[-1], present.device)
    absent_members = (~present).float() @ matrix.float().mT
    return matrix, absent_members == 0


def check_subset_weights(subset_weights: SubsetWeights) -> None:
    """Check that subset weights are a known name or a function.

    Args:
        subset_weights: The weights, one of ``SUBSET_WEIGHTS``, ``"singles:SHARE"`` or a function.

    Raises:
        ValueError: If they are anything else.
    """
    is_named = callable(subset_weights) or subset_weights in SUBSET_WEIGHTS
    if not is_named and singles_share(subset_weights) is None:
        raise ValueError(
            f"subset_weights must be {', '.join(map(repr, SUBSET_WEIGHTS))}, 'singles:SHARE' or a function, got "
            f"{subset_weights!r}"
        )


def subset_probabilities(
    subset_weights: SubsetWeights,
    matrix: Bool[Tensor, "component modality"],
    live: Bool[Tensor, "*batch component"],
    factor: Float[Tensor, "*#batch component"] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*batch component"]:
    r"""Return the weights :math:`\pi_k` of an item's live subsets, summing to 1; all equal where none is alive.

    Args:
        subset_weights: ``"uniform"``; ``"by_size"``, each size of subset equally likely, then each subset of that size;
            ``"singles:SHARE"``, such as ``"singles:0.5"``, this share of the weight on the single modalities and the
            rest on the other subsets, uniformly within both; or a function from the membership matrix (bool) to
            non-negative weights `(component,)` or `(*batch, component)`.
        matrix: The membership matrix of the subsets.
        live: The subsets that each item has.
        factor: Further weights to multiply with; none by default.
        dtype: The dtype of the result, float32 by default.

    Raises:
        ValueError: If ``subset_weights`` is an unknown name, or a function returns a wrong shape or, under validation,
            a weight that is negative or not a number.
    """
    check_subset_weights(subset_weights)
    weights = live.to(dtype)
    if callable(subset_weights):
        given = subset_weights(matrix)
        if not isinstance(given, Tensor) or given.shape[-1:] != matrix.shape[:1]:
            shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"subset_weights must return a tensor (…, {matrix.shape[0]}), got {shape}")
        if validates_by_default() and not torch.jit.is_tracing() and not bool((given >= 0).all()):  # type: ignore[attr-defined]
            raise ValueError(f"subset_weights must return weights that are not negative, got {given.min().item():g}")
        weights = weights * given.to(weights)
    elif subset_weights == "by_size":
        sizes = torch.nn.functional.one_hot(matrix.sum(-1), matrix.shape[-1] + 1).to(dtype)
        live_of_equal_size = (weights @ sizes) @ sizes.mT
        weights = weights / torch.where(live, live_of_equal_size, 1.0)
    elif (share := singles_share(subset_weights)) is not None:
        weights = singles_weights(matrix, live, share, dtype)
    elif subset_weights == "learned":
        raise ValueError(
            "subset_weights='learned' must be built for a number of modalities: call "
            "aggregation.build_weights(num_modalities, latent_size), as MultimodalVAE does, or give "
            "LearnedSubsetWeights(num_components)"
        )
    if factor is not None:
        weights = weights * factor
    total = weights.sum(-1, keepdim=True)
    dead = total <= 0
    return torch.where(dead, 1.0 / matrix.shape[0], weights / torch.where(dead, 1.0, total))


def draw_subset(
    subsets: SubsetFamily,
    present: Bool[Tensor, "*batch modality"],
    subset_weights: SubsetWeights = "uniform",
    factor: Float[Tensor, "*#batch modality"] | None = None,
) -> Bool[Tensor, "*batch modality"]:
    r"""Draw one subset per item with its weight, stratified over the batch.

    Marginally an item's subset follows :math:`\pi` over its own live subsets and does not depend on its position.
    The uniform powerset is drawn bit by bit, never enumerated, so that 40 modalities cost eight times what 5 cost.

    Args:
        subsets: The family of subsets.
        present: The modalities that each item has, and whose weight is positive.
        subset_weights: The weights π, as in :func:`subset_probabilities`.
        factor: Weights of modalities that multiply the weights of singletons; none by default.

    Returns:
        The members of each item's subset; none where no subset is alive.

    Raises:
        ValueError: If the subset weights need more than ``MAX_COMPONENTS`` subsets to be enumerated.
    """
    if isinstance(subsets, str) and subsets == "all":
        return present
    is_powerset = isinstance(subsets, str) and subsets == "powerset"
    if is_powerset and subset_weights == "uniform":
        return _draw_powerset(present)
    num_modalities = present.shape[-1]
    if is_powerset and count_components(subsets, num_modalities) > MAX_COMPONENTS:
        if (share := singles_share(subset_weights)) is not None:
            return draw_with_singles(present, share)
        if subset_weights != "by_size":
            raise ValueError(
                f"drawing one of {2**num_modalities - 1:,} subsets needs subset_weights='uniform', 'by_size' or "
                f"'singles:SHARE': a function enumerates the subsets, of which there may be {MAX_COMPONENTS:,}"
            )
        return _draw_by_size(present)
    return _draw_enumerated(subsets, present, subset_weights, factor)


def _draw_powerset(present: Tensor) -> Tensor:
    """Draw uniformly from the non-empty subsets of ``present``."""
    rank = present.cumsum(-1) - 1
    count = present.sum(-1)
    head = count.clamp(max=_HEAD_BITS)
    skip_empty = (count <= _HEAD_BITS).long()  # beyond that the empty set is rejected below
    cells = torch.ones_like(head).bitwise_left_shift(head) - skip_empty
    u = stratified_uniform(count.shape, present.device)
    index = (u * cells).long() + skip_empty
    bits = index.unsqueeze(-1).bitwise_right_shift(rank.clamp(0, _HEAD_BITS)).bitwise_and(1).bool()
    fair = torch.rand(present.shape, device=present.device) < 0.5
    drawn = present & torch.where(rank < _HEAD_BITS, bits, fair)
    return drawn | (~drawn.any(-1, keepdim=True) & present)


def _draw_by_size(present: Tensor) -> Tensor:
    """Draw a size uniformly from 1…n, then a subset of that size uniformly."""
    count = present.sum(-1)
    size = (stratified_uniform(count.shape, present.device) * count).long() + 1
    keys = torch.rand(present.shape, device=present.device).masked_fill(~present, 2.0)
    return (keys.argsort(-1).argsort(-1) < size.unsqueeze(-1)) & present


def _draw_enumerated(
    subsets: SubsetFamily,
    present: Tensor,
    subset_weights: SubsetWeights,
    factor: Tensor | None,
) -> Tensor:
    matrix, live = members_of(subsets, present)
    by_component = None if factor is None else factor @ matrix.to(factor).mT
    dtype = torch.float32 if factor is None else factor.dtype
    probabilities = subset_probabilities(subset_weights, matrix, live, by_component, dtype=dtype)
    if probabilities.requires_grad:
        raise ValueError(
            "subset_weights that require a gradient have no component bound: the gradient would be lost in the draw. "
            "Use bound='mixture'"
        )
    u = stratified_uniform(live.shape[:-1], present.device)
    cumulative = probabilities.to(u).cumsum(-1)
    cumulative = cumulative / cumulative[..., -1:]
    index = torch.searchsorted(cumulative, u.unsqueeze(-1), right=True).squeeze(-1)
    return matrix[index.clamp(max=matrix.shape[0] - 1)] & live.any(-1, keepdim=True)
