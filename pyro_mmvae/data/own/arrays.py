"""Data sets from Python: arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.own.assemble import assemble
from pyro_mmvae.data.own.meta import Meta, make_meta
from pyro_mmvae.data.own.raw_arrays import Source


def from_arrays(
    modalities: Mapping[str, ArrayLike | torch.Tensor],
    labels: ArrayLike | torch.Tensor | None = None,
    present: ArrayLike | torch.Tensor | None = None,
    *,
    name: str = "arrays",
    split: str = "train",
    meta: Mapping[str, Any] | None = None,
    label_names: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> MultimodalDataset:
    """A data set of arrays, checked like files are. All items are taken: which split they are is for you to say.

    An array that is mapped from a large file (``numpy.load(…, mmap_mode="c")``) stays there.

    Args:
        modalities: name to `(item, …)`. Images are channel first; uint8 is divided by 255 in a batch.
        labels: class of each item, integers `(item,)`; or which attributes it has, bool or 0 and 1
            `(item, attribute)`.
        present: bool, `(item, modality)`, columns in the order of ``modalities``.
        name: of the data.
        split: what to call it.
        meta: what ``meta.yaml`` would say: ``{"modalities": {NAME: {"kind": "counts"}}, "missing_nan": True}``.
        label_names: of the attributes; goes before what ``meta`` says. By default ``attribute 0``, ….
        provenance: what identifies the content, fit for JSON; what is computed from data is cached by it.

    Raises:
        ValueError: for whatever does not fit; the message names modality, item and what was expected.

    Example:
        >>> import numpy as np
        >>> counts = np.random.default_rng(0).poisson(3.0, (6, 4))
        >>> data = from_arrays({"rna": counts}, meta={"modalities": {"rna": {"kind": "counts"}}})
        >>> data.modality_specs["rna"].data_type, data.modalities["rna"].dtype
        ('counts', torch.float32)
    """
    arrays = {key: array_of(value) for key, value in modalities.items()}
    source = Source(
        where=name,
        files={},
        modalities=arrays,
        labels=None if labels is None else array_of(labels),
        present=None if present is None else array_of(present),
        split=None,
        meta=make_said(meta, label_names),
        name=name,
        provenance={} if provenance is None else dict(provenance),
    )
    data = assemble(source, None)
    return replace(data, name=name, split=split, provenance=source.provenance)


def array_of(value: Any) -> NDArray[Any]:
    """A tensor, an array, a number or a list as an array."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asanyarray(value)


def make_said(meta: Mapping[str, Any] | None, label_names: Sequence[str] | None) -> Meta:
    """What is said of data from Python.

    Raises:
        ValueError: for an unknown key or a wrong value, named.
    """
    said = {} if meta is None else dict(meta)
    if label_names is not None:
        said["label_names"] = label_names if isinstance(label_names, str) else list(label_names)
    return make_meta("meta", said)
