"""The commands ``push`` and ``pull``, which share runs on the Hugging Face Hub."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from pyro_mmvae.cli.common import echo, plain_errors, plugin_words


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("repository", metavar="USER/NAME")
@click.option("--private", is_flag=True, help="Make the repository private if it is created.")
@click.option(
    "--items", is_flag=True,
    help="Also push samples, pictures, posterior means and predictive checks, which show or describe items of data.",
)  # fmt: skip
@click.option(
    "--license", "license_name", metavar="NAME", show_default="none",
    help="Licence of the weights for the model card, as the Hub names it, such as mit.",
)  # fmt: skip
@click.option("--message", default="Upload a run of pyro_mmvae", show_default=True, help="Message of the commit.")
@plain_errors
def push(
    run: Path, repository: str, private: bool, items: bool, license_name: str | None, message: str
) -> dict[str, Any]:  # fmt: skip
    """Push a run to the Hugging Face Hub, with a model card.

    Reads the run directory RUN. Writes configuration, metrics, checkpoints, the tables of the evaluation, checksums and
    a model card with the evaluation to the repository USER/NAME, which is created if needed. Data are never pushed; the
    configuration and the environment name the paths of the data and the command of the training. Needs the extra 'hub',
    and a token by 'hf auth login' or HF_TOKEN.
    """
    from pyro_mmvae import hub

    url = hub.push(run, repository, private=private, items=items, license_name=license_name, message=message)
    echo(f"{run}: pushed to {url}")
    return {"run": run, "url": url}


@click.command()
@click.argument("repository", metavar="USER/NAME")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", show_default="runs/NAME", help="Run directory to create."
)
@click.option(
    "--revision", metavar="NAME", show_default="the main branch", help="Branch, tag or commit of the repository."
)
@plain_errors
def pull(repository: str, out: Path | None, revision: str | None) -> dict[str, Any]:
    """Pull a run from the Hugging Face Hub.

    Reads the repository USER/NAME, which 'push' has filled. Writes a run directory, whose files have the checksums that
    the repository lists; plugins that the run names are not imported. Needs the extra 'hub', and for private
    repositories a token by 'hf auth login' or HF_TOKEN.
    """
    from pyro_mmvae import hub
    from pyro_mmvae._bounded import load_yaml, read_text
    from pyro_mmvae.run_files import RunFiles

    path = hub.pull(repository, out, revision=revision)
    echo(f"run directory: {path}")
    config = load_yaml(read_text(RunFiles(path).config))
    plugins = [str(name) for name in (config.get("plugins") or () if isinstance(config, dict) else ())]
    if plugins:
        echo(
            f"note: the run needs plugins, which are code: look at {', '.join(plugins)} before you name them", err=True
        )
    echo(f"next: {shlex.join(['pyro-mmvae', 'sample', str(path), *plugin_words(plugins), '--out', 'samples.png'])}")
    return {"run": path, "plugins": plugins}
