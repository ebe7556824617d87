"""Evaluations of one trained model that is read with several aggregations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_mmvae.aggregation.functional import AggregationLike
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.evaluation.frechet import check_fid
from pyro_mmvae.evaluation.result import Evaluation, EvaluationOptions
from pyro_mmvae.evaluation.suite import Parts, Suite
from pyro_mmvae.inference.fitted_prior import FittedPrior
from pyro_mmvae.vae.reaggregation import with_aggregation
from pyro_mmvae.vae.vae import MultimodalVAE


def evaluate_readings(
    vae: MultimodalVAE,
    train: MultimodalDataset,
    test: MultimodalDataset,
    aggregations: Sequence[str] | Mapping[str, AggregationLike],
    *,
    options: EvaluationOptions | None = None,
    cache: Path | None = None,
    progress: Callable[[str], None] | None = None,
    prior: FittedPrior | None = None,
) -> dict[str, Evaluation]:
    """Evaluate a trained model with other aggregations in place of its own, without training.

    Items are encoded once, and each aggregation combines the same experts; see
    :func:`~pyro_mmvae.vae.reaggregation.with_aggregation`. Read with its own aggregation, a model gets the figures of
    :func:`~pyro_mmvae.evaluation.suite.evaluate`.

    Args:
        vae: The model, in eval mode.
        train: Items to fit probes and classifiers on.
        test: Items to evaluate on.
        aggregations: The names of the aggregations, or a mapping from labels to aggregations in any form that
            :func:`pyro_mmvae.make_aggregation` takes.
        options: The extent of each evaluation; the defaults of :class:`EvaluationOptions` if left out.
        cache: A folder for the classifiers trained on this data; by default they are not cached.
        progress: A callback that receives the aggregation and the name of each part as it starts.
        prior: The fitted prior, draws of which are judged beside those of the model's own prior; none by default.

    Returns:
        The evaluations by the name or label of the aggregation, in the order given.

    Raises:
        ValueError: If the model cannot be read with one of the aggregations; the message names it and the reason. Or if
            ``options.fid`` is True without a modality of RGB images.
        ImportError: If ``options.fid`` is True without torchmetrics and torch-fidelity.
    """
    options = options or EvaluationOptions()
    if options.fid:
        check_fid(test)
    named = dict(aggregations) if isinstance(aggregations, Mapping) else {name: name for name in aggregations}
    models = {}
    for name, aggregation in named.items():
        try:
            models[name] = with_aggregation(vae, aggregation)
        except ValueError as error:
            raise ValueError(f"the model cannot be read with {name!r}: {error}") from error
    shared: dict[str, Any] = {}
    evaluations = {}
    for name, model in models.items():

        def announce(part: str, name: str = name) -> None:
            if progress is not None:
                progress(f"{name}: {part}")

        suite = Suite(model, train, test, options, None, Parts(announce), prior, (), shared)
        evaluations[name] = suite.run(cache)
    return evaluations


def reading_rows(evaluations: Mapping[str, Evaluation]) -> list[dict[str, str | int | float]]:
    """Return the figures of readings as rows of a tidy table, the aggregation in the first column.

    Args:
        evaluations: The evaluations by aggregation, as :func:`evaluate_readings` returns them.
    """
    return [{"aggregation": name, **row.as_row()} for name, result in evaluations.items() for row in result.rows]
