"""Data sets made of the values that a Python user holds: arrays, tensors, strings, tables, AnnData and MuData."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae.data.dataset import MultimodalDataset, Values
from pyro_mmvae.data.options import describe_item
from pyro_mmvae.data.own.arrays import from_arrays
from pyro_mmvae.data.own.columns import GivenColumn, align_columns, convert_column, nan_places
from pyro_mmvae.data.own.covariates import convert_covariates
from pyro_mmvae.data.own.given_labels import GivenLabels, convert_labels
from pyro_mmvae.data.own.omics import is_omics_object, split_omics_object
from pyro_mmvae.data.own.tokenized import Rows, encode_column, set_tokenizers
from pyro_mmvae.data.storage.rows import MatrixRows
from pyro_mmvae.data.text import encode_texts
from pyro_mmvae.data.tokenizer import TokenizerOption
from pyro_mmvae.modality_spec import ModalitySpec

Shape = tuple[int, ...]


def to_dataset(
    values: Any,
    *,
    labels: Any = None,
    present: Any = None,
    covariates: Any = None,
    specs: Mapping[str, ModalitySpec] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    tokenizer: TokenizerOption = None,
    name: str = "arrays",
    split: str = "train",
) -> MultimodalDataset:
    """Make a data set of whatever holds the values in Python.

    Items are matched by position, or by the index of tables of pandas and the names of observations, which become the
    ``item_ids``: an item that one table lacks is absent there. Names of columns become the ``feature_names``. A large
    sparse matrix, also that of an AnnData object, stays sparse: its rows are made dense batch by batch.

    Args:
        values: A data set, which is returned as it is; an AnnData object, which is one modality ``x``; a MuData object;
            or a mapping from modality names to arrays, tensors, sparse matrices, lists of strings, of arrays or of
            images, tables or columns of pandas, or AnnData objects. In a list, None is an absent item; in floats, an
            item of NaN only; None in place of all values is a modality that no item has.
        labels: Class of each item, integers or strings `(item,)`, None or NaN for an item without a label; or its
            attributes, bool or 0 and 1 `(item, attribute)`. A table of pandas with an index is matched by it. With an
            AnnData or MuData object also the name of a column of ``obs``. No labels by default.
        present: True where an item's modality is present, bool: an array `(item, modality)` with columns in the order
            of ``values``, or a mapping or a table with a column `(item,)` per modality; by default, everything that is
            not missing in ``values``.
        covariates: Categories that condition a model, such as the donor: a mapping or a table of pandas from names to
            one string or integer per item `(item,)`, where None, NaN or an empty string is an unknown category, matched
            by the index as labels are; with an AnnData or MuData object also the names of columns of ``obs``. None by
            default.
        specs: Known descriptions by modality name, such as those of a run: strings are encoded with their alphabet, and
            values may be constant. By default everything is inferred.
        shapes: Known shapes of one item by modality name, such as those of a run, which give texts their length and
            are needed for modalities that no item has; none by default.
        tokenizer: Tokenizer of the strings in place of an alphabet, or tokenizers by modality name: the path of a file
            ``tokenizer.json``, or ``bpe:N`` for a byte-pair vocabulary of N tokens, trained on the strings. None by
            default.
        name: Name of the data, ``"arrays"`` by default.
        split: Name of the split, ``"train"`` by default.

    Raises:
        ValueError: If the values do not fit together or one is not allowed; the message names modality and item.
        TypeError: If ``values`` is neither a data set nor a mapping nor an AnnData or MuData object.

    Example:
        >>> import numpy as np
        >>> data = to_dataset({"sensor": np.array([[0.5, 1.0], [np.nan, np.nan]]), "word": ["yes", None]})
        >>> data.present.tolist()
        [[True, True], [False, False]]
    """
    return make_dataset(
        values, labels=labels, present=present, covariates=covariates, specs=specs, shapes=shapes,
        tokenizer=tokenizer, name=name, split=split, is_known=bool(specs),
    )  # fmt: skip


def make_dataset(
    values: Any,
    *,
    labels: Any = None,
    present: Any = None,
    covariates: Any = None,
    specs: Mapping[str, ModalitySpec] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    tokenizer: TokenizerOption = None,
    tokenizer_rows: Rows | None = None,
    name: str = "arrays",
    split: str = "train",
    is_known: bool = False,
) -> MultimodalDataset:
    """Make a data set as :func:`to_dataset` does.

    Args:
        values: The values of all modalities.
        labels: The labels of the items, or None.
        present: The mask of the modalities, or None.
        covariates: The covariates of the items by name, or None.
        specs: Descriptions by modality name, or None.
        shapes: Shapes of one item by modality name, or None.
        tokenizer: The tokenizer of all strings, or tokenizers by modality name, or None.
        tokenizer_rows: A function from the number of items to those that a vocabulary is trained on; all by default.
        name: Name of the data, ``"arrays"`` by default.
        split: Name of the split, ``"train"`` by default.
        is_known: If True, ``specs`` describe the data of a model, and values of a modality may be constant; if False
            (default), ``specs`` are a user's, and constant values are an error.
    """
    if isinstance(values, MultimodalDataset):
        if not labels is present is covariates is None:
            raise ValueError(f"{name}: labels, present and covariates must be None with a data set, which has its own")
        if tokenizer is not None:
            raise ValueError(f"{name}: tokenizer must be None with a data set, whose texts are tokens, got another one")
        return values
    order: Sequence[Hashable] | None = None
    if is_omics_object(values):
        values, labels, covariates, order = split_omics_object(values, labels, name, covariates)
    if not isinstance(values, Mapping):
        raise TypeError(
            f"{name}: values must be a mapping from modality names to arrays, lists or tables, a MultimodalDataset, or "
            f"an AnnData or MuData object, got {type(values).__name__}"
        )
    columns = {str(key): convert_column(f"{name}: modality {key!r}", v) for key, v in values.items() if v is not None}
    if not columns:
        raise ValueError(f"{name}: some modality must have values, got none")
    columns, keys = align_columns(name, columns, order)
    count = len(next(iter(columns.values())))
    nowhere = GivenColumn(None, np.zeros(count, dtype=bool))
    columns = {str(key): columns.get(str(key), nowhere) for key in values}
    _check_lengths(name, columns, count)
    mask = _read_mask(name, present, list(columns), keys, count)
    columns = {
        key: replace(column, present=column.present & mask[:, m]) for m, (key, column) in enumerate(columns.items())
    }
    known_shapes = {key: tuple(shape) for key, shape in (shapes or {}).items()}
    specs = set_tokenizers(name, columns, specs or {}, tokenizer, tokenizer_rows)
    builder = _Builder(name, split, specs, known_shapes, keys, is_known)
    given_labels = convert_labels(f"{name}: labels", labels, keys, count)
    return builder.build(columns, given_labels, convert_covariates(name, covariates, keys))


class _Builder:
    """The last steps from columns to a data set, which all need to know names, descriptions and keys.

    Args:
        name: Name of the data.
        split: Name of the split.
        specs: Descriptions by modality name.
        shapes: Known shapes of one item by modality name.
        keys: The keys of the items, or None.
        is_known: If True, values of a modality may be constant.
    """

    def __init__(
        self,
        name: str,
        split: str,
        specs: Mapping[str, ModalitySpec],
        shapes: Mapping[str, Shape],
        keys: Sequence[Hashable] | None,
        is_known: bool,
    ) -> None:
        self.name, self.split, self.keys = name, split, keys
        self.specs, self.shapes, self.is_known = specs, shapes, is_known

    def build(
        self, columns: Mapping[str, GivenColumn], labels: GivenLabels, covariates: Mapping[str, NDArray[np.str_]]
    ) -> MultimodalDataset:
        """Return the data set, in which modalities that no item has are filled with zeros."""
        arrays = {key: self._prepare(key, column) for key, column in columns.items() if column.present.any()}
        if not arrays:
            raise ValueError(f"{self.name}: some item must have a modality, got none")
        entries = {key: spec for key, spec in self.specs.items() if key in arrays}
        meta: dict[str, Any] = {"modalities": {key: _plain(spec) for key, spec in entries.items()}}
        meta |= {"allow_constant": True} if self.is_known else {}
        meta |= {"class_names": list(labels.class_names)} if labels.class_names else {}
        data = from_arrays(
            arrays,
            labels.values,
            np.stack([columns[key].present for key in arrays], -1),
            name=self.name,
            split=self.split,
            meta=meta,
            label_names=labels.label_names,
            item_ids=None if self.keys is None else [str(key) for key in self.keys],
            covariates=covariates,
        )
        modalities: dict[str, Values] = {
            key: data.modalities[key] if key in arrays else self._zeros(key, column) for key, column in columns.items()
        }
        features = {
            key: column.features
            for key, column in columns.items()
            if column.features is not None and len(modalities[key].shape) == 2
        }
        return replace(
            data,
            modalities=modalities,
            present=torch.from_numpy(np.stack([column.present for column in columns.values()], -1)),
            modality_specs={key: data.modality_specs.get(key, self.specs.get(key, ModalitySpec())) for key in columns},
            feature_names=features,
        )

    def _prepare(self, key: str, column: GivenColumn) -> NDArray[Any] | MatrixRows:
        """Return the values of a modality that some item has: strings as tokens if it is known how."""
        where = f"{self.name}: modality {key!r}"
        values, spec, shape = column.values, self.specs.get(key, ModalitySpec()), self.shapes.get(key)
        if values is None:  # pragma: no cover - such a column has no item that is present
            raise ValueError(f"{where}: some item must have values, got none")
        if not isinstance(values, MatrixRows) and values.dtype.kind == "U" and values.ndim == 1:
            return self._encode(where, column, spec, shape) if spec.is_text else values
        if column.may_be_counts and spec.implied_data_type is None and _is_whole(values):
            raise ValueError(
                f"{where}: must have a data type, as it holds whole numbers only and may be counts, got none: set it "
                f"to counts or vector, as in data_types={{{key!r}: 'counts'}} of fit and estimators, or "
                f"specs={{{key!r}: ModalitySpec(data_type='counts')}}"
            )
        if values.dtype.kind == "f":
            self._check_complete(where, column)
        one_feature = values.ndim == 1 and (shape is None or shape == (1,)) and spec.data_type != "tokens"
        return values[:, None] if one_feature and not isinstance(values, MatrixRows) else values

    def _encode(self, where: str, column: GivenColumn, spec: ModalitySpec, shape: Shape | None) -> NDArray[Any]:
        """Return strings as tokens of a known alphabet or tokenizer, and of a known length if there is one."""
        if spec.tokenizer is not None:
            return encode_column(where, column, spec.tokenizer, shape[0] if shape else None, self.keys)
        alphabet, padding = spec.alphabet or "", spec.padding
        if padding is None:
            raise ValueError(
                f"{where}: padding must be known to encode strings, got None: pass tokens (item, position)"
            )
        values = column.values
        texts: list[str] = [] if values is None or isinstance(values, MatrixRows) else values.tolist()
        longest = max(map(len, texts))
        length = shape[0] if shape else max(8, -(-longest // 4) * 4)
        for row, text in enumerate(texts):
            if not column.present[row]:
                texts[row] = ""
                continue
            unknown = next((character for character in text if character not in alphabet), None)
            if unknown is not None:
                raise ValueError(
                    f"{where}: {describe_item(self.keys, row)}: every character must be in the alphabet {alphabet!r}, "
                    f"got {unknown!r} in {text[:40]!r}"
                )
            if len(text) > length:
                raise ValueError(
                    f"{where}: {describe_item(self.keys, row)} must have at most {length} characters, got {len(text)}: "
                    f"{text[:40]!r}: shorten it"
                )
        return encode_texts(texts, length, padding, alphabet)[0]

    def _check_complete(self, where: str, column: GivenColumn) -> None:
        """Check that an item of floats that is present does not contain a NaN."""
        if isinstance(column.values, MatrixRows):
            places: tuple[NDArray[np.int64], ...] = nan_places(column.values)
        else:
            places = (
                np.nonzero(np.isnan(column.values)) if column.values is not None else (np.zeros(0, dtype=np.int64),)
            )
        places = tuple(index[column.present[places[0]]] for index in places)
        if len(places[0]):
            row, *place = (int(index[0]) for index in places)
            at = (
                f"feature {column.features[place[0]]!r}"
                if column.features and place
                else f"the value at {tuple(place)}"
            )
            raise ValueError(
                f"{where}: {describe_item(self.keys, row)}: {at} must be a number, got NaN: an item is absent only if "
                "all its values are NaN or present is False for it; fill in the value, or mark the item as absent"
            )

    def _zeros(self, key: str, column: GivenColumn) -> torch.Tensor:
        """Return zeros for a modality that no item has."""
        spec = self.specs.get(key, ModalitySpec())
        shape = self.shapes.get(key) or (None if column.values is None else tuple(column.values.shape[1:]))
        if shape is None or (column.values is not None and column.values.dtype.kind == "U" and key not in self.shapes):
            raise ValueError(
                f"{self.name}: modality {key!r} must be present in some item, as its shape is not known otherwise, got "
                "none: leave it out, or pass shapes"
            )
        dtype = {"image": torch.uint8 if spec.pixels else None, "tokens": torch.int64}.get(spec.implied_data_type or "")
        return torch.zeros((len(column), *shape), dtype=dtype)


def _is_whole(values: NDArray[Any] | MatrixRows) -> bool:
    """Return True if all numbers are whole."""
    stored = values.stored_values() if isinstance(values, MatrixRows) else values
    return stored is not None and bool((stored == np.floor(stored)).all())


def _plain(spec: ModalitySpec) -> dict[str, Any]:
    """Return the settings of a description that a file could hold, without modules."""
    return {key: value for key, value in spec.settings().items() if isinstance(value, (str, int, float))}


def _check_lengths(name: str, columns: Mapping[str, GivenColumn], count: int) -> None:
    first = next(iter(columns))
    for key, column in columns.items():
        if len(column) != count:
            raise ValueError(f"{name}: modality {key!r} must have {count} items as {first!r} has, got {len(column)}")


def _read_mask(
    name: str, present: Any, names: list[str], keys: Sequence[Hashable] | None, count: int
) -> NDArray[np.bool_]:
    """Return the mask of modalities that were passed as present, `(item, modality)`; True for those left out."""
    mask = np.ones((count, len(names)), dtype=bool)
    if present is None:
        return mask
    if not hasattr(present, "keys"):
        given = dict(zip(names, _columns_of(name, present, (count, len(names))), strict=True))
    else:
        if keys is not None and hasattr(present, "reindex"):
            present = present.reindex(list(keys))
        given = {str(key): np.asarray(present[key]) for key in present}
    for key, column in given.items():
        if key not in names:
            raise ValueError(f"{name}: present must name modalities among {', '.join(names)}, got {key!r}")
        if column.shape != (count,) or column.dtype != np.bool_:
            raise ValueError(
                f"{name}: present of {key!r} must be (item,) = ({count},) of bool, got {column.shape} of {column.dtype}"
            )
        mask[:, names.index(key)] = column
    return mask


def _columns_of(name: str, present: Any, shape: tuple[int, int]) -> NDArray[Any]:
    array = present.detach().cpu().numpy() if isinstance(present, torch.Tensor) else np.asarray(present)
    if array.shape != shape:
        raise ValueError(
            f"{name}: present must be (item, modality) = {shape} of bool, got {array.shape} of {array.dtype}"
        )
    return array.T
