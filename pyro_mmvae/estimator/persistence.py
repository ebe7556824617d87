"""Persistence of a fitted estimator as a run directory with its parameters, and as a pickle of these files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from pyro_mmvae.estimator.folders import (
    TemporaryRun,
    check_parameters,
    copy_run,
    read_files,
    read_parameters,
    write_files,
    write_parameters,
)
from pyro_mmvae.runs import Run, RunError, load_run, read_config

_STATE = ("form_", "seed_", "n_features_in_", "feature_names_in_")


class RunEstimator(BaseEstimator):
    """A base class of estimators whose fitted state is a run directory.

    Attributes:
        run_: The trained run of the estimator.
        seed_: The seed of the training, an integer.
    """

    run_: Run
    seed_: int
    _folder: TemporaryRun | None

    def save(self, path: str | Path) -> None:
        """Write the run directory and the parameters to a new directory.

        Args:
            path: The path of the directory, which must not exist, unless it is the run directory itself.

        Raises:
            RunError: If the path exists.
            ValueError: If a parameter is an object that JSON cannot hold.
        """
        check_is_fitted(self, "run_")
        check_parameters(self.get_params(deep=False))
        copy_run(self.run_.path, Path(path))
        self._write_parameters(Path(path))

    @classmethod
    def load(cls, path: str | Path, *, plugins: Sequence[str] = ()) -> Self:
        """Open an estimator that was saved, or that was trained with ``out``.

        Args:
            path: The path of the directory, which the estimator reads and does not remove.
            plugins: The names of the modules or installed plugins that register custom parts of the run, see
                :func:`pyro_mmvae.load`; none by default.

        Returns:
            The fitted estimator with its parameters.

        Raises:
            RunError: If an estimator was not saved there.
        """
        content = read_parameters(Path(path))
        params, state = content.get("params"), content.get("state")
        known = set(cls._get_param_names())
        if not isinstance(params, dict) or not isinstance(state, dict) or not known.issuperset(params):
            raise RunError(f"{path}: the file of the estimator must hold its parameters and state, got others")
        estimator = cls(**params)
        estimator.run_ = load_run(path, plugins=plugins)
        estimator._folder = None
        for name, value in state.items():
            if name not in _STATE:
                raise RunError(f"{path}: the state of the estimator must be of {', '.join(_STATE)}, got {name!r}")
            setattr(estimator, name, np.array(value, dtype=object) if name == "feature_names_in_" else value)
        return estimator

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, in which the files of the run stand for the run."""
        state = dict(super().__getstate__())
        if "run_" in state:
            del state["_folder"]
            state["run_"] = read_files(state["run_"].path)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled state, with the run in a temporary folder."""
        state = dict(state)
        if "run_" in state:
            state["_folder"] = TemporaryRun()
            write_files(state["_folder"].path, state["run_"])
            # A pickle runs code by itself: who opens it trusts what it names.
            plugins = read_config(state["_folder"].path).plugins
            state["run_"] = load_run(state["_folder"].path, plugins=plugins)
        super().__setstate__(state)

    def _write_parameters(self, path: Path) -> None:
        params = self.get_params(deep=False)
        if isinstance(params["random_state"], np.random.RandomState):
            params["random_state"] = self.seed_
        state = {name: getattr(self, name) for name in _STATE if hasattr(self, name)}
        write_parameters(path, {"params": params, "state": state})
