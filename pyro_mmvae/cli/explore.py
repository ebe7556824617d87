"""The command ``explore``, which serves an interactive view of a run on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from pyro_mmvae.cli.common import (
    changed_data_option,
    checkpoint_option,
    device_option,
    echo,
    plain_errors,
    plugin_option,
    threads_option,
)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--items", type=click.IntRange(1), default=200, show_default=True, help="Largest number of test items.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default="a free one",
    help="Port of the page, which only this machine can open.",
)  # fmt: skip
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open the page in a browser.")
@plugin_option("parts of the run")
@checkpoint_option
@device_option
@threads_option
@changed_data_option
@plain_errors
def explore(
    run: Path, items: int, port: int, browser: bool, plugins: tuple[str, ...], checkpoint: str, device: str,
    threads: int | None, allow_changed_data: bool,
) -> None:  # fmt: skip
    """Explore items of a trained run in a browser.

    Reads the run directory RUN and its test items. Serves a page on 127.0.0.1 where modalities are given or left out,
    the weights of experts are moved and the aggregation is changed, until Ctrl-C. Needs the extra 'explore'.
    """
    from pyro_mmvae.device import threads as use_threads
    from pyro_mmvae.explore import Explorer
    from pyro_mmvae.explore.app import import_panel, serve
    from pyro_mmvae.runs import load_run

    import_panel()  # an error before the model is loaded
    opened = load_run(run, checkpoint=checkpoint, device=device, allow_changed_data=allow_changed_data, plugins=plugins)
    with use_threads(threads):
        explorer = Explorer(opened, opened.data("test"), items)
        serve(explorer, port=port, show=browser, announce=lambda url: echo(f"{url} (Ctrl-C ends)"))
