"""Checks of the covariates of the data that a model is trained on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.data.covariates import unseen_categories
from pyro_mmvae.runs.checkpoint import CheckpointError
from pyro_mmvae.runs.resolution import read_covariates


def check_covariates_of_splits(train: MultimodalDataset, val: MultimodalDataset) -> None:
    """Check that both splits have the same categories, and warn of those that no training item has.

    Args:
        train: The training split of the data.
        val: The validation split of the data.

    Raises:
        ValueError: If the splits have other covariates or categories, or a covariate has fewer than two categories in
            the training items.
    """
    if dict(train.covariate_names) != dict(val.covariate_names):
        raise ValueError(
            f"{val.name}: covariates of val must have the categories of train, {dict(train.covariate_names)}, got "
            f"{dict(val.covariate_names)}: let the loader number the categories of all splits together"
        )
    for line in unseen_categories(train.covariates, train.covariate_names):
        warnings.warn(f"{train.name}: {line}", UserWarning, stacklevel=4)


def check_resumed_covariates(file: Path, state: Mapping[str, Any], train: MultimodalDataset) -> None:
    """Check that the data of a resumed training have the covariates of its checkpoint.

    Args:
        file: The path of the checkpoint.
        state: The state that the checkpoint holds.
        train: The training split of the data.

    Raises:
        CheckpointError: If a covariate or its categories differ.
    """
    expected, received = read_covariates(state), dict(train.covariate_names)
    if expected != received:
        raise CheckpointError(
            f"{file}: the data must have the covariates of the run, {expected or 'none'}, got {received or 'none'}: "
            "restore them, or train anew"
        )
