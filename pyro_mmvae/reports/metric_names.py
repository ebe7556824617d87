"""The names of metrics in figures, with their units."""

from __future__ import annotations

_LABELS = {
    "probe": "accuracy of a linear probe",
    "coherence": "share of coherent items",
    "agreement": "share of items that agree",
    "agreement_pairs": "share of pairs that agree",
    "agreement_label": "share of coherent items",
    "joint_coherence": "share of coherent draws",
    "log_likelihood": "nats per item",
    "ess": "effective sample size",
    "frechet_conditional": "squared distance of features",
    "frechet_classifier": "squared distance of features",
    "train_seconds": "seconds",
}
_ATTRIBUTE_LABELS = {
    "probe": "average precision of a probe",
    "coherence": "average precision of scores",
    "agreement": "Fleiss' kappa",
    "joint_coherence": "Fleiss' kappa",
}


def metric_label(metric: str, *, attributes: bool = False) -> str:
    """Return the label of the axis of a metric: its unit, or its name if it does not have one.

    Args:
        metric: The name of the metric, as in ``metrics.csv``.
        attributes: If True, the labels of the data set are attributes instead of classes, whose metrics have other
            units; False by default.
    """
    return (_ATTRIBUTE_LABELS if attributes else {}).get(metric) or _LABELS.get(metric, metric.replace("_", " "))
