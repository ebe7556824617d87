"""Findings: failure modes that the figures of an evaluation show, each with advice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pyro_mmvae.evaluation.latent import ACTIVE_VARIANCE
from pyro_mmvae.evaluation.metrics import Metric

FAR_APART = 3.0
"""The distance of two experts, in multiples of the expected one, above which they count as far apart. Two calibrated
experts err independently around one z, so the expected distance is the root of the sum of their squared scales; at
three times that, the points between them are far in the tails of both. A rule that is not a mixture never trains an
expert by itself, so that well-trained barycenters exceed this; it is a warning all the same, because what they generate
from single modalities is poor."""

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


@dataclass(frozen=True)
class Finding:
    """A failure mode that the figures show, with advice.

    Attributes:
        mode: The name of the failure mode, shared by all modalities, pairs and subsets that show it.
        what: A description of what was observed, with numbers.
        advice: The remedies to try, by names of settings and options; empty if the finding is a note that restricts the
            meaning of other figures and not a failure.
    """

    mode: str
    what: str
    advice: str


def diagnose(
    rows: Iterable[Metric],
    names: Sequence[str],
    *,
    mixture: bool = False,
    bound: str = "mixture",
    has_fitted_prior: bool = False,
) -> list[Finding]:
    """Find the failure modes of barycentric multimodal VAEs that some figures show.

    Args:
        rows: Figures of :func:`~pyro_mmvae.evaluation.khat`, :func:`~pyro_mmvae.evaluation.expert_geometry` and
            :func:`~pyro_mmvae.evaluation.latent_usage`. A failure mode whose figures are missing is not judged. Rows
            with equal metric, ``given`` and target, such as those of several seeds, are averaged.
        names: The names of all modalities; active units and the aggregated posterior are judged given all of them.
        mixture: If True, the aggregation is a mixture over subsets, which is then not advised; False by default.
        bound: The bound that the guide was trained with, ``mixture`` (the default) or ``component``; the latter is then
            not advised.
        has_fitted_prior: If True, a prior was fitted to the aggregated posterior, which is then not advised; False by
            default.

    Returns:
        One finding for each failure mode and modality, pair or subset, the gravest of each mode first; empty if all is
        well.
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
    return [
        *_far_apart(figures.get("w2_experts", {}), alone.get("expert_scale", {}), mixture, bound),
        *_collapsed(alone.get("expert_kl", {}), alone.get("expert_spread", {})),
        *_dominating(alone.get("w2_to_barycenter", {}), alone.get("expert_scale", {})),
        *_unfit(figures.get("khat_share", {})),
        *_latent(whole, counts.get("kl", 0), has_fitted_prior),
    ]


def _far_apart(
    pairs: dict[tuple[tuple[str, ...], str], float], scales: dict[str, float], mixture: bool, bound: str
) -> list[Finding]:
    """Find pairs of experts whose distance exceeds the expected one by a factor of ``FAR_APART``."""
    findings = []
    # More epochs do not help a rule that is not a mixture: nothing trains its experts one by one.
    advice = (
        ["more --epochs", "a smaller train.lr"] if mixture else ["a mixture over subsets (--agg mwb or --agg mopoe)"]
    )
    if mixture and bound != "component":
        advice.append("drawn subsets in training (--bound component)")
    for (given, b), distance in pairs.items():
        expected = math.hypot(scales.get(given[0], math.inf), scales.get(b, math.inf))
        if distance > FAR_APART * expected:
            what = (
                f"experts {given[0]} and {b} are {distance:.3g} apart, {distance / expected:.1f} times the distance "
                "expected from their scales, and neither has mass between them"
            )
            findings.append((distance / expected, Finding("experts far apart", what, ", ".join(advice))))
    return [finding for _, finding in sorted(findings, key=lambda pair: -pair[0])]


def _collapsed(kls: dict[str, float], spreads: dict[str, float]) -> list[Finding]:
    """Find modalities whose expert is close to the prior or hardly varies over items."""
    findings = []
    for name in {**kls, **spreads}:
        kl, spread = kls.get(name, math.inf), spreads.get(name, math.inf)
        if kl < COLLAPSED_KL or spread**2 < ACTIVE_VARIANCE:
            findings.append(
                Finding(
                    "collapsed modality",
                    f"modality {name} has collapsed: its expert is {kl:.3g} nats from the prior, and its mean varies "
                    f"by {spread:.3g} over items",
                    f"a smaller model.beta, a larger model.reconstruction_weights.{name}, or a smaller "
                    f"model.modalities.{name}.scale",
                )
            )
    return findings


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
            "an aggregation in which a small scale does not outweigh other experts (--agg wb or --agg mwb), or a "
            f"smaller weight of {name} in model.expert_weights",
        )
    ]


def _unfit(shares: dict[tuple[tuple[str, ...], str], float]) -> list[Finding]:
    """Find subsets given which the guide does not cover the posterior, so that log likelihoods are lower bounds."""
    return [
        Finding(
            "unfit guide",
            f"log likelihoods given {', '.join(given) or 'nothing'} are lower bounds: k-hat is above its threshold for "
            f"{share:.0%} of the items",
            "",
        )
        for (given, _), share in sorted(shares.items(), key=lambda item: -item[1])
        if share > BAD_KHAT_SHARE
    ]


def _latent(whole: dict[str, float], items: int, has_fitted_prior: bool) -> list[Finding]:
    """Find an inactive latent, and an aggregated posterior that is far from the prior."""
    findings = []
    if whole.get("active_share", 1.0) < FEW_ACTIVE:
        findings.append(
            Finding(
                "inactive latent",
                f"only {whole['active_share']:.0%} of the latent dimensions are active",
                # A smaller latent leaves out idle dimensions, but makes none active.
                "a smaller model.beta or model.scale"
                + (", or a smaller model.latent_size" if whole["active_share"] else ""),
            )
        )
    bound, sampled = whole.get("aggregate_kl_moments", 0.0), whole.get("aggregate_kl", 0.0)
    # If the information of z about the item comes near its maximum log N, the sampled KL reflects N, not the model.
    saturated = whole.get("kl", math.inf) - sampled > math.log(max(items, 1)) - 1
    distance = bound if saturated else max(bound, sampled)
    if distance > FAR_PRIOR:
        what = f"the aggregated posterior is {distance:.3g} nats from the prior, from which draws are therefore poor"
        advice = "more --epochs, a smaller train.lr, or a larger model.beta"
        if has_fitted_prior:
            what += "; those of the fitted prior are not concerned"
        else:
            advice = f"a prior fitted to it (pyro-mmvae fit-prior RUN), {advice}"
        findings.append(Finding("posterior far from the prior", what, advice))
    return findings
