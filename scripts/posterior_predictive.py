"""A posterior predictive check of a trained run, called as ``posterior_predictive.py RUN --given m0``."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from pyro_mmvae.data import make_batch
from pyro_mmvae.evaluation.calibration import calibrate
from pyro_mmvae.evaluation.inference_data import to_inference_data, write_inference_data
from pyro_mmvae.evaluation.ppc import posterior_predictive
from pyro_mmvae.reports.ppc import draw_ppc
from pyro_mmvae.runs import RunFiles, load_run


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--given", default="", metavar="NAMES", show_default="none, for the prior predictive distribution",
    help="Modalities that the guide sees, separated by commas.",
)  # fmt: skip
@click.option("--num-samples", default=100, show_default=True, help="Number of posterior predictive draws per item.")
@click.option("--items", default=200, show_default=True, help="Number of test items to check, the first ones.")
@click.option("--seed", default=0, show_default=True, help="Seed of all draws.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.nc", show_default="RUN/evaluation/ppc.nc",
    help="netCDF file to write.",
)  # fmt: skip
def main(run: Path, given: str, num_samples: int, items: int, seed: int, out: Path | None) -> None:
    """Run a posterior predictive check of a trained model.

    Reads the run directory RUN and its test items. Prints the calibration of each statistic, and writes the draws for
    ArviZ to --out and pictures beside it.
    """
    trained, files = load_run(run), RunFiles(run)
    data = trained.data("test")
    ids = np.arange(min(items, len(data)))
    batch = make_batch(data, slice(0, len(ids))).to(trained.device)
    names = tuple(given.split(",")) if given else ()
    check = posterior_predictive(trained.vae, batch, names, samples=num_samples, seed=seed, ids=ids.tolist())

    print(f"{check.protocol}; given {given or 'nothing'}; {len(ids)} items; seed {seed}")
    for row in calibrate(check):
        coverage = "  ".join(f"{c.level:.0%}: {c.value:.2f} ± {c.error:.2f}" for c in row.coverage)
        print(f"{row.statistic:<20} p = {row.p_value:.2f}   coverage {coverage}   {row.verdict}")

    file = write_inference_data(to_inference_data(check), out or files.check())
    print(file, *draw_ppc(file, folder=files.plots if out is None else None), sep="\n")


if __name__ == "__main__":
    main()
