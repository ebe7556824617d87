"""The consensus of dependent experts as an aggregation."""

from __future__ import annotations

from functools import partial
from typing import Any

from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Tensor
from pyro_mmvae.aggregation.kinds import FusionRules, diagonal_rule
from pyro_mmvae.aggregation.rules import MatrixRule
from pyro_mmvae.barycenters.consensus import consensus
from pyro_mmvae.experts import Experts


class ConsensusOfExperts(MatrixRule):
    r"""The consensus of dependent experts (``code``, the aggregation of CoDE-VAE).

    In each latent dimension the experts are estimates whose errors have the covariance
    :math:`\Sigma_{ij} = \rho \, \sigma_i \sigma_j` for i ≠ j, and :math:`\Sigma_{ii} = \sigma_i^2`:

    .. math:: P = 1^\top \Sigma^{-1} 1, \qquad \mathrm{loc} = P^{-1} \, 1^\top \Sigma^{-1} (\mathrm{loc}_m)_m

    at a cost linear in the number of modalities. ρ = 0 is the product of experts without a prior expert. As ρ tends to
    1, experts of equal scales tend to their Wasserstein barycenter; the precision of others grows without bound, so
    that ρ = 1 raises an error for them. The result can be more precise than any product of its experts, and where ρ
    exceeds the ratio of two scales its loc can lie outside of the range of the experts' locs.

    An expert of weight λ = 2 counts as two experts whose errors have correlation ρ, and one of weight 0 is as good as
    absent. A prior expert is independent of the others. Only diagonal Gaussians are accepted, since a correlation of
    experts with full covariances depends on the choice of a square root.

    Args:
        rho: The correlation ρ of the errors of any two experts, from 0 to 1; 0.5 by default.
        **options: The keywords of :class:`Aggregation`.

    Raises:
        ValueError: If ρ is not a number from 0 to 1; at a call if it is 1 and experts of an item differ in scale.

    References:
        Mancisidor et al., 2025. Aggregation of dependent expert distributions in multimodal variational autoencoders.
        ICML, arXiv 2505.01134.
        Winkler, 1981. Combining probability distributions from dependent information sources. Management Science 27(4).

    Example:
        >>> import torch
        >>> experts = Experts(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0]]))
        >>> posterior = ConsensusOfExperts(0.5)(experts)
        >>> posterior.mean.item(), round(posterior.variance.item(), 6)
        (1.0, 0.75)
    """

    fusion_rules: FusionRules = {"normal": diagonal_rule(consensus)}  # replaced by that of ρ at each call
    normalised = False

    def __init__(self, rho: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        if isinstance(rho, bool) or not isinstance(rho, (int, float)) or not 0 <= rho <= 1:
            raise ValueError(f"rho must be a number from 0 to 1, got {rho!r}")
        self.rho = float(rho)
        self.name = f"code:{self.rho:g}"

    def fuse(self, experts: Experts, rows: Tensor, *, single: bool) -> TorchDistribution:
        """Return the components of a matrix W."""
        rule = partial(consensus, rho=self.rho, has_prior=bool(rows.shape[-1] > experts.num_modalities))
        loc, scale = self.prior_for(experts)
        return diagonal_rule(rule)(experts, (loc.unsqueeze(-2), scale.unsqueeze(-2)), rows, single=single)
