"""Densities of several modalities of one shape at once, for Pyro sites that stay one a modality."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.likelihoods.shared_scale import _SharedScale
from pyro_mmvae.stacked import adjacent


def join(
    sites: Sequence[TorchDistribution],
    values: Sequence[Tensor],
    parts: Sequence[Tensor],
    whole: Float[Tensor, "*batch item modality *event"],
) -> bool:
    """Have the log densities of what was observed of several modalities computed in one go, where that is possible.

    It is for distributions of one family with one scale for a whole event, and for observations that lie one after the
    other in memory. Each distribution stays what it was: asked for the log density of the very tensor that was
    observed it takes its part of the whole, and computes that of any other by itself.

    Args:
        sites: of each modality, its distribution.
        values: of each, what was observed, `(item, *event)`.
        parts: of each, what the decoder gave, `(*batch, item, *event)`. Where a location is another, nothing is joined.
        whole: all of these.

    Returns:
        Whether it is so.
    """
    alike = [site for site in sites if isinstance(site, _SharedScale) and type(site) is type(sites[0])]
    if not 1 < len(alike) == len(sites) or any(_is_array(site.given_scale) for site in alike):
        return False
    if any(site.loc is not part for site, part in zip(alike, parts, strict=True)):
        return False
    stacked = adjacent(values)
    if stacked is None or stacked.shape[2:] != alike[0].event_shape:
        return False
    joint = JointDensity(alike, values, stacked, whole)
    for place, site in enumerate(alike):
        site.joint = (joint, place)
    return True


class JointDensity:
    """The log densities of several modalities, computed when the first of them is asked for.

    Args:
        sites: the distributions, of one family and event shape.
        values: what was observed of each.
        stacked: the same as one tensor, `(item, modality, *event)`.
        locations: `(*batch, item, modality, *event)`.
    """

    def __init__(
        self, sites: Sequence[_SharedScale], values: Sequence[Tensor], stacked: Tensor, locations: Tensor
    ) -> None:
        first = sites[0]
        self.values, self.stacked, self.locations = values, stacked, locations
        self.energy = partial(type(first).energy, axes=len(first.event_shape))
        self.precision, self.constant = first.precision(), first.constant()
        scales = {site.given_scale for site in sites}  # a tensor is equal to itself alone
        if len(scales) > 1:
            like = locations.new_empty((), dtype=torch.promote_types(locations.dtype, torch.float32))
            self.precision = torch.stack([torch.as_tensor(site.precision()).to(like) for site in sites])
            self.constant = torch.stack([torch.as_tensor(site.constant()).to(like) for site in sites])
        self._found: dict[bool, Sequence[Tensor]] = {}  # by whether gradients were wanted

    def of(self, place: int, value: Tensor) -> Tensor | None:
        """The log density `(*batch, item)` of one modality; None if the value is not what was observed of it."""
        if value is not self.values[place]:
            return None
        wanted = torch.is_grad_enabled()
        if wanted not in self._found:
            energy = self.energy(self.stacked - self.locations)
            self._found[wanted] = (energy * -self.precision - self.constant).unbind(-1)
        return self._found[wanted][place]


def _is_array(scale: Tensor | float) -> bool:
    return isinstance(scale, Tensor) and scale.dim() > 0
