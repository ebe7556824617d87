"""Geometry of the experts: their distances to one another, to the joint posterior and to the prior."""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch.distributions import kl_divergence

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.aggregation.kinds import distribution_of
from pyro_mmvae.evaluation.latent import prior_of
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.gaussian_distances import gaussian_kl, w2
from pyro_mmvae.inference.posteriors import posterior_means, posterior_variances, select
from pyro_mmvae.vae.vae import MultimodalVAE


@torch.no_grad()
def expert_geometry(vae: MultimodalVAE, experts: Experts) -> list[Metric]:
    r"""Measure the distances of the experts to one another, to the joint posterior and to the prior.

    .. math:: W_2^2 = \lVert loc_a - loc_b \rVert^2 + \lVert scale_a - scale_b \rVert^2

    Scales are standard deviations here, including those of families other than Gaussians, for which the formula is just
    as exact. For full covariances they are the marginal standard deviations, and W₂ is the distance of the marginals, a
    lower bound of the distance of the experts.

    Args:
        vae: The model whose guide aggregates the experts.
        experts: Experts of some items.

    Returns:
        Means over items, in units of the latent unless said otherwise; a row without any item is left out.

        - ``w2_experts``: the distance between two experts (``given`` is one, ``target`` the other), over items with
          both;
        - ``w2_to_barycenter``: the distance of an expert to the Gaussian with the moments of the posterior given all
          modalities of an item, over items with at least one other modality;
        - ``expert_scale``: the root mean square of ‖scale‖;
        - ``expert_spread``: the root of the variance of loc over items, summed over dimensions;
        - ``expert_kl``: the KL divergence of the expert from the prior, in nats;
        - ``expert_correlation``: the correlation of the means of two experts over the items with both, see
          :func:`expert_correlation`, and ``expert_correlation_se``, its standard deviation if their pairing were
          random.
    """
    every, names, mask = range(experts.num_modalities), vae.names, experts.mask
    loc, scale = experts.loc.double(), experts.stddev.double()
    joint_loc = posterior_means(vae, experts, every).double()
    joint_scale = posterior_variances(vae, experts, every).double().sqrt()
    several = mask.sum(-1) > 1
    rows: list[Metric] = []

    def add(metric: str, m: int, target: str, values: Tensor, protocol: str = "mean over items") -> None:
        if values.numel():
            rows.append(Metric(metric, protocol, (names[m],), target, float(values.mean()), values.numel(), 0))

    for m in every:
        present = mask[:, m]
        expert_loc, expert_scale = loc[present, m], scale[present, m]
        if not len(expert_loc):
            continue
        roots = expert_scale.square().sum(-1).mean().sqrt(), expert_loc.var(0, correction=0).sum().sqrt()
        for metric, value in zip(("expert_scale", "expert_spread"), roots, strict=True):
            rows.append(Metric(metric, "root mean square", (names[m],), "", float(value), len(expert_loc), 0))
        add("expert_kl", m, "", *_expert_kl(vae, select(experts, present), m))
        kept = present & several
        add("w2_to_barycenter", m, "", w2(loc[kept, m], scale[kept, m], joint_loc[kept], joint_scale[kept]))
    for a, b in combinations(every, 2):
        kept = mask[:, a] & mask[:, b]
        add("w2_experts", a, names[b], w2(loc[kept, a], scale[kept, a], loc[kept, b], scale[kept, b]))
        if kept.sum() > 1:
            found = expert_correlation(loc[kept, a], loc[kept, b])
            for metric, figure in zip(("expert_correlation", "expert_correlation_se"), found, strict=True):
                if math.isfinite(figure):
                    protocol = "over items and dimensions"
                    rows.append(Metric(metric, protocol, (names[a],), names[b], figure, int(kept.sum()), 0))
    return rows


def expert_correlation(x: Float[Tensor, "item latent"], y: Float[Tensor, "item latent"]) -> tuple[float, float]:
    r"""Return the correlation of the means of two experts, and its standard deviation under random pairing.

    .. math:: r = \frac{tr C_{xy}}{\sqrt{tr C_{xx} \, tr C_{yy}}}, \qquad
        Var(r) = \frac{tr(C_{xx} C_{yy})}{(n - 1) \, tr C_{xx} \, tr C_{yy}}

    C are the covariances over items. The expected squared distance of the experts of one item is smaller than that of
    experts of different items by :math:`2 \, tr C_{xy}`, so that r is 0 if an expert is not nearer to that of its own
    item than to those of others. The variance is that over all permutations of the items of one expert.

    Args:
        x: Means of one expert, of shape `(item, latent)`.
        y: Means of the other expert for the same items, of shape `(item, latent)`.

    Returns:
        The correlation and its standard deviation; NaN if the means of one expert do not vary.
    """
    x, y = x - x.mean(0), y - y.mean(0)
    scale = float(x.square().sum() * y.square().sum())
    if scale == 0 or not math.isfinite(scale):
        return math.nan, math.nan
    # tr(XᵀX YᵀY) = ‖X Yᵀ‖², in terms of matrices of latent by latent, which are smaller than those of item by item.
    variance = float(((x.T @ x) * (y.T @ y)).sum()) / (len(x) - 1) / scale
    return float((x * y).sum()) / math.sqrt(scale), math.sqrt(variance)


def _expert_kl(vae: MultimodalVAE, experts: Experts, m: int) -> tuple[Tensor, str]:
    """Return the KL divergence of an expert from the prior, and how it was computed.

    If the divergence does not have a closed form, that of the Gaussians with the moments of both takes its place.
    """
    one = experts.map(
        lambda tensor, event_dim: tensor[:, m : m + 1].double() if event_dim > 1 else tensor[:, m : m + 1]
    )
    try:
        return kl_divergence(distribution_of(one), vae.model.prior()).squeeze(-1), "closed form"
    except NotImplementedError:
        values = gaussian_kl(one.loc, one.stddev, *prior_of(vae)).squeeze(-1)
        return values, "of Gaussians with the moments of both"
