"""Words as tokens: an alphabet, words at any place of a text of fixed length, and back to characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Int, Tensor

PADDING = " "

ALPHABET = PADDING + "abcdefghijklmnopqrstuvwxyz0123456789" + "!\"#$%&'()*+,-./:;<=>?@[\\]_{|}~" + "äöüß"
"""71 characters, as many as in the recipe of MNIST-SVHN-TEXT: token 0 is the space, then lower-case letters, digits, 30
marks, and four letters of German."""

ENGLISH = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def encode(text: str, alphabet: str = ALPHABET) -> list[int]:
    """A text as the places of its characters in an alphabet.

    Raises:
        ValueError: for a character that is not in it.
    """
    for character in text:
        if character not in alphabet:
            raise ValueError(
                f"word {text!r}: the character {character!r} is not in the alphabet of {len(alphabet)}: {alphabet!r}"
            )
    return [alphabet.index(character) for character in text]


def decode(tokens: Tensor | NDArray[Any], alphabet: str, padding: str | None = None) -> NDArray[np.str_]:
    """Texts of tokens; � stands for a token that is none of the alphabet.

    Args:
        tokens: `(item, position)`.
        alphabet: the characters that they stand for, in order.
        padding: a character that is left out at the end of a text.

    Returns:
        Strings, `(item,)`.
    """
    rows = [[int(token) for token in row] for row in tokens]
    known = range(len(alphabet))
    texts = ["".join(alphabet[t] if t in known else _UNKNOWN for t in row) for row in rows]
    return np.array([text.rstrip(padding) if padding else text for text in texts], dtype=np.str_)


def check_alphabet(alphabet: str) -> None:
    """Refuse what has no space or a character twice.

    Raises:
        ValueError: in those cases.
    """
    if PADDING not in alphabet:
        raise ValueError(f"alphabet {alphabet!r}: expected a space in it, which words are padded with")
    twice = next((character for i, character in enumerate(alphabet) if character in alphabet[:i]), None)
    if twice is not None:
        raise ValueError(f"alphabet {alphabet!r}: found {twice!r} twice")
    if len(alphabet) < 2:
        raise ValueError(f"alphabet {alphabet!r}: expected two characters at least")


def check_vocabulary(words: Sequence[str | None], length: int, alphabet: str) -> tuple[str, ...]:
    """Ten words, one a digit; None, which YAML makes of an unquoted null, is the word "null".

    Args:
        words: in the order of the digits.
        length: of a text.
        alphabet: of its characters.

    Raises:
        ValueError: for another number of words, an empty one, one twice, one that is too long, or one that the alphabet
            cannot write.
    """
    if isinstance(words, str) or len(words) != len(ENGLISH):
        found = repr(words) if isinstance(words, str) else f"{len(words)} words"
        raise ValueError(f"vocabulary: found {found}, expected a list of {len(ENGLISH)}, of the digits from 0 to 9")
    result = tuple("null" if word is None else word for word in words)
    for digit, word in enumerate(result):
        if not word or word != word.strip():
            raise ValueError(f"vocabulary: the word of {digit} is {word!r}, expected one without a space at its ends")
        if len(word) > length:
            raise ValueError(f"vocabulary: word {word!r} has {len(word)} characters, expected {length} at most")
        if word in result[:digit]:
            raise ValueError(f"vocabulary: found {word!r} twice, for {result.index(word)} and {digit}")
        encode(word, alphabet)
    return result


def placements(words: Sequence[str], length: int, alphabet: str) -> tuple[Int[Tensor, "row position"], NDArray[Any]]:
    """Every word at every start, padded with spaces.

    Args:
        words: each no longer than ``length``.
        length: of a text.
        alphabet: of its characters.

    Returns:
        Tokens, int64, and `(word, 2)`: in which row the starts of a word begin, and how many there are.
    """
    rows: list[list[int]] = []
    spans = []
    for word in words:
        starts = length - len(word) + 1
        spans.append((len(rows), starts))
        rows += [encode((PADDING * start + word).ljust(length, PADDING), alphabet) for start in range(starts)]
    return torch.tensor(rows, dtype=torch.int64), np.array(spans, dtype=np.int64)
