"""The end of a training: the samples and the prior that are made after the last epoch."""

from __future__ import annotations

from pathlib import Path

import torch

from pyro_mmvae import runs
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.device import threads
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.layout import RunWriter
from pyro_mmvae.runs.run import Run
from pyro_mmvae.runs.sampling import training_samples
from pyro_mmvae.training.final_prior import fit_final_prior, has_final_prior


def finish(
    writer: RunWriter, config: Config, train: MultimodalDataset, val: MultimodalDataset, device: torch.device
) -> Run:
    """Open a trained run, and write its samples and its prior.

    Args:
        writer: The writer of the run directory.
        config: The configuration of the run.
        train: The items that were trained on.
        val: The items of the validation split.
        device: The device to load the model onto.
    """
    run = runs.load_run(writer.files.path, device=str(device))
    if writer.rank:
        return run
    with threads(config.train.threads):
        samples = training_samples(run, val)
        if samples:
            writer.write_samples(samples)
        fit_final_prior(run, train)
    return run


def finished_run(path: Path, config: Config, *, is_trained: bool) -> Run | None:
    """Return the run if nothing is left to train or to write, so that its data need not be opened.

    Args:
        path: The path of the run directory.
        config: The configuration of the run.
        is_trained: True if its last checkpoint is that of the last epoch.
    """
    if not is_trained or not RunFiles(path).samples.exists():
        return None
    run = runs.load_run(path, device=config.train.device)
    return run if has_final_prior(run) else None
