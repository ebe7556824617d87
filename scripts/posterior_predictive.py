"""Posterior predictive check of a trained run: posterior_predictive.py RUN --given m0 --num-samples 100."""

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
@click.option("--given", default="", help="Modalities the guide sees, by commas; none is the prior predictive.")
@click.option("--num-samples", default=100, show_default=True, help="Draws an item.")
@click.option("--items", default=200, show_default=True, help="Test items, the first ones.")
@click.option("--seed", default=0, show_default=True, help="Of all draws.")
@click.option("--out", type=click.Path(path_type=Path), help="A netCDF file; RUN/evaluation/ppc.nc by default.")
def main(run: Path, given: str, num_samples: int, items: int, seed: int, out: Path | None) -> None:
    """Draw replicated observations, print how well they are calibrated, and write them for ArviZ."""
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
