"""Use of the latent: KL divergences of posteriors from the prior, and the number of active dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.distributions import kl_divergence

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Tensor
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.gaussian_distances import gaussian_kl
from pyro_mmvae.inference.posteriors import (
    indices_with_all,
    items_at_once,
    posterior_draws,
    posterior_means,
    posterior_variances,
    posteriors,
    select,
    subset_names,
    subset_posterior,
)
from pyro_mmvae.vae.vae import MultimodalVAE

ACTIVE_VARIANCE = 0.01
"""The variance of posterior means over items above which a latent dimension counts as active (Burda et al., 2016). The
variances fall into two groups, far apart on either side of this threshold."""


@torch.no_grad()
def latent_usage(
    vae: MultimodalVAE, experts: Experts, *, subset: Sequence[int], draws: int = 1000, seed: int = 0
) -> list[Metric]:
    r"""Measure the distance of the posteriors from the prior, one by one and aggregated, and count active dimensions.

    ``kl`` is the mean of KL(q(z | x_S) ‖ p). ``aggregate_kl`` is the KL divergence of the aggregated posterior
    :math:`q(z) = \frac1N \sum_n q(z \mid x_n)` from the prior (Hoffman and Johnson, 2016), over all N items at each
    draw. The difference of the two, the information of z about n, is at most log N: if it comes near log N,
    ``aggregate_kl`` reflects N rather than the model. ``aggregate_kl_moments``, the KL divergence of the diagonal
    Gaussian with the moments of q(z), is exact and a lower bound without this problem. ``active_units`` is the number
    of dimensions in which the posterior mean varies over items by more than ``ACTIVE_VARIANCE`` (Burda et al., 2016),
    ``active_share`` their share.

    Args:
        vae: The model, in eval mode. If its prior is not Normal, ``aggregate_kl_moments`` compares the Gaussians with
            the moments of both and is not a bound.
        experts: Experts of N items; those that lack a modality of the subset are left out.
        subset: Indices of the modalities S to condition on.
        draws: The number of draws from q(z), 1,000 by default. Each costs N evaluations of a posterior density.
        seed: The seed of the draws, 0 by default; the states of torch's generators are restored afterwards.

    Returns:
        Five rows with target ``z``, in nats and dimensions.

    Raises:
        ValueError: If no item has every modality of the subset.
    """
    complete = select(experts, indices_with_all(experts, subset))
    count, given = len(complete.loc), subset_names(subset, vae.names)
    means, variances = (f(vae, complete, subset).double() for f in (posterior_means, posterior_variances))
    active = float((means.var(0, correction=0) > ACTIVE_VARIANCE).sum())
    loc, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
    prior_loc, prior_scale = prior_of(vae)
    with seeded(seed, complete.loc.device):
        mean_kl, kl_protocol = _mean_kl(vae, complete, subset)
        aggregate = _aggregate_kl(vae, complete, subset, draws)
    over = f"{count} items"
    figures = (
        ("kl", kl_protocol, mean_kl, count),
        ("aggregate_kl", f"{draws} draws, {over}", aggregate, draws),
        (
            "aggregate_kl_moments",
            f"diagonal, {over}" if _has_normal_prior(vae) else f"diagonal, Gaussians of q(z) and prior, {over}",
            float(gaussian_kl(loc, variance.sqrt(), prior_loc, prior_scale)),
            count,
        ),
        ("active_units", f"variance of means > {ACTIVE_VARIANCE}", active, count),
        ("active_share", f"variance of means > {ACTIVE_VARIANCE}", active / complete.latent_size, count),
    )
    return [Metric(name, protocol, given, "z", value, n, seed) for name, protocol, value, n in figures]


def _mean_kl(vae: MultimodalVAE, experts: Experts, subset: Sequence[int], draws: int = 16) -> tuple[float, str]:
    """Return the mean KL divergence of the posteriors from the prior, and protocol it was computed."""
    total, protocol, prior = 0.0, "closed form", vae.model.prior()
    for posterior in posteriors(vae, experts, subset):
        try:
            total += float(kl_divergence(posterior, prior.expand(posterior.batch_shape)).double().sum())
        except NotImplementedError:
            protocol = f"{draws} draws per item"
            for _ in range(draws):
                z = posterior.sample()
                total += float((posterior.log_prob(z) - prior.log_prob(z)).double().sum()) / draws
    return total / len(experts.loc), protocol


def _aggregate_kl(vae: MultimodalVAE, experts: Experts, subset: Sequence[int], draws: int) -> float:
    """Estimate the KL divergence of the aggregated posterior from the prior by draws."""
    count = len(experts.loc)
    z = posterior_draws(vae, select(experts, torch.randint(count, (draws,)).to(experts.loc.device)), subset)
    size = max(items_at_once(vae, experts, subset) // draws, 1)
    density = z.new_full((draws,), -math.inf, dtype=torch.float64)
    for start in range(0, count, size):
        posterior = subset_posterior(vae, select(experts, slice(start, start + size)), subset)
        at = z.unsqueeze(1).expand(-1, posterior.batch_shape[0], -1)
        density = torch.logaddexp(density, posterior.log_prob(at).double().logsumexp(1))
    return float((density - math.log(count) - vae.model.prior().log_prob(z)).mean())


def prior_of(vae: MultimodalVAE) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of the prior in float64."""
    prior = vae.model.prior()
    return prior.mean.double(), prior.stddev.double()


def _has_normal_prior(vae: MultimodalVAE) -> bool:
    """Return True if the prior of the model is a Normal."""
    return vae.model.prior_family == "normal"
