"""Quality and agreement of the modalities that are generated from a subset of the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyro_mmvae._typing import Bool, Int, Tensor
from pyro_mmvae.evaluation.attributes import agreement
from pyro_mmvae.evaluation.frechet import frechet_distance
from pyro_mmvae.evaluation.generation import Generation, RealItems
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.nearest_neighbours import fidelity


def generated_quality(
    generation: Generation, real: RealItems, subset: Sequence[int], *, neighbours: int = 5
) -> list[Metric]:
    """Compare the modalities generated from a subset with real items, in the features of their classifiers.

    The Fréchet distance compares mean and covariance; precision, recall, density and coverage compare nearest
    neighbours, see :func:`~pyro_mmvae.evaluation.fidelity`. None of them sees the labels: an item that looks real but
    belongs to another class than the modalities given is judged as any other.

    Args:
        generation: The generator of the modalities.
        real: The real items to compare with, of equal images only one for nearest neighbours.
        subset: Indices of the modalities to generate from.
        neighbours: The number of nearest neighbours, 5 by default.

    Returns:
        For each modality outside the subset the rows ``frechet_classifier``, ``precision``, ``recall``, ``density`` and
        ``coverage``, where ``n`` is the number of generated items. A row is left out if there are too few items, real
        or generated.
    """
    rows, protocol, given = [], generation.protocol(), generation.given(subset)
    nearest = f"{neighbours} nearest neighbours, {protocol}"
    for name, (features, _) in generation.from_subset(subset).items():
        if not real.present(name).any():
            continue
        generated, found = features.cpu(), real.features(name)
        figures: list[tuple[str, str, float]] = []
        if min(len(found), len(generated)) > 1:
            figures.append(("frechet_classifier", protocol, frechet_distance(found, generated)))
        if min(len(real.distinct(name)), len(generated)) > neighbours:
            shares = fidelity(real.distinct(name), generated, neighbours=neighbours, radii=real.radii(name, neighbours))
            figures += [(metric, nearest, value) for metric, value in shares.items()]
        rows += [
            Metric(metric, about, given, name, value, len(generated), generation.seed)
            for metric, about, value in figures
        ]
    return rows


def generated_agreement(
    generation: Generation,
    labels: Int[Tensor, " item"] | Bool[Tensor, "item attribute"],
    subset: Sequence[int],
    density: str | None = None,
) -> list[Metric]:
    """Measure the agreement of all modalities that are generated together from one draw of z given a subset.

    Coherence judges one generated modality at a time. Modalities that are each right in 80 % of the items may all be
    right in 80 % of them, or in far fewer.

    Args:
        generation: The generator of the modalities.
        labels: Classes `(item,)`, or binary attributes `(item, attribute)`, of the items to generate from.
        subset: Indices of the modalities to generate from.
        density: ``mixture`` for the whole posterior or ``joint`` for the component of the subset; by default the
            choice of :func:`~pyro_mmvae.inference.posteriors.density_of`.

    Returns:
        Three rows without a target: ``agreement``, the share of items whose generated modalities all get one class from
        their classifiers; ``agreement_pairs``, the mean of the share over pairs of generated modalities; and
        ``agreement_label``, the share of items whose generated modalities all get the class of the item. For attributes
        one row ``agreement`` per attribute instead, with Fleiss' kappa. Nothing if fewer than two modalities outside
        the subset have a classifier.
    """
    scores = [generated.scores for generated in generation.from_subset(subset, density).values()]
    if len(scores) < 2:
        return []
    given, seed, protocol = generation.given(subset), generation.seed, generation.protocol(density)
    names, count = generation.classifiers.label_names, len(scores[0])
    if names:
        kappas = agreement(torch.stack([logits > 0 for logits in scores]))
        about = f"{protocol}, Fleiss' kappa"
        return [Metric("agreement", about, given, names[k], value, count, seed) for k, value in kappas.items()]
    classes = torch.stack([logits.argmax(-1) for logits in scores])
    truth = labels.to(classes.device)[generation.kept(subset)]
    same = (classes == classes[0]).all(0)
    # Every pair occurs twice in the square of modalities, and each modality once with itself.
    equal = (classes[:, None] == classes).sum((0, 1)) - len(classes)
    figures = {
        "agreement": same,
        "agreement_pairs": equal.double() / (len(classes) * (len(classes) - 1)),
        "agreement_label": same & (classes[0] == truth),
    }
    return [
        Metric(metric, protocol, given, "", float(values.double().mean()), count, seed)
        for metric, values in figures.items()
    ]
