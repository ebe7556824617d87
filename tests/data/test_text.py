"""Texts as tokens, and the vocabulary of digits."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_mmvae.data.text import (
    ALPHABET,
    ENGLISH_DIGITS,
    check_alphabet,
    check_vocabulary,
    decode_texts,
    encode_texts,
    placements,
)

GERMAN_DIGITS = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")


def test_alphabet_default_has_71_distinct_characters_with_the_space_first() -> None:
    assert len(ALPHABET) == len(set(ALPHABET)) == 71
    assert ALPHABET[0] == " "
    assert set(string.ascii_lowercase + string.digits + " ,*") <= set(ALPHABET)
    check_alphabet(ALPHABET)


@given(st.lists(st.text(ALPHABET, max_size=12), min_size=1, max_size=4), st.integers(1, 10))
def test_encode_texts_of_any_length_pads_or_truncates_and_decodes_back(texts: list[str], length: int) -> None:
    tokens, truncated = encode_texts(texts, length)
    assert tokens.shape == (len(texts), length)
    assert tokens.dtype == np.int8
    assert tokens.tolist() == [
        [ALPHABET.index(c) for c in text[:length] + "*" * (length - len(text))] for text in texts
    ]
    assert truncated == sum(len(text) > length for text in texts)
    assert decode_texts(torch.from_numpy(tokens)) == [text[:length].rstrip("*") for text in texts]


@pytest.mark.parametrize("character", ["A", "é", "\r", "\x7f", "☺", "\U0001f600", "\ud800"])
def test_encode_texts_with_a_character_outside_the_alphabet_names_text_and_character(character: str) -> None:
    with pytest.raises(ValueError, match="text 1, .*: every character must be in the alphabet") as error:
        encode_texts(["fine", f"not {character}"], 20)
    assert str(error.value).endswith(f"got {character!r}")


def test_encode_texts_with_a_large_alphabet_of_any_script_gives_wide_tokens() -> None:
    alphabet = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 200))
    tokens, truncated = encode_texts([alphabet[150:153]], 5, alphabet[0], alphabet)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [[150, 151, 152, 0, 0]]
    assert truncated == 0
    assert decode_texts(tokens, alphabet[0], alphabet) == [alphabet[150:153]]


def test_encode_texts_of_no_text_is_empty() -> None:
    tokens, truncated = encode_texts([], 4)
    assert (tokens.shape, truncated) == ((0, 4), 0)


@given(st.lists(st.text(st.sampled_from(ALPHABET), min_size=6, max_size=6), min_size=1, max_size=5))
def test_decode_texts_without_padding_inverts_encode_texts(texts: list[str]) -> None:
    tokens, _ = encode_texts(texts, 6)
    assert decode_texts(torch.from_numpy(tokens).long(), None) == texts
    assert decode_texts(tokens.astype(np.float32), None) == texts


def test_decode_texts_with_a_token_outside_the_alphabet_shows_the_replacement_character() -> None:
    assert decode_texts(torch.tensor([[1, 71, -1]]), None) == ["a��"]


def test_decode_texts_with_padding_removes_it_only_at_the_end() -> None:
    tokens = torch.tensor([[1, 0, 2, 0, 0], [0, 0, 0, 0, 0], [9, 2, 1, 1, 2]])
    assert decode_texts(tokens, "*", "*ab") == ["a*b", "", "\N{REPLACEMENT CHARACTER}baab"]
    assert decode_texts(tokens[:2], None, "*ab") == ["a*b**", "*****"]


def test_placements_gives_every_word_at_every_start() -> None:
    tokens, spans = placements(("abc", "d"), 4, " abcd")
    assert tokens.dtype == torch.int64
    assert decode_texts(tokens, None, " abcd") == ["abc ", " abc", "d   ", " d  ", "  d ", "   d"]
    assert spans.tolist() == [[0, 2], [2, 4]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (ENGLISH_DIGITS, ENGLISH_DIGITS),
        (GERMAN_DIGITS, GERMAN_DIGITS),
        ([None, *GERMAN_DIGITS[1:]], GERMAN_DIGITS),
    ],
)
def test_check_vocabulary_of_ten_words_returns_them(words: Any, expected: tuple[str, ...]) -> None:
    assert check_vocabulary(words, 8, ALPHABET) == expected


@pytest.mark.parametrize(
    ("words", "length", "message"),
    [
        (ENGLISH_DIGITS[:9], 8, "vocabulary must be a list of 10 words, for 0 to 9, got 9 words"),
        ("zero one", 8, "vocabulary must be a list of 10 words, for 0 to 9, got 'zero one'"),
        (ENGLISH_DIGITS, 4, "the word of 3 must have at most 4 characters, got 'three', which has 5"),
        (("", *ENGLISH_DIGITS[1:]), 8, "the word of 0 must be non-empty, .* got ''"),
        ((" a", *ENGLISH_DIGITS[1:]), 8, "the word of 0 must be non-empty, without spaces at its ends, got ' a'"),
        ((*ENGLISH_DIGITS[:9], "two"), 8, "the word of 9 must differ from the others, got 'two', as for 2"),
        (
            (*ENGLISH_DIGITS[:9], "Nine"),
            8,
            "the word of 9 must be written in the 71 characters of the alphabet .* got 'N' in 'Nine'",
        ),
    ],
)
def test_check_vocabulary_of_unfit_words_raises(words: Any, length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_vocabulary(words, length, ALPHABET)


@pytest.mark.parametrize(
    ("alphabet", "message"),
    [
        ("abc", "must contain the space"),
        (" aba", "must contain each character once, got 'a' twice"),
        (" ", "must have at least two characters"),
    ],
)
def test_check_alphabet_of_an_unfit_alphabet_raises(alphabet: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_alphabet(alphabet)
