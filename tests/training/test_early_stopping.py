"""Early stopping: the count of epochs without improvement."""

from __future__ import annotations

import math

import pytest

from pyro_mmvae.training.early_stopping import EarlyStopping


def epoch_of_stop(stopping: EarlyStopping, figures: list[float]) -> int | None:
    return next((epoch for epoch, figure in enumerate(figures) if stopping.update(figure)), None)


@pytest.mark.parametrize(
    ("patience", "min_delta", "figures", "expected"),
    [
        (1, 0.0, [-3.0, -2.0, -2.0], 2),
        (2, 0.0, [-3.0, -3.5, -2.9, -3.0, -2.95, -1.0], 4),
        (2, 0.5, [-3.0, -2.6, -2.4, -2.2, -2.0], 4),  # -2.4 is the one improvement by more than 0.5
        (2, 0.0, [-3.0, math.nan, math.nan], 2),
        (3, 0.0, [-3.0, -3.0, -3.0], None),
        (None, 0.0, [-3.0] * 50, None),
    ],
)
def test_update_stops_after_the_patience(
    patience: int | None, min_delta: float, figures: list[float], expected: int | None
) -> None:
    assert epoch_of_stop(EarlyStopping(patience, min_delta), figures) == expected


def test_load_of_a_state_goes_on_with_the_count() -> None:
    first, second = EarlyStopping(3), EarlyStopping(3)
    for figure in (-1.0, -2.0, -2.0):
        assert not first.update(figure)
    second.load(first.state())
    assert second.update(-1.5)
    second.load({})
    assert (second.best, second.epochs) == (None, 0)
