"""The methods of a run that answer questions about the items of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_mmvae import inference
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.inference import ItemTable
from pyro_mmvae.inference.items import ItemsLike
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.sources import DataLike, load_source
from pyro_mmvae.vae.vae import MultimodalVAE


class Answers:
    """The answers of a trained model, which :class:`~pyro_mmvae.Run` inherits."""

    path: Path
    config: Config
    vae: MultimodalVAE
    state: dict[str, Any]

    def dataset(
        self, data: DataLike = None, *, split: str | None = None, options: Mapping[str, Any] | None = None
    ) -> MultimodalDataset:
        """Return data in the form that the model takes.

        Args:
            data: The data: None (default) for that of the run, a name or path as in :func:`pyro_mmvae.load_data`, or a
                :class:`~pyro_mmvae.MultimodalDataset`.
            split: The name of the split of a name or path; by default ``"test"``, and ``"all"``, every item in its
                order, for files of the user.
            options: Options of the loader by name; files in the format of the training data inherit from the run those
                that say how values are read.

        Returns:
            The data set, on the CPU.

        Raises:
            ValueError: If the data cannot be loaded or does not fit the run.
        """
        if data is None or isinstance(data, (str, Path)):
            return load_source(self.config, data, split, options)
        if not isinstance(data, MultimodalDataset):
            raise TypeError(f"data must be a name, a path or a MultimodalDataset, got {type(data).__name__}")
        return data

    def encode(
        self,
        data: DataLike = None,
        *,
        split: str | None = None,
        items: ItemsLike = None,
        given: Sequence[str] | None = None,
        statistic: str = "mean",
        private: bool = False,
        density: str | None = None,
        batch_size: int = 500,
        seed: int = 0,
    ) -> ItemTable:
        """Return the latents of items, see :func:`pyro_mmvae.inference.encode`.

        Args:
            data: The data that holds the items, see :meth:`dataset`.
            split: The name of the split, see :meth:`dataset`.
            items: The selection of items: the first n, a slice, row numbers or identifiers; all by default.
            given: The modalities to condition on, where an item has them; all by default, the prior if empty.
            statistic: ``"mean"`` (default), ``"loc_scale"`` or ``"draw"``.
            private: If True, private latents are added; False by default.
            density: ``"mixture"`` or ``"joint"``; by default the mixture unless it has too many components.
            batch_size: The number of items to read at once, 500 by default.
            seed: The seed of the draws, 0 by default.

        Returns:
            A table with the array ``z`` `(item, latent)` and the identifiers of the items.
        """
        return inference.encode(
            self.vae, self.dataset(data, split=split), items=items, given=given, statistic=statistic, private=private,
            density=density, batch_size=batch_size, seed=seed,
        )  # fmt: skip
