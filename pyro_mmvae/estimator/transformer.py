"""A transformer of scikit-learn that encodes items with several modalities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.estimator import values as model_values
from pyro_mmvae.estimator.columns import Columns, find_columns
from pyro_mmvae.estimator.compat import check_columns, validate_array
from pyro_mmvae.estimator.folders import TemporaryRun, check_parameters
from pyro_mmvae.estimator.forms import FlatForm, fill_modality, form_of, original_keys
from pyro_mmvae.estimator.persistence import RunEstimator
from pyro_mmvae.training import fit

EXPECTED_FAILED_CHECKS = {
    "check_estimators_pickle": "single NaN entries are not allowed, only items that lack a whole modality",
}
"""The checks of ``sklearn.utils.estimator_checks`` that cannot hold for several modalities, with the reason."""


class MultimodalVAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, RunEstimator):
    """A transformer that trains a multimodal variational autoencoder and encodes items to posterior means.

    The input is an array or table whose ``columns`` are divided among the modalities, or a mapping from modality names
    to values as :func:`pyro_mmvae.fit` takes it. An item lacks a modality if all its values of it are NaN.
    The latent is the posterior mean given the modalities that an item has.

    Args:
        columns: Columns of an array or table that make up each modality, by name of the modality: their names,
            positions, a mask, or a slice. None (default) for a mapping, or for one modality ``"x"`` of all columns.
        aggregation: Name of the aggregation, or a mapping with its name and options; ``"mwb"`` by default.
        latent_size: Number of latent dimensions, the columns of the result; 32 by default.
        epochs: Number of passes over the training items; 10 by default.
        validation: Fraction of the items that are not trained on, and choose the best epoch unless ``train.select``
            is ``last``; 0.1 by default.
        data_types: Data type by modality name, such as ``{"rna": "counts"}``, where it cannot be inferred; None by
            default.
        settings: Further settings by dotted key, as in ``{"train.lr": 1e-3}``, see :func:`pyro_mmvae.fit`; None by
            default.
        out: Path of the new run directory; by default a temporary folder, which is removed with the estimator.
        keep_data: If True, the training data are written to the run directory, so that all commands work on it; False
            by default.
        random_state: Seed of the validation items, the weights and all draws: an integer, a generator of NumPy, or None
            (default) for its global generator.
        verbose: If positive, show a progress bar on standard error; 0 by default.

    Attributes:
        run_: The trained :class:`~pyro_mmvae.Run`, for everything that its methods answer.
        seed_: The seed of the training, an integer.
        form_: The form of the training data: ``"array"``, ``"table"`` or ``"modalities"``.
        n_features_in_: The number of columns of the training data, unless they were a mapping.
        feature_names_in_: The names of these columns, if all of them are strings.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(60, 5))
        >>> split = {"left": slice(0, 2), "right": slice(2, 5)}
        >>> vae = MultimodalVAETransformer(split, latent_size=2, epochs=1, random_state=0)
        >>> z = vae.fit_transform(x)
        >>> z.shape, vae.inverse_transform(z).shape
        ((60, 2), (60, 5))
    """

    def __init__(
        self,
        columns: Columns = None,
        *,
        aggregation: str | Mapping[str, Any] = "mwb",
        latent_size: int = 32,
        epochs: int = 10,
        validation: float = 0.1,
        data_types: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        out: str | Path | None = None,
        keep_data: bool = False,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.columns = columns
        self.aggregation = aggregation
        self.latent_size = latent_size
        self.epochs = epochs
        self.validation = validation
        self.data_types = data_types
        self.settings = settings
        self.out = out
        self.keep_data = keep_data
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803
        """Train a new model.

        Args:
            X: The training items: an array or table `(item, feature)`, or a mapping from modality names to values.
            y: Labels, which are ignored; None by default.

        Returns:
            The estimator itself.

        Raises:
            ValueError: If the data or a parameter is not allowed.
            RunError: If ``out`` exists already.
        """
        if self.out is not None:
            check_parameters(self.get_params(deep=False))
        self.form_ = form_of(X)
        modalities = self._read(X, reset=True)
        self.seed_ = self._draw_seed()
        folder = None if self.out is not None else TemporaryRun()
        self.run_ = fit(
            modalities,
            validation=self.validation,
            test=0,
            aggregation=self.aggregation,
            epochs=self.epochs,
            latent_size=self.latent_size,
            out=self.out if folder is None else folder.path,
            seed=self.seed_,
            data_types=self.data_types,
            keep_data=self.keep_data,
            settings=self.settings,
            progress=self.verbose > 0,
        )
        self._folder = folder
        if folder is None:
            self._write_parameters(self.run_.path)
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Encode items to posterior means.

        Args:
            X: The items in the form of the training data.

        Returns:
            The latents `(item, latent)`, in the precision of an array of floats, otherwise float64.
        """
        check_is_fitted(self, "run_")
        data = self._dataset(X)
        dtype = np.float32 if getattr(X, "dtype", None) == np.float32 else np.float64
        return self.run_.encode(data)["z"].astype(dtype)

    def inverse_transform(self, X: Any) -> Any:  # noqa: N803
        """Decode latents to the means of all modalities.

        Args:
            X: The latents `(item, latent)`.

        Returns:
            The means in the form of the training data: an array, a table, or a mapping from modality names to arrays,
            or tables where features have names. Tokens and texts are the most probable ones.
        """
        check_is_fitted(self, "run_")
        index = getattr(X, "index", None)
        z = check_array(X, dtype=[np.float64, np.float32])
        if z.shape[1] != self._n_features_out:
            raise ValueError(f"X must have {self._n_features_out} columns, one per latent, got {z.shape[1]}")
        means = model_values.decode(self.run_, z)
        return self._give(means, z.dtype, index)

    def impute(self, X: Any, *, draws: int = 20) -> Any:  # noqa: N803
        """Fill in the modalities that items lack by their posterior predictive means.

        Args:
            X: The items in the form of the training data.
            draws: Number of draws of the latent per item, at least 2; 20 by default.

        Returns:
            A copy of the items in which only absent modalities are changed. Modalities of a mapping whose items are not
            those of the result, such as tables that lack some, become arrays, or tables where features have names.
        """
        check_is_fitted(self, "run_")
        data = self._dataset(X)
        absent = {name: ~mask.numpy() for name, mask in zip(data.names, data.present.unbind(-1), strict=True)}
        absent = {name: mask for name, mask in absent.items() if mask.any()}
        filled = model_values.impute(self.run_, data, tuple(absent), draws, self.seed_) if absent else {}
        if self.form_ != "modalities":
            values = X if form_of(X) == "table" else validate_array(self, X, reset=False)
            return self._flat_form().fill(values, filled, absent)
        given = dict(X) if isinstance(X, Mapping) else model_values.as_mapping(self.run_, data)
        if hasattr(X, "obs_names"):  # AnnData and MuData name their observations and variables
            given = model_values.with_names(self.run_, given, data.item_ids)
        named = model_values.with_names(self.run_, filled, original_keys(given, data.item_ids))
        for name, value in filled.items():
            copy = fill_modality(given.get(name), value, absent[name], data.item_ids)
            given[name] = named[name] if copy is None else copy
        return given

    def sample(self, n_samples: int = 1, *, random_state: Any = None) -> Any:
        """Draw new items from the model, with the noise of the likelihoods.

        Args:
            n_samples: Number of items to draw, 1 by default.
            random_state: Seed of the draws, an integer or a generator of NumPy; that of the estimator by default.

        Returns:
            The items in the form of the training data, as :meth:`inverse_transform` returns them.
        """
        check_is_fitted(self, "run_")
        if n_samples < 1:
            raise ValueError(f"n_samples must be positive, got {n_samples}")
        seed = self._draw_seed() if random_state is None else _seed_of(random_state)
        return self._give(model_values.sample(self.run_, n_samples, seed), np.dtype(np.float64), None)

    def score(self, X: Any, y: Any = None, *, draws: int = 32) -> float:  # noqa: N803
        """Return the mean log likelihood per item, which a search without a classifier maximises.

        Args:
            X: The items in the form of the training data.
            y: Labels, which are ignored; None by default.
            draws: Number of draws per item of the importance-weighted estimate, 32 by default.

        Returns:
            The estimate in nats of what was observed of each item, a mean over the items.
        """
        check_is_fitted(self, "run_")
        return float(self.run_.score(self._dataset(X), draws=draws, seed=self.seed_)["log_likelihood"].mean())

    def __sklearn_tags__(self) -> Any:
        """Return the tags of scikit-learn from version 1.6 on."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _more_tags(self) -> dict[str, Any]:
        """Return the tags of scikit-learn before version 1.6."""
        return {"allow_nan": True, "preserves_dtype": [np.float64, np.float32]}

    @property
    def _n_features_out(self) -> int:
        """The number of latent dimensions."""
        return self.run_.config.model.latent_size

    def _draw_seed(self) -> int:
        return _seed_of(self.random_state)

    def _read(self, values: Any, *, reset: bool = False) -> Any:
        """Return the modalities of the input, after it was checked."""
        form = form_of(values)
        if form == "modalities":
            if self.columns is not None:
                raise ValueError(f"X must be an array or a table, as columns is given, got {type(values).__name__}")
            if not reset and self.form_ != form:
                raise ValueError(f"X must be an array or a table as in training, got {type(values).__name__}")
            for name in ("n_features_in_", "feature_names_in_") if reset else ():
                self.__dict__.pop(name, None)  # of an earlier training on a table
            return values
        if not reset and self.form_ == "modalities":
            raise ValueError(f"X must be values by modality as in training, got {type(values).__name__}")
        if form == "table":
            check_columns(self, values, reset=reset)
        else:
            values = validate_array(self, values, reset=reset)
        return self._flat_form().split(values)

    def _dataset(self, values: Any) -> MultimodalDataset:
        """Return the input as a data set, in which an item may lack everything."""
        modalities = self._read(values)
        if self.form_ != "modalities" and all(model_values.is_absent(part) for part in modalities.values()):
            return model_values.absent_items(self.run_, len(values))
        return self.run_.dataset(modalities)

    def _flat_form(self) -> FlatForm:
        names = getattr(self, "feature_names_in_", None)
        positions = find_columns(self.columns, self.n_features_in_, names)
        tokens = frozenset(name for name, kind in (self.data_types or {}).items() if kind == "tokens")
        return FlatForm(positions, names, self.form_ == "table", tokens)

    def _give(self, values: dict[str, NDArray[Any]], dtype: np.dtype[Any], index: Any) -> Any:
        """Return values by modality in the form of the training data."""
        if self.form_ == "modalities":
            return model_values.with_names(self.run_, values, index)
        floats = {name: value.astype(dtype) if value.dtype.kind == "f" else value for name, value in values.items()}
        return self._flat_form().join(floats, index)


def _seed_of(random_state: Any) -> int:
    """Return the seed that an integer is, or that a generator of NumPy draws."""
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
