"""Does the guide fit, do the experts agree, and what to do where figures look wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import kl_divergence

from pyro_mmvae._typing import Tensor
from pyro_mmvae.aggregation.kinds import distribution_of
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.evaluation.likelihood import khat_threshold, psis_khat, sample_importance
from pyro_mmvae.evaluation.metrics import Metric, names_of
from pyro_mmvae.evaluation.posteriors import (
    ACTIVE_VARIANCE,
    density_of,
    draws_at_once,
    gaussian_kl,
    indices_having,
    posterior_means,
    posterior_variances,
    prior_of,
    seeded,
    take,
    w2,
)
from pyro_mmvae.experts import Experts
from pyro_mmvae.vae.vae import MultimodalVAE

MIN_DRAWS = 1000
"""Fewer draws leave fewer than 95 in the tail, 3 √S, that the Pareto shape is fitted to: k̂ would be noise."""

FAR_APART = 3.0
"""Two calibrated experts err on their own around one z, so the root of the sum of their squared scales is the distance
to expect; at three times that, what lies between them is far in the tails of both."""

COLLAPSED_KL = 0.1
"""Nats. The mean KL of an expert to the prior bounds what the latent can say of that modality; ten classes take 2.3."""

DOMINANCE = 0.25
"""The joint posterior is four times as close to one expert as to the next: the others hardly move it."""

DISAGREEMENT = 0.5
"""In scales of an expert. Where the next expert is nearer than that to the joint posterior, they agree."""

BAD_KHAT_SHARE = 0.2
"""For so many items a mean of importance weights has no variance to speak of; a mean over items then rests on them."""

FEW_ACTIVE = 0.1
"""Nine in ten latent dimensions say nothing of the items."""

FAR_PRIOR = 3.0
"""Nats. What the decoders were trained on fills about exp(−3), a twentieth, of the prior."""


@dataclass(frozen=True, eq=False)
class KHat:
    """Pareto shapes of the importance weights of some items.

    Attributes:
        values: k̂ of each item, `(item,)`; infinite where there is no tail to fit.
        items: which of the data they are, `(item,)`.
        threshold: above it the draws are not enough.
        rows: ``khat``, the median, and ``khat_share``, the share of items above the threshold.
    """

    values: NDArray[np.float64]
    items: NDArray[np.int64]
    threshold: float
    rows: list[Metric]


@dataclass(frozen=True)
class Warning_:
    """A failure mode that the figures show.

    Attributes:
        mode: its name, the same for every modality, pair or subset that shows it.
        what: was seen, with numbers.
        advice: what to try.
    """

    mode: str
    what: str
    advice: str


def khat(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    *,
    subset: Sequence[int],
    samples: int = MIN_DRAWS,
    items: int = 100,
    seed: int = 0,
) -> KHat:
    """PSIS k̂ of p(x_S, z) / q(z | x_S) of each item: does the guide given S fit the posterior given S?

    Both sides see the same modalities, with the full mixture density and β = w = 1. (As a proposal for *all* that was
    observed, of which ``ess`` of target ``all`` tells, even the exact posterior given S would look bad.)

    References:
        Yao, Vehtari, Simpson and Gelman, 2018. Yes, but did it work? Evaluating variational inference. ICML.

    Args:
        vae: in eval mode.
        experts: of the items of ``data``.
        data: items.
        subset: S.
        samples: draws an item, ``MIN_DRAWS`` at least.
        items: how many at the most, chosen at random among those that have every modality of the subset.
        seed: of the choice and the draws; torch's generators are put back after.

    Raises:
        ValueError: for too few draws, or if no item has the subset.
    """
    if samples < MIN_DRAWS:
        raise ValueError(f"samples must be at least {MIN_DRAWS} for a Pareto fit, not {samples}")
    index = indices_having(experts, subset).cpu().numpy()
    chosen = np.sort(np.random.default_rng(seed).choice(index, min(items, len(index)), replace=False))
    rows = torch.as_tensor(chosen)
    device = experts.loc.device
    given = names_of(subset, vae.names)
    size = max(draws_at_once(device) // 10, 1)  # few items and several draws of each: their images stay in the caches
    weights = []
    with seeded(seed, device):
        for part in rows.split(size):
            batch = make_batch(data, part.to(data.present.device)).to(device)
            drawn = sample_importance(vae, take(experts, part.to(device)), batch, subset, samples, names=given)
            weights.append(drawn.log_weights(given))
    values = psis_khat(torch.cat(weights, 1))
    threshold = khat_threshold(samples)
    density = "full posterior density" if density_of(vae, experts.num_modalities) == "mixture" else "full component"
    protocol = f"PSIS of p(x_S, z) / q(z | x_S), S={samples}, {density}, {len(chosen)} of {len(index)} items"
    figures = {"khat": float(np.median(values)), "khat_share": float((values > threshold).mean())}
    found = [Metric(name, protocol, given, "", value, len(chosen), seed) for name, value in figures.items()]
    return KHat(values, chosen.astype(np.int64), threshold, found)


@torch.no_grad()
def expert_geometry(vae: MultimodalVAE, experts: Experts) -> list[Metric]:
    r"""How the experts lie to each other, to the joint posterior and to the prior.

    .. math:: W_2^2 = \lVert loc_a - loc_b \rVert^2 + \lVert scale_a - scale_b \rVert^2

    Scales are standard deviations here, also of other families than Gaussians, for which it is as exact. Of full
    covariances they are the marginal ones, and W₂ that of the marginals, which is at most that of the experts.

    Args:
        vae: whose guide aggregates.
        experts: of items.

    Returns:
        Means over items, in units of the latent: ``w2_experts`` (given one expert, target the other; items with both),
        ``w2_to_barycenter`` (to the Gaussian with the moments of the posterior of everything an item has; items with
        another modality too), ``expert_scale`` (root mean square of ‖scale‖) and ``expert_spread`` (root of the
        variance of loc over items, summed over dimensions); ``expert_kl`` to the prior, in nats. What no item has
        gives no row.
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
        there = mask[:, m]
        own_loc, own_scale = loc[there, m], scale[there, m]
        if not len(own_loc):
            continue
        squares = own_scale.square().sum(-1).mean().sqrt(), own_loc.var(0, correction=0).sum().sqrt()
        for metric, value in zip(("expert_scale", "expert_spread"), squares, strict=True):
            rows.append(Metric(metric, "root mean square", (names[m],), "", float(value), len(own_loc), 0))
        add("expert_kl", m, "", *_expert_kl(vae, take(experts, there), m))
        kept = there & several
        add("w2_to_barycenter", m, "", w2(loc[kept, m], scale[kept, m], joint_loc[kept], joint_scale[kept]))
    for a, b in combinations(every, 2):
        kept = mask[:, a] & mask[:, b]
        add("w2_experts", a, names[b], w2(loc[kept, a], scale[kept, a], loc[kept, b], scale[kept, b]))
    return rows


