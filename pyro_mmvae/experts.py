"""Unimodal posteriors of one latent, held together: what every aggregation starts from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

import torch

from pyro_mmvae._compat import validates_by_default
from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.barycenters.full_covariance import low_rank_tril

FAMILIES = ("normal", "laplace", "student_t", "logistic")
"""Families of densities with a location and a scale; independent dimensions, except where a Normal says otherwise."""

EXPERT_KINDS = ("normal", "full", *FAMILIES[1:])
"""What experts may be: of one of the families, ``"normal"`` diagonal, or Gaussians of ``"full"`` covariance."""


@dataclass(frozen=True, eq=False)
class Experts:
    r"""Experts :math:`q_m(z \mid x_m)`, by default diagonal Gaussians :math:`N(loc_m, \mathrm{diag}(scale_m^2))`.

    What stands in an absent slot never matters: it is replaced by loc 0 and scale 1 here, once, so that a NaN there
    reaches neither a value nor a gradient of anything computed from these experts.

    Gaussians of full covariance are given by ``scale_tril`` instead of ``scale``, or by ``scale`` and ``cov_factor``;
    ``scale`` then holds their marginal standard deviations. Other families have independent dimensions.

    Args:
        loc: locations, `(*batch, modality, latent)`, float.
        scale: the family's own scale parameter, broadcastable to ``loc``: an isotropic expert may give
            `(*batch, modality, 1)`. For Gaussians it is the standard deviation (not the variance); for the other
            families it is not, see :attr:`stddev`.
        present: which modality of which item was observed, bool, broadcastable to `(*batch, modality)`; all of them
            by default.
        validate_args: check values (this reads them, so it waits for an accelerator). By default as torch's
            distributions do, that is unless ``pyro.enable_validation(False)``. Shapes and types are always checked.
        scale_tril: lower triangular factors L of full covariances :math:`L L^\top`, with positive diagonal,
            broadcastable to `(*batch, modality, latent, latent)`.
        cov_factor: F of covariances :math:`\mathrm{diag}(scale^2) + F F^\top`, broadcastable to
            `(*batch, modality, latent, rank)`.
        family: ``normal``, ``laplace``, ``student_t`` or ``logistic``.
        df: degrees of freedom of ``student_t``, one number above 2 for all.

    Attributes:
        complete: whether ``present`` was not given, so that everything is known to be there without reading a tensor:
            aggregations then do without masks.

    Raises:
        TypeError: if a tensor is not floating point or ``present`` is not bool, or there is no scale at all.
        ValueError: if the shapes do not fit, if a family and a covariance exclude each other, or if on a present slot a
            loc is not finite, a scale not finite and positive, or a scale_tril not finite and lower triangular with
            positive diagonal. The message names the first such slot.

    Example:
        >>> experts = Experts(torch.zeros(8, 2, 3), torch.ones(8, 2, 3))
        >>> experts.batch_shape, experts.num_modalities, experts.latent_size
        (torch.Size([8]), 2, 3)
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
        """Broadcast, check, and fill absent slots."""
        self._check_kind(cov_factor)
        given = {"loc": self.loc, "scale": self.scale, "scale_tril": self.scale_tril, "cov_factor": cov_factor}
        tensors = {name: tensor for name, tensor in given.items() if tensor is not None}
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
            tensors = _filled(tensors, present)
        if cov_factor is not None:
            tensors["scale_tril"] = low_rank_tril(tensors["scale"], tensors.pop("cov_factor"))
        if "scale_tril" in tensors:
            tensors["scale"] = torch.linalg.vector_norm(tensors["scale_tril"], dim=-1)
        for name, value in (*tensors.items(), ("present", present)):
            object.__setattr__(self, name, value)

    def _check_kind(self, cov_factor: Tensor | None) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"Experts: family must be one of {', '.join(FAMILIES)}, not {self.family!r}")
        if (self.df is not None) != (self.family == "student_t"):
            raise ValueError(f"Experts: family 'student_t', and no other, needs df; got {self.family!r}, df={self.df}")
        if self.df is not None and not (self.df > 2 and math.isfinite(self.df)):
            raise ValueError(f"Experts: df must be finite and above 2, where the variance exists, not {self.df}")
        full = self.scale_tril is not None or cov_factor is not None
        if full and self.family != "normal":
            raise ValueError(f"Experts: family {self.family!r} has independent dimensions; only 'normal' a covariance")
        has_scale = isinstance(self.scale, Tensor)
        if not has_scale and self.scale_tril is None:
            raise TypeError(f"Experts: scale must be a floating point tensor, got {_describe(self.scale)}")
        if self.scale_tril is not None and (has_scale or cov_factor is not None):
            raise ValueError("Experts: scale_tril is the whole covariance; give no scale and no cov_factor with it")

    def _check_values(self, tensors: dict[str, Tensor], present: Tensor) -> None:
        check = validates_by_default() if self.validate_args is None else self.validate_args
        if not check:
            return
        for name, tensor in tensors.items():
            wrong, wanted = ~tensor.isfinite(), "finite"
            if name == "scale":
                wrong, wanted = wrong | ~(tensor > 0), "finite and positive"
            elif name == "scale_tril":
                wrong, wanted = wrong | _not_triangular(tensor), "finite and lower triangular with positive diagonal"
            at = (wrong & _slots(present, tensor)).nonzero()
            if len(at):
                index = tuple(int(i) for i in at[0])
                raise ValueError(
                    f"Experts: {name} must be {wanted} where the modality is present, but {name}{list(index)} "
                    f"(modality {index[present.dim() - 1]}) is {tensor[index].item()}; {len(at)} such values"
                )

    @property
    def kind(self) -> str:
        """One of ``EXPERT_KINDS``: the family, or ``"full"`` for Gaussians with a full covariance."""
        return self.family if self.scale_tril is None else "full"

    @property
    def stddev(self) -> Float[Tensor, "*batch modality latent"]:
        """Marginal standard deviations, which are ``scale`` for Gaussians and a multiple of it for other families."""
        return self.scale if self.family == "normal" else self.scale * standard_deviation(self.family, self.df)

    @property
    def batch_shape(self) -> torch.Size:
        """The leading dimensions, any number of them."""
        return self.loc.shape[:-2]

    @property
    def num_modalities(self) -> int:
        """How many modalities there are, present or not."""
        return self.loc.shape[-2]

    @property
    def latent_size(self) -> int:
        """Number of latent dimensions."""
        return self.loc.shape[-1]

    @property
    def mask(self) -> Bool[Tensor, "*batch modality"]:
        """``present``, which is never None once the experts exist."""
        if self.present is None:
            raise AssertionError("Experts: present is filled at construction")
        return self.present

    def condition_on(self, members: Bool[Tensor, "*#batch modality"] | Sequence[int]) -> Experts:
        """The same experts with ``present`` cut to some modalities: what conditioning on a subset means.

        Args:
            members: bool, broadcastable to `(*batch, modality)`, or the indices of modalities.

        Returns:
            Experts whose slots are present where they were and are in ``members``.

        Raises:
            IndexError: if an index names no modality.
        """
        if not isinstance(members, Tensor):
            mask = torch.zeros(self.num_modalities, dtype=torch.bool)
            mask[list(members)] = True
            members = mask.to(self.loc.device)
        return self._rebuilt(present=self.mask & members)

    def map(self, function: Callable[[Tensor, int], Tensor]) -> Experts:
        """The same experts with each of their tensors changed: other items, another order, another type.

        Args:
            function: gets a tensor and how many dimensions it has after those of the batch: ``present`` 1 (unless the
                experts are complete, as they then stay), ``loc`` and ``scale`` 2, ``scale_tril`` 3.

        Returns:
            Experts of the same kind.
        """
        scale_parameter = function(self.scale, 2) if self.scale_tril is None else function(self.scale_tril, 3)
        return self.like(function(self.loc, 2), scale_parameter, None if self.complete else function(self.mask, 1))

    def like(
        self,
        loc: Float[Tensor, "*batch modality latent"],
        scale_parameter: Float[Tensor, ...],
        present: Bool[Tensor, "*#batch modality"] | None,
    ) -> Experts:
        """Other experts of the same kind, unchecked.

        Args:
            loc: locations.
            scale_parameter: their scale or, for full covariances, their scale_tril.
            present: which were observed; None for all of them.
        """
        name = "scale" if self.scale_tril is None else "scale_tril"
        return self._rebuilt(loc=loc, present=present, **{name: scale_parameter})

    def _rebuilt(self, **changes: Any) -> Experts:
        if self.scale_tril is not None:
            changes["scale"] = None  # computed from it
        return replace(self, **changes, validate_args=False, cov_factor=None)


