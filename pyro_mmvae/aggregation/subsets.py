"""Families of subsets of modalities, which of them an item has, and how one of them is drawn.

A family is a membership matrix `(component, modality)`, one subset a row. Three have names: ``"all"``, the one set of
everything present in the item; ``"singletons"``, each present modality alone; ``"powerset"``, every non-empty subset of
the present. A user's own is a bool tensor or a function from the number of modalities to one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from pyro_mmvae._typing import Bool, Float, Tensor

MAX_COMPONENTS = 4096
"""Mixtures of more components than this are refused; the component bound has no such limit."""

Family: TypeAlias = str | Tensor | Callable[[int], Tensor]
MixtureWeights: TypeAlias = str | Callable[[Tensor], Tensor]

HEAD_BITS = 40  # an index of so many bits is exact in float64, with bits to spare


def check_family(family: Family) -> None:
    """Refuse what is no family.

    Raises:
        ValueError: if ``family`` is a string that names none, or a tensor that is no bool matrix without empty rows.
        TypeError: if it is neither a string, a tensor nor a function.
    """
    if isinstance(family, str):
        if family not in {"all", "singletons", "powerset"}:
            raise ValueError(f"unknown family of subsets {family!r}: one of 'all', 'singletons', 'powerset'")
    elif isinstance(family, Tensor):
        if family.dtype != torch.bool or family.dim() != 2 or not bool(family.any(-1).all()):
            raise ValueError(
                "a family of subsets must be a bool matrix (component, modality) with no empty row, got "
                f"{family.dtype} of shape {tuple(family.shape)}"
            )
    elif not callable(family):
        raise TypeError(f"a family of subsets is a name, a bool matrix or a function, not {type(family).__name__}")


def count_components(family: Family, num_modalities: int) -> int:
    """How many subsets a family has, without making them (unless it is a user's function)."""
    if isinstance(family, str):
        return {"all": 1, "singletons": num_modalities, "powerset": 2**num_modalities - 1}[family]
    return membership(family, num_modalities).shape[0]


def check_components(family: Family, num_modalities: int, name: str) -> None:
    """Refuse a mixture over too many subsets.

    Raises:
        ValueError: if there are more than ``MAX_COMPONENTS`` of them.
    """
    count = count_components(family, num_modalities)
    if count > MAX_COMPONENTS:
        raise ValueError(
            f"aggregation {name!r} over {num_modalities} modalities is a mixture of {count:,} components, more than "
            f"{MAX_COMPONENTS:,}: use the component bound (bound='component'), which draws one subset per item"
        )


def membership(
    family: Family, num_modalities: int, device: torch.device | None = None
) -> Bool[Tensor, "component modality"]:
    """The membership matrix of a family.

    In the powerset, component ``k`` is the subset whose members are the bits of ``k + 1``, modality 0 the lowest.

    Args:
        family: a name, a bool matrix or a function of ``num_modalities``.
        num_modalities: how many columns.
        device: where to make it. It is made there, not copied: nothing waits for an accelerator.

    Returns:
        One subset a row. ``"all"`` is a row of ones, to be cut to what each item has.

    Raises:
        ValueError: if a user's matrix has another number of columns, an empty row or another dtype.
    """
    if isinstance(family, str):
        if family == "all":
            return torch.ones(1, num_modalities, dtype=torch.bool, device=device)
        if family == "singletons":
            return torch.eye(num_modalities, dtype=torch.bool, device=device)
        index = torch.arange(1, 2**num_modalities, device=device).unsqueeze(-1)
        return ((index >> torch.arange(num_modalities, device=device)) & 1).bool()
    matrix = family if isinstance(family, Tensor) else family(num_modalities)
    check_family(matrix)
    if matrix.shape[-1] != num_modalities:
        raise ValueError(f"the family of subsets is over {matrix.shape[-1]} modalities, the experts {num_modalities}")
    return matrix.to(device)


def members_of(
    family: Family, present: Bool[Tensor, "*batch modality"]
) -> tuple[Bool[Tensor, "*#batch component modality"], Bool[Tensor, "*batch component"]]:
    """The subsets of a family, and which of them each item has.

    Args:
        family: of subsets.
        present: which modality each item has.

    Returns:
        members: `(*batch, component, modality)` or, where the items do not differ, `(component, modality)`.
        live: `(*batch, component)`, the non-empty subsets whose members are all present.
    """
    if isinstance(family, str) and family == "all":
        return present.unsqueeze(-2), present.any(-1, keepdim=True)
    matrix = membership(family, present.shape[-1], present.device)
    absent_members = (~present).float() @ matrix.float().mT
    return matrix, absent_members == 0


def check_mixture_weights(mixture_weights: MixtureWeights) -> None:
    """Refuse what are no mixture weights.

    Raises:
        ValueError: for another name than ``"uniform"`` and ``"size"``.
    """
    if not callable(mixture_weights) and mixture_weights not in {"uniform", "size"}:
        raise ValueError(f"mixture_weights must be 'uniform', 'size' or a function, not {mixture_weights!r}")


def mixture_probabilities(
    mixture_weights: MixtureWeights,
    matrix: Bool[Tensor, "component modality"],
    live: Bool[Tensor, "*batch component"],
    factor: Float[Tensor, "*#batch component"] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*batch component"]:
    r"""Mixture weights :math:`\pi_k` over an item's live subsets, summing to 1; all equal where none is alive.

    Args:
        mixture_weights: ``"uniform"``; ``"size"``, each size of subset equally likely, then each subset of that size;
            or a function from the membership matrix (bool) to non-negative weights `(component,)` or
            `(*batch, component)`.
        matrix: the subsets.
        live: which of them each item has.
        factor: further weights to multiply with.
        dtype: of the result.

    Raises:
        ValueError: if ``mixture_weights`` names nothing, or a function returns a wrong shape.
    """
    check_mixture_weights(mixture_weights)
    alive = live.to(dtype)
    if callable(mixture_weights):
        weights = mixture_weights(matrix)
        if not isinstance(weights, Tensor) or weights.shape[-1:] != matrix.shape[:1]:
            shape = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
            raise ValueError(f"mixture_weights must return a tensor (…, {matrix.shape[0]}), got {shape}")
        alive = alive * weights.to(alive)
    elif mixture_weights == "size":
        sizes = torch.nn.functional.one_hot(matrix.sum(-1), matrix.shape[-1] + 1).to(dtype)
        of_my_size = (alive @ sizes) @ sizes.mT
        alive = alive / torch.where(live, of_my_size, 1.0)
    if factor is not None:
        alive = alive * factor
    total = alive.sum(-1, keepdim=True)
    dead = total <= 0
    return torch.where(dead, 1.0 / matrix.shape[0], alive / torch.where(dead, 1.0, total))


def stratified_uniform(shape: torch.Size, device: torch.device) -> Float[Tensor, "*batch"]:
    """Uniform numbers in [0, 1), one a stratum of equal length, the strata in a fresh random order.

    Each is marginally uniform whatever its position; together they cover [0, 1) evenly. Uses torch's global generator,
    as Pyro does.
    """
    count = shape.numel()
    dtype = torch.float32 if device.type == "mps" else torch.float64
    strata = torch.randperm(count, device=device).to(dtype)
    u = (strata + torch.rand(count, dtype=dtype, device=device)) / max(count, 1)
    return u.clamp(max=1 - torch.finfo(dtype).eps).reshape(shape)


def draw_subset(
    family: Family,
    present: Bool[Tensor, "*batch modality"],
    mixture_weights: MixtureWeights = "uniform",
    positive: Bool[Tensor, "*#batch modality"] | None = None,
    factor: Float[Tensor, "*#batch modality"] | None = None,
) -> Bool[Tensor, "*batch modality"]:
    r"""One subset for each item, drawn with its mixture weight and stratified over the batch.

    Marginally an item's subset follows :math:`\pi` over its own live subsets and does not depend on its position.
    The uniform powerset is drawn bit by bit, never enumerated, so that 40 modalities cost eight times what 5 cost.

    Args:
        family: of subsets.
        present: which modality each item has.
        mixture_weights: as in :func:`mixture_probabilities`.
        positive: which modality has positive weight; a subset without any such member is dead. All by default.
        factor: weights of modalities that multiply the mixture weights of singletons.

    Returns:
        The members of each item's subset; none where no subset is alive.

    Raises:
        ValueError: if the mixture weights need more than ``MAX_COMPONENTS`` subsets to be enumerated.
    """
    if isinstance(family, str) and family == "all":
        return present & _has_positive(present, positive)
    powerset = isinstance(family, str) and family == "powerset"
    if powerset and mixture_weights == "uniform":
        core = present if positive is None else present & positive
        return _draw_powerset(core, present)
    num_modalities = present.shape[-1]
    if powerset and count_components(family, num_modalities) > MAX_COMPONENTS:
        if mixture_weights != "size" or positive is not None:
            raise ValueError(
                f"drawing one of {2**num_modalities - 1:,} subsets needs mixture_weights='uniform', or 'size' without "
                f"weights; a function, or 'size' with weights, enumerates them and has room for {MAX_COMPONENTS:,}"
            )
        return _draw_by_size(present)
    return _draw_enumerated(family, present, mixture_weights, positive, factor)


def _has_positive(members: Tensor, positive: Tensor | None) -> Tensor:
    return members.any(-1, keepdim=True) if positive is None else (members & positive).any(-1, keepdim=True)


def draw_of_complete(shape: torch.Size, num_modalities: int, device: torch.device) -> Bool[Tensor, "*batch modality"]:
    """What :func:`draw_subset` draws of the uniform powerset of up to 40 modalities where nothing is missing.

    Args:
        shape: `batch`.
        num_modalities: how many.
        device: where.
    """
    index = (stratified_uniform(shape, device) * (2**num_modalities - 1)).long() + 1
    powers = torch.arange(num_modalities, device=device)
    torch.rand((*shape, num_modalities), device=device)  # as there, so that what is drawn next is the same too
    return index.unsqueeze(-1).bitwise_right_shift(powers).bitwise_and_(1).bool()


def _draw_powerset(core: Tensor, present: Tensor) -> Tensor:
    """Uniform over the subsets of ``present`` with at least one member in ``core``."""
    rank = core.cumsum(-1) - 1
    num_core = core.sum(-1)
    head = num_core.clamp(max=HEAD_BITS)
    skip_empty = (num_core <= HEAD_BITS).long()  # beyond that the empty set is rejected below
    cells = torch.ones_like(head).bitwise_left_shift(head) - skip_empty
    u = stratified_uniform(num_core.shape, core.device)
    index = (u * cells).long() + skip_empty
    bits = index.unsqueeze(-1).bitwise_right_shift(rank.clamp(0, HEAD_BITS)).bitwise_and(1).bool()
    fair = torch.rand(core.shape, device=core.device) < 0.5
    drawn = present & torch.where(core & (rank < HEAD_BITS), bits, fair)
    empty = ~(drawn & core).any(-1, keepdim=True)
    return (drawn | (empty & core)) & core.any(-1, keepdim=True)


def _draw_by_size(present: Tensor) -> Tensor:
    """A size uniform over 1…n, then a uniform subset of that size."""
    count = present.sum(-1)
    size = (stratified_uniform(count.shape, present.device) * count).long() + 1
    keys = torch.rand(present.shape, device=present.device).masked_fill(~present, 2.0)
    return (keys.argsort(-1).argsort(-1) < size.unsqueeze(-1)) & present


def _draw_enumerated(
    family: Family, present: Tensor, mixture_weights: MixtureWeights, positive: Tensor | None, factor: Tensor | None
) -> Tensor:
    matrix, live = members_of(family, present)
    if positive is not None:
        live = live & ((positive.float() @ matrix.float().mT) > 0)
    by_component = None if factor is None else factor @ matrix.to(factor).mT
    dtype = torch.float32 if factor is None else factor.dtype
    probabilities = mixture_probabilities(mixture_weights, matrix, live, by_component, dtype=dtype)
    if probabilities.requires_grad:
        raise ValueError(
            "mixture_weights that require a gradient have no component bound: the gradient would be lost in the draw. "
            "Use bound='mixture'"
        )
    u = stratified_uniform(live.shape[:-1], present.device)
    cumulative = probabilities.to(u).cumsum(-1)
    cumulative = cumulative / cumulative[..., -1:]
    index = torch.searchsorted(cumulative, u.unsqueeze(-1), right=True).squeeze(-1)
    return matrix[index.clamp(max=matrix.shape[0] - 1)] & live.any(-1, keepdim=True)
