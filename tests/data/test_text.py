"""Words as tokens and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_mmvae.data.text import ALPHABET, ENGLISH, check_alphabet, check_vocabulary, decode, encode, placements

GERMAN = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")


def test_the_alphabet_has_71_characters_each_once_and_the_space_first() -> None:
    assert len(ALPHABET) == len(set(ALPHABET)) == 71
    assert ALPHABET[0] == " "
    check_alphabet(ALPHABET)


@given(st.lists(st.text(st.sampled_from(ALPHABET), min_size=6, max_size=6), min_size=1, max_size=5))
def test_what_is_encoded_is_decoded(texts: list[str]) -> None:
    tokens = torch.tensor([encode(text) for text in texts])
    assert decode(tokens, ALPHABET).tolist() == texts
    assert decode(tokens.numpy().astype(np.float32), ALPHABET).tolist() == texts


def test_a_token_that_is_none_shows() -> None:
    assert decode(torch.tensor([[1, 71, -1]]), ALPHABET).tolist() == ["a��"]


def test_every_word_at_every_place() -> None:
    tokens, spans = placements(("abc", "d"), 4, " abcd")
    assert decode(tokens, " abcd").tolist() == ["abc ", " abc", "d   ", " d  ", "  d ", "   d"]
    assert spans.tolist() == [[0, 2], [2, 4]]


@pytest.mark.parametrize("words", [ENGLISH, GERMAN, [None, *GERMAN[1:]]])
def test_vocabularies(words: Any) -> None:
    assert check_vocabulary(words, 8, ALPHABET) == (ENGLISH if words is ENGLISH else GERMAN)


@pytest.mark.parametrize(
    ("words", "length", "message"),
    [
        (ENGLISH[:9], 8, "vocabulary: found 9 words, expected a list of 10"),
        ("zero one", 8, "vocabulary: found 'zero one', expected a list of 10"),
        (ENGLISH, 4, "word 'three' has 5 characters, expected 4 at most"),
        (("", *ENGLISH[1:]), 8, "the word of 0 is ''"),
        ((" a", *ENGLISH[1:]), 8, "the word of 0 is ' a', expected one without a space at its ends"),
        ((*ENGLISH[:9], "two"), 8, "found 'two' twice, for 2 and 9"),
        ((*ENGLISH[:9], "Nine"), 8, "word 'Nine': the character 'N' is not in the alphabet of 71"),
    ],
)
def test_words_that_cannot_be_are_refused(words: Any, length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_vocabulary(words, length, ALPHABET)


@pytest.mark.parametrize(
    ("alphabet", "message"), [("abc", "expected a space"), (" aba", "found 'a' twice"), (" ", "two")]
)
def test_alphabets_that_cannot_be_are_refused(alphabet: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_alphabet(alphabet)


def test_padding_is_left_out_at_the_end_alone() -> None:
    tokens = torch.tensor([[1, 0, 2, 0, 0], [0, 0, 0, 0, 0], [9, 2, 1, 1, 2]])
    assert decode(tokens, "*ab", "*").tolist() == ["a*b", "", "\N{REPLACEMENT CHARACTER}baab"]
    assert decode(tokens[:2], "*ab").tolist() == ["a*b**", "*****"]
