"""The exact posterior of single items by Hamiltonian Monte Carlo, the reference for proposals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import MCMC, NUTS
from pyro.ops.stats import split_gelman_rubin

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.evaluation.proposals import GaussianProposal, LatentTarget

_DRAWS, _DRAWS_PER_DIMENSION = 500, 10
_WARMUP = 200
_MAX_TREE_DEPTH = 8  # 255 gradients per draw; near a Gaussian, in its own coordinates, 7 are usual


@dataclass(frozen=True, eq=False)
class Reference:
    """Draws from the exact posterior of an item.

    Attributes:
        draws: The draws of one chain, in float64, of shape `(draw, size)`.
        rhat: The largest split R-hat of all coordinates; near 1 if the chain has converged.
    """

    draws: Float[Tensor, "draw size"]
    rhat: float


def sample_reference(target: LatentTarget, start: GaussianProposal, item: int) -> Reference:
    """Sample the posterior of one item given the decoders, by one chain of NUTS.

    The chain moves in the coordinates in which the starting Gaussian is the standard one, from its mean: 200 steps of
    adaptation, and then 500 draws, or ten per dimension if these are more.

    References:
        Hoffman and Gelman, 2014. The No-U-Turn sampler. JMLR 15.

    Args:
        target: The density of the items.
        start: A Gaussian near the posterior of each item.
        item: The index of the item.
    """
    single = LatentTarget(target.vae, target.batch.rows(slice(item, item + 1)), target.subset)
    loc, scale_tril = start.loc[item], start.scale_tril[item]

    def potential(parameters: dict[str, Tensor]) -> Tensor:
        latents = loc + scale_tril @ parameters["y"]
        return -single(latents.unsqueeze(0)).squeeze(0)

    count = max(_DRAWS, _DRAWS_PER_DIMENSION * target.size)
    kernel: Any = NUTS(potential_fn=potential, max_tree_depth=_MAX_TREE_DEPTH)
    chain: Any = MCMC(
        kernel, count, warmup_steps=_WARMUP, initial_params={"y": torch.zeros_like(loc)}, disable_progbar=True
    )
    chain.run()
    y = chain.get_samples()["y"]
    draws = loc.double() + y.double() @ scale_tril.double().mT
    return Reference(draws, float(split_gelman_rubin(draws.unsqueeze(0), chain_dim=0, sample_dim=1).max()))


def gaussian_kl(draws: Float[Tensor, "sample size"], reference: Float[Tensor, "draw size"]) -> float:
    r"""Return the KL divergence between the Gaussians that have the moments of two sets of draws.

    .. math::
        \frac12 \left( \operatorname{tr}(\Sigma_r^{-1} \Sigma_q) + (\mu_q - \mu_r)^\top \Sigma_r^{-1} (\mu_q - \mu_r)
        - d + \log \frac{\det \Sigma_r}{\det \Sigma_q} \right)

    Args:
        draws: The draws of q, more than they have dimensions.
        reference: The draws of the reference r, more than they have dimensions.

    Returns:
        KL(q ‖ r) in nats. Sampling noise adds about d (d + 3) / 4n to it for n independent draws of the reference.
    """
    loc, other = draws.double().mean(0), reference.double().mean(0)
    tril = torch.linalg.cholesky(draws.double().mT.cov())
    other_tril = torch.linalg.cholesky(reference.double().mT.cov())
    ratio = torch.linalg.solve_triangular(other_tril, tril, upper=False)
    shift = torch.linalg.solve_triangular(other_tril, (loc - other).unsqueeze(-1), upper=False)
    log_ratio = ratio.diagonal().log().sum()
    return float(0.5 * (ratio.square().sum() + shift.square().sum() - len(loc)) - log_ratio)