def _expert_kl(vae: MultimodalVAE, experts: Experts, m: int) -> tuple[Tensor, str]:
    """KL divergence of an expert from the prior, and how; where that has no closed form, of Gaussians instead."""
    one = experts.map(lambda tensor, own: tensor[:, m : m + 1].double() if own > 1 else tensor[:, m : m + 1])
    try:
        return kl_divergence(distribution_of(one), vae.model.prior()).squeeze(-1), "closed form"
    except NotImplementedError:
        values = gaussian_kl(one.loc, one.stddev, *prior_of(vae)).squeeze(-1)
        return values, "of Gaussians with the moments of both"


def diagnose(
    rows: Iterable[Metric], names: Sequence[str], *, mixture: bool = False, bound: str = "mixture"
) -> list[Warning_]:
    """Name the failure modes of barycentric multimodal VAEs that some figures show.

    Args:
        rows: of :func:`khat`, :func:`expert_geometry` and ``latent_usage``; what has no rows is not judged. Rows of
            one metric, modalities and target, of several seeds say, are averaged.
        names: of all modalities: active units and the aggregated posterior are judged given all of them.
        mixture: whether the aggregation is a mixture over subsets already, which is then no advice.
        bound: that the guide was trained with, likewise.

    Returns:
        One warning for each mode and modality, pair or subset, the gravest of a mode first; none where all is well.
    """
    values: dict[str, dict[tuple[tuple[str, ...], str], list[float]]] = {}
    counts: dict[str, int] = {}
    for row in rows:
        values.setdefault(row.metric, {}).setdefault((row.given, row.target), []).append(row.value)
        if row.given == tuple(names):
            counts[row.metric] = row.n
    figures = {name: {key: float(np.mean(v)) for key, v in some.items()} for name, some in values.items()}
    alone = {name: {key[0][0]: v for key, v in some.items() if len(key[0]) == 1} for name, some in figures.items()}
    whole = {name: some[tuple(names), "z"] for name, some in figures.items() if (tuple(names), "z") in some}
    return [
        *_far_apart(figures.get("w2_experts", {}), alone.get("expert_scale", {}), mixture, bound),
        *_collapsed(alone.get("expert_kl", {}), alone.get("expert_spread", {})),
        *_dominating(alone.get("w2_to_barycenter", {}), alone.get("expert_scale", {})),
        *_unfit(figures.get("khat_share", {}), mixture),
        *_latent(whole, counts.get("kl", 0)),
    ]


