"""The base class of likelihoods: modules from a decoder's output to a distribution."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, cast

from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from pyro_mmvae._typing import Tensor


class Likelihood(nn.Module):
    """A module that turns the output of a decoder into the distribution of one modality.

    A custom likelihood defines :meth:`forward`, and overrides the other members where their defaults do not fit. It is
    passed as ``Modality(likelihood=…)``, or registered under a name, see
    :func:`~pyro_mmvae.likelihoods.register_likelihood`.

    Args:
        shape: Shape of one item.

    Attributes:
        is_categorical: True if values are classes without an order, so that :meth:`mean` gives probabilities with one
            more axis than a value has, and a prediction is compared with a value by equality.
        has_size_factor: True if a distribution depends on the total of the observations that it is a distribution of.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> class StudentT(Likelihood):
        ...     def forward(self, parameters, observed=None):
        ...         return dist.StudentT(4.0, parameters, 1.0).to_event(len(self.shape))
        >>> StudentT((5,))(torch.zeros(8, 5)).event_shape
        torch.Size([5])
    """

    is_categorical: ClassVar[bool] = False
    has_size_factor: ClassVar[bool] = False

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one item as the encoder sees it; ``shape`` by default."""
        return self.shape

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of the decoder's output for one item; ``shape`` by default."""
        return self.shape

    def features(self, value: Tensor) -> Tensor:
        """Return observations as the encoder sees them, `(item, *feature_shape)`; unchanged by default."""
        return value

    @abstractmethod
    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of values given the decoder's output.

        Args:
            parameters: Output of the decoder, `(*batch, *parameter_shape)`; the last batch dimension is that of items.
            observed: Observations `(item, *shape)`, 0 in absent slots, for likelihoods that condition on a quantity
                known of each item, such as a size factor. Other likelihoods ignore it. None by default.

        Returns:
            A distribution of batch shape `batch` and event shape `shape`.
        """

    def without_observed(self, distribution: TorchDistribution, observed: Tensor) -> TorchDistribution:
        """Return the distribution of new values of items of which this modality is not known.

        Args:
            distribution: What :meth:`forward` returned for ``observed``.
            observed: Observations `(item, *shape)`, 0 in absent slots.

        Returns:
            The distribution itself by default. A likelihood that conditions on a quantity known of each item, such as a
            size factor, returns one in which that quantity is drawn instead.
        """
        return distribution

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the mean of values, `(*batch, *shape)`; class probabilities for a categorical likelihood.

        Args:
            parameters: Output of the decoder, `(*batch, *parameter_shape)`.
        """
        return cast("Tensor", self(parameters).mean)

    def point(self, mean: Tensor) -> Tensor:
        """Return the value `(*batch, *shape)` that stands for a distribution in pictures, tables and files.

        Args:
            mean: Output of :meth:`mean`. By default it is returned as it is; a categorical likelihood returns the most
                probable class.
        """
        return mean


def bounded(parameter: Tensor, least: float, most: float | None = None) -> Tensor:
    """Move a learned parameter back into its bounds if a step has left them, and return it.

    Args:
        parameter: The parameter, of any shape.
        least: The lower bound of its values.
        most: The upper bound of its values; None, the default, for none.
    """
    # Clamping the value alone would cut the gradient beyond the bound, from where the parameter could not return.
    parameter.data.clamp_(least, most)
    return parameter
