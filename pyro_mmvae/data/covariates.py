"""Categorical covariates of items, such as donors or plates: codes of categories, indicators and frequencies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch

from pyro_mmvae._typing import Float, Tensor

UNKNOWN = -1
"""The code of an unknown category."""

Codes = Mapping[str, Tensor]
"""The code of each item's category, int64, `(item,)`, by the name of the covariate."""

Categories = Mapping[str, tuple[str, ...]]
"""The names of the categories by the name of the covariate, in the order of their codes."""


def check_covariates(covariates: Codes, names: Categories, count: int) -> None:
    """Check that the codes of all covariates fit the names of their categories.

    Args:
        covariates: Code of each item's category by covariate name, int64, `(item,)`.
        names: Names of the categories by covariate name.
        count: Number of items of the data set.

    Raises:
        ValueError: If a covariate has no categories, a code is not one of a category, or two categories share a name;
            the message names the covariate.
    """
    if tuple(covariates) != tuple(names):
        raise ValueError(
            f"covariate_names must name the categories of each covariate ({', '.join(covariates) or 'none'}), in "
            f"order, got those of {', '.join(names) or 'none'}"
        )
    for name, codes in covariates.items():
        categories = names[name]
        repeated = [category for category, number in Counter(categories).items() if number > 1]
        if repeated:
            raise ValueError(f"covariate {name!r}: names of categories must be distinct, got {repeated[0]!r} twice")
        if not isinstance(codes, Tensor) or codes.dtype != torch.int64 or codes.shape != (count,):
            got = f"{tuple(codes.shape)} of {codes.dtype}" if isinstance(codes, Tensor) else type(codes).__name__
            raise ValueError(f"covariate {name!r} must be codes (item,) = ({count},) of torch.int64, got {got}")
        low, high = int(codes.min()), int(codes.max())
        if low < UNKNOWN or high >= len(categories):
            raise ValueError(
                f"covariate {name!r}: codes must be from 0 to {len(categories) - 1}, or {UNKNOWN} for an unknown "
                f"category, got {low if low < UNKNOWN else high}"
            )


def one_hot(covariates: Codes, names: Categories, index: Tensor | slice) -> Float[Tensor, "item covariate"] | None:
    """Return the categories of some items as blocks of indicators, one block per covariate.

    Args:
        covariates: Code of each item's category by covariate name, int64, `(item,)`.
        names: Names of the categories by covariate name.
        index: Indices of the items, on the device of the codes, or a slice.

    Returns:
        Zeros and ones `(item, covariate)`, with one column per category of each covariate, of torch's default type; the
        block of an unknown category holds zeros only. None without covariates.
    """
    blocks = []
    for name, codes in covariates.items():
        chosen = codes[index]
        columns = torch.arange(len(names[name]), device=chosen.device)
        blocks.append((chosen[:, None] == columns).to(torch.get_default_dtype()))
    return torch.cat(blocks, -1) if blocks else None


def category_frequencies(covariates: Codes, names: Categories) -> Float[Tensor, " covariate"]:
    """Return the share of each category among the items whose category is known.

    Args:
        covariates: Code of each item's category by covariate name, int64, `(item,)`.
        names: Names of the categories by covariate name.

    Returns:
        The shares `(covariate,)`, covariate by covariate, which sum to 1 per covariate, or are 0 if no item has a
        category; empty without covariates.
    """
    shares = []
    for name, codes in covariates.items():
        counts = torch.bincount(codes[codes >= 0].cpu(), minlength=len(names[name])).to(torch.get_default_dtype())
        shares.append(counts / counts.sum().clamp(min=1))
    return torch.cat(shares) if shares else torch.zeros(0)


def unseen_categories(covariates: Codes, names: Categories) -> list[str]:
    """Return one line per covariate with categories that no item of a training split has.

    Args:
        covariates: Code of each item's category by covariate name, int64, `(item,)`.
        names: Names of the categories by covariate name.

    Raises:
        ValueError: If the items have fewer than two categories of a covariate; the message names the covariate.
    """
    lines = []
    for name, codes in covariates.items():
        counts = torch.bincount(codes[codes >= 0].cpu(), minlength=len(names[name])).tolist()
        unseen = [category for category, number in zip(names[name], counts, strict=True) if not number]
        found = len(names[name]) - len(unseen)
        if found < 2:
            raise ValueError(
                f"covariate {name!r} must have two or more categories in the training items, got {found}: leave it out"
            )
        if unseen:
            listed = ", ".join(map(repr, unseen[:5])) + (f" and {len(unseen) - 5} others" if len(unseen) > 5 else "")
            lines.append(f"covariate {name!r}: no training item has the category {listed}: its effect stays unknown")
    return lines
