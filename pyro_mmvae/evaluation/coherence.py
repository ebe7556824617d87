"""Coherence: do generated modalities agree with what was given, and with each other?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyro_mmvae._typing import Bool, Int, Tensor
from pyro_mmvae.evaluation.attributes import agreement, average_precisions
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.metrics import Metric, names_of
from pyro_mmvae.evaluation.posteriors import (
    decoded,
    draw_protocol,
    draws_at_once,
    having,
    posterior_draws,
    seeded,
    shown,
    take,
)
from pyro_mmvae.experts import Experts
from pyro_mmvae.vae.vae import MultimodalVAE


def conditional_coherence(
    vae: MultimodalVAE,
    experts: Experts,
    labels: Int[Tensor, " item"] | Bool[Tensor, "item attribute"],
    classifiers: Classifiers,
    *,
    subsets: Sequence[Sequence[int]],
    bound: str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> list[Metric]:
    """The share of items of which a modality generated from a subset keeps the label, by the modality's classifier.

    z is one draw from the posterior given the subset, and what is judged the likelihood's mean; of tokens the most
    probable one at each position, as one would read a text. Of a mixture over subsets, protocol ``full component``
    (Sutter et al., 2021, and the field's tables) draws from the component of the subset itself and leaves aside those
    of its own subsets, which the posterior contains: it scores higher, and says less of draws from the posterior.
    Items that lack a modality of the subset are left out.

    Of attributes it is the average precision of the classifier's scores of each.

    Args:
        vae: in eval mode.
        experts: of the test items.
        labels: their classes, or attributes.
        classifiers: to judge by.
        subsets: of modalities; each is judged on all modalities it does not hold.
        bound: ``mixture``, the whole posterior, or ``joint``, the component of the subset; by default the former where
            it can be had.
        seed: of the draws of each subset; torch's generators are put back after.
        batch_size: items decoded at once; by default as suits the device.

    Returns:
        One row a subset and absent modality, or one such and attribute, target ``MODALITY.ATTRIBUTE``, of those that
        an item has.
    """
    rows = []
    device = experts.loc.device
    labels = labels.to(device)
    protocol = draw_protocol(vae, experts.num_modalities, bound)
    if classifiers.label_names:
        protocol += ", average precision"
    size = batch_size or draws_at_once(device)
    for subset in subsets:
        targets = [n for m, n in enumerate(vae.names) if m not in subset and n in classifiers.networks]
        kept = having(experts, subset)
        if not targets or not kept.any():
            continue
        found: dict[str, list[Tensor]] = {name: [] for name in targets}
        with seeded(seed, device), torch.no_grad():
            z = posterior_draws(vae, take(experts, kept), subset, bound)
            for images in decoded(vae, z, targets, size):
                for name in targets:
                    judge = classifiers.scores if classifiers.label_names else classifiers.predict
                    found[name].append(judge(name, images[name]))
        given = names_of(subset, vae.names)
        for name in targets:
            figures = _judged(name, torch.cat(found[name]), labels[kept], classifiers.label_names)
            rows += [Metric("coherence", protocol, given, target, v, len(z), seed) for target, v in figures.items()]
    return rows


def _judged(name: str, found: Tensor, truth: Tensor, label_names: Sequence[str]) -> dict[str, float]:
    """Target to figure."""
    if not label_names:
        return {name: int((found == truth).sum()) / len(truth)}
    precisions = average_precisions(found.cpu().numpy(), truth.cpu().numpy())
    return {f"{name}.{label_names[k]}": value for k, value in precisions.items()}


def joint_coherence(
    vae: MultimodalVAE, classifiers: Classifiers, *, draws: int = 1000, seed: int = 0, batch_size: int | None = None
) -> Metric:
    """The share of draws from the prior on which every modality that has a classifier gets the same class.

    Args:
        vae: in eval mode.
        classifiers: to judge by.
        draws: how many.
        seed: of the draws; torch's generators are put back after.
        batch_size: draws decoded at once; by default as suits the device.

    Returns:
        One row, given nothing.

    Raises:
        ValueError: if fewer than two modalities have a classifier: nothing could disagree.
    """
    found = _of_prior_draws(vae, classifiers, draws, seed, batch_size)
    agree = int((found == found[0]).all(0).sum())
    return Metric("joint_coherence", f"prior draws, {shown(vae)}", (), "", agree / draws, draws, seed)


def joint_agreement(
    vae: MultimodalVAE, classifiers: Classifiers, *, draws: int = 1000, seed: int = 0, batch_size: int | None = None
) -> list[Metric]:
    """How far the modalities of a draw from the prior agree on each attribute, beyond chance.

    Args:
        vae: in eval mode.
        classifiers: of attributes, to judge by.
        draws: how many.
        seed: of the draws; torch's generators are put back after.
        batch_size: draws decoded at once; by default as suits the device.

    Returns:
        One row an attribute, given nothing: Fleiss' kappa, see :func:`~pyro_mmvae.evaluation.attributes.agreement`.

    Raises:
        ValueError: as :func:`joint_coherence`.
    """
    protocol, names = f"prior draws, {shown(vae)}, Fleiss' kappa", classifiers.label_names
    found = agreement(_of_prior_draws(vae, classifiers, draws, seed, batch_size))
    return [Metric("joint_coherence", protocol, (), names[k], value, draws, seed) for k, value in found.items()]


def _of_prior_draws(
    vae: MultimodalVAE, classifiers: Classifiers, draws: int, seed: int, batch_size: int | None
) -> Tensor:
    """What each classifier says of its modality of the same draws, `(modality, draw, …)`."""
    if len(classifiers.networks) < 2:
        raise ValueError(f"joint coherence needs classifiers of two modalities, got {len(classifiers.networks)}")
    parts = []
    prior = vae.model.prior()
    size = batch_size or draws_at_once(prior.mean.device)
    with seeded(seed, prior.mean.device), torch.no_grad():
        for images in decoded(vae, prior.sample(torch.Size((draws,))), list(classifiers.networks), size):
            parts.append(torch.stack([classifiers.predict(name, images[name]) for name in classifiers.networks]))
    return torch.cat(parts, 1)
