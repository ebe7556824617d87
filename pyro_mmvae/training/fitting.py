"""Training on the values that a Python user holds, without a configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyro_mmvae.data.own.covariates import column_names
from pyro_mmvae.data.own.values import make_dataset
from pyro_mmvae.data.tokenizer import TokenizerOption
from pyro_mmvae.modality_spec import DATA_TYPES, ModalitySpec
from pyro_mmvae.runs import import_plugins, make_config
from pyro_mmvae.runs.run import Run
from pyro_mmvae.training.division import split_data, training_rows
from pyro_mmvae.training.start import train


def fit(
    values: Any,
    *,
    labels: Any = None,
    present: Any = None,
    covariates: Any = None,
    validation: Any = 0.1,
    test: Any = 0.1,
    aggregation: str | Mapping[str, Any] = "mwb",
    epochs: int | None = None,
    latent_size: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    data_types: Mapping[str, str] | None = None,
    specs: Mapping[str, ModalitySpec] | None = None,
    tokenizer: TokenizerOption = None,
    keep_data: bool = True,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Run:
    """Train a multimodal variational autoencoder on values in Python.

    The items are divided at random into training, validation and test items. They are written to the run directory, so
    that all commands work on it, also after it was moved; modalities are then in alphabetical order.

    Args:
        values: A mapping from modality names to arrays, tensors, lists of strings or images, tables of pandas, or
            sparse matrices; or a MuData or AnnData object or a data set, see :func:`pyro_mmvae.data.to_dataset`.
        labels: Class of each item, integers or strings `(item,)`, or attributes `(item, attribute)`, which are used to
            evaluate the model but not to train it; none by default.
        present: True where an item's modality is present, see :func:`pyro_mmvae.data.to_dataset`; by default
            everything that is not None or NaN.
        covariates: Categories of the items that encoders of vectors and counts and all decoders see, so that the latent
            need not hold them, such as ``{"donor": ["A", "B", …]}``, see :func:`pyro_mmvae.data.to_dataset`; none by
            default. Other data for ``validation`` or ``test`` have their own in a data set, or in columns of that name.
        validation: Fraction of the items for validation, 0.1 by default; or other data to validate on, such as a
            mapping like ``values``, a pair of values and labels, or a data set.
        test: Fraction of the items for the test, 0.1 by default; 0 for none; or other data, as for ``validation``.
        aggregation: Name of the aggregation, or a mapping with its name and options; ``"mwb"`` by default.
        epochs: Number of passes over the training items; by default that of :class:`~pyro_mmvae.runs.config.Config`.
        latent_size: Number of latent dimensions; by default that of :class:`~pyro_mmvae.runs.config.Config`.
        out: Path of the new run directory; by default a new folder under ``runs``.
        seed: Seed of the division of the items, the initial weights and all draws; 0 by default.
        data_types: Data type by modality name, such as ``{"rna": "counts"}``, where it cannot be inferred.
        specs: Description of a modality by its name, such as ``{"photo": ModalitySpec(likelihood="bernoulli")}``.
        tokenizer: Tokenizer of the strings in place of an alphabet, or tokenizers by modality name: the path of a file
            ``tokenizer.json``, or ``bpe:N`` for a byte-pair vocabulary of N tokens, trained on the training items. None
            by default.
        keep_data: If True (default), the data are written to the folder ``data`` of the run directory; if False, they
            must be passed again to everything that uses them.
        settings: Further settings by dotted key, as in ``{"train.lr": 1e-3}``, or nested as in a configuration file;
            they take precedence over the arguments above.
        progress: If True (default), show a progress bar on standard error.

    Returns:
        The run with its best checkpoint.

    Raises:
        ValueError: If the values do not fit together, or a setting is unknown or has a wrong value.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(100, 3))
        >>> run = fit({"x": x, "y": x + 1}, epochs=1, latent_size=2, out=f"{tempfile.mkdtemp()}/run", progress=False)
        >>> run.names, len(run.data("test"))
        (('x', 'y'), 10)
    """
    overrides = {"model.aggregation": aggregation, "train.epochs": epochs, "train.seed": seed}
    overrides |= {"model.latent_size": latent_size, "data.name": "arrays"}
    overrides = {key: value for key, value in overrides.items() if value is not None}
    config = make_config(None, {**overrides, **_without_data(settings or {})})
    import_plugins(config.plugins)  # which the caller named in settings
    data = make_dataset(
        values, labels=labels, present=present, covariates=covariates, specs=_merge(specs, data_types),
        tokenizer=tokenizer, tokenizer_rows=lambda count: training_rows(count, validation, test, seed),
    )  # fmt: skip
    splits = split_data(data, validation, test, seed, column_names(covariates))
    return train(config, out, data=splits, keep_data=keep_data, progress=progress)


def _merge(specs: Mapping[str, ModalitySpec] | None, data_types: Mapping[str, str] | None) -> dict[str, ModalitySpec]:
    """Return descriptions with the data types."""
    result = dict(specs or {})
    for name, data_type in (data_types or {}).items():
        if data_type not in DATA_TYPES:
            raise ValueError(f"data_types of {name!r} must be one of {', '.join(DATA_TYPES)}, got {data_type!r}")
        result[name] = replace(result.get(name, ModalitySpec()), data_type=data_type)
    return result


def _without_data(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings, which must not be of the data."""
    for key in settings:
        if key.partition(".")[0] == "data":
            raise ValueError(f"settings must not hold {key!r}, as the data are passed as values: leave it out")
    return settings
