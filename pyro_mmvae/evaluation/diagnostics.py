"""Findings: failure modes that the figures of an evaluation show, each with advice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pyro_mmvae.evaluation.finding import Finding
from pyro_mmvae.evaluation.latent import ACTIVE_VARIANCE
from pyro_mmvae.evaluation.learning import diverged, lost_pairing, others, shared_residuals, short_training
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.pareto import draws_needed

FAR_APART = 3.0
"""The distance of two experts, in multiples of the expected one, above which they count as far apart. Two calibrated
experts err independently around one z, so the expected distance is the root of the sum of their squared scales; at
three times that, the points between them are far in the tails of both. A rule that is not a mixture never trains an
expert by itself, so that well-trained barycenters exceed this; it is a warning all the same, because what they generate
from single modalities is poor. Mixtures are not judged: each of their experts is trained by itself, and well-trained
ones are up to eight times the expected distance apart where modalities have much of their own."""

COLLAPSED_KL = 0.1
"""The mean KL divergence of an expert from the prior, in nats, below which its modality counts as collapsed. It bounds
the information of the latent about the modality; to tell ten classes apart takes 2.3 nats."""

DOMINANCE = 0.25
"""The ratio of the two smallest distances to the joint posterior below which the nearest expert dominates: if the next
one is four times as far away, the other experts hardly move the posterior."""

DISAGREEMENT = 0.5
"""The distance of the second-nearest expert to the joint posterior, in scales of that expert, up to which the experts
agree and none dominates."""

BAD_KHAT_SHARE = 0.2
"""The share of items with k̂ above its threshold from which importance-weighted figures count as bounds. The
importance-weighted averages of these items are unreliable, and so is a mean over items that contains them. Nearly every
guide that was tried exceeds it given a single modality, good ones too, so that this is a note and not a warning."""

FEW_ACTIVE = 0.1
"""The share of active dimensions below which the latent counts as inactive: nine in ten dimensions then carry no
information about the items."""

FAR_PRIOR = 3.0
"""The KL divergence of the aggregated posterior from the prior, in nats, above which the two count as far apart. The
region that the decoders were trained on then fills about exp(−3), a twentieth, of the prior."""


def diagnose(
    rows: Iterable[Metric],
    names: Sequence[str],
    *,
    mixture: bool = False,
    has_fitted_prior: bool = False,
    history: Sequence[Mapping[str, Any]] = (),
) -> list[Finding]:
    """Find the failure modes of barycentric multimodal VAEs that some figures show.

    A cause hides its consequences: after a diverged training nothing else is judged but k̂, and after a short one only
    what a longer one does not mend by itself.

    Args:
        rows: Figures of :func:`~pyro_mmvae.evaluation.khat`, :func:`~pyro_mmvae.evaluation.expert_geometry`,
            :func:`~pyro_mmvae.evaluation.latent_usage` and :func:`~pyro_mmvae.evaluation.residuals`. A failure mode
            whose figures are missing is not judged. Rows with equal metric, ``given`` and target, such as those of
            several seeds, are averaged.
        names: The names of all modalities; active units and the aggregated posterior are judged given all of them.
        mixture: If True, the aggregation is a mixture over subsets, whose experts may be far apart; False by default.
        has_fitted_prior: If True, a prior was fitted to the aggregated posterior, which is then not advised; False by
            default.
        history: The metrics of each epoch of the training, as :func:`~pyro_mmvae.run_files.read_metrics` returns them;
            by default the length of the training is not judged.

    Returns:
        One finding for each failure mode, or for each modality or subset that shows it, the gravest of each mode first;
        empty if all is well.
    """
    values: dict[str, dict[tuple[tuple[str, ...], str], list[float]]] = {}
    counts: dict[str, int] = {}
    for row in rows:
        values.setdefault(row.metric, {}).setdefault((row.given, row.target), []).append(row.value)
        if row.given == tuple(names):
            counts[row.metric] = row.n
    figures = {metric: {key: float(np.mean(v)) for key, v in cells.items()} for metric, cells in values.items()}
    alone = {metric: {key[0][0]: v for key, v in c.items() if len(key[0]) == 1} for metric, c in figures.items()}
    whole = {metric: c[tuple(names), "z"] for metric, c in figures.items() if (tuple(names), "z") in c}
    unfit = _unfit(figures.get("khat_share", {}), figures.get("khat", {}))
    by_target = {metric: {key[1]: value for key, value in cells.items()} for metric, cells in figures.items()}
    if failed := diverged(by_target.get("residual_share", {})):
        return [*failed, *unfit]
    short = short_training(history)
    collapsed = _collapsed(alone.get("expert_kl", {}), alone.get("expert_spread", {}))
    inactive = _inactive(whole)
    dominating = _dominating(alone.get("w2_to_barycenter", {}), alone.get("expert_scale", {}))
    if short:
        return [*short, *collapsed, *dominating, *unfit, *inactive]
    pairing = lost_pairing(
        figures.get("expert_correlation", {}),
        figures.get("expert_correlation_se", {}),
        _collapsed_names(alone.get("expert_kl", {}), alone.get("expert_spread", {})),
    )
    apart = [] if mixture or pairing else _far_apart(figures.get("w2_experts", {}), alone.get("expert_scale", {}))
    shared = [] if collapsed or inactive else shared_residuals(by_target.get("residual_alignment", {}))
    prior = _far_prior(whole, counts.get("kl", 0), has_fitted_prior)
    return [*pairing, *apart, *collapsed, *dominating, *shared, *unfit, *inactive, *prior]


def _far_apart(pairs: dict[tuple[tuple[str, ...], str], float], scales: dict[str, float]) -> list[Finding]:
    """Find pairs of experts whose distance exceeds the expected one by a factor of ``FAR_APART``."""
    ratios = {
        (given[0], b): distance / math.hypot(scales.get(given[0], math.inf), scales.get(b, math.inf))
        for (given, b), distance in pairs.items()
    }
    far = {pair: ratio for pair, ratio in ratios.items() if ratio > FAR_APART}
    if not far:
        return []
    a, b = max(far, key=far.__getitem__)
    what = (
        f"experts {a} and {b} are {pairs[(a,), b]:.3g} apart, {far[a, b]:.1f} times the distance expected from their "
        f"scales, and neither has mass between them{others(len(far))}"
    )
    # More epochs do not help: nothing trains the experts of a single barycenter one by one.
    advice = (
        "a mixture over subsets (--agg mwb or --agg mopoe), which mends what is generated from single modalities but "
        "does not lower k-hat"
    )
    return [Finding("experts far apart", what, advice)]


def _collapsed_names(kls: dict[str, float], spreads: dict[str, float]) -> set[str]:
    """Return the modalities whose expert is close to the prior or hardly varies over items."""
    near = {name for name, kl in kls.items() if kl < COLLAPSED_KL}
    return near | {name for name, spread in spreads.items() if spread**2 < ACTIVE_VARIANCE}


def _collapsed(kls: dict[str, float], spreads: dict[str, float]) -> list[Finding]:
    """Find collapsed modalities."""
    names = _collapsed_names(kls, spreads)
    return [
        Finding(
            "collapsed modality",
            f"modality {name} has collapsed: its expert is {kls.get(name, math.inf):.3g} nats from the prior, and its "
            f"mean varies by {spreads.get(name, math.inf):.3g} over items",
            # The KL term draws an expert without information to the prior; far from it, it was not trained but broken.
            "a smaller train.lr"
            if kls.get(name, 0.0) > FAR_PRIOR
            else f"a smaller model.beta, a larger model.reconstruction_weights.{name}, or a smaller "
            f"model.modalities.{name}.scale",
        )
        for name in {**kls, **spreads}
        if name in names
    ]


def _dominating(distances: dict[str, float], scales: dict[str, float]) -> list[Finding]:
    """Find an expert that determines the joint posterior nearly by itself."""
    if len(distances) < 2:
        return []
    (least, name), (second, other) = sorted((value, name) for name, value in distances.items())[:2]
    if least >= DOMINANCE * second or second <= DISAGREEMENT * scales.get(other, math.inf):
        return []
    return [
        Finding(
            "dominating modality",
            f"modality {name} dominates: its expert is {least:.3g} from the joint posterior, the next one, {other}, "
            f"{second:.3g}",
            "a mixture in which a small scale does not outweigh other experts (--agg mwb)",
        )
    ]


def _unfit(
    shares: dict[tuple[tuple[str, ...], str], float], medians: dict[tuple[tuple[str, ...], str], float]
) -> list[Finding]:
    """Find subsets given which the guide does not cover the posterior, so that log likelihoods are lower bounds."""
    return [
        Finding(
            "unfit guide",
            f"log likelihoods given {', '.join(key[0]) or 'nothing'} are lower bounds: k-hat is above its threshold "
            f"for {share:.0%} of the items{_median(medians.get(key))}; pyro-mmvae evaluate RUN --refine 400 compares "
            "them with those of refined posteriors",
            # No setting is advised: in a latent of many dimensions mixtures have larger k-hat than single barycenters.
            "",
        )
        for key, share in sorted(shares.items(), key=lambda item: -item[1])
        if share > BAD_KHAT_SHARE
    ]


def _median(khat: float | None) -> str:
    """Return what the median k̂ says about the number of draws, as the end of a clause."""
    if khat is None:
        return ""
    draws = draws_needed(khat)
    return f", and its median is {khat:.2g}, " + (
        "at which no number of draws suffices" if math.isinf(draws) else f"which asks for {draws:.2g} draws per item"
    )


def _inactive(whole: dict[str, float]) -> list[Finding]:
    """Find a latent few dimensions of which vary over items."""
    share = whole.get("active_share", 1.0)
    if share >= FEW_ACTIVE:
        return []
    # A smaller latent leaves out idle dimensions, but makes none active.
    advice = "a smaller model.beta or model.scale" + (", or a smaller model.latent_size" if share else "")
    return [Finding("inactive latent", f"only {share:.0%} of the latent dimensions are active", advice)]


def _far_prior(whole: dict[str, float], items: int, has_fitted_prior: bool) -> list[Finding]:
    """Find an aggregated posterior that is far from the prior."""
    bound, sampled = whole.get("aggregate_kl_moments", 0.0), whole.get("aggregate_kl", 0.0)
    # If the information of z about the item comes near its maximum log N, the sampled KL reflects N, not the model.
    saturated = whole.get("kl", math.inf) - sampled > math.log(max(items, 1)) - 1
    distance = bound if saturated else max(bound, sampled)
    if distance <= FAR_PRIOR:
        return []
    what = f"the aggregated posterior is {distance:.3g} nats from the prior, from which draws are therefore poor"
    advice = "a prior fitted to it (pyro-mmvae fit-prior RUN)"
    if has_fitted_prior:  # which makes it a note about the model's own prior
        what, advice = f"{what}; those of the fitted prior are not concerned", ""
    return [Finding("posterior far from the prior", what, advice)]
