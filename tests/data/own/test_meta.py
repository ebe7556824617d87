"""What ``meta.yaml`` says of text and of means in [0, 1]."""

# ruff: noqa: E501  (a table of messages)
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_mmvae.data import Traits, from_arrays, load_data

TOKENS = np.array([[1, 2, 0], [2, 0, 1], [0, 0, 0]] * 10)
IMAGE = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)


def write(folder: Path, meta: str, **arrays: Any) -> str:
    folder.mkdir(exist_ok=True)
    for name, array in {"image": IMAGE, "words": TOKENS, **arrays}.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "meta.yaml").write_text(f"modalities: {{{meta}}}\n", encoding="utf-8")
    return str(folder)


def test_an_alphabet_makes_tokens_text_and_says_how_many_there_are(tmp_path: Path) -> None:
    for said in ('alphabet: "*aßc", padding: "*"', 'kind: tokens, classes: 4, alphabet: "*aßc", padding: "*"'):
        data = load_data(write(tmp_path / "a", f"words: {{{said}}}, image: {{output: sigmoid}}"))
        assert data.traits["words"] == Traits("tokens", classes=4, alphabet="*aßc", padding="*")
        assert data.traits["image"] == Traits("image", output="sigmoid", pixels=True)
    meta = {"modalities": {"words": {"alphabet": " ab"}}}
    assert from_arrays({"words": TOKENS}, meta=meta).traits["words"] == Traits("tokens", classes=3, alphabet=" ab")


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ('words: {alphabet: "abca"}', "meta.yaml: modalities.words.alphabet: the character 'a' is there twice, found 'a"),
        ('words: {alphabet: "a\\nb"}', r"meta.yaml: modalities.words.alphabet: the character '\n' cannot be printed"),
        ('words: {alphabet: "a"}', "meta.yaml: modalities.words.alphabet: String should have at least 2 characters"),
        ("words: {alphabet: 123}", "meta.yaml: modalities.words.alphabet: Input should be a valid string, found 123"),
        ("words: {alphabet: abc, classes: 4}", "modalities.words: an alphabet of 3 characters for 4 classes, not as many"),
        ("words: {alphabet: abc, padding: d}", "modalities.words: the alphabet lacks the padding 'd'"),
        ("words: {alphabet: abc, padding: ab}", "modalities.words.padding: String should have at most 1 character"),
        ("words: {padding: a}", "meta.yaml: modalities.words: padding 'a' without an alphabet that it is of"),
        ("words: {alphabet: ab}", "words.npy: modality 'words': item 0: value at (1,) must be a token below classes = 2, got 2"),
        ("words: {alphabet: abc, kind: counts}", "words.npy: modality 'words': counts have no alphabet, tokens have"),
        ("words: {alphabet: abc, output: sigmoid}", "likelihood 'categorical' has no output 'sigmoid', laplace and"),
        ("words: {alphabet: abc}, image: {output: tanh}", "meta.yaml: modalities.image.output: Input should be 'ident"),
        ("words: {alphabet: abc}, image: {output: sigmoid, likelihood: bernoulli}", "likelihood 'bernoulli' has no outp"),
        ("words: {alphabet: abc}, wide: {alphabet: abc}", "wide': items of text must have the shape (position,), got (3, 1)"),
        ("words: {letters: abc}", "no such key; there are kind, likelihood, network, scale, classes, weight, output, alpha"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(meta: str, expected: str, tmp_path: Path) -> None:
    arrays = {"wide": TOKENS[..., None]} if "wide" in meta else {}
    with pytest.raises(ValueError, match=r".") as error:
        load_data(write(tmp_path / "a", meta, **arrays))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path))
