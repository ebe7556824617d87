"""The unimodal posteriors of one latent, from which every aggregation starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

import torch

from pyro_mmvae._compat import validates_by_default, watch_gradients
from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.barycenters.full_covariance import low_rank_tril

FAMILIES = ("normal", "laplace", "student_t", "logistic")
"""The families of densities with a location and a scale; only a Normal may have dependent dimensions."""

EXPERT_KINDS = ("normal", "full", *FAMILIES[1:])
"""The kinds of experts: one per family, where ``"normal"`` is diagonal, and Gaussians with ``"full"`` covariance."""


@dataclass(frozen=True, eq=False, repr=False)
class Experts:
    r"""The experts :math:`q_m(z \mid x_m)`, by default diagonal Gaussians :math:`N(loc_m, \mathrm{diag}(scale_m^2))`.

    The values in an absent slot never matter. They are replaced by loc 0 and scale 1 at construction, so that a NaN
    there reaches neither a value nor a gradient of anything computed from the experts.

    That holds for gradients of the experts' own tensors. A network that sees a NaN gets a gradient that is NaN however
    its output is used: absent values must be filled before networks, which the backward pass checks under validation.

    Gaussians with full covariance are defined by ``scale_tril`` instead of ``scale``, or by ``scale`` and
    ``cov_factor``; ``scale`` then holds their marginal standard deviations. Other families have independent dimensions.

    Args:
        loc: The locations, `(*batch, modality, latent)`, floating point.
        scale: The scale parameters of the family, broadcastable to ``loc``: isotropic experts may have the shape
            `(*batch, modality, 1)`. For Gaussians they are standard deviations (not variances); for other families
            see :attr:`stddev`.
        present: True for each observed modality of each item, bool, broadcastable to `(*batch, modality)`; by default
            all are observed.
        validate_args: If True, check values, which reads tensors and so waits for an accelerator. By default as
            torch's distributions do, that is unless ``pyro.enable_validation(False)``. Shapes and types are always
            checked.
        scale_tril: Lower triangular factors L of full covariances :math:`L L^\top`, with positive diagonal,
            broadcastable to `(*batch, modality, latent, latent)`.
        cov_factor: The factor F of covariances :math:`\mathrm{diag}(scale^2) + F F^\top`, broadcastable to
            `(*batch, modality, latent, rank)`.
        family: The name of the family: ``normal`` (the default), ``laplace``, ``student_t`` or ``logistic``.
        df: The degrees of freedom of ``student_t``, one number above 2 for all experts; None for other families.

    Attributes:
        complete: True if ``present`` was not passed. All modalities are then known to be observed without reading a
            tensor, and aggregations do not need masks.

    Raises:
        TypeError: If a tensor is not floating point, ``present`` is not bool, or there is no scale.
        ValueError: If the shapes do not fit, a family does not support a covariance, or on a present slot a loc is not
            finite, a scale not finite and positive, or a scale_tril not finite and lower triangular with positive
            diagonal. The message names the first such slot.

    Example:
        >>> experts = Experts(torch.zeros(8, 2, 3), torch.ones(8, 2, 3))
        >>> experts
        Experts(normal, batch (8,), 2 modalities, latent 3, complete)
        >>> Experts(torch.zeros(8, 2, 3), scale_tril=torch.eye(3)).kind
        'full'
    """

    loc: Float[Tensor, "*batch modality latent"]
    scale: Float[Tensor, "*#batch modality #latent"] = None  # type: ignore[assignment]  # filled at construction
    present: Bool[Tensor, "*#batch modality"] | None = None
    validate_args: bool | None = field(default=None, repr=False)
    scale_tril: Float[Tensor, "*#batch #modality latent latent"] | None = field(default=None, kw_only=True)
    cov_factor: InitVar[Tensor | None] = field(default=None, kw_only=True)
    family: str = field(default="normal", kw_only=True)
    df: float | None = field(default=None, kw_only=True)
    complete: bool = field(init=False, repr=False)

    def __post_init__(self, cov_factor: Tensor | None) -> None:
        """Broadcast and check the tensors, and fill absent slots."""
        self._check_kind(cov_factor)
        arguments = {"loc": self.loc, "scale": self.scale, "scale_tril": self.scale_tril, "cov_factor": cov_factor}
        tensors = {name: tensor for name, tensor in arguments.items() if tensor is not None}
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                raise TypeError(f"Experts: {name} must be a floating point tensor, got {_describe(tensor)}")
        shape = self.loc.shape
        if self.loc.dim() < 2 or min(shape[-2:]) < 1:
            raise ValueError(
                f"Experts: loc must have shape (*batch, modality, latent) with at least one modality and one latent "
                f"dimension, got {tuple(shape)}"
            )
        shapes = {"loc": shape, "scale": shape, "scale_tril": (*shape, shape[-1])}
        if cov_factor is not None:
            shapes["cov_factor"] = (*shape, *cov_factor.shape[-1:])
        tensors = {name: _broadcast(name, tensor, shapes[name]) for name, tensor in tensors.items()}
        present = self.present
        object.__setattr__(self, "complete", present is None)
        if present is None:
            present = torch.ones(shape[:-1], dtype=torch.bool, device=self.loc.device)
            self._check_values(tensors, present)
        else:
            if not isinstance(present, Tensor) or present.dtype != torch.bool:
                raise TypeError(f"Experts: present must be a bool tensor, got {_describe(present)}")
            present = _broadcast("present", present, shape[:-1])
            self._check_values(tensors, present)
            self._watch_absent(tensors, present)
            tensors = _fill_absent(tensors, present)
        if cov_factor is not None:
            tensors["scale_tril"] = low_rank_tril(tensors["scale"], tensors.pop("cov_factor"))
        if "scale_tril" in tensors:
            tensors["scale"] = torch.linalg.vector_norm(tensors["scale_tril"], dim=-1)
        for name, value in (*tensors.items(), ("present", present)):
            object.__setattr__(self, name, value)

    def _check_kind(self, cov_factor: Tensor | None) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"Experts: family must be one of {', '.join(FAMILIES)}, got {self.family!r}")
        if (self.df is not None) != (self.family == "student_t"):
            raise ValueError(
                f"Experts: df must be a number for family 'student_t' and None for others, got {self.df} for "
                f"{self.family!r}"
            )
        if self.df is not None and not (self.df > 2 and math.isfinite(self.df)):
            raise ValueError(f"Experts: df must be finite and above 2, where the variance exists, got {self.df}")
        full = self.scale_tril is not None or cov_factor is not None
        if full and self.family != "normal":
            raise ValueError(f"Experts: family must be 'normal' for experts with a covariance, got {self.family!r}")
        has_scale = isinstance(self.scale, Tensor)
        if not has_scale and self.scale_tril is None:
            raise TypeError(f"Experts: scale must be a floating point tensor, got {_describe(self.scale)}")
        if self.scale_tril is not None and (has_scale or cov_factor is not None):
            raise ValueError(
                "Experts: scale and cov_factor must be None if scale_tril, the factor of the covariance, is set"
            )

    def _check_values(self, tensors: dict[str, Tensor], present: Tensor) -> None:
        check = validates_by_default() if self.validate_args is None else self.validate_args
        if not check:
            return
        for name, tensor in tensors.items():
            invalid, condition = ~tensor.isfinite(), "finite"
            if name == "scale":
                invalid, condition = invalid | ~(tensor > 0), "finite and positive"
            elif name == "scale_tril":
                invalid = invalid | _violates_triangular(tensor)
                condition = "finite and lower triangular with positive diagonal"
            indices = (invalid & _align(present, tensor)).nonzero()
            if len(indices):
                index = tuple(int(i) for i in indices[0])
                raise ValueError(
                    f"Experts: {name} must be {condition} where the modality is present, got {tensor[index].item()} at "
                    f"{name}{list(index)} (modality {index[present.dim() - 1]}); {len(indices)} such values"
                )

    def _watch_absent(self, tensors: dict[str, Tensor], present: Tensor) -> None:
        """Let the backward pass check gradients where networks made values of absent slots that are not finite.

        The slots are filled, so that the loss is finite, but 0 times NaN in the gradient of the networks is not, and
        the next step of an optimiser would ruin all their parameters.
        """
        check = validates_by_default() if self.validate_args is None else self.validate_args
        if not check or not torch.is_grad_enabled():
            return
        for name, tensor in tensors.items():
            absent = ~_align(present, tensor)
            if tensor.grad_fn is not None and bool((absent & ~tensor.detach().isfinite()).any()):
                watch_gradients(
                    tensor,
                    f"Experts: {name} of absent slots must come from networks with finite inputs, got values that are "
                    "not finite, for which the gradient of the networks is not finite either: fill absent values "
                    "before the networks, as in torch.where(present.unsqueeze(-1), x, 0.0)",
                )

    def __repr__(self) -> str:
        kind = self.kind if self.df is None else f"{self.kind} df {self.df:g}"
        presence = "complete" if self.complete else "masked"
        return (
            f"Experts({kind}, batch {tuple(self.batch_shape)}, {self.num_modalities} modalities, "
            f"latent {self.latent_size}, {presence})"
        )

    @property
    def kind(self) -> str:
        """The kind of the experts, one of ``EXPERT_KINDS``: ``"full"`` for full covariances, or else the family."""
        return self.family if self.scale_tril is None else "full"

    @property
    def stddev(self) -> Float[Tensor, "*batch modality latent"]:
        """The marginal standard deviations: ``scale`` for Gaussians, and a multiple of it for other families."""
        return self.scale if self.family == "normal" else self.scale * standard_deviation(self.family, self.df)

    @property
    def batch_shape(self) -> torch.Size:
        """The shape of the leading dimensions, of any number."""
        return self.loc.shape[:-2]

    @property
    def num_modalities(self) -> int:
        """The number of modalities, present or absent."""
        return self.loc.shape[-2]

    @property
    def latent_size(self) -> int:
        """The number of latent dimensions."""
        return self.loc.shape[-1]

    @property
    def mask(self) -> Bool[Tensor, "*batch modality"]:
        """The tensor ``present``, which is never None after construction."""
        if self.present is None:
            raise AssertionError("Experts: present is filled at construction")
        return self.present

    def condition_on(self, members: Bool[Tensor, "*#batch modality"] | Sequence[int]) -> Experts:
        """Return the experts conditioned on a subset of modalities, with all others absent.

        Args:
            members: True for the modalities of the subset, bool, broadcastable to `(*batch, modality)`; or their
                indices.

        Returns:
            Experts whose slots are present if they are present here and in ``members``.

        Raises:
            IndexError: If an index is not that of a modality.
        """
        if not isinstance(members, Tensor):
            mask = torch.zeros(self.num_modalities, dtype=torch.bool)
            mask[list(members)] = True
            members = mask.to(self.loc.device)
        return self._replace(present=self.mask & members)

    def map(self, function: Callable[[Tensor, int], Tensor]) -> Experts:
        """Return experts of the same kind with a function applied to each tensor, such as an index or a cast.

        Args:
            function: A function of a tensor and its number of dimensions after those of the batch, ``event_dim``: 1
                for ``present``, 2 for ``loc`` and ``scale``, 3 for ``scale_tril``. It is not applied to ``present`` of
                complete experts, which stay complete.
        """
        scale_parameter = function(self.scale, 2) if self.scale_tril is None else function(self.scale_tril, 3)
        return self.like(function(self.loc, 2), scale_parameter, None if self.complete else function(self.mask, 1))

    def like(
        self,
        loc: Float[Tensor, "*batch modality latent"],
        scale_parameter: Float[Tensor, ...],
        present: Bool[Tensor, "*#batch modality"] | None,
    ) -> Experts:
        """Return experts of the same kind with other tensors, without a check of their values.

        Args:
            loc: The locations, `(*batch, modality, latent)`.
            scale_parameter: The scale or, for full covariances, the scale_tril.
            present: True for each observed modality of each item; None if all are observed.
        """
        name = "scale" if self.scale_tril is None else "scale_tril"
        return self._replace(loc=loc, present=present, **{name: scale_parameter})

    def _replace(self, **changes: Any) -> Experts:
        if self.scale_tril is not None:
            changes["scale"] = None  # which is computed from scale_tril, and may not be passed with it
        return replace(self, **changes, validate_args=False, cov_factor=None)


def standard_deviation(family: str, df: float | None = None) -> float:
    """Return the standard deviation of the density of a family with scale 1.

    Args:
        family: One of the names in ``FAMILIES``.
        df: The degrees of freedom, for family ``student_t`` only.

    Raises:
        ValueError: If the family is ``student_t`` and ``df`` is None.
    """
    if family == "student_t":
        if df is None:
            raise ValueError("df must be set for the standard deviation of family 'student_t', got None")
        return math.sqrt(df / (df - 2))
    return {"normal": 1.0, "laplace": math.sqrt(2.0), "logistic": math.pi / math.sqrt(3.0)}[family]


def _describe(value: object) -> str:
    return f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__


def _align(present: Tensor, tensor: Tensor) -> Tensor:
    """Return ``present`` with trailing dimensions of size 1, so that it broadcasts to a tensor of the experts."""
    return present.reshape(present.shape + (1,) * (tensor.dim() - present.dim()))


def _fill_absent(tensors: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
    """Set loc to 0, scale to 1 and correlations to 0 where a modality is absent."""
    filled = {}
    for name, tensor in tensors.items():
        value = tensor.masked_fill(~_align(present, tensor), 1.0 if name == "scale" else 0.0)
        if name == "scale_tril":
            value = value + torch.diag_embed((~present).to(value).unsqueeze(-1).expand(value.shape[:-1]))
        filled[name] = value
    return filled


def _violates_triangular(tril: Tensor) -> Tensor:
    """Return True for entries that a lower triangular matrix with positive diagonal cannot have."""
    diagonal = torch.eye(tril.shape[-1], dtype=torch.bool, device=tril.device)
    return ((tril != 0) & ~torch.ones_like(diagonal).tril()) | (~(tril > 0) & diagonal)


def _broadcast(name: str, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    try:
        return tensor.expand(*shape)
    except RuntimeError:
        raise ValueError(
            f"Experts: {name} of shape {tuple(tensor.shape)} does not broadcast to {tuple(shape)}"
        ) from None
