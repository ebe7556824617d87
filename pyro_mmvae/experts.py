"""Unimodal posteriors of one latent, held together: what every aggregation starts from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch.distributions import Distribution

from pyro_mmvae._typing import Bool, Float, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, eq=False)
class Experts:
    r"""Diagonal Gaussian experts :math:`q_m(z \mid x_m) = N(\mathrm{loc}_m, \mathrm{diag}(\mathrm{scale}_m^2))`.

    What stands in an absent slot never matters: it is replaced by loc 0 and scale 1 here, once, so that a NaN there
    reaches neither a value nor a gradient of anything computed from these experts.

    Args:
        loc: means, `(*batch, modality, latent)`, float.
        scale: standard deviations (not variances), broadcastable to ``loc``: an isotropic expert may give
            `(*batch, modality, 1)`.
        present: which modality of which item was observed, bool, broadcastable to `(*batch, modality)`; all of them
            by default.
        validate_args: check values (this reads them, so it waits for an accelerator). By default as torch's
            distributions do, that is unless ``pyro.enable_validation(False)``. Shapes and types are always checked.

    Raises:
        TypeError: if ``loc`` or ``scale`` is not floating point or ``present`` is not bool.
        ValueError: if the shapes do not fit, or if on a present slot a loc is not finite or a scale is not finite and
            positive. The message names the first such slot.

    Example:
        >>> experts = Experts(torch.zeros(8, 2, 3), torch.ones(8, 2, 3))
        >>> experts.batch_shape, experts.num_modalities, experts.latent_size
        (torch.Size([8]), 2, 3)
    """

    loc: Float[Tensor, "*batch modality latent"]
    scale: Float[Tensor, "*#batch modality #latent"]
    present: Bool[Tensor, "*#batch modality"] | None = None
    validate_args: bool | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Broadcast, check, and fill absent slots."""
        loc, scale = self.loc, self.scale
        for name, tensor in (("loc", loc), ("scale", scale)):
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                raise TypeError(f"Experts: {name} must be a floating point tensor, got {_describe(tensor)}")
        if loc.dim() < 2 or min(loc.shape[-2:]) < 1:
            raise ValueError(
                f"Experts: loc must have shape (*batch, modality, latent) with at least one modality and one latent "
                f"dimension, got {tuple(loc.shape)}"
            )
        scale = _broadcast("scale", scale, loc.shape)
        present = self.present
        if present is None:
            present = torch.ones(loc.shape[:-1], dtype=torch.bool, device=loc.device)
            self._check_values(loc, scale, present)
        else:
            if not isinstance(present, Tensor) or present.dtype != torch.bool:
                raise TypeError(f"Experts: present must be a bool tensor, got {_describe(present)}")
            present = _broadcast("present", present, loc.shape[:-1])
            self._check_values(loc, scale, present)
            slot = present.unsqueeze(-1)
            loc, scale = loc.masked_fill(~slot, 0.0), scale.masked_fill(~slot, 1.0)
        for name, value in (("loc", loc), ("scale", scale), ("present", present)):
            object.__setattr__(self, name, value)

    def _check_values(self, loc: Tensor, scale: Tensor, present: Tensor) -> None:
        check = Distribution._validate_args if self.validate_args is None else self.validate_args
        if not check:
            return
        slot = present.unsqueeze(-1)
        for name, tensor, wrong, wanted in (
            ("loc", loc, ~loc.isfinite(), "finite"),
            ("scale", scale, ~(scale.isfinite() & (scale > 0)), "finite and positive"),
        ):
            at = (wrong & slot).nonzero()
            if len(at):
                index = tuple(int(i) for i in at[0])
                raise ValueError(
                    f"Experts: {name} must be {wanted} where the modality is present, but {name}{list(index)} "
                    f"(modality {index[-2]}) is {tensor[index].item()}; {len(at)} such values"
                )

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

    def given(self, members: Bool[Tensor, "*#batch modality"] | Sequence[int]) -> Experts:
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
        return replace(self, present=self.mask & members, validate_args=False)


def _describe(value: object) -> str:
    return f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__


def _broadcast(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    try:
        return tensor.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"Experts: {name} of shape {tuple(tensor.shape)} does not broadcast to {tuple(shape)}"
        ) from None
