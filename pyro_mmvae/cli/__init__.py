"""The command line, with one module per group of commands; heavy imports are deferred until a command needs them."""

from __future__ import annotations

import click

from pyro_mmvae import __version__
from pyro_mmvae.cli.calibrate import calibrate
from pyro_mmvae.cli.check import ppc
from pyro_mmvae.cli.compare import compare
from pyro_mmvae.cli.completion import add_completion
from pyro_mmvae.cli.data import data
from pyro_mmvae.cli.encode import encode
from pyro_mmvae.cli.evaluate import evaluate
from pyro_mmvae.cli.explore import explore
from pyro_mmvae.cli.fit_prior import fit_prior
from pyro_mmvae.cli.hub import pull, push
from pyro_mmvae.cli.impute import impute
from pyro_mmvae.cli.json_output import JsonGroup, add_json
from pyro_mmvae.cli.predict import predict, score
from pyro_mmvae.cli.report import report
from pyro_mmvae.cli.settings import settings
from pyro_mmvae.cli.train import list_aggregations, sample, train


@click.group(cls=JsonGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Train and evaluate multimodal variational autoencoders as barycenters."""


for _command in (
    train,
    encode,
    impute,
    predict,
    score,
    sample,
    fit_prior,
    evaluate,
    ppc,
    calibrate,
    compare,
    report,
    push,
    pull,
    data,
    explore,
    settings,
    list_aggregations,
):
    main.add_command(_command)
add_json(main, leave_out=("explore",))
add_completion(main)
