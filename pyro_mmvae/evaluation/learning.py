"""Findings about the training and the data: short or diverged training, lost pairing, a latent that is too small."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pyro_mmvae.evaluation.finding import Finding
from pyro_mmvae.run_files import split_names

FEW_STEPS = 200
"""The number of optimizer steps below which a training is too short to judge. Adam moves a weight by about its learning
rate per step (Kingma and Ba, 2015, section 2.1), so that 200 steps at 2e-3 move it by 0.4 at most."""

LATE_GAIN = 0.25
"""The share of the rise of the validation ELBO that the second half of the epochs may contribute. Good runs of 10 to 80
epochs had 5 to 19 per cent, half-trained ones of 2 and 4 epochs 26 per cent and more."""

WORSE_THAN_CONSTANT = 3.0
"""The variance of residuals, as a share of the variance of the values, above which a decoder has diverged. The mean of
all items has the share 1, and good and collapsed runs have no more; a half-trained mixture had 1.6, since the mean of
its posterior lies between the modes. Runs with a far too high learning rate had 9 to 10⁹."""

SHARED_RESIDUALS = 0.3
"""The alignment of the residuals of two modalities above which they share structure that the latent lacks. Good runs
had up to 0.18, and a latent of one dimension for data of four 0.45 to 0.62."""

CHANCE = 4.0
"""The correlation of two experts, in standard deviations under random pairing, up to which it counts as chance.
Shuffled pairs had up to 1.2, and every modality of a good run more than 12 with another one."""

Pairs = Mapping[tuple[tuple[str, ...], str], float]


def short_training(history: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Find a training with few steps, or whose validation ELBO still rose when it ended.

    Args:
        history: One mapping per epoch, as :func:`~pyro_mmvae.run_files.read_metrics` returns them; an empty one is not
            judged.

    Returns:
        At most one finding.
    """
    if not history:
        return []
    steps = int(history[-1].get("step", FEW_STEPS))
    elbos = [float(row["val"]["elbo"]) for row in history if "elbo" in (row.get("val") or {})]
    rise = elbos[-1] - elbos[0] if elbos else 0.0
    late = (elbos[-1] - elbos[(len(elbos) - 1) // 2]) / rise if rise > 0 else 0.0
    if steps >= FEW_STEPS and late <= LATE_GAIN:
        return []
    what = f"training was short: it had {steps} steps"
    if late > LATE_GAIN:
        what += f", and the second half of its epochs contributed {late:.0%} of the rise of the validation ELBO"
    return [Finding("short training", what, "more --epochs")]


def diverged(shares: Mapping[str, float]) -> list[Finding]:
    """Find modalities that are reconstructed worse than by a constant.

    Args:
        shares: Modality to the variance of its residuals, as a share of the variance of its values.

    Returns:
        At most one finding, about the modality with the largest share.
    """
    bad = {name: share for name, share in shares.items() if not share <= WORSE_THAN_CONSTANT}
    if not bad:
        return []
    worst = max(bad, key=lambda name: math.inf if math.isnan(bad[name]) else bad[name])
    what = (
        f"{', '.join(bad)} {'is' if len(bad) == 1 else 'are'} reconstructed worse than by the mean of all items: the "
        f"residuals of {worst} have {bad[worst]:.3g} times the variance of its values"
    )
    return [Finding("diverged training", what, "a smaller train.lr")]


def lost_pairing(correlations: Pairs, deviations: Pairs, collapsed: set[str]) -> list[Finding]:
    """Find modalities whose experts are as near to those of other items as to those of their own item.

    Args:
        correlations: Correlations of pairs of experts.
        deviations: Standard deviations of these correlations under random pairing.
        collapsed: Names of modalities whose experts do not depend on the item, and that are not judged.

    Returns:
        At most one finding, which names all such modalities.
    """
    best: dict[str, float] = {}
    for (given, b), r in correlations.items():
        if not collapsed & {given[0], b} and deviations.get((given, b), 0.0) > 0:
            for name in (given[0], b):
                best[name] = max(best.get(name, -math.inf), r / deviations[given, b])
    alone = [name for name, z in best.items() if z <= CHANCE]
    if not alone:
        return []
    what = (
        f"the expert of {', '.join(alone)} is not nearer to other experts of its item than to those of other items: "
        f"correlations are at most {max(best[name] for name in alone):.1f} standard deviations of random pairs"
    )
    advice = "one order of the items in all modalities; modalities that have nothing in common need separate models"
    return [Finding("lost pairing", what, advice)]


def shared_residuals(alignments: Mapping[str, float]) -> list[Finding]:
    """Find pairs of modalities whose residuals depend on each other.

    Args:
        alignments: Pairs of modalities, joined by ``+``, to the alignment of their residuals.

    Returns:
        At most one finding, about the pair with the largest alignment.
    """
    bad = {pair: value for pair, value in alignments.items() if value > SHARED_RESIDUALS}
    if not bad:
        return []
    pair = max(bad, key=bad.__getitem__)
    a, b = split_names(pair)
    what = (
        f"{a} and {b} share what the latent does not hold: the alignment of their residuals is {bad[pair]:.2f}"
        + others(len(bad))
    )
    return [Finding("latent too small", what, "a larger model.latent_size, or a smaller model.beta")]


def others(pairs: int) -> str:
    """Return the end of a sentence about the gravest of some pairs."""
    return "" if pairs < 2 else f"; so {'does' if pairs == 2 else 'do'} {pairs - 1} other pair{'s' * (pairs > 2)}"
