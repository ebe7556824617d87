"""Early stopping, by the number of epochs without an improvement of the validation ELBO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class EarlyStopping:
    """A count of the epochs since the last improvement, which ends a training when the patience is exhausted.

    Args:
        patience: The number of epochs without improvement after which to stop; None for never.
        min_delta: The gain over the last improvement that a figure must exceed to count as one, 0 by default.
    """

    def __init__(self, patience: int | None, min_delta: float = 0.0) -> None:
        self.patience, self.min_delta = patience, min_delta
        self.best: float | None = None
        self.epochs = 0

    def update(self, figure: float) -> bool:
        """Count one epoch.

        Args:
            figure: The figure of the epoch, of which larger values are better; NaN never is an improvement.

        Returns:
            True if the training is to stop.
        """
        if self.best is None or figure > self.best + self.min_delta:
            self.best, self.epochs = figure, 0
        else:
            self.epochs += 1
        return self.patience is not None and self.epochs >= self.patience

    def state(self) -> dict[str, Any]:
        """Return the count and the figure of the last improvement, as JSON can hold them."""
        return {"best": self.best, "epochs": self.epochs}

    def load(self, state: Mapping[str, Any]) -> None:
        """Load the dictionary that :meth:`state` returned.

        Args:
            state: The count and the figure; an empty dictionary starts anew.
        """
        self.best, self.epochs = state.get("best"), state.get("epochs", 0)
