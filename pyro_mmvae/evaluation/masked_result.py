"""The options of a comparison of imputations with held-out observations, and its result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class MaskOptions:
    """The extent of a comparison of imputations with held-out observations.

    Attributes:
        rate: Probability with which each observed modality of an item is also held out at random; with 0, the default,
            only one modality at a time is held out.
        items: Largest number of test items, chosen at random.
        draws: Number of draws of the latent per item, at least 20.
        train_items: Largest number of training items of the baselines, chosen at random.
        iterative_items: Largest number of training items of the iterative imputation.
        components: Largest number of features per modality of the nearest neighbours.
        iterative_components: Largest number of features per modality of the iterative imputation.
        neighbors: Number of nearest neighbours.
        rounds: Largest number of rounds of the iterative imputation.
        seed: Seed of everything random.
    """

    rate: float = 0.0
    items: int = 500
    draws: int = 50
    train_items: int = 2000
    iterative_items: int = 1000
    components: int = 100
    iterative_components: int = 30
    neighbors: int = 10
    rounds: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: If the rate is not in [0, 1), there are fewer than 20 draws, or another number is not positive.
        """
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate (--mask) must be at least 0 and less than 1, got {self.rate}")
        if self.draws < 20:
            raise ValueError(f"draws must be at least 20, from which 90 % intervals can be computed, got {self.draws}")
        for name, value in asdict(self).items():
            if name not in {"rate", "seed"} and value < 1:
                raise ValueError(f"{name} must be positive, got {value}")


@dataclass(frozen=True)
class MaskedMetric:
    """A figure of one method, with the number of items and the seed behind it.

    Attributes:
        pattern: The choice of what is held out: ``leave one out`` or ``at random, rate RATE``.
        target: The modality that was held out.
        views: The number of other modalities given.
        method: ``model``, the name of a baseline, or ``observed`` for the held-out values themselves.
        metric: The name of the metric, such as ``nrmse`` or ``coverage_90``.
        value: The value of the figure.
        se: The standard error over items; NaN for one item.
        n: The number of items.
        seed: The seed of everything random in the figure.
    """

    pattern: str
    target: str
    views: int
    method: str
    metric: str
    value: float
    se: float
    n: int
    seed: int

    def as_row(self) -> dict[str, str | int | float]:
        """Return the figure as a row of the table, keyed by column."""
        return asdict(self)


@dataclass(frozen=True)
class MaskedEvaluation:
    """The comparison of imputations with held-out observations.

    Attributes:
        rows: The figures, one row per pattern, modality, number of modalities given, method and metric.
        options: The extent of the comparison.
        used: The number of items and features that were used, by what they were used for.
    """

    rows: tuple[MaskedMetric, ...]
    options: MaskOptions
    used: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """Return options and numbers of items, as JSON can hold them."""
        return {"options": asdict(self.options), "used": self.used}
