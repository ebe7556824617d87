"""The options of an evaluation, and its result."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from numpy.typing import NDArray

from pyro_mmvae.evaluation.finding import Finding
from pyro_mmvae.evaluation.masked_result import MaskedEvaluation
from pyro_mmvae.evaluation.metrics import Metric, mean_by_views

_COUNTS = ("khat_draws", "khat_joint_draws")
_NO_NUMBER = "no number"


@dataclass(frozen=True)
class EvaluationOptions:
    """The extent of an evaluation.

    The defaults evaluate five modalities of images, 28 pixels wide, in about a minute and a half on two slow cores.

    Attributes:
        subsets: The largest number of subsets of modalities, stratified by size.
        probe_points: The number of training items of the linear probe.
        probe_draws: The number of draws per test item of the read-out ``draw`` of the linear probe, at least 1.
        likelihood_items: The number of test items for log likelihoods; with 0 they are left out.
        samples: The number K of draws per item for log likelihoods to begin with.
        max_samples: The largest number of draws per item, up to which K is doubled until the log likelihood stands.
        likelihood_subsets: The subsets for log likelihoods: ``ends``, each modality alone and all of them, or ``all``
            chosen subsets.
        khat_items: The number of test items for PSIS k̂ given each modality alone and all of them; with 0 it is left
            out.
        khat_samples: The number of draws per item for PSIS k̂.
        refine: The number of gradient steps by which a Gaussian is refined for each of ``refine_items``, to tell how
            much a better proposal changes; with 0 nothing is refined.
        refine_items: The number of test items to refine.
        reference_items: The number of these items whose exact posterior is sampled by NUTS; with 0 none is.
        coherence_items: The largest number of labelled test items for coherence, agreement and ``frechet_items``,
            chosen at random; None for all of them.
        quality: If True, reconstructions and generated images are compared with real ones.
        reconstruction_items: The largest number of test items for reconstructions and translations, a part of
            ``quality``, chosen at random; None for all of them.
        diversity_items: The number of test items for the diversity of draws given each modality alone, a part of
            ``quality``; with 0 it is left out.
        diversity_draws: The number of draws per item for the diversity, at least 2.
        frechet_items: The largest number of labelled test items for the quality of what is generated given other
            modalities, a part of ``quality``: conditional and plain Fréchet distance, precision, recall, density and
            coverage; with 0 they are left out.
        fid: If True, the Fréchet inception distance is computed, which needs the extra ``fid`` and Inception's weights.
        diagnostics: If True, the geometry of the experts and the use of the latent are measured.
        draws: The number of draws from the prior for joint coherence.
        seed: The seed of everything random.
    """

    subsets: int = 31
    probe_points: int = 5000
    probe_draws: int = 5
    likelihood_items: int = 200
    samples: int = 64
    max_samples: int = 256
    likelihood_subsets: str = "ends"
    khat_items: int = 25
    khat_samples: int = 1000
    refine: int = 0
    refine_items: int = 20
    reference_items: int = 0
    coherence_items: int | None = 1000
    quality: bool = True
    reconstruction_items: int | None = 1000
    diversity_items: int = 50
    diversity_draws: int = 10
    frechet_items: int = 1000
    fid: bool = False
    diagnostics: bool = True
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: If ``likelihood_subsets`` is neither ``ends`` nor ``all``, there are fewer than two draws for
                the diversity, none for the probe, items for a reference without a refinement, or ``fid`` without
                ``quality``, whose part it is.
        """
        if self.fid and not self.quality:
            raise ValueError("quality must be True for fid, which is a part of it, got False: leave out one of the two")
        if self.reference_items and not self.refine:
            raise ValueError(
                f"refine must be at least 1 for reference_items, whose chains start from the refined posterior, got "
                f"{self.refine} with reference_items={self.reference_items}"
            )
        if self.probe_draws < 1:
            raise ValueError(f"probe_draws must be at least 1, got {self.probe_draws}")
        if self.likelihood_subsets not in {"ends", "all"}:
            raise ValueError(f"likelihood_subsets must be 'ends' or 'all', got {self.likelihood_subsets!r}")
        if self.diversity_draws < 2:
            raise ValueError(f"diversity_draws must be at least 2, which make a pair, got {self.diversity_draws}")

    def count_parts(self, labelled: bool) -> int:
        """Return the number of parts of an evaluation, for progress bars."""
        optional = (self.likelihood_items > 0, self.khat_items > 0, self.refine > 0, self.quality, self.diagnostics)
        return 1 + 6 * labelled + sum(optional)


@dataclass(frozen=True)
class Evaluation:
    """The figures of a run, and the arrays from which its pictures are drawn.

    Attributes:
        rows: The figures, one row per subset and metric.
        arrays: ``latent``, the first two principal components of posterior means, and ``labels`` of the test items (for
            attributes those of the most evenly distributed one, its name in ``label_name``); ``khat.GIVEN``, k̂ of
            items, and ``khat_joint.GIVEN``, that of the joint component where a mixture has one.
        classifier_accuracy: The accuracy of each classifier on real test items (for attributes the mean average
            precision), without which a coherence cannot be interpreted.
        options: The extent of the evaluation.
        warnings: Failure modes that the figures show, with advice.
        seconds: The duration of each part.
        attribute_frequency: The share of test items with each attribute, which is the average precision of an
            uninformative score.
        masked: The comparison of imputations with held-out observations; None if it was not asked for.
    """

    rows: tuple[Metric, ...]
    arrays: dict[str, NDArray[Any]]
    classifier_accuracy: dict[str, float]
    options: EvaluationOptions
    warnings: tuple[Finding, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    attribute_frequency: dict[str, float] = field(default_factory=dict)
    masked: MaskedEvaluation | None = None

    def summary(self) -> dict[str, Any]:
        """Return means over subsets and targets by number of modalities given, with protocols and context.

        A number of draws is ``"no number"`` if none suffices for a subset.
        """
        means: dict[str, Any] = {}
        # A probe of attributes already has a row for their mean, so the rows of single attributes would count twice.
        rows = [row for row in self.rows if row.metric != "probe" or not row.target]
        for metric, protocol, target in dict.fromkeys((r.metric, r.protocol, _separate_target(r)) for r in rows):
            by_views = mean_by_views(rows, metric, protocol, target or None)
            label = f"{protocol}, of {target}" if target else protocol
            means.setdefault(metric, {})[label] = {
                str(views): _NO_NUMBER if metric in _COUNTS and math.isinf(value) else value
                for views, value in by_views.items()
            }
        return {
            "means_by_views": means,
            "classifier_accuracy": self.classifier_accuracy,
            "attribute_frequency": self.attribute_frequency,
            "warnings": [asdict(finding) for finding in self.warnings],
            "options": asdict(self.options),
            "seconds": self.seconds,
        } | ({} if self.masked is None else {"imputation": self.masked.summary()})


_LIKELIHOODS = {
    "log_likelihood", "log_likelihood_se", "ess", "log_likelihood_samples", "log_likelihood_stands",
}  # fmt: skip


def _separate_target(row: Metric) -> str:
    """Return the target if rows of different targets are different quantities, or ``""`` if they are repetitions."""
    return row.target if row.metric in _LIKELIHOODS else ""
