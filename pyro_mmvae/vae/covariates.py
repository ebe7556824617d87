"""Categorical covariates of items, such as the donor of a cell, as the networks of a model see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

import torch
from torch import nn
from torch.nn import functional

from pyro_mmvae._typing import Float, Int, Tensor

Categories: TypeAlias = Mapping[str, str | Sequence[str]]
"""The categories of items by the name of the covariate: one for all items, or one per item."""


class Covariates(nn.Module):
    """The covariates of a model, with the frequencies that stand for a category that is unknown.

    Args:
        categories: The names of the categories by the name of the covariate; None for a model without covariates.

    Raises:
        ValueError: If a covariate does not have a category, or two of one name.
        TypeError: If it is not a mapping to sequences of strings.

    Attributes:
        categories: The names of the categories by the name of the covariate, in the order of the blocks.
        size: The number of categories of all covariates together, C.
    """

    frequencies: Tensor
    _same_block: Tensor

    def __init__(self, categories: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__()
        self.categories = _check_categories(categories or {})
        sizes = [len(names) for names in self.categories.values()]
        self.size = sum(sizes)
        if self.size:  # without covariates the state_dict stays that of models before there were any
            self.register_buffer("frequencies", torch.cat([torch.full((size,), 1 / size) for size in sizes]))
            same = torch.block_diag(*[torch.ones(size, size) for size in sizes])
            self.register_buffer("_same_block", same, persistent=False)

    def set_frequencies(self, values: Tensor) -> None:
        """Set the frequencies to those of the training data; before that, all categories have equal ones.

        Args:
            values: The count or the share of each category, of shape `(covariate,)`; each covariate's are normalised to
                sum to 1.

        Raises:
            ValueError: If the shape is another, a value is negative or not finite, or a covariate's values are all 0.
        """
        if tuple(values.shape) != (self.size,):
            raise ValueError(
                f"covariate frequencies must have shape ({self.size},), one per category of "
                f"{', '.join(map(repr, self.categories)) or 'a model without covariates'}, got {tuple(values.shape)}"
            )
        if not self.size:
            return
        if not bool(values.isfinite().all()) or bool((values < 0).any()):
            raise ValueError("covariate frequencies must be finite and not negative, got others")
        shares = values.to(self.frequencies)
        for name, block in self.split(shares).items():
            if not bool(block.sum() > 0):
                raise ValueError(f"covariate {name!r} must be known for some training item, got frequencies of 0")
        self.frequencies.copy_(shares / (shares @ self._same_block))

    def split(self, values: Float[Tensor, "*batch covariate"]) -> dict[str, Tensor]:
        """Return the block of each covariate by its name.

        Args:
            values: Values of all categories, of shape `(*batch, covariate)`.
        """
        sizes = [len(names) for names in self.categories.values()]
        return dict(zip(self.categories, values.split(sizes, -1), strict=True))

    def fill(self, values: Tensor | None, batch_shape: torch.Size, like: Tensor) -> Tensor | None:
        """Return indicators in which the frequencies take the place of unknown categories.

        Args:
            values: Indicators of shape `(*batch, covariate)` with any leading dimensions that broadcast; a block of
                zeros is unknown. None if every category is unknown.
            batch_shape: The leading dimensions of the result.
            like: A tensor with the floating type and the device of the result.

        Returns:
            Values of shape `(*batch_shape, covariate)`, or None for a model without covariates.

        Raises:
            ValueError: If the values do not have one column per category, or cannot be broadcast.
        """
        if values is None:
            return self.frequencies.to(like).expand(*batch_shape, -1) if self.size else None
        if values.shape[-1] != self.size:
            known = ", ".join(f"{name!r} of {len(names)} categories" for name, names in self.categories.items())
            raise ValueError(
                f"covariates must have {self.size} columns, those of {known}, got {values.shape[-1]}"
                if known
                else f"covariates must be left out for a model without covariates, got {values.shape[-1]} columns"
            )
        if not self.size:
            return None
        values = values.to(like)
        filled = torch.where(values @ self._same_block.to(like) > 0, values, self.frequencies.to(like))
        try:
            return filled.expand(*batch_shape, -1)
        except RuntimeError:
            raise ValueError(
                f"covariates must broadcast to {(*batch_shape, self.size)}, got {tuple(values.shape)}"
            ) from None

    def replace(self, values: Tensor | None, requested: Tensor) -> Tensor:
        """Return indicators with some covariates replaced.

        Args:
            values: Indicators of shape `(*batch, covariate)`; None if every category is unknown.
            requested: Indicators that broadcast to that shape; those of the covariates to keep are 0.
        """
        if values is None:
            return requested
        requested = requested.to(values)
        return torch.where(requested @ self._same_block.to(values) > 0, requested, values)

    def encode(self, categories: Categories) -> Tensor:
        """Return the indicators of categories by their names.

        Args:
            categories: The categories by the name of the covariate: one string for all items, or a sequence with one
                per item. A covariate that is left out is unknown.

        Returns:
            Indicators `(covariate,)` if every covariate has one category for all items, otherwise `(item, covariate)`.

        Raises:
            ValueError: If a covariate or a category is unknown, or sequences differ in length.
        """
        for name in categories:
            if name not in self.categories:
                known = ", ".join(self.categories) or "none"
                raise ValueError(f"covariates must be covariates of the model ({known}), got {name!r}")
        many = {name: list(given) for name, given in categories.items() if not isinstance(given, str)}
        counts = {len(given) for given in many.values()}
        if len(counts) > 1:
            raise ValueError(f"covariates must have one category per item, got sequences of {sorted(counts)} items")
        count = counts.pop() if counts else 1
        codes = {name: torch.full((count,), -1) for name in self.categories}
        for name, given in categories.items():
            listed = many.get(name, [cast("str", given)] * count)
            codes[name] = torch.tensor([self._code(name, category) for category in listed], dtype=torch.int64)
        values = _indicators(codes, self.categories) if self.size else torch.zeros(count, 0)
        return values if many else values[0]

    def draw(self, count: int, generator: torch.Generator) -> Tensor | None:
        """Draw the categories of items by their frequencies, each covariate independently of the others.

        Args:
            count: The number of items.
            generator: The generator to draw from, on the CPU.

        Returns:
            Indicators `(item, covariate)` on the device of the model; None for a model without covariates.
        """
        if not self.size:
            return None
        shares = self.split(self.frequencies.cpu())
        codes = {n: torch.multinomial(share, count, True, generator=generator) for n, share in shares.items()}
        return _indicators(codes, self.categories).to(self.frequencies)

    def _code(self, name: str, category: str) -> int:
        names = self.categories[name]
        if category not in names:
            raise ValueError(f"covariate {name!r} must be one of {', '.join(names)}, got {category!r}")
        return names.index(category)


def _check_categories(categories: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return the categories as tuples, checked for their types and for doublets."""
    if not isinstance(categories, Mapping):
        raise TypeError(f"covariates must be a mapping from names to categories, got {type(categories).__name__}")
    for name, names in categories.items():
        is_listed = isinstance(names, Sequence) and not isinstance(names, str)
        if not is_listed or not all(isinstance(category, str) for category in (name, *names)):
            raise TypeError(f"covariate {name!r} must have a sequence of strings as its categories, got {names!r}")
        if not names or len(set(names)) < len(names):
            raise ValueError(f"covariate {name!r} must have one or more different categories, got {list(names)}")
    return {name: tuple(names) for name, names in categories.items()}


def _indicators(
    codes: Mapping[str, Int[Tensor, " item"]], categories: Mapping[str, tuple[str, ...]]
) -> Float[Tensor, "item covariate"]:
    """Return one block of indicators per covariate, zeros for the code -1."""
    blocks = []
    for name, names in categories.items():
        code = codes[name]
        blocks.append(functional.one_hot(code.clamp(min=0), len(names)) * (code >= 0).unsqueeze(-1))
    return torch.cat(blocks, -1).to(torch.get_default_dtype())
