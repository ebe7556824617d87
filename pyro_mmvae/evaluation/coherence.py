"""Coherence of generated modalities with the modalities given, and with one another."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Bool, Float, Int, Tensor
from pyro_mmvae.evaluation.attributes import agreement, average_precisions
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.generation import Generation
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.fitted_prior import FittedPrior, prior_draws, prior_protocol
from pyro_mmvae.inference.posteriors import decode_in_batches, draws_at_once
from pyro_mmvae.vae.vae import MultimodalVAE


def conditional_coherence(
    vae: MultimodalVAE,
    experts: Experts,
    labels: Int[Tensor, " item"] | Bool[Tensor, "item attribute"],
    classifiers: Classifiers,
    *,
    subsets: Sequence[Sequence[int]],
    density: str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    covariates: Float[Tensor, "item covariate"] | None = None,
    generation: Generation | None = None,
) -> list[Metric]:
    """Return the share of items for which a modality generated from a subset keeps the label.

    The label is judged by the modality's classifier, of z drawn once from the posterior given the subset. The
    classifier sees the mean of the likelihood or, for tokens, the most probable token at each position, as a reader
    would. For labels that are attributes the figure is the average precision of the classifier's scores, per attribute.
    Items that lack a modality of the subset are left out.

    If the aggregation is a mixture over subsets, the density ``joint`` (Sutter et al., 2021, and the tables of the
    field) draws from the component of the subset itself. It leaves out the components of smaller subsets, which the
    posterior contains, so it scores higher but says less about draws from the posterior.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the test items.
        labels: Classes `(item,)`, or binary attributes `(item, attribute)`.
        classifiers: The classifiers that judge the generated modalities.
        subsets: Subsets of the modalities, each as indices and judged on all modalities outside it.
        density: ``mixture`` for the whole posterior or ``joint`` for the component of the subset; by default the choice
            of :func:`~pyro_mmvae.inference.posteriors.density_of`.
        seed: The seed of the draws of each subset, 0 by default; the states of torch's generators are restored
            afterwards.
        batch_size: The number of items to decode at once; by default it depends on the device.
        covariates: The indicators of the items' categories, on any device; None (default) if they are unknown.
        generation: The generator of the modalities, which other metrics may share; by default a new one. It has its own
            seed, covariates and batch size.

    Returns:
        One row per subset and modality outside it; for attributes one row per attribute that some item has, with target
        ``MODALITY.ATTRIBUTE``.
    """
    rows = []
    labels = labels.to(experts.loc.device)
    if generation is None:
        generation = Generation(vae, experts, classifiers, covariates=covariates, seed=seed, batch_size=batch_size)
    protocol = generation.protocol(density) + ", average precision" * bool(classifiers.label_names)
    for subset in subsets:
        truth = labels[generation.kept(subset)]
        for name, (_, scores) in generation.from_subset(subset, density).items():
            rows += [
                Metric("coherence", protocol, generation.given(subset), target, value, len(truth), generation.seed)
                for target, value in _score(name, scores, truth, classifiers.label_names).items()
            ]
    return rows


def _score(name: str, scores: Tensor, truth: Tensor, label_names: Sequence[str]) -> dict[str, float]:
    """Return the accuracy of predicted classes or the average precision of scores, by target."""
    if not label_names:
        return {name: int((scores.argmax(-1) == truth).sum()) / len(truth)}
    precisions = average_precisions(scores.cpu().numpy(), truth.cpu().numpy())
    return {f"{name}.{label_names[k]}": value for k, value in precisions.items()}


def joint_coherence(
    vae: MultimodalVAE,
    classifiers: Classifiers,
    *,
    draws: int = 1000,
    seed: int = 0,
    batch_size: int | None = None,
    prior: FittedPrior | None = None,
) -> Metric:
    """Return the share of draws from a prior for which all classifiers predict the same class.

    Args:
        vae: The model, in eval mode.
        classifiers: The classifiers that judge the generated modalities.
        draws: The number of draws, 1,000 by default.
        seed: The seed of the draws, 0 by default; the states of torch's generators are restored afterwards.
        batch_size: The number of draws to decode at once; by default it depends on the device.
        prior: The fitted prior to draw from; by default that of the model.

    Returns:
        One row without modalities given.

    Raises:
        ValueError: If fewer than two modalities have a classifier, since agreement is trivial then.
    """
    classes = _judge_prior_draws(vae, classifiers, draws, seed, batch_size, prior)
    agree = int((classes == classes[0]).all(0).sum())
    protocol = f"{draws} {prior_protocol(vae, prior)}"
    return Metric("joint_coherence", protocol, (), "", agree / draws, draws, seed)


def joint_agreement(
    vae: MultimodalVAE,
    classifiers: Classifiers,
    *,
    draws: int = 1000,
    seed: int = 0,
    batch_size: int | None = None,
    prior: FittedPrior | None = None,
) -> list[Metric]:
    """Measure the agreement of the modalities of a draw from a prior on each attribute, beyond chance.

    Args:
        vae: The model, in eval mode.
        classifiers: The classifiers of attributes that judge the generated modalities.
        draws: The number of draws, 1,000 by default.
        seed: The seed of the draws, 0 by default; the states of torch's generators are restored afterwards.
        batch_size: The number of draws to decode at once; by default it depends on the device.
        prior: The fitted prior to draw from; by default that of the model.

    Returns:
        One row per attribute without modalities given: Fleiss' kappa, see
        :func:`~pyro_mmvae.evaluation.attributes.agreement`.

    Raises:
        ValueError: If fewer than two modalities have a classifier.
    """
    protocol, names = f"{draws} {prior_protocol(vae, prior)}, Fleiss' kappa", classifiers.label_names
    kappas = agreement(_judge_prior_draws(vae, classifiers, draws, seed, batch_size, prior))
    return [Metric("joint_coherence", protocol, (), names[k], value, draws, seed) for k, value in kappas.items()]


def _judge_prior_draws(
    vae: MultimodalVAE,
    classifiers: Classifiers,
    draws: int,
    seed: int,
    batch_size: int | None,
    prior: FittedPrior | None,
) -> Tensor:
    """Return the prediction of each classifier for its modality of the same draws, of shape `(modality, draw, …)`."""
    if len(classifiers.networks) < 2:
        raise ValueError(
            f"joint coherence must have classifiers of at least two modalities, got {len(classifiers.networks)}"
        )
    parts = []
    device = next(vae.parameters()).device
    size = batch_size or draws_at_once(device)
    with seeded(seed, device), torch.no_grad():
        z = prior_draws(vae, draws, prior)
        for images in decode_in_batches(vae, z, list(classifiers.networks), size):
            parts.append(torch.stack([classifiers.predict(name, images[name]) for name in classifiers.networks]))
    return torch.cat(parts, 1)
