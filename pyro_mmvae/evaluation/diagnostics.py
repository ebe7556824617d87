"""Does the guide fit, do the experts agree, and what to do where figures look wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pyro_mmvae.evaluation.latent_usage import ACTIVE_VARIANCE
from pyro_mmvae.evaluation.metrics import Metric

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


@dataclass(frozen=True)
class Finding:
    """A failure mode that the figures show.

    Attributes:
        mode: its name, the same for every modality, pair or subset that shows it.
        what: was seen, with numbers.
        advice: what to try.
    """

    mode: str
    what: str
    advice: str


def diagnose(
    rows: Iterable[Metric], names: Sequence[str], *, mixture: bool = False, bound: str = "mixture"
) -> list[Finding]:
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
) -> list[Finding]:
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
            found.append((distance / expected, Finding("experts far apart", what, why + ", ".join(advice))))
    return [warning for _, warning in sorted(found, key=lambda pair: -pair[0])]


def _collapsed(kls: dict[str, float], spreads: dict[str, float]) -> list[Finding]:
    found = []
    for name in {**kls, **spreads}:
        kl, spread = kls.get(name, math.inf), spreads.get(name, math.inf)
        if kl < COLLAPSED_KL or spread**2 < ACTIVE_VARIANCE:
            found.append(
                Finding(
                    "collapsed modality",
                    f"modality {name} has collapsed: its expert is {kl:.3g} nats from the prior, and its mean varies "
                    f"by {spread:.3g} over items",
                    f"weight its reconstruction more (model.modality_weights), lower beta, or give {name} a sharper "
                    "likelihood or a larger encoder",
                )
            )
    return found


def _dominating(distances: dict[str, float], scales: dict[str, float]) -> list[Finding]:
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
            f"lower the weight of {name} (model.weights), or use a rule in which a small scale does not outvote the "
            "rest: wb, mwb",
        )
    ]


def _unfit(shares: dict[tuple[tuple[str, ...], str], float], mixture: bool) -> list[Finding]:
    advice = "take importance-weighted figures for lower bounds; draw more samples, train longer"
    if not mixture:
        advice += ", or use an aggregation with heavier tails (a mixture)"
    return [
        Finding(
            "unfit guide",
            f"the guide given {', '.join(given) or 'nothing'} does not fit: k-hat is above its threshold for "
            f"{share:.0%} of the items",
            advice,
        )
        for (given, _), share in sorted(shares.items(), key=lambda item: -item[1])
        if share > BAD_KHAT_SHARE
    ]


def _latent(whole: dict[str, float], items: int) -> list[Finding]:
    found = []
    if whole.get("active_share", 1.0) < FEW_ACTIVE:
        found.append(
            Finding(
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
            Finding(
                "posterior far from the prior",
                f"the aggregated posterior is {distance:.3g} nats from the prior",
                "draws from the prior will be poor: raise beta, train longer, or fit a prior to the posteriors",
            )
        )
    return found
