"""What every likelihood is: a module from a decoder's output to a distribution."""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from pyro_mmvae._typing import Tensor


class Likelihood(nn.Module):
    """Turns a decoder's output into the distribution of one modality.

    Args:
        shape: of one item.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """What the decoder must give for one item."""
        return self.shape

    def features(self, value: Tensor) -> Tensor:
        """Observations as the encoder sees them, `(*batch, *parameter_shape)`."""
        return value

    @abstractmethod
    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """The distribution of `(*batch, *shape)` given `(*batch, *parameter_shape)`.

        Args:
            parameters: what the decoder gives, with any leading dimensions before those of the items.
            observed: `(item, *shape)`, for likelihoods that are conditional on something known of each item, as a size
                factor is; 0 in absent slots. Others do not look at it.
        """

    def mean(self, parameters: Tensor) -> Tensor:
        """Its mean, for pictures and summaries."""
        return cast("Tensor", self(parameters).mean)
