"""Data sets made of arrays in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse

from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.own.assemble import assemble
from pyro_mmvae.data.own.covariates import convert_covariates
from pyro_mmvae.data.own.meta import Meta, make_meta
from pyro_mmvae.data.own.raw_arrays import RawArrays
from pyro_mmvae.data.own.tokenized import with_absolute_path
from pyro_mmvae.data.storage.rows import MatrixRows, read_rows
from pyro_mmvae.data.tokenizer import make_absolute


def from_arrays(
    modalities: Mapping[str, ArrayLike | torch.Tensor | Any],
    labels: ArrayLike | torch.Tensor | None = None,
    present: ArrayLike | torch.Tensor | None = None,
    *,
    name: str = "arrays",
    split: str = "train",
    meta: Mapping[str, Any] | None = None,
    label_names: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    item_ids: ArrayLike | None = None,
    feature_names: Mapping[str, ArrayLike] | None = None,
    covariates: Mapping[str, ArrayLike | torch.Tensor] | None = None,
) -> MultimodalDataset:
    """Make a data set of arrays, with the checks that files undergo.

    All arrays are used completely: ``split`` only names the result. An array that is mapped from a large file
    (``numpy.load(…, mmap_mode="c")``) stays on disk, and a large sparse matrix stays sparse: its rows are made dense
    batch by batch.

    Args:
        modalities: Observations by modality name, arrays or tensors `(item, …)`, or SciPy sparse matrices
            `(item, feature)`. Images have their channels first; uint8 pixels are
            divided by 255 in a batch.
        labels: Class of each item, integers `(item,)`; or its attributes, bool or 0 and 1, `(item, attribute)`; none
            by default.
        present: True where an item's modality is present, bool, `(item, modality)`, columns in the order of
            ``modalities``; True everywhere by default.
        name: Name of the data, ``"arrays"`` by default.
        split: Name of the split, ``"train"`` by default.
        meta: The description that ``meta.yaml`` would hold, such as
            ``{"modalities": {NAME: {"kind": "counts"}}, "missing_nan": True}``; by default everything is inferred.
        label_names: Names of the attributes, overriding those in ``meta``. By default ``attribute 0``, ….
        provenance: Everything that identifies the content, serialisable as JSON; results computed from the data are
            cached under it. Empty by default.
        item_ids: Identifier of each item, distinct strings or integers `(item,)`; none by default.
        feature_names: Names of the features, distinct strings `(feature,)`, by the name of a modality of vectors; none
            by default.
        covariates: Category of each item, strings or integers `(item,)`, by covariate name, such as the donor; an empty
            string, None or NaN is an unknown category. None by default.

    Raises:
        ValueError: If the arrays do not fit together or a value is not allowed; the message names modality, item and
            what was expected.

    Example:
        >>> import numpy as np
        >>> counts = np.random.default_rng(0).poisson(3.0, (6, 4))
        >>> data = from_arrays({"rna": counts}, meta={"modalities": {"rna": {"kind": "counts"}}})
        >>> data.modality_specs["rna"].data_type, data.modalities["rna"].dtype
        ('counts', torch.float32)
    """
    arrays = {key: _to_values(value) for key, value in modalities.items()}
    raw = RawArrays(
        where=name,
        files={},
        modalities=arrays,
        labels=None if labels is None else to_numpy(labels),
        present=None if present is None else to_numpy(present),
        split=None,
        meta=meta_from_arguments(meta, label_names),
        name=name,
        provenance={} if provenance is None else dict(provenance),
        ids=None if item_ids is None else names_to_numpy(item_ids),
        feature_names={key: names_to_numpy(names) for key, names in (feature_names or {}).items()},
        covariates=convert_covariates(name, covariates),
    )
    data = assemble(raw, None)
    return replace(data, name=name, split=split, provenance=raw.provenance)


def _to_values(value: Any) -> NDArray[Any] | MatrixRows:
    """Return the values of a modality as an array, or as rows that are made dense as they are read."""
    if isinstance(value, MatrixRows):
        return value
    return read_rows(value) if issparse(value) else to_numpy(value)


def to_numpy(value: Any) -> NDArray[Any]:
    """Convert a tensor, an array, a number or a list to an array."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asanyarray(value)


def names_to_numpy(names: Any) -> NDArray[Any]:
    """Convert names, such as a list or an index of pandas, to an array of strings or integers."""
    array = np.asarray(names)
    is_text = array.dtype == object and all(isinstance(name, str) for name in array.flat)
    return array.astype(np.str_) if is_text else array


def meta_from_arguments(meta: Mapping[str, Any] | None, label_names: Sequence[str] | None) -> Meta:
    """Check a description of data that was passed from Python.

    Args:
        meta: The content of a ``meta.yaml``, or None for an empty one.
        label_names: Names of the attributes, overriding those in ``meta``, or None.

    Raises:
        ValueError: If a key is unknown or a value is not allowed; the message names the key.
    """
    content = {} if meta is None else dict(meta)
    if label_names is not None:
        content["label_names"] = label_names if isinstance(label_names, str) else list(label_names)
    result = make_meta("meta", content)
    modalities = {name: with_absolute_path(entry) for name, entry in result.modalities.items()}
    whole = None if result.tokenizer is None else make_absolute(result.tokenizer)
    changes = {"modalities": modalities, "tokenizer": whole}
    return result if result.tokenizer is None and modalities == result.modalities else result.model_copy(update=changes)
