"""The generalised Pareto fit against ArviZ, and the number of draws that a shape asks for."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pyro_mmvae.evaluation.inference_data import import_arviz
from pyro_mmvae.evaluation.pareto import draws_needed, pareto_shape


def arviz_khat() -> tuple[Callable[[NDArray[np.float64]], float], float]:
    """Return the fit of the installed version of ArviZ, and how far it may differ."""
    arviz = import_arviz()
    if arviz.__version__.startswith("0."):
        return lambda values: float(arviz.psislw(values.copy())[1]), 1e-9
    base = pytest.importorskip("arviz_stats.base")
    # It takes log likelihoods, the negative log weights, and rounds the number of weights in the tail down.
    return lambda values: float(base.array_stats.psislw(-values)[1]), 0.025


@pytest.mark.parametrize("spread", [0.05, 0.5, 2.0, 8.0, 60.0, 400.0])
def test_pareto_shape_of_normal_log_weights_equals_that_of_arviz(spread: float) -> None:
    (fit, difference), generator = arviz_khat(), np.random.default_rng(3)
    for count in (1000, 4001):
        values = spread * generator.standard_normal(count) - 5e3
        shape = pareto_shape(values)
        if spread > 100 and difference > 1e-9:  # there ArviZ 1 divides by weights that have underflowed
            assert shape > 50
        else:
            assert shape == pytest.approx(fit(values), rel=difference, abs=difference)


def test_pareto_shape_of_few_distinct_weights_is_infinite() -> None:
    values = np.zeros(1000)
    values[:4] = 3.0
    assert pareto_shape(values) == math.inf
    values = -1000.0 * np.arange(1000.0)  # all but one underflow
    assert pareto_shape(values) == math.inf


@pytest.mark.parametrize(("khat", "draws"), [(-0.3, 10.0), (0.0, 10.0), (0.5, 100.0), (0.75, 1e4), (0.9, 1e10)])
def test_draws_needed_below_one_matches_the_formula(khat: float, draws: float) -> None:
    assert draws_needed(khat) == pytest.approx(draws)


@pytest.mark.parametrize("khat", [1.0, 3.0, math.inf, math.nan, 0.9999])
def test_draws_needed_without_a_mean_is_infinite(khat: float) -> None:
    assert draws_needed(khat) == math.inf
