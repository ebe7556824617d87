"""Covariates of new data, with the codes that the training data gave to the categories of their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.covariates import UNKNOWN, Categories
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.options import describe_item

_MAX_LISTED = 20  # categories in a message


def match_covariates(data: MultimodalDataset, reference: Categories) -> tuple[MultimodalDataset, list[str]]:
    """Match the covariates of new data by name to those of the training data.

    Args:
        data: The new data set.
        reference: Names of the categories of the training data by covariate name; empty if they have no covariates.

    Returns:
        The data set with the covariates of the training data, in their order and with their codes, and a line about
        each change. A covariate that the new data lack is unknown for all items.

    Raises:
        ValueError: If an item has a category that the training data lack; the message names item and covariate, and
            lists the categories that there are.
    """
    if dict(data.covariate_names) == dict(reference) and tuple(data.covariate_names) == tuple(reference):
        return data, []
    notes, covariates = [], dict[str, Tensor]()
    for name, categories in reference.items():
        if name in data.covariates:
            covariates[name] = _recode(data, name, categories)
        else:
            covariates[name] = torch.full((len(data),), UNKNOWN, device=data.present.device)
            notes.append(
                f"covariate {name!r}: the data lack it, so that its category is unknown for all items and decoders "
                "average over the training categories"
            )
    notes += [
        f"covariate {name!r}: left out, since the model was not trained on it"
        for name in data.covariates
        if name not in reference
    ]
    return replace(data, covariates=covariates, covariate_names=dict(reference)), notes


def set_categories(data: MultimodalDataset, categories: Mapping[str, str]) -> MultimodalDataset:
    """Return a data set in which all items have the same category of some covariates.

    Args:
        data: The data set to change.
        categories: The category by the name of the covariate; other covariates are unchanged.

    Raises:
        ValueError: If the data lack a covariate or a category; the message lists those that there are.
    """
    covariates = dict(data.covariates)
    for name, category in categories.items():
        if name not in covariates:
            raise ValueError(f"covariate must be one of {', '.join(covariates) or '(none)'}, got {name!r}")
        known = data.covariate_names[name]
        if category not in known:
            raise ValueError(f"covariate {name!r} must be one of {', '.join(known)}, got {category!r}")
        covariates[name] = torch.full_like(covariates[name], known.index(category))
    return replace(data, covariates=covariates)


def _recode(data: MultimodalDataset, name: str, categories: tuple[str, ...]) -> Tensor:
    """Return the codes of one covariate in the numbering of the training data."""
    code: Mapping[str, int] = {category: number for number, category in enumerate(categories)}
    own, codes = data.covariate_names[name], data.covariates[name]
    # The last entry serves the code of an unknown category.
    table = torch.tensor([*(code.get(category, UNKNOWN) for category in own), UNKNOWN], device=codes.device)
    result = table[codes]
    foreign = ((result < 0) & (codes >= 0)).nonzero()[:, 0].tolist()
    if foreign:
        others = {own[int(codes[row])] for row in foreign}
        more = f" and {len(others) - 1} other new categories" if len(others) > 1 else ""
        listed = ", ".join(categories[:_MAX_LISTED]) + (", …" if len(categories) > _MAX_LISTED else "")
        raise ValueError(
            f"{data.name}: {describe_item(data.item_ids, foreign[0])}: covariate {name!r} must be a category of the "
            f"training data ({listed}), got {own[int(codes[foreign[0]])]!r}{more}: correct it, or leave the category "
            "of these items empty"
        )
    return result