def _far_apart(
    pairs: dict[tuple[tuple[str, ...], str], float], scales: dict[str, float], mixture: bool, bound: str
) -> list[Warning_]:
    found = []
    advice = ["train longer", *["draw subsets in training (bound='component')"] * (mixture and bound != "component")]
    if not mixture:
        advice = ["use a mixture over subsets (mwb, mopoe)", *advice]
    for (given, b), distance in pairs.items():
        expected = math.hypot(scales.get(given[0], math.inf), scales.get(b, math.inf))
        if distance > FAR_APART * expected:
            what = (
                f"experts {given[0]} and {b} are {distance:.3g} apart, {distance / expected:.1f} times what their "
                "scales let expect"
            )
            why = "what lies between them is where neither has mass: "
            found.append((distance / expected, Warning_("experts far apart", what, why + ", ".join(advice))))
    return [warning for _, warning in sorted(found, key=lambda pair: -pair[0])]


def _collapsed(kls: dict[str, float], spreads: dict[str, float]) -> list[Warning_]:
    found = []
    for name in {**kls, **spreads}:
        kl, spread = kls.get(name, math.inf), spreads.get(name, math.inf)
        if kl < COLLAPSED_KL or spread**2 < ACTIVE_VARIANCE:
            found.append(
                Warning_(
                    "collapsed modality",
                    f"modality {name} has collapsed: its expert is {kl:.3g} nats from the prior, and its mean varies "
                    f"by {spread:.3g} over items",
                    f"weight its reconstruction more (model.reconstruction_weights), lower beta, or give {name} a "
                    "sharper likelihood or a larger encoder",
                )
            )
    return found


def _dominating(distances: dict[str, float], scales: dict[str, float]) -> list[Warning_]:
    if len(distances) < 2:
        return []
    (least, name), (second, other) = sorted((value, name) for name, value in distances.items())[:2]
    if least >= DOMINANCE * second or second <= DISAGREEMENT * scales.get(other, math.inf):
        return []
    return [
        Warning_(
            "dominating modality",
            f"modality {name} dominates: its expert is {least:.3g} from the joint posterior, the next one, {other}, "
            f"{second:.3g}",
            f"lower the weight of {name} (model.weights), or use a rule in which a small scale does not outvote the "
            "rest: wb, mwb",
        )
    ]


def _unfit(shares: dict[tuple[tuple[str, ...], str], float], mixture: bool) -> list[Warning_]:
    advice = "take importance-weighted figures for lower bounds; draw more samples, train longer"
    if not mixture:
        advice += ", or use an aggregation with heavier tails (a mixture)"
    return [
        Warning_(
            "unfit guide",
            f"the guide given {', '.join(given) or 'nothing'} does not fit: k-hat is above its threshold for "
            f"{share:.0%} of the items",
            advice,
        )
        for (given, _), share in sorted(shares.items(), key=lambda item: -item[1])
        if share > BAD_KHAT_SHARE
    ]


def _latent(whole: dict[str, float], items: int) -> list[Warning_]:
    found = []
    if whole.get("active_share", 1.0) < FEW_ACTIVE:
        found.append(
            Warning_(
                "inactive latent",
                f"only {whole['active_share']:.0%} of the latent dimensions are active",
                "lower beta or warm it up, sharpen the likelihood, or take a smaller latent",
            )
        )
    bound, sampled = whole.get("aggregate_kl_moments", 0.0), whole.get("aggregate_kl", 0.0)
    # Near log N the items are told apart by their latents alone, and the sampled KL is about N, not about the model.
    told_apart = whole.get("kl", math.inf) - sampled > math.log(max(items, 1)) - 1
    distance = bound if told_apart else max(bound, sampled)
    if distance > FAR_PRIOR:
        found.append(
            Warning_(
                "posterior far from the prior",
                f"the aggregated posterior is {distance:.3g} nats from the prior",
                "draws from the prior will be poor: raise beta, train longer, or fit a prior to the posteriors",
            )
        )
    return found
