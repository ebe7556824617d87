"""Descriptions of modalities in ``meta.yaml``."""

# ruff: noqa: E501  (a table of messages)
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_mmvae.data import ModalitySpec, from_arrays, load_data
from pyro_mmvae.data.own.meta import make_meta
from pyro_mmvae.likelihoods import LaplaceLikelihood, register_likelihood

TOKENS = np.array([[1, 2, 0], [2, 0, 1], [0, 0, 0]] * 10)
IMAGE = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)


def write(folder: Path, meta: str, **arrays: Any) -> str:
    folder.mkdir(exist_ok=True)
    for name, array in {"image": IMAGE, "words": TOKENS, **arrays}.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "meta.yaml").write_text(f"modalities: {{{meta}}}\n", encoding="utf-8")
    return str(folder)


def test_read_meta_alphabet_sets_data_type_and_classes(tmp_path: Path) -> None:
    for entry in ('alphabet: "*aßc", padding: "*"', 'data_type: tokens, classes: 4, alphabet: "*aßc", padding: "*"'):
        data = load_data(write(tmp_path / "a", f"words: {{{entry}}}, image: {{output: sigmoid}}"))
        words = ModalitySpec(data_type="tokens", classes=4, alphabet="*aßc", padding="*")
        assert data.modality_specs["words"] == words
        assert data.modality_specs["image"] == ModalitySpec(data_type="image", output="sigmoid", pixels=True)
    meta = {"modalities": {"words": {"alphabet": " ab"}}}
    words = ModalitySpec(data_type="tokens", classes=3, alphabet=" ab")
    assert from_arrays({"words": TOKENS}, meta=meta).modality_specs["words"] == words


def test_make_meta_older_names_are_accepted() -> None:
    older = {"rna": {"kind": "counts", "size": 30, "weight": 2}}
    current = {"rna": {"data_type": "counts", "reference_total": 30.0, "reconstruction_weight": 2.0}}
    assert make_meta("x", {"modalities": older}) == make_meta("x", {"modalities": current})
    assert make_meta("x", {"modalities": older}).spec("rna").reference_total == 30.0
    both = {"rna": {"kind": "counts", "data_type": "counts"}}
    with pytest.raises(ValueError, match="x: modalities: rna: kind is an older name of data_type, give one of the two"):
        make_meta("x", {"modalities": both})


def test_make_meta_fields_of_a_specification_are_keys_of_a_modality() -> None:
    entry = {"width": 8, "private_size": "3", "encoder": "mine", "pixels": False, "missing_nan": True}
    meta = make_meta("x", {"modalities": {"image": entry}})
    assert meta.spec("image") == ModalitySpec(width=8, private_size=3, encoder="mine", pixels=False)
    assert meta.allows("missing_nan", "image")
    assert not meta.allows("missing_nan", "other")


@pytest.mark.usefixtures("registered")
def test_load_data_registered_likelihood_is_accepted_and_unknown_one_refused(tmp_path: Path) -> None:
    where = write(tmp_path / "a", "words: {alphabet: abc}, image: {likelihood: logistic}")
    with pytest.raises(ValueError, match=r"image.npy: modality 'image': unknown likelihood 'logistic'. Available: lap"):
        load_data(where)
    register_likelihood("logistic", data_types=("image",), options=("scale",))(LaplaceLikelihood)
    assert load_data(where).modality_specs["image"].likelihood == "logistic"
    wrong = write(tmp_path / "b", "words: {data_type: tokens, likelihood: logistic}")
    with pytest.raises(
        ValueError, match="likelihood 'logistic' does not fit data_type 'tokens', which takes categorical"
    ):
        load_data(wrong)


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ('words: {alphabet: "abca"}', "meta.yaml: modalities.words: alphabet must be two or more different printable characters, got 'abca'"),
        ('words: {alphabet: "a\\nb"}', r"modalities.words: alphabet must be two or more different printable characters, got 'a\nb'"),
        ('words: {alphabet: "a"}', "modalities.words: alphabet must be two or more different printable characters, got 'a'"),
        ("words: {alphabet: 123}", "meta.yaml: modalities.words.alphabet: Input should be a valid string, got 123"),
        ("words: {alphabet: abc, classes: 4}", "modalities.words: classes must be 3, the number of characters of the alphabet, got 4"),
        ("words: {alphabet: abc, padding: d}", "modalities.words: padding must be one character of the alphabet, got 'd'"),
        ("words: {alphabet: abc, padding: ab}", "modalities.words: padding must be one character of the alphabet, got 'ab'"),
        ("words: {padding: a}", "meta.yaml: modalities.words: padding must be one character of the alphabet, got 'a'"),
        ("words: {alphabet: ab}", "words.npy: modality 'words': item 0: value at (1,) must be a token below classes = 2, got 2"),
        ("words: {alphabet: abc, data_type: counts}", "words.npy: modality 'words': alphabet must be left out for data_type 'counts', got 'abc'"),
        ("words: {alphabet: abc, output: sigmoid}", "likelihood 'categorical' does not take output, got 'sigmoid'; laplace, normal do"),
        ("words: {alphabet: abc}, image: {output: tanh}", "meta.yaml: modalities.image: output must be one of identity, sigmoid, got 'tanh'"),
        ("words: {alphabet: abc}, image: {output: sigmoid, likelihood: bernoulli}", "likelihood 'bernoulli' does not take output"),
        ("words: {alphabet: abc}, image: {scale: 1, likelihood: bernoulli}", "likelihood 'bernoulli' does not take scale, got 1.0"),
        ("words: {alphabet: abc}, image: {scale: 0}", "meta.yaml: modalities.image: scale must be a positive number, 'learned', 'calibrated' or 'calibrated_per_feature', got 0.0"),
        ("words: {alphabet: abc}, wide: {alphabet: abc}", "wide': items of text must have the shape (position,), got (3, 1)"),
        ("words: {letters: abc}", "modalities.words.letters: no such key; there are data_type, likelihood, network, encoder, decoder, width, "),
    ],
)  # fmt: skip
def test_load_data_wrong_meta_is_refused_in_one_line(meta: str, expected: str, tmp_path: Path) -> None:
    arrays = {"wide": TOKENS[..., None]} if "wide" in meta else {}
    with pytest.raises(ValueError, match=r".") as error:
        load_data(write(tmp_path / "a", meta, **arrays))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path))
