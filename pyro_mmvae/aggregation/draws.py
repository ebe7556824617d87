"""Component posteriors that draw their subsets at the batch shape to which Pyro expands them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.experts import Experts

if TYPE_CHECKING:
    from pyro_mmvae.aggregation.base import Aggregation

MakeAtShape: TypeAlias = Callable[[torch.Size], TorchDistribution]


class SubsetDraws:
    """The drawn subsets of some items: one set of draws per batch shape.

    Several distributions that belong together, such as those of shared and of private latents, take their subsets from
    one such object.

    Args:
        aggregation: The aggregation, or a view of it whose values are fixed.
        experts: The unimodal posteriors, prepared.
    """

    def __init__(self, aggregation: Aggregation, experts: Experts) -> None:
        self.aggregation, self.experts = aggregation, experts
        self._members: dict[torch.Size, Tensor] = {}
        self._latest: tuple[Experts, Tensor] | None = None

    def members(self, batch_shape: torch.Size) -> Bool[Tensor, "*batch modality"]:
        """Return the subset of each entry of a batch shape, drawn at the first call for that shape.

        Args:
            batch_shape: A shape to which the batch shape of the experts can be expanded.
        """
        if batch_shape not in self._members:
            self._members[batch_shape] = self.aggregation.draw(self._expanded(batch_shape))
        return self._members[batch_shape]

    def latest(self) -> tuple[Experts, Bool[Tensor, "*batch modality"]]:
        """Return the experts and the subsets of the posterior that was made last, at its batch shape.

        A shape of traced tensors, as under ``torch.jit``, would not find them again.

        Raises:
            RuntimeError: If no posterior was made yet.
        """
        if self._latest is None:
            raise RuntimeError("SubsetDraws.latest must be called after posterior(), got no posterior yet")
        return self._latest

    def posterior(self) -> TorchDistribution:
        """Return the posterior of the drawn subsets, which draws others when it is expanded to another batch shape."""
        subsets = self.aggregation.subsets
        if isinstance(subsets, str) and subsets == "all":  # nothing is drawn
            return self._posterior_at(self.experts.batch_shape)
        return redrawn(self._posterior_at, self.experts.batch_shape)

    def _posterior_at(self, batch_shape: torch.Size) -> TorchDistribution:
        with self.aggregation.prepared(self._expanded(batch_shape)) as ready:
            self._latest = ready, self.members(batch_shape)
            return self.aggregation.over_members(*self._latest)

    def _expanded(self, batch_shape: torch.Size) -> Experts:
        if batch_shape == self.experts.batch_shape:
            return self.experts
        return self.experts.map(
            lambda tensor, event_dim: tensor.expand(*batch_shape, *tensor.shape[tensor.dim() - event_dim :])
        )


def redrawn(make: MakeAtShape, batch_shape: torch.Size) -> TorchDistribution:
    """Return a distribution that is made anew, with draws of its own, for each batch shape to which it is expanded.

    Vectorised particles and ``Predictive(parallel=True)`` expand the distribution of a site by a dimension of draws.
    Its type stays what it is, so that closed forms of divergences are found.

    Args:
        make: The function from a batch shape to the distribution.
        batch_shape: The batch shape of the result.
    """
    posterior = make(batch_shape)
    posterior.expand = _Expand(make, posterior)
    return posterior


class _Expand:
    """The method ``expand`` of a distribution that is made anew at each shape."""

    def __init__(self, make: MakeAtShape, posterior: TorchDistribution) -> None:
        self.make, self.batch_shape = make, posterior.batch_shape
        self.posterior: Any = weakref.ref(posterior)  # a cycle would keep the graph until the garbage is collected

    def __call__(self, batch_shape: Any, _instance: Any = None) -> TorchDistribution:
        shape = torch.Size(batch_shape)
        posterior = self.posterior() if shape == self.batch_shape else None
        return redrawn(self.make, shape) if posterior is None else posterior

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles, for which the distribution is made anew."""
        return {**self.__dict__, "posterior": _nothing}


def _nothing() -> None:
    """Return None, as a reference to a distribution that is gone."""
