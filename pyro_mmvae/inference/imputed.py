"""The result of an imputation, in memory or in the files of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae._bounded import read_json

SUMMARY_FILE = "imputation.json"
"""The file of a folder of imputations that says how they were made."""


@dataclass(frozen=True, eq=False)
class Imputation:
    """Imputed modalities of some items.

    Arrays are in memory, or mapped from the files of a folder if they were written to one. Images of bytes are in
    [0, 1].

    Attributes:
        ids: The identifier of each item, `(item,)`.
        names: The modalities of the model, the columns of ``imputed``.
        imputed: True for each imputed modality of each item, bool, `(item, modality)`.
        arrays: ``mean/NAME``, ``sd/NAME`` and ``quantile-LEVEL/NAME`` of each imputed modality, `(item, *shape)`; for
            tokens ``mode/NAME``, the most probable class, its ``probability/NAME``, and ``text/NAME`` if it is text;
            ``draw-000/NAME`` of complete data sets.
        summary: How the imputation was made, by name.
    """

    ids: NDArray[np.str_]
    names: tuple[str, ...]
    imputed: NDArray[np.bool_]
    arrays: dict[str, NDArray[Any]]
    summary: dict[str, Any]

    def of(self, figure: str) -> dict[str, NDArray[Any]]:
        """Return one figure of all modalities that have it, by modality name.

        Args:
            figure: The name of the figure, such as ``mean``, ``sd``, ``quantile-0.05``, ``text`` or ``draw-000``.
        """
        return {key.partition("/")[2]: a for key, a in self.arrays.items() if key.partition("/")[0] == figure}

    @property
    def mean(self) -> dict[str, NDArray[Any]]:
        """The posterior predictive means by modality name."""
        return self.of("mean")

    @property
    def sd(self) -> dict[str, NDArray[Any]]:
        """The posterior predictive standard deviations by modality name."""
        return self.of("sd")

    @property
    def text(self) -> dict[str, NDArray[Any]]:
        """The most probable texts by modality name."""
        return self.of("text")


def read_imputation(folder: Path) -> Imputation:
    """Open a folder that :func:`impute` wrote, with its arrays mapped from the files.

    Args:
        folder: The path of the folder.

    Raises:
        FileNotFoundError: If it is not such a folder.
    """
    summary = read_json(folder / SUMMARY_FILE)
    figures = {f"{file.parent.name}/{file.stem}": file for file in sorted(folder.glob("*/*.npy"))}
    names = tuple(summary["names"])  # a complete data set has files of labels and others, too
    arrays = {key: np.load(file, mmap_mode="r") for key, file in figures.items() if file.stem in names}
    ids, imputed = np.load(folder / "ids.npy"), np.load(folder / "imputed.npy")
    return Imputation(ids, names, imputed, arrays, summary)
