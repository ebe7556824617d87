"""The command ``fit-prior``, which fits a prior to the latents of training items."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from pyro_mmvae.cli.common import (
    SEEDS,
    changed_data_option,
    checkpoint_option,
    device_option,
    echo,
    plain_errors,
    plugin_option,
    threads_option,
)


@click.command("fit-prior")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--components", type=click.IntRange(1), show_default="10",
    help="Number of Gaussians; at most one per ten training items is fitted.",
)  # fmt: skip
@click.option(
    "--covariance", type=click.Choice(["full", "diag"]), show_default="full", help="Covariance of each Gaussian."
)
@click.option(
    "--flow", is_flag=True,
    help="Fit a neural spline flow in place of Gaussians; needs the extra 'flow'.",
)  # fmt: skip
@click.option(
    "--items", type=click.IntRange(1), default=5000, show_default=True,
    help="Largest number of training items, chosen at random.",
)  # fmt: skip
@click.option(
    "--density", type=click.Choice(["joint", "mixture"]), show_default="joint where the aggregation has it",
    help="Posterior of each item to draw from: the component of everything present, or the whole mixture.",
)  # fmt: skip
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Seed of the items, the draws and the fit.")
@plugin_option("data sets or other parts")
@checkpoint_option
@device_option
@changed_data_option
@threads_option
@plain_errors
def fit_prior(
    run: Path, components: int | None, covariance: str | None, flow: bool, plugins: tuple[str, ...], checkpoint: str,
    device: str, allow_changed_data: bool, threads: int | None, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Fit a prior to the latents of training items.

    Draws from the prior of the model reach regions where no item is; draws from a density that is fitted to the latents
    of the training items do not. Reads the run directory RUN and its training items. Writes RUN/prior.npz, which
    'sample' without --given draws from, and which 'evaluate' compares with the prior of the model. The model, its
    likelihoods and its posteriors stay as they are.
    """
    from pyro_mmvae import runs
    from pyro_mmvae.device import threads as use_threads
    from pyro_mmvae.run_files import RunFiles

    chosen: dict[str, Any] = {
        name: value for name, value in (("components", components), ("covariance", covariance)) if value
    }
    if flow and chosen:
        raise ValueError(f"--flow must come without --{next(iter(chosen))}, which is for Gaussians: leave one out")
    opened = runs.load_run(
        run, checkpoint=checkpoint, device=device, allow_changed_data=allow_changed_data, plugins=plugins
    )
    with use_threads(threads):
        about = (fitted := opened.fit_prior(flow=flow, **chosen, **options)).about
    source = {"joint": "joint component", "mixture": "whole posterior", "component": "drawn components"}
    echo(
        f"{RunFiles(run).prior}: {fitted.label}, fitted to {about['draws']} draws of the {source[about['density']]} of "
        f"{about['items']} training items, seed {about['seed']}, {about['seconds']:.1f} s"
    )
    if about["held_out"]:
        figures = about["held_out"]
        echo(
            f"  held-out draws: {figures['fitted']:.2f} nats per draw under the fitted prior, {figures['model']:.2f} "
            "under the prior of the model"
        )
    echo(f"next: {shlex.join(['pyro-mmvae', 'sample', str(run), '--out', 'prior.png'])}")
    return {"file": RunFiles(run).prior, "about": about}
