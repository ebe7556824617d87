"""The table with which ``data check`` ends: the modalities, and what a model will make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_COLUMNS = ("modality", "data type", "shape", "values", "missing", "likelihood", "network")
_MOST_CATEGORIES = 20  # listed in a line
_WIDEST = 40  # characters of a cell


def table_rows(data: Any, vae: Any) -> list[tuple[str, ...]]:
    """Return the rows of the table, the names of the columns first.

    Args:
        data: The training split of the data.
        vae: The model that a training would build for it.
    """
    from pyro_mmvae.data.ranges import find_range
    from pyro_mmvae.vae.modalities import network_name

    missing = (1 - data.present.double().mean(0)).tolist()
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for number, modality in enumerate(vae.modalities):
        name, likelihood = modality.name, vae.model.likelihoods[modality.name]
        values, shape = find_range(data, name), " x ".join(map(str, modality.shape)) or "scalar"
        rows.append(
            (
                name,
                "text" if modality.is_text else str(modality.data_type),
                shape,
                "none" if values is None else str(values),
                f"{missing[number]:.1%}",
                _describe_likelihood(modality),
                _describe_network(modality, network_name(modality, likelihood)),
            )
        )
    return rows


def covariate_lines(covariates: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return one line per covariate with its categories and their numbers of items.

    Args:
        covariates: The number of items per category, by the name of the covariate.
    """
    lines = []
    for name, counts in covariates.items():
        listed = ", ".join(f"{category}: {count}" for category, count in list(counts.items())[:_MOST_CATEGORIES])
        lines.append(f"covariate {name}  {listed}{', …' * (len(counts) > _MOST_CATEGORIES)}")
    return lines


def format_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines in which the cells of each column begin at one place.

    Args:
        rows: The cells of each row, as many in all rows.
    """
    cut = [[cell if len(cell) <= _WIDEST else f"{cell[: _WIDEST - 1]}…" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cut, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cut]


def _describe_likelihood(modality: Any) -> str:
    """Return the name of the likelihood with its scale, and whether values are standardized."""
    name = modality.likelihood if isinstance(modality.likelihood, str) else type(modality.likelihood).__name__
    scale = {None: "", "learned": ", learned scale"}.get(modality.scale, f", scale {modality.scale}")
    return f"{name}{scale}{', standardized' if modality.standardize else ''}"


def _describe_network(modality: Any, network: str) -> str:
    """Return the name of the network, with the encoder or decoder that takes the place of a part of it."""
    parts = [f"{part} {value}" for part in ("encoder", "decoder") if isinstance(value := getattr(modality, part), str)]
    return ", ".join([network, *parts]) if len(parts) < 2 else ", ".join(parts)