def standard_deviation(family: str, df: float | None = None) -> float:
    """That of the member of a family with scale 1."""
    if family == "student_t":
        if df is None:
            raise ValueError("the standard deviation of family 'student_t' depends on df")
        return math.sqrt(df / (df - 2))
    return {"normal": 1.0, "laplace": math.sqrt(2.0), "logistic": math.pi / math.sqrt(3.0)}[family]


def _describe(value: object) -> str:
    return f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__


def _slots(present: Tensor, tensor: Tensor) -> Tensor:
    """``present`` as it broadcasts to one of the experts' tensors."""
    return present.reshape(present.shape + (1,) * (tensor.dim() - present.dim()))


def _filled(tensors: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
    """Loc 0, scale 1, no correlation where absent."""
    filled = {}
    for name, tensor in tensors.items():
        value = tensor.masked_fill(~_slots(present, tensor), 1.0 if name == "scale" else 0.0)
        if name == "scale_tril":
            value = value + torch.diag_embed((~present).to(value).unsqueeze(-1).expand(value.shape[:-1]))
        filled[name] = value
    return filled


def _not_triangular(tril: Tensor) -> Tensor:
    """Entries that no lower triangular matrix with positive diagonal has."""
    diagonal = torch.eye(tril.shape[-1], dtype=torch.bool, device=tril.device)
    return ((tril != 0) & ~torch.ones_like(diagonal).tril()) | (~(tril > 0) & diagonal)


def _broadcast(name: str, tensor: Tensor, shape: Sequence[int]) -> Tensor:
    try:
        return tensor.expand(*shape)
    except RuntimeError:
        raise ValueError(
            f"Experts: {name} of shape {tuple(tensor.shape)} does not broadcast to {tuple(shape)}"
        ) from None
