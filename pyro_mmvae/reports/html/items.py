"""The data of the items in a page, and of the map of their latents."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.exhibits import Exhibits, LatentMap, ShownModality
from pyro_mmvae.reports.html.embedding import CELL, encode_sheets, rounded, sprite_sheet
from pyro_mmvae.reports.styles import MARKERS, OKABE_ITO, class_style

MAX_IMAGE_BYTES = 8_000_000
"""The largest size of all images of a page, which take a third more as text."""

_MAX_SHEET = 16_000  # the largest side of a picture that WebP and browsers take, in pixels


def item_data(exhibits: Exhibits) -> dict[str, Any]:
    """Return the items of a page: labels, distances of experts, and the values of every modality.

    Args:
        exhibits: The items, with what every subset says about them.
    """
    modalities, sheets = [], []
    for modality in exhibits.modalities:
        entry = _about(modality)
        if modality.kind == "image":
            sheet, place = _sheet(modality)
            sheets.append((entry, sheet))
            entry |= place
        elif modality.kind == "text":
            entry |= {"observed": modality.observed.tolist(), "generated": modality.generated.tolist()}
        else:
            entry |= _numbers(modality, exhibits.present[:, exhibits.names.index(modality.name)])
        modalities.append(entry)
    encoded = encode_sheets([sheet for _, sheet in sheets], MAX_IMAGE_BYTES) if sheets else []
    for (entry, _), uri in zip(sheets, encoded, strict=True):
        entry["sheet"] = uri
    return {
        "subsets": [list(subset) for subset in exhibits.subsets],
        "modalities": modalities,
        "ids": exhibits.ids.tolist(),
        "labels": None if exhibits.labels is None else exhibits.labels.tolist(),
        "present": exhibits.present.astype(int).tolist(),
        "distances": rounded(exhibits.distances, 3),
        "expected": rounded(exhibits.expected, 3),
        "spread": rounded(exhibits.spread.T, 3),
        "protocol": exhibits.protocol,
        "notes": list(exhibits.notes),
    }


def _about(modality: ShownModality) -> dict[str, Any]:
    return {"name": modality.name, "kind": modality.kind}


def _sheet(modality: ShownModality) -> tuple[Any, dict[str, Any]]:
    """Return the sprite sheet of a modality, and the places of its images.

    Cells are numbered by item and then by subset, the observation first; the sheet has as many cells per row as fit.
    """
    cells = np.concatenate([modality.observed[None], modality.generated]).swapaxes(0, 1)
    per_item, height, width = cells.shape[1], *cells.shape[-2:]
    flat = cells.reshape(-1, *cells.shape[2:])
    columns = max(min(_MAX_SHEET // (width + CELL), _square(len(flat), width, height)), 1)
    surplus = -len(flat) % columns
    flat = np.concatenate([flat, np.zeros((surplus, *flat.shape[1:]), dtype=flat.dtype)])
    sheet, cell_width, cell_height = sprite_sheet(flat.reshape(-1, columns, *flat.shape[1:]))
    place = {
        "width": width, "height": height, "cell": [cell_width, cell_height], "columns": columns,
        "rows": len(flat) // columns, "perItem": per_item, "size": list(modality.size),
    }  # fmt: skip
    return sheet, place


def _square(count: int, width: int, height: int) -> int:
    """Return the number of columns that makes a sheet about as wide as high."""
    return max(round((count * height / width) ** 0.5), 1)


def _numbers(modality: ShownModality, present: NDArray[Any]) -> dict[str, Any]:
    """Return the values of a modality of numbers, and the length of a bar for each feature."""
    largest = np.nan_to_num(np.abs(modality.generated)).reshape(-1, modality.generated.shape[-1]).max(0)
    if present.any():
        largest = np.maximum(largest, np.nan_to_num(np.abs(modality.observed[present])).max(0))
    # Features in units of their own differ by orders of magnitude, so that each has a bar of its own scale.
    scales = np.full(len(largest), largest.max()) if modality.unit else largest
    return {
        "observed": rounded(modality.observed, 3),
        "generated": rounded(modality.generated, 3),
        "features": list(modality.features),
        "unit": modality.unit,
        "numFeatures": modality.num_features,
        "scales": rounded(np.where(scales > 0, scales, 1.0), 4),
    }


def map_data(latent: LatentMap) -> dict[str, Any]:
    """Return the map of the latents of a page, with positions as whole numbers from 0 to 999.

    Args:
        latent: The positions of the items given each subset.
    """
    low, high = latent.points.reshape(-1, 2).min(0), latent.points.reshape(-1, 2).max(0)
    span = max(float((high - low).max()), 1e-12)
    middle = (low + high) / 2
    places = np.clip(np.round((latent.points - middle) / span * 999 + 499.5), 0, 999).astype(int)
    classes: list[str] = []
    codes: list[int] | None = None
    if latent.labels is not None:
        texts = latent.labels.tolist()
        classes = sorted({text for text in texts if text}, key=_natural)
        numbers = {text: number for number, text in enumerate(classes)}
        codes = [numbers.get(text, -1) for text in texts]
    return {
        "subsets": [list(subset) for subset in latent.subsets],
        "points": places.reshape(len(places), -1).tolist(),
        "seen": ["".join("1" if has else "0" for has in row) for row in latent.seen],
        "explained": rounded(latent.explained, 3),
        "classes": classes,
        "styles": [_style(number, len(classes)) for number in range(len(classes))],
        "codes": codes,
        "title": latent.title,
        "disagreement": rounded(latent.disagreement, 3),
        "ids": latent.ids.tolist(),
    }


def _style(number: int, classes: int) -> list[Any]:
    """Return the colour of a class, a number of the page or in hexadecimal, and the number of its marker."""
    style = class_style(number, classes)
    color, marker = style["color"], style["marker"]
    return [OKABE_ITO.index(color) if color in OKABE_ITO else color, MARKERS.index(marker)]


def _natural(text: str) -> tuple[int, float, str]:
    """Return a key that sorts numbers by their value, before other texts."""
    return (0, float(text), text) if text.isdecimal() and text.isascii() else (1, 0.0, text)
