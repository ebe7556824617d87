"""The command line, a module a group of commands. Heavy imports wait until a command needs them."""

from __future__ import annotations

import click

from pyro_mmvae import __version__
from pyro_mmvae.cli.check import ppc
from pyro_mmvae.cli.evaluate import compare, evaluate
from pyro_mmvae.cli.train import list_aggregations, sample, train


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Multimodal variational autoencoders as barycenters."""


for _command in (train, sample, evaluate, ppc, compare, list_aggregations):
    main.add_command(_command)
