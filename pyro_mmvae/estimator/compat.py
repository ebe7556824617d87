"""Validation of input and tags under the names that they have in each version of scikit-learn."""

from __future__ import annotations

from typing import Any

from sklearn.utils import validation


def validate_array(estimator: Any, values: Any, *, reset: bool) -> Any:
    """Check a two-dimensional array of floats in which NaN is allowed, and the number and names of its columns.

    Args:
        estimator: The estimator, which remembers number and names of the columns if ``reset`` is True.
        values: The array, table or nested list.
        reset: If True, the columns are remembered; if False, they are compared with those remembered.

    Returns:
        The array, float32 if it was that, otherwise float64.
    """
    options: dict[str, Any] = {"dtype": ["float64", "float32"], "ensure_min_samples": 2 if reset else 1}
    if hasattr(validation, "validate_data"):
        return validation.validate_data(estimator, values, reset=reset, ensure_all_finite="allow-nan", **options)
    return estimator._validate_data(values, reset=reset, force_all_finite="allow-nan", **options)  # before 1.6


def check_columns(estimator: Any, values: Any, *, reset: bool) -> None:
    """Check the number and names of the columns of a table, but not its values.

    Args:
        estimator: The estimator, which remembers number and names of the columns if ``reset`` is True.
        values: The table of pandas.
        reset: If True, the columns are remembered; if False, they are compared with those remembered.
    """
    if hasattr(validation, "validate_data"):
        validation.validate_data(estimator, values, reset=reset, skip_check_array=True)
        return
    estimator._check_feature_names(values, reset=reset)  # before 1.6
    estimator._check_n_features(values, reset=reset)
