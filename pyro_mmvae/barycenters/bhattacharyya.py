r"""The Bhattacharyya coefficients of pairs of Gaussians: tensors in, tensors out."""

from __future__ import annotations

import torch

from pyro_mmvae._typing import Float, Tensor


def pair_log_affinities(
    loc: Float[Tensor, "*batch modality latent"], scale: Float[Tensor, "*batch modality latent"]
) -> Float[Tensor, "*batch pair"]:
    r"""Return the logarithm of :math:`S_{ij} = \int \sqrt{q_i q_j}` of every two diagonal Gaussians.

    .. math::
        \log S_{ij} = \sum_d \left( \frac12 \log \frac{2 \sigma_i \sigma_j}{\sigma_i^2 + \sigma_j^2}
        - \frac{(\mathrm{loc}_i - \mathrm{loc}_j)^2}{4 (\sigma_i^2 + \sigma_j^2)} \right)

    References:
        Bhattacharyya, 1943. On a measure of divergence between two statistical populations defined by their probability
        distributions. Bulletin of the Calcutta Mathematical Society 35.

    Args:
        loc: The means of the Gaussians.
        scale: The standard deviations of the Gaussians, positive.

    Returns:
        The logarithms in the order (0, 1), (0, 2), …, (1, 2), …, summed over the latent dimensions.
    """
    first, second = torch.triu_indices(loc.shape[-2], loc.shape[-2], 1, device=loc.device)
    one, other = scale[..., first, :], scale[..., second, :]
    # The ratio of the scales is at most 1, so that no square over- or underflows.
    largest = torch.maximum(one, other)
    ratio = torch.minimum(one, other) / largest
    distance = (loc[..., first, :] - loc[..., second, :]) / largest
    sum_of_squares = 1 + ratio.square()
    return (0.5 * (2 * ratio / sum_of_squares).log() - 0.25 * distance.square() / sum_of_squares).sum(-1)
