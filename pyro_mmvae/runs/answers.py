"""The methods of a run that answer questions about the items of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_mmvae import inference
from pyro_mmvae.data import DataDescription, MultimodalDataset, match_data, to_dataset
from pyro_mmvae.data.own.omics import find_columns, is_omics_object
from pyro_mmvae.inference import Imputation, ItemTable, Predictor
from pyro_mmvae.inference.items import ItemsLike
from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.predictors import find_predictor, label_array
from pyro_mmvae.runs.sources import DataLike, load_source
from pyro_mmvae.vae.vae import MultimodalVAE


class Answers:
    """The answers of a trained model, which :class:`~pyro_mmvae.Run` inherits.

    Each method takes ``data``, see :meth:`dataset`, and ``items``: a number of first items, a slice, row numbers or
    identifiers; all by default.
    """

    path: Path
    config: Config
    vae: MultimodalVAE
    state: dict[str, Any]

    @property
    def description(self) -> DataDescription:
        """The description of the training data."""
        raise NotImplementedError

    @property
    def modality_specs(self) -> dict[str, ModalitySpec]:
        """The description of each modality, by name."""
        raise NotImplementedError

    def data(self, split: str) -> MultimodalDataset:
        """Load a split of the data that the run was trained on."""
        raise NotImplementedError

    def dataset(
        self,
        data: DataLike = None,
        *,
        split: str | None = None,
        options: Mapping[str, Any] | None = None,
        covariates: Any = None,
        missing_features: str = "error",
        surplus_features: str = "error",
    ) -> MultimodalDataset:
        """Return data in the form that the model takes, matched by name to what it was trained on.

        Args:
            data: The data: None (default) for that of the run, a name or path as in :func:`pyro_mmvae.load_data`, or
                values as in :func:`pyro_mmvae.data.to_dataset`, such as a mapping from modality names to arrays.
            split: The name of the split of a name or path; by default ``"test"``, and ``"all"``, every item in its
                order, for files of the user.
            options: Options of the loader by name; files in the format of the training data inherit from the run those
                that say how values are read.
            covariates: Categories of the items of values, by the name of the covariate, as in
                :func:`pyro_mmvae.data.to_dataset`; by default the columns of an AnnData or MuData object that have the
                names of the run's covariates, and otherwise unknown.
            missing_features: Treatment of features that the data lack, ``"error"`` (default) or ``"fill"``, see
                :func:`pyro_mmvae.data.match_data`.
            surplus_features: Treatment of features that the training data lacked, ``"error"`` (default) or ``"drop"``.

        Returns:
            The data set, on the CPU. ``provenance["matched"]`` has one line per change, if there are any.

        Raises:
            ValueError: If the data cannot be loaded or does not fit the run.
        """
        if data is None and not options:
            return self.data(split or "test")
        if data is None or isinstance(data, (str, Path)):
            result = load_source(self.config, data, split, options, allow_missing_columns=missing_features == "fill")
            if data is None:
                return result
        else:
            description = self.description
            if covariates is None and is_omics_object(data):
                covariates = find_columns(data, description.covariate_names)
            result = to_dataset(
                data, covariates=covariates, specs=self.modality_specs, shapes=description.shapes, name="data",
                split=split or "all",
            )  # fmt: skip
        features: Any = {"missing_features": missing_features, "surplus_features": surplus_features}
        return match_data(result, self.description, **features).data

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
            items: The selection of items; all by default.
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

    def impute(
        self,
        data: DataLike = None,
        *,
        split: str | None = None,
        items: ItemsLike = None,
        given: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        draws: int = 20,
        quantiles: Sequence[float] = (),
        multiple: bool = False,
        covariates: Mapping[str, str] | None = None,
        density: str | None = None,
        batch_size: int = 500,
        seed: int = 0,
        folder: str | Path | None = None,
        force: bool = False,
    ) -> Imputation:
        """Impute modalities that items lack, see :func:`pyro_mmvae.inference.impute`.

        Args:
            data: The data that holds the items, see :meth:`dataset`.
            split: The name of the split, see :meth:`dataset`.
            items: The selection of items; all by default.
            given: The modalities whose observations are used and kept; all by default.
            targets: The modalities to impute; all by default.
            draws: The number of draws of the latent per item, 20 by default.
            quantiles: The levels of the quantiles, between 0 and 1; none by default.
            multiple: If True, each draw also makes one complete data set; False by default.
            covariates: Category to decode all items under, by the name of the covariate, such as ``{"donor": "A"}``,
                which removes the effect of the donor: encoders see the items' own categories. By default decoders see
                those as well.
            density: ``"mixture"`` or ``"joint"``; by default the mixture unless it has too many components.
            batch_size: The number of items to read at once, 500 by default.
            seed: The seed of all draws, 0 by default.
            folder: A folder to write to, part by part; by default everything is kept in memory.
            force: If True, a folder that was written by an imputation is replaced; False by default.

        Returns:
            Mean, standard deviation and quantiles of each imputed modality, and a mask of what was imputed.
        """
        return inference.impute(
            self.vae, self.dataset(data, split=split), items=items, given=given, targets=targets, draws=draws,
            quantiles=quantiles, multiple=multiple, covariates=covariates, density=density,
            batch_size=batch_size, seed=seed, folder=None if folder is None else Path(folder), force=force,
        )  # fmt: skip

    def predictor(self, label: str | None = None, *, refit: bool = False) -> Predictor:
        """Return the predictor of a label, see :func:`pyro_mmvae.runs.predictors.find_predictor`.

        Args:
            label: The name of an attribute or of a column of labels; by default all labels of the data set of the run.
            refit: If True, it is fitted again; False by default.
        """
        return find_predictor(self, label, refit=refit)

    def predict(
        self,
        data: DataLike = None,
        label: str | None = None,
        *,
        split: str | None = None,
        items: ItemsLike = None,
        given: Sequence[str] | None = None,
        refit: bool = False,
        batch_size: int = 500,
    ) -> ItemTable:
        """Predict labels from latents by a logistic regression, which is fitted once and stored in the run directory.

        Args:
            data: The data that holds the items, see :meth:`dataset`.
            label: The name of an attribute or of a column of labels; by default all labels of the data set of the run.
            split: The name of the split, see :meth:`dataset`.
            items: The selection of items; all by default.
            given: The modalities to condition on, where an item has them; all by default.
            refit: If True, the regression is fitted again; False by default.
            batch_size: The number of items to read at once, 500 by default.

        Returns:
            A table with ``probability`` `(item, class)`, ``predicted`` and, for labelled items, ``label``. In its
            summary, ``figures`` has accuracy, calibration error and Brier score of the labelled items.
        """
        predictor = find_predictor(self, label, refit=refit)
        options = predictor.about["options"] if data is None else None
        dataset = self.dataset(data, split=split, options=options)
        latents = inference.encode(self.vae, dataset, items=items, given=given, batch_size=batch_size)
        return predict_labels(predictor, dataset, latents, items)

    def score(
        self,
        data: DataLike = None,
        *,
        split: str | None = None,
        items: ItemsLike = None,
        draws: int = 32,
        batch_size: int = 500,
        seed: int = 0,
    ) -> ItemTable:
        """Score items by likelihood, reconstruction and disagreement, see :func:`pyro_mmvae.inference.score`.

        Args:
            data: The data that holds the items, see :meth:`dataset`.
            split: The name of the split, see :meth:`dataset`.
            items: The selection of items; all by default.
            draws: The number of draws per item, 32 by default.
            batch_size: The number of items to read at once, 500 by default.
            seed: The seed of the draws, 0 by default.

        Returns:
            A table with one row per item, whose array ``outlier`` is 1 for the most unusual item.
        """
        return inference.score(
            self.vae, self.dataset(data, split=split), items=items, draws=draws, batch_size=batch_size, seed=seed
        )


def predict_labels(
    predictor: Predictor, data: MultimodalDataset, latents: ItemTable, items: ItemsLike = None
) -> ItemTable:
    """Return the predictions of items, with their labels if the data has them.

    Args:
        predictor: The predictor of the label.
        data: The data set that holds the items.
        latents: The latents of the items.
        items: The selection of items; all by default.
    """
    is_attributes = predictor.codes is None
    known = not is_attributes or all(name in data.label_names for name in predictor.targets)
    if data.labels is None or bool(data.label_names) != is_attributes or not known:
        return predictor.table(latents)
    targets = predictor.targets if is_attributes else ()
    labels, _ = label_array(data, inference.select_items(data, items), None, targets)
    return predictor.table(latents, labels, data.class_names)
