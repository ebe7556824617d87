"""What several commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click


def plain_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Errors of use as one line and exit status 2; ``PYRO_MMVAE_DEBUG=1`` shows the traceback."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (ValueError, TypeError, OSError, ImportError) as error:
            if os.environ.get("PYRO_MMVAE_DEBUG"):
                raise
            click.echo("error: " + " ".join(str(error).split()), err=True)
            sys.exit(2)

    return wrapped


def read_config(
    *,
    config: Path | None,
    overrides: tuple[str, ...],
    plugins: tuple[str, ...],
    **options: Any,
) -> Any:
    """The configuration of a file, ``key=value`` words and options, resolved; plugins are imported."""
    from pyro_mmvae import runs
    from pyro_mmvae.aggregation import make_aggregation
    from pyro_mmvae.runs.config import make_config, parse_overrides

    homes = {
        "aggregation": "model.aggregation",
        "bound": "model.bound",
        "data": "data.name",
        "epochs": "train.epochs",
        "seed": "train.seed",
        "device": "train.device",
        "precision": "train.precision",
        "threads": "train.threads",
    }
    values = parse_overrides(overrides)
    values.update({homes[name]: value for name, value in options.items() if value is not None})
    if plugins:
        values["plugins"] = plugins
    result = make_config(config, values)
    runs.import_plugins(result.plugins)
    make_aggregation(result.model.aggregation_options)
    return runs.resolve(result)


def words(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
