"""The range of the values of a modality, in words that a person reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.tokenizer import decode_tokens
from pyro_mmvae.modality_spec import ModalitySpec

_MOST_ITEMS = 2_000  # items that are looked at
_BLOCK = 500  # items read at once


@dataclass(frozen=True)
class ValueRange:
    """The range of the values of a modality, or of the lengths of its texts.

    Attributes:
        least: The smallest value, or the number of characters of the shortest text.
        mean: The mean value, or the mean number of characters.
        most: The largest value, or the number of characters of the longest text.
        unit: The unit in words, ``"characters"`` for texts, otherwise empty.
        is_whole: If True, all values are integers.
    """

    least: float
    mean: float
    most: float
    unit: str = ""
    is_whole: bool = False

    def __str__(self) -> str:
        """Return the range in words."""
        least, mean, most = (f"{value:.4g}" for value in (self.least, self.mean, self.most))
        if self.is_whole:
            least, most = f"{self.least:.0f}", f"{self.most:.0f}"
        return f"{least} to {most}{f' {self.unit}' if self.unit else ''}, mean {mean}"


def find_range(data: MultimodalDataset, name: str) -> ValueRange | None:
    """Return the range of a modality among at most 2,000 evenly spaced items that have it; None if none has it.

    Args:
        data: One split of a data set.
        name: Name of the modality.
    """
    rows = data.present[:, data.names.index(name)].nonzero()[:, 0]
    rows = rows[:: max(len(rows) // _MOST_ITEMS, 1)]
    spec = data.modality_specs.get(name, ModalitySpec())
    is_text = spec.is_text and data.modalities[name].dim() == 2
    least, most, total, count, is_whole = np.inf, -np.inf, 0.0, 0, True
    for part in rows.split(_BLOCK):
        if not len(part):
            continue
        block = data.modalities[name][part].cpu()
        if is_text:
            block = torch.tensor([len(text) for text in decode_tokens(block, spec)])
        values = block.to(torch.float64)
        least, most = min(least, float(values.min())), max(most, float(values.max()))
        total, count = total + float(values.sum()), count + values.numel()
        is_whole = is_whole and not block.is_floating_point()
    return ValueRange(least, total / count, most, "characters" if is_text else "", is_whole) if count else None
