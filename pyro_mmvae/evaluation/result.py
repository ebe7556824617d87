"""Options of an evaluation, and its result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from numpy.typing import NDArray

from pyro_mmvae.evaluation.diagnostics import Finding
from pyro_mmvae.evaluation.metrics import Metric, mean_by_views


@dataclass(frozen=True)
class EvaluationOptions:
    """How much is looked at.

    Attributes:
        subsets: how many subsets of modalities at the most, stratified by size.
        probe_points: training items of the linear probe.
        likelihood_items: test items for log likelihoods; 0 leaves them out.
        samples: K, draws an item for log likelihoods.
        likelihood_subsets: ``ends``, given each modality alone and all of them, or ``all`` chosen subsets.
        khat_items: test items for PSIS k̂, given each modality alone and all of them; 0 leaves it out.
        khat_samples: draws an item for it.
        quality: whether reconstructions and generated images are compared with real ones.
        fid: whether the Fréchet inception distance is computed, which needs the extra ``fid`` and Inception's weights.
        diagnostics: whether the posteriors' geometry and their use of the latent are looked at.
        draws: from the prior, for joint coherence.
        seed: of everything random.
    """

    subsets: int = 31
    probe_points: int = 5000
    likelihood_items: int = 500
    samples: int = 64
    likelihood_subsets: str = "ends"
    khat_items: int = 100
    khat_samples: int = 1000
    quality: bool = True
    fid: bool = False
    diagnostics: bool = True
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ValueError: for another ``likelihood_subsets``.
        """
        if self.likelihood_subsets not in {"ends", "all"}:
            raise ValueError(f"likelihood_subsets must be 'ends' or 'all', not {self.likelihood_subsets!r}")

    def count_parts(self, labelled: bool) -> int:
        """How many parts an evaluation has, for progress."""
        optional = (self.likelihood_items > 0, self.khat_items > 0, self.quality, self.diagnostics)
        return 1 + 4 * labelled + sum(optional)


@dataclass(frozen=True)
class Evaluation:
    """Figures about a run, and the few arrays that pictures need.

    Attributes:
        rows: one a subset and metric.
        arrays: ``latent`` (the first two principal components of posterior means) and ``labels`` of test items (of
            attributes the one that divides them most evenly, its name in ``label_name``), ``khat.GIVEN`` of items.
        classifier_accuracy: on real test images, for attributes the mean average precision; a coherence without it
            means nothing.
        options: what was looked at.
        warnings: failure modes that the figures show, with what to try.
        seconds: by part.
    """

    rows: tuple[Metric, ...]
    arrays: dict[str, NDArray[Any]]
    classifier_accuracy: dict[str, float]
    options: EvaluationOptions
    warnings: tuple[Finding, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    attribute_frequency: dict[str, float] = field(default_factory=dict)
    """Share of test items that have an attribute: the average precision of a score without any knowledge."""

    def summary(self) -> dict[str, Any]:
        """Macro means by number of views, with what they are means of."""
        means: dict[str, Any] = {}
        rows = [row for row in self.rows if row.metric != "probe" or not row.target]  # the mean, not the attributes
        for metric, protocol, target in dict.fromkeys((r.metric, r.protocol, _of(r)) for r in rows):
            by_views = mean_by_views(rows, metric, protocol, target or None)
            how = f"{protocol}, of {target}" if target else protocol
            means.setdefault(metric, {})[how] = {str(views): value for views, value in by_views.items()}
        return {
            "means_by_views": means,
            "classifier_accuracy": self.classifier_accuracy,
            "attribute_frequency": self.attribute_frequency,
            "warnings": [asdict(warning) for warning in self.warnings],
            "options": asdict(self.options),
            "seconds": self.seconds,
        }


def _of(row: Metric) -> str:
    """The target where rows of different targets are different quantities, not repetitions of one."""
    return row.target if row.metric in {"log_likelihood", "ess"} else ""
