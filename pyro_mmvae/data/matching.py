"""New data matched by name to the data that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.covariate_matching import match_covariates
from pyro_mmvae.data.dataset import MultimodalDataset, Values
from pyro_mmvae.data.description import DataDescription
from pyro_mmvae.data.infer import range_problems
from pyro_mmvae.data.labels import match_labels
from pyro_mmvae.data.options import describe_item
from pyro_mmvae.data.storage.indexed import IndexedTensor
from pyro_mmvae.data.storage.selected import SelectedFeatures
from pyro_mmvae.data.text import encode_texts
from pyro_mmvae.data.tokenizer import decode_tokens, open_tokenizer, pad_tokens
from pyro_mmvae.modality_spec import ModalitySpec

_EXACT_TYPES = ("tokens", "counts", "binary")  # whose likelihoods do not allow other numbers
_MAX_LISTED = 5  # names in a message


class MatchedData(NamedTuple):
    """A data set that was matched to a description, with a line about each change.

    Attributes:
        data: The data set with the modalities, features and classes of the description, in its order.
        notes: One line per change, such as "modality 'rna': the features were put in the order of the training data".
    """

    data: MultimodalDataset
    notes: tuple[str, ...]


def match_data(
    data: MultimodalDataset,
    description: DataDescription,
    *,
    missing_features: Literal["error", "fill"] = "error",
    surplus_features: Literal["error", "drop"] = "error",
    surplus_modalities: Literal["error", "drop"] = "drop",
) -> MatchedData:
    """Match new data by name to the data that a model was trained on.

    Modalities and features are put in the order of the training data. A modality that the new data lack becomes absent.
    Modalities in which only one side has names of features must agree in shape. Text is encoded in the alphabet of the
    training data, and classes receive the numbers that they had there, by their names; a class that did not exist
    there becomes -1. Categories of covariates are matched by their names, too; covariates that the new data lack are
    unknown. Data on disk stay there.

    Args:
        data: The new data set.
        description: The description of the training data, such as ``run.description``.
        missing_features: Treatment of features that the new data lack: ``"error"`` (default), or ``"fill"`` with their
            training means, which are rounded for counts.
        surplus_features: Treatment of features that the training data lacked: ``"error"`` (default) or ``"drop"``.
        surplus_modalities: Treatment of modalities that the training data lacked: ``"drop"`` (default) or ``"error"``.

    Returns:
        The matched data set, and a line about each change.

    Raises:
        ValueError: If the new data share no modality with the training data, or shapes, data types, features, or
            characters do not fit, or a category of a covariate is new; the message names the modality or covariate.
    """
    for option, value, allowed in (
        ("missing_features", missing_features, ("error", "fill")),
        ("surplus_features", surplus_features, ("error", "drop")),
        ("surplus_modalities", surplus_modalities, ("error", "drop")),
    ):
        if value not in allowed:
            raise ValueError(f"{option} must be {' or '.join(map(repr, allowed))}, got {value!r}")
    notes = _check_modalities(data, description, surplus_modalities)
    values: dict[str, Values] = {}
    for name, shape in description.shapes.items():
        if name not in data.modalities:
            values[name] = _absent(shape, len(data), description.modality_specs.get(name, ModalitySpec()))
            continue
        match = _ModalityMatch(data, description, name, missing_features == "fill", surplus_features == "drop")
        values[name] = match.values()
        notes += match.notes
    labels, label_notes = match_labels(data, description.class_names, description.label_names)
    data, covariate_notes = match_covariates(data, description.covariate_names)
    notes += [*label_notes, *covariate_notes]
    columns = {name: data.present[:, number] for number, name in enumerate(data.names)}
    nowhere = torch.zeros_like(data.present[:, 0])
    present = torch.stack([columns.get(name, nowhere) for name in description.names], -1)
    empty = int((data.present.any(1) & ~present.any(1)).sum())
    if empty:
        notes.append(f"{empty} of {len(data)} items have none of the modalities that the model was trained on")
    matched = replace(
        data,
        modalities=values,
        labels=labels.values,
        present=present,
        provenance={**data.provenance, "matched": notes} if notes else data.provenance,
        modality_specs=description.modality_specs,
        label_names=labels.label_names,
        class_names=labels.class_names,
        feature_names=description.feature_names,
    )
    return MatchedData(matched, (*notes, *range_problems(matched)))


def _check_modalities(data: MultimodalDataset, description: DataDescription, surplus: str) -> list[str]:
    """Return notes about modalities that only one side has."""
    expected = ", ".join(description.names)
    unknown = [name for name in data.names if name not in description.shapes]
    if len(unknown) == len(data.names):
        raise ValueError(
            f"{data.name}: must have a modality that the model was trained on ({expected}), got {', '.join(data.names)}"
        )
    if unknown and surplus == "error":
        raise ValueError(
            f"{data.name}: modalities must be those that the model was trained on ({expected}), got {unknown[0]!r} as "
            "well: leave it out, or pass surplus_modalities='drop'"
        )
    notes = [f"modality {name!r}: left out, since the model was not trained on it" for name in unknown]
    absent = [name for name in description.names if name not in data.names]
    return notes + [f"modality {name!r}: absent from all items" for name in absent]


class _ModalityMatch:
    """The match of one modality that both sides have.

    Attributes:
        notes: One line per change that was made.
    """

    def __init__(
        self, data: MultimodalDataset, description: DataDescription, name: str, fill: bool, drop: bool
    ) -> None:
        self.data, self.description, self.name, self.fill, self.drop = data, description, name, fill, drop
        self.spec = data.modality_specs.get(name, ModalitySpec())
        self.expected = description.modality_specs.get(name, ModalitySpec())
        self.where, self.notes = f"{data.name}: modality {name!r}", list[str]()

    def values(self) -> Values:
        """Return the values, with the features and tokens of the training data."""
        self._check_type()
        values = self.data.modalities[self.name]
        if self.expected.is_text and self.spec.is_text and values.dim() == 2:
            values = self._encode_again(values)
        else:
            values = self._select_features(values)
        shape = self.description.shapes[self.name]
        if tuple(values.shape[1:]) != shape:
            raise ValueError(f"{self.where} must have items of shape {shape}, got {tuple(values.shape[1:])}")
        if self.expected.data_type == "tokens" and self.expected.classes is not None:
            self._check_tokens(values, self.expected.classes)
        return values

    def _check_type(self) -> None:
        """Check that the likelihood of the model allows values of the data's type."""
        expected, received = self.expected.implied_data_type, self.spec.implied_data_type
        is_exact = expected in _EXACT_TYPES or received == "tokens"
        if expected is not None and received not in {None, expected} and is_exact:
            raise ValueError(
                f"{self.where} must have the data type {expected!r}, got {received!r}: set the data_type of the new "
                "data"
            )
        if self.expected.pixels is False and self.data.modalities[self.name].dtype == torch.uint8:
            raise ValueError(
                f"{self.where} must hold floats in the units of the training data, got uint8, which would be divided "
                "by 255: convert it to floats"
            )

    def _select_features(self, values: Values) -> Values:
        """Return the values with the features of the training data, by their names if both sides have them."""
        reference = self.description.feature_names.get(self.name)
        names = self.data.feature_names.get(self.name)
        if reference is None or names is None or reference == names:
            if (reference is None) != (names is None) and tuple(values.shape[1:]) == self.description.shapes[self.name]:
                side = "the new data" if names is None else "the training data"
                self.notes.append(f"modality {self.name!r}: features matched by position, since {side} have no names")
            return values
        position = {name: number for number, name in enumerate(names)}
        columns = torch.tensor([position.get(name, -1) for name in reference])
        absent, known = [name for name in reference if name not in position], set(reference)
        surplus = [name for name in names if name not in known]
        self._check_lacking(reference, absent)
        self._check_surplus(surplus)
        fill = torch.zeros(len(reference))
        if absent:
            fill = torch.tensor(self.description.feature_means[self.name])
            fill = fill.round() if self.expected.data_type == "counts" else fill
        chosen = columns[columns >= 0]
        if bool((chosen.diff() < 0).any()):
            self.notes.append(f"modality {self.name!r}: the features were put in the order of the training data")
        view = SelectedFeatures(values, columns, fill)
        return view[:] if isinstance(values, Tensor) else view

    def _check_lacking(self, reference: Sequence[str], absent: Sequence[str]) -> None:
        if not absent:
            return
        what = f"the {len(reference)} features that the model was trained on"
        if len(absent) == len(reference):
            raise ValueError(f"{self.where} must have {what} ({_list(reference)}), got none of them")
        if not self.fill:
            raise ValueError(
                f"{self.where} must have {what}, got none of the name {_list(absent)}: add them, or fill them with "
                "their training means (--missing-features fill, in Python missing_features='fill')"
            )
        if self.name not in self.description.feature_means:
            raise ValueError(f"{self.where} must have {what}, since tokens have no mean, got no {_list(absent)}")
        self.notes.append(
            f"modality {self.name!r}: {len(absent)} of {len(reference)} features filled with their training means: "
            f"{_list(absent)}"
        )

    def _check_surplus(self, surplus: Sequence[str]) -> None:
        if surplus and not self.drop:
            raise ValueError(
                f"{self.where} must have only features that the model was trained on, got {_list(surplus)} as well: "
                "remove them, or drop them (--surplus-features drop, in Python surplus_features='drop')"
            )
        if surplus:
            self.notes.append(
                f"modality {self.name!r}: features left out, since the model was not trained on them: {_list(surplus)}"
            )

    def _encode_again(self, values: Values) -> Values:
        """Return tokens of text in the alphabet or by the tokenizer, and of the length, of the training data."""
        (length,), alphabet = self.description.shapes[self.name], self.expected.alphabet or ""
        is_same = (self.spec.alphabet, self.spec.tokenizer) == (self.expected.alphabet, self.expected.tokenizer)
        if is_same and values.shape[1] == length:
            return values
        rows = self.data.present[:, self.data.names.index(self.name)].nonzero()[:, 0]
        if self.expected.tokenizer is not None:
            return self._tokenize(values, rows, length, self.expected.tokenizer, is_same=is_same)
        padding = self.expected.padding or " "
        texts = decode_tokens(values[rows], self.spec)
        known, cut = {*alphabet, *padding}, 0
        for row, text in zip(rows.tolist(), texts, strict=True):
            cut += len(text) > length
            foreign = next((character for character in text[:length] if character not in known), None)
            if foreign is not None:
                raise ValueError(
                    f"{self.where}: {self._item(row)} must be written in the characters of the training data, got "
                    f"{foreign!r} in {text!r}"
                )
        self._note_cut(cut, len(texts), f"{length} characters")
        return self._place(rows, len(values), encode_texts(texts, length, padding, alphabet)[0])

    def _tokenize(self, values: Values, rows: Tensor, length: int, tokenizer: str, *, is_same: bool) -> Tensor:
        """Return tokens by the tokenizer of the training data, cut or padded to their length."""
        opened = open_tokenizer(tokenizer)
        if is_same:
            found = [[token for token in row if token != opened.padding] for row in values[rows].tolist()]
        else:
            numbers = rows.tolist()
            texts = decode_tokens(values[rows], self.spec)
            found = opened.encode(texts, lambda position: f"{self.where}: {self._item(numbers[position])}")
        self._note_cut(sum(len(row) > length for row in found), len(found), f"{length} tokens")
        return self._place(rows, len(values), pad_tokens(found, length, opened.padding))

    def _note_cut(self, cut: int, count: int, most: str) -> None:
        if cut:
            self.notes.append(f"modality {self.name!r}: texts cut to the {most} of the model: {cut} of {count}")

    def _place(self, rows: Tensor, count: int, found: NDArray[Any]) -> Tensor:
        """Return the tokens of all items, zeros where an item lacks the modality."""
        tokens = torch.zeros(count, found.shape[1], dtype=torch.int64)
        tokens[rows.cpu()] = torch.from_numpy(found).long()
        return tokens.to(self.data.present.device)

    def _check_tokens(self, values: Values, classes: int) -> None:
        """Check that tokens are classes of the model."""
        rows = self.data.present[:, self.data.names.index(self.name)].nonzero()[:, 0]
        for part in rows.split(10_000):
            invalid = ((values[part] < 0) | (values[part] >= classes)).reshape(len(part), -1).any(1)
            if len(part) and bool(invalid.any()):
                row = int(part[invalid.nonzero()[0, 0]])
                raise ValueError(
                    f"{self.where}: {self._item(row)} must have tokens from 0 to {classes - 1}, got "
                    f"{int(values[[row]].max())}"
                )

    def _item(self, row: int) -> str:
        return describe_item(self.data.item_ids, row)


def _absent(shape: tuple[int, ...], count: int, spec: ModalitySpec) -> IndexedTensor:
    """Return values of a modality that no item has, which take a few bytes per item."""
    dtype = torch.int64 if spec.data_type == "tokens" else torch.get_default_dtype()
    return IndexedTensor(torch.zeros(1, *shape, dtype=dtype), torch.zeros(count, dtype=torch.int64))


def _list(names: Sequence[str]) -> str:
    """Return the first names in quotes, and the number of the others."""
    more = len(names) - _MAX_LISTED
    return ", ".join(repr(name) for name in names[:_MAX_LISTED]) + (f" and {more} others" if more > 0 else "")
