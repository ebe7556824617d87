"""The values that a rule uses for some experts: expert weights, prior and prior expert."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.experts import Experts

Prior: TypeAlias = tuple[Tensor | float, Tensor | float]
ExpertWeights: TypeAlias = Tensor | Sequence[float] | Callable[[Experts], Tensor] | str

PRIOR_EXPERTS = ("none", "complete", "joint_only", "all")


class Values(NamedTuple):
    """The values that a rule uses for some experts, wherever they were given.

    Attributes:
        expert_weights: The weights λ, `(modality,)` or `(*batch, modality)`, or None for equal ones.
        prior: Loc and scale of the prior, or None for the standard one.
        prior_expert: The rule of the prior expert, one of ``PRIOR_EXPERTS``.
    """

    expert_weights: Tensor | None
    prior: Prior | None
    prior_expert: str

    def with_component_axis(self) -> Values:
        """Return the values such that those of each item broadcast to `(*batch, component, …)`."""

        def spread(value: Any) -> Any:
            return value.unsqueeze(-2) if isinstance(value, Tensor) and value.dim() > 1 else value

        prior = None if self.prior is None else (spread(self.prior[0]), spread(self.prior[1]))
        return Values(spread(self.expert_weights), prior, self.prior_expert)


def check_prior(prior: Any) -> Prior:
    """Check that a prior is a pair of loc and scale, and that a scale given by numbers is positive.

    Args:
        prior: The pair ``(loc, scale)``, each a number or a tensor.

    Raises:
        ValueError: If it is anything else.
    """
    try:
        loc, scale = prior
        with torch.device("cpu"):  # a model may be built on the meta device, whose tensors do not have values
            if not isinstance(loc, Tensor):
                torch.as_tensor(loc)
            is_positive = isinstance(scale, Tensor) or bool((torch.as_tensor(scale) > 0).all())
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"prior must be a pair (loc, scale) of numbers or tensors, got {prior!r}") from None
    if not is_positive:
        raise ValueError(f"prior must have a positive scale, got {scale!r}")
    return loc, scale


def check_fit(weights: Tensor, experts: Experts) -> Tensor:
    """Check that expert weights fit some experts, and move them to their device.

    Args:
        weights: The expert weights λ.
        experts: The unimodal posteriors of the items.

    Returns:
        The weights, in the floating type of the experts, at least float32.

    Raises:
        ValueError: If they are not a tensor, have another shape than `(modality,)` and `(*batch, modality)`, or (under
            validation) are negative or not finite.
    """
    shape = experts.mask.shape
    if not isinstance(weights, Tensor):
        raise ValueError(f"expert_weights must be or return a tensor, got {type(weights).__name__}")
    if weights.shape not in (shape, shape[-1:]):  # noqa: PLR6201  (sizes are tensors, unequal as keys, under torch.jit)
        raise ValueError(
            f"expert_weights must have shape ({shape[-1]},) or {tuple(shape)} (one per modality), got "
            f"{tuple(weights.shape)}"
        )
    default = torch.distributions.Distribution._validate_args
    validate = default if experts.validate_args is None else experts.validate_args
    if validate and not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError(f"expert_weights must be finite and not negative, got {weights.min().item()} as the least")
    return weights.to(experts.loc.device, torch.promote_types(experts.loc.dtype, torch.float32))


def weighted_mask(experts: Experts, weights: Tensor | None) -> Bool[Tensor, "*batch modality"]:
    """Return True for each modality that is present and whose weight is not 0, which is as good as absent.

    Args:
        experts: The unimodal posteriors of the items.
        weights: The weights λ, `(modality,)` or `(*batch, modality)`; None if all are 1.
    """
    return experts.mask if weights is None else experts.mask & (weights.detach() > 0)


def shared_mask(experts: Experts, weights: Tensor | None) -> Bool[Tensor, "*#batch modality"]:
    """Return :func:`weighted_mask`, without batch dimensions where all items are known to have equal masks.

    Args:
        experts: The unimodal posteriors of the items.
        weights: The weights λ, `(modality,)` or `(*batch, modality)`; None if all are 1.
    """
    if not experts.complete:
        return weighted_mask(experts, weights)
    return experts.mask.new_ones(experts.num_modalities) if weights is None else weights.detach() > 0


def in_one_dtype(experts: Experts) -> Experts:
    """Return the experts in one floating type, float32 at least."""
    dtype = torch.promote_types(torch.promote_types(experts.loc.dtype, experts.scale.dtype), torch.float32)
    if experts.loc.dtype == dtype == experts.scale.dtype:
        return experts
    return experts.map(lambda tensor, event_dim: tensor.to(dtype) if event_dim > 1 else tensor)


def are_equal(one: Tensor | float, other: Tensor | float) -> bool:
    """Return True if two numbers or tensors broadcast to equal values."""
    first, second = (torch.as_tensor(value).detach().double().cpu() for value in (one, other))
    try:
        return torch.equal(*torch.broadcast_tensors(first, second))
    except RuntimeError:
        return False
