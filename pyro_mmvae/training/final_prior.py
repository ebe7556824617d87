"""The fit of a prior to the latents of the training items, at the end of a training."""

from __future__ import annotations

import logging
import signal

from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.runs.run import Run
from pyro_mmvae.training.interruption import signal_of

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
    if not components or has_final_prior(run):
        return
    try:
        fitted = run.fit_prior(components, data=data, seed=run.config.train.seed)
    except KeyboardInterrupt as stop:
        _logger.warning("interrupted while the prior was fitted; the run is complete without it")
        if signal_of(stop) != signal.SIGINT:  # a request to end the process
            raise
    except (ValueError, OSError) as error:
        _logger.warning("no prior was fitted: %s", error)
    else:
        _logger.info("fitted a prior of %s in %.1f s", fitted.label, fitted.about["seconds"])


def has_final_prior(run: Run) -> bool:
    """Return True if the run needs no prior any more: it has one, asks for none, or was not trained for an epoch.

    Args:
        run: The trained run, opened with its best checkpoint.
    """
    return not run.config.train.fit_prior or not run.state.get("epoch") or _is_fitted(run)


def _is_fitted(run: Run) -> bool:
    """Return True if the run directory has a prior that was fitted to this checkpoint."""
    try:
        return run.prior_note is None and run.fitted_prior is not None
    except ValueError:  # the file is damaged, and will be replaced
        return False
