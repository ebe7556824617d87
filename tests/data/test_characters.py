"""Text as tokens and back."""

from __future__ import annotations

import string

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_mmvae.data.characters import decode_texts, encode_texts
from pyro_mmvae.data.text import ALPHABET


def test_the_alphabet_holds_what_attributes_are_written_in() -> None:
    assert len(ALPHABET) == len(set(ALPHABET)) == 71
    assert set(string.ascii_lowercase + string.digits + " ,*") <= set(ALPHABET)


@given(st.lists(st.text(ALPHABET, max_size=12), min_size=1, max_size=4), st.integers(1, 10))
def test_texts_come_back_as_far_as_they_fit(texts: list[str], length: int) -> None:
    tokens, cut = encode_texts(texts, length)
    assert tokens.shape == (len(texts), length)
    assert tokens.tolist() == [
        [ALPHABET.index(c) for c in text[:length] + "*" * (length - len(text))] for text in texts
    ]
    assert cut == sum(len(text) > length for text in texts)
    assert decode_texts(torch.from_numpy(tokens)) == [text[:length].rstrip("*") for text in texts]


@pytest.mark.parametrize("character", ["A", "é", "\r", "\x7f", "☺"])
def test_a_character_that_the_alphabet_lacks_is_named(character: str) -> None:
    with pytest.raises(ValueError, match="text 1: the alphabet lacks the character") as error:
        encode_texts(["fine", f"not {character}"], 20)
    assert repr(character) in str(error.value)
