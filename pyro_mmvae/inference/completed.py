"""Complete data sets of a multiple imputation, as folders that :func:`pyro_mmvae.load_data` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.own.tokenized import store_tokenizers
from pyro_mmvae.data.own.writing import category_strings
from pyro_mmvae.files import write_text
from pyro_mmvae.inference.items import Items
from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.vae.vae import MultimodalVAE

_SPLITS = ("train", "val", "test")
_KEYS = ("data_type", "classes", "alphabet", "padding", "tokenizer", "pixels", "reference_total")


def to_storage(values: Tensor, spec: ModalitySpec, dtype: torch.dtype | None) -> NDArray[Any]:
    """Return values of the model in the type in which a data set stores them.

    Pixels are clipped to [0, 1], which draws of a likelihood may leave.

    Args:
        values: Observations or draws, floats, `(item, *shape)`.
        spec: The description of the modality.
        dtype: The type of the modality in the data set; None if it does not have the modality.
    """
    if spec.data_type == "image" and not spec.standardize:
        values = values.clamp(0, 1)
        is_bytes = dtype == torch.uint8 or (dtype is None and spec.pixels)
        values = (values * 255).round().to(torch.uint8) if is_bytes else values
    elif spec.data_type == "tokens":
        values = values.to(dtype or torch.int64)
    elif dtype is not None and not dtype.is_floating_point:
        values = values.round().to(dtype)
    array: NDArray[Any] = values.cpu().numpy()
    return array


def describe_completed(folder: Path, vae: MultimodalVAE, items: Items, imputed: NDArray[np.bool_]) -> None:
    """Write everything but the values of a complete data set: labels, covariates, mask, split and description.

    Args:
        folder: The folder that holds one file per modality.
        vae: The model that imputed the modalities.
        items: The items of the data set.
        imputed: True for each imputed modality of each item, `(item, modality)`.
    """
    names = sorted(file.stem for file in folder.glob("*.npy"))
    data, columns = items.data, [vae.names.index(name) for name in names]
    present = (items.present(vae.names) | imputed)[:, columns]
    np.save(folder / "ids.npy", items.ids)
    for name in names:
        if name in data.feature_names:
            np.save(folder / f"features_{name}.npy", np.array(data.feature_names[name], dtype=np.str_))
    if not present.all():
        np.save(folder / "present.npy", present)
    if data.split in _SPLITS:
        np.save(folder / "split.npy", np.full(len(items), _SPLITS.index(data.split)))
    meta: dict[str, Any] = {"allow_constant": True, "modalities": {}}
    for name, column in zip(names, columns, strict=True):
        settings = vae.modalities[column].settings()
        meta["modalities"][name] = {key: settings[key] for key in _KEYS if key in settings}
    for name in data.covariates:
        np.save(folder / f"covariate_{name}.npy", category_strings([data], name)[items.rows])
    if data.covariates:
        meta["categories"] = {name: list(categories) for name, categories in data.covariate_names.items()}
    if data.labels is not None:
        labels = data.labels.cpu().numpy()[items.rows]
        if data.label_names:
            meta["label_names"] = list(data.label_names)
        elif (labels < 0).any():
            labels = np.where(labels < 0, np.nan, labels)
        if data.class_names:
            meta["class_names"] = list(data.class_names)
        if data.label_names or not np.isnan(labels.astype(float)).all():
            np.save(folder / "labels.npy", labels)
    store_tokenizers(folder, meta["modalities"])
    write_text(folder / "meta.yaml", yaml.safe_dump(meta, allow_unicode=True, sort_keys=False))
