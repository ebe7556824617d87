"""The fit of a prior to the latents of the training items, at the end of a training."""

from __future__ import annotations

import logging

from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.runs.run import Run

_logger = logging.getLogger(__name__)


def fit_final_prior(run: Run, data: MultimodalDataset) -> None:
    """Fit the prior that ``train.fit_prior`` asks for, unless the run has one of this checkpoint.

    The run is complete without it: an interruption by Ctrl-C or an error is logged, and nothing is lost. A run that has
    not been trained for an epoch gets none.

    Args:
        run: The trained run, opened with its best checkpoint.
        data: The items that it was trained on.
    """
    components = run.config.train.fit_prior
    if not components or not run.state.get("epoch") or _is_fitted(run):
        return
    try:
        fitted = run.fit_prior(components, data=data, seed=run.config.train.seed)
    except KeyboardInterrupt:
        _logger.warning("interrupted while the prior was fitted; the run is complete without it")
    except ValueError as error:
        _logger.warning("no prior was fitted: %s", error)
    else:
        _logger.info("fitted a prior of %s in %.1f s", fitted.label, fitted.about["seconds"])


def _is_fitted(run: Run) -> bool:
    """Return True if the run directory has a prior that was fitted to this checkpoint."""
    try:
        return run.prior_note is None and run.fitted_prior is not None
    except ValueError:  # the file is damaged, and will be replaced
        return False
