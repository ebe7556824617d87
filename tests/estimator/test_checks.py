"""Tests of the transformer by the checks of scikit-learn for estimators."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.utils import estimator_checks

from pyro_mmvae import MultimodalVAETransformer
from pyro_mmvae.estimator import EXPECTED_FAILED_CHECKS

SETTINGS = {
    "train.threads": 1, "train.device": "cpu", "train.batch_size": 20, "model.network.name": "mlp",
    "model.network.hidden": 8, "model.network.depth": 1,
}  # fmt: skip


def checks() -> Iterator[tuple[Any, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        columns = {"left": [0], "right": slice(1, None)}
        estimator = MultimodalVAETransformer(columns, latent_size=2, epochs=1, settings=SETTINGS)
        if hasattr(estimator_checks, "estimator_checks_generator"):
            yield from estimator_checks.estimator_checks_generator(estimator)
        else:  # before scikit-learn 1.6
            yield from estimator_checks.check_estimator(estimator, generate_only=True)


def name_of(check: Any) -> str:
    return getattr(check, "func", check).__name__


CHECKS = list(checks())


@pytest.mark.filterwarnings("ignore:SCIPY_ARRAY_API")
@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=[name_of(check) for _, check in CHECKS])
def test_transformer_passes_check_of_scikit_learn(estimator: Any, check: Any) -> None:
    if name_of(check) in EXPECTED_FAILED_CHECKS:
        with pytest.raises(ValueError, match="an item is absent only if all its values are NaN"):
            check(estimator)
        return
    try:
        check(estimator)
    except estimator_checks.SkipTest as skip:
        pytest.skip(str(skip))


def test_expected_failed_checks_are_checks_of_scikit_learn() -> None:
    assert set(EXPECTED_FAILED_CHECKS) <= {name_of(check) for _, check in CHECKS}
