"""Predictors of labels that are fitted to the latents of a run and stored in its directory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data import MultimodalDataset, find_data
from pyro_mmvae.inference import Predictor, encode, fit_predictor, load_predictor, select_items
from pyro_mmvae.inference.items import Items
from pyro_mmvae.run_files import RunFiles

if TYPE_CHECKING:
    from pyro_mmvae.runs.answers import Answers

DEFAULT_LABEL = "labels"
"""The name under which the predictor of the labels of the data set is stored."""

TRAIN_ITEMS = 50_000
"""The largest number of training items that a predictor is fitted to."""


def find_predictor(
    run: Answers,
    label: str | None = None,
    *,
    refit: bool = False,
    seed: int = 0,
    progress: Callable[[str, int], Callable[[int], object]] | None = None,
) -> Predictor:
    """Return the predictor of a label: the one in the run directory, or else one that is fitted and stored there.

    It is fitted to the posterior means of at most 50,000 random training items, given what each of them has. Its
    figures on the test items of the run are stored with it.

    Args:
        run: The trained run to use.
        label: The name of an attribute, or of the column that the loader of the data reads labels from; by default all
            labels of the data set of the run.
        refit: If True, it is fitted again; False by default.
        seed: The seed of the choice of training items, 0 by default.
        progress: A function from a title and a number of items to a callback that receives numbers of finished items.

    Raises:
        ValueError: If the data of the run has no such label.
    """
    file = RunFiles(run.path).predictor(label or DEFAULT_LABEL)
    version = {key: run.state.get(key) for key in ("epoch", "step")}
    if file.exists() and not refit:
        stored = load_predictor(file)
        if {key: stored.about.get(key) for key in version} == version:
            return stored
    train, options = _labelled_split(run, "train", label)
    rows = train.labelled.cpu().numpy().nonzero()[0]
    if len(rows) > TRAIN_ITEMS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, TRAIN_ITEMS, replace=False))
    latents = encode(run.vae, train, items=rows, progress=progress and progress("encode training items", len(rows)))
    labels, names = label_array(train, select_items(train, rows), label)
    about: dict[str, Any] = {**version, "label": label, "options": options, "density": latents.summary["density"]}
    predictor = fit_predictor(
        latents["z"], labels, class_names=train.class_names, label_names=names, about={**about, "test": {}}
    )
    test, _ = _labelled_split(run, "test", label)
    items = select_items(test)
    latents = encode(run.vae, test, progress=progress and progress("encode test items", len(items)))
    figures = predictor.table(latents, label_array(test, items, label)[0], test.class_names).summary["figures"]
    predictor.about["test"] = figures
    predictor.save(file)
    return predictor


def _labelled_split(run: Answers, split: str, label: str | None) -> tuple[MultimodalDataset, dict[str, Any]]:
    """Return a split of the data of a run with a label, and the options of the loader that read it."""
    data = run.dataset(None, split=split)
    if data.labels is not None and (label is None or label in data.label_names):
        return data, {}
    if label is not None and "labels" in find_data(run.config.data.name).options:
        options = {"labels": label}
        return run.dataset(None, split=split, options=options), options
    known = f", which has {', '.join(data.label_names)}" if data.label_names else ""
    what = "labels" if label is None else f"a label {label!r}"
    raise ValueError(f"data {data.name!r} must have {what}{known}, got none in split {split!r}")


def label_array(
    data: MultimodalDataset, items: Items, label: str | None, targets: tuple[str, ...] = ()
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return the labels of some items, and the names of the attributes.

    Args:
        data: The data set, which has labels.
        items: The items whose labels to return.
        label: The name of one attribute to choose; by default all.
        targets: The names of attributes to choose, in order; by default all.

    Returns:
        Classes `(item,)` and no names; or attributes `(item, attribute)` and their names.
    """
    if data.labels is None:
        raise ValueError(f"data {data.name!r} must have labels, got none")
    labels = data.labels.cpu().numpy()[items.rows]
    if not data.label_names:
        return labels, ()
    names = targets or data.label_names if label is None else (label,)
    return labels[:, [data.label_names.index(name) for name in names]], names
