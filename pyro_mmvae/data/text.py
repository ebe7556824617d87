"""Texts as tokens: the position of each character in an alphabet, padded to a fixed length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Int, Tensor

SPACE = " "

ALPHABET = SPACE + "abcdefghijklmnopqrstuvwxyz0123456789" + "!\"#$%&'()*+,-./:;<=>?@[\\]_{|}~" + "äöüß"
"""The default alphabet: 71 characters, as many as in the recipe of MNIST-SVHN-TEXT. Token 0 is the space, followed by
lower-case letters, digits, 30 punctuation marks, and four German letters."""

ENGLISH_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_ABSENT = -1
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def encode_texts(
    texts: Iterable[str], length: int, padding: str = "*", alphabet: str = ALPHABET
) -> tuple[NDArray[np.int8] | NDArray[np.int32], int]:
    """Convert texts to tokens of a fixed length.

    Args:
        texts: The texts, written in characters of ``alphabet``.
        length: Number of tokens per text; longer texts are truncated.
        padding: The character of ``alphabet`` that shorter texts are filled up with.
        alphabet: The characters that tokens stand for, in order.

    Returns:
        Tokens, `(text, position)`, int8 for an alphabet of at most 127 characters and int32 otherwise, and the number
        of truncated texts.

    Raises:
        ValueError: If the alphabet lacks a character of a text, within its first ``length`` characters; the message
            names the text and the character.
    """
    # One table look-up per text: a dictionary look-up per character would take seconds on 200,000 texts.
    table = np.full(2 + max(map(ord, alphabet)), _ABSENT, dtype=np.int8 if len(alphabet) < 128 else np.int32)
    table[[ord(character) for character in alphabet]] = np.arange(len(alphabet))
    rows, truncated = [], 0
    for number, text in enumerate(texts):
        padded = text[:length].ljust(length, padding)
        codes = np.frombuffer(padded.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        row = table[np.minimum(codes, len(table) - 1)]
        if (row == _ABSENT).any():
            character = padded[int(np.argmax(row == _ABSENT))]
            raise ValueError(
                f"text {number}, {text!r}: every character must be in the alphabet {alphabet!r}, got {character!r}"
            )
        rows.append(row)
        truncated += len(text) > length
    return np.stack(rows) if rows else np.empty((0, length), dtype=table.dtype), truncated


def decode_texts(tokens: Tensor | NDArray[Any], padding: str | None = "*", alphabet: str = ALPHABET) -> list[str]:
    """Convert tokens back to texts.

    Args:
        tokens: Tokens, `(text, position)`, of any numeric type. A token outside the alphabet becomes the replacement
            character �.
        padding: The character removed from the end of each text, or None to keep all characters.
        alphabet: The characters that tokens stand for, in order.

    Returns:
        One string per text.
    """
    positions = torch.as_tensor(tokens).cpu().to(torch.int64).numpy()
    outside = (positions < 0) | (positions >= len(alphabet))
    characters = np.array([*alphabet, _UNKNOWN])[np.where(outside, len(alphabet), positions)]
    return ["".join(row).rstrip(padding) if padding else "".join(row) for row in characters]


def check_alphabet(alphabet: str) -> None:
    """Check that an alphabet has a space, at least two characters, and no character twice.

    Raises:
        ValueError: If it does not; the message shows the alphabet.
    """
    if SPACE not in alphabet:
        raise ValueError(f"alphabet must contain the space, which words are padded with, got {alphabet!r}")
    repeated = next((character for i, character in enumerate(alphabet) if character in alphabet[:i]), None)
    if repeated is not None:
        raise ValueError(f"alphabet must contain each character once, got {repeated!r} twice in {alphabet!r}")
    if len(alphabet) < 2:
        raise ValueError(f"alphabet must have at least two characters, got {alphabet!r}")


def check_vocabulary(words: Sequence[str | None], length: int, alphabet: str) -> tuple[str, ...]:
    """Check that there is one distinct word per digit that fits into a text.

    Args:
        words: The ten words, in the order of the digits. None, which YAML makes of an unquoted ``null``, stands for
            the word ``"null"``.
        length: Number of characters of a text, the most a word may have.
        alphabet: The characters that words may be written in.

    Returns:
        The ten words, with None replaced.

    Raises:
        ValueError: If the number of words is not ten, or a word is empty, repeated, too long, begins or ends with a
            space, or contains a character that the alphabet lacks.
    """
    if isinstance(words, str) or len(words) != len(ENGLISH_DIGITS):
        received = repr(words) if isinstance(words, str) else f"{len(words)} words"
        raise ValueError(f"vocabulary must be a list of {len(ENGLISH_DIGITS)} words, for 0 to 9, got {received}")
    vocabulary = tuple("null" if word is None else word for word in words)
    for digit, word in enumerate(vocabulary):
        where = f"vocabulary: the word of {digit}"
        if not word or word != word.strip():
            raise ValueError(f"{where} must be non-empty, without spaces at its ends, got {word!r}")
        if len(word) > length:
            raise ValueError(f"{where} must have at most {length} characters, got {word!r}, which has {len(word)}")
        if word in vocabulary[:digit]:
            raise ValueError(f"{where} must differ from the others, got {word!r}, as for {vocabulary.index(word)}")
        for character in word:
            if character not in alphabet:
                raise ValueError(
                    f"{where} must be written in the {len(alphabet)} characters of the alphabet {alphabet!r}, got "
                    f"{character!r} in {word!r}"
                )
    return vocabulary


def placements(words: Sequence[str], length: int, alphabet: str) -> tuple[Int[Tensor, "row position"], NDArray[Any]]:
    """Return every word at every possible start in a text, padded with spaces.

    Args:
        words: The words, each at most ``length`` characters long.
        length: Number of characters of a text.
        alphabet: The characters that tokens stand for, in order; it contains the space.

    Returns:
        Tokens, int64, `(row, position)`, all placements of one word in consecutive rows; and an array `(word, 2)` with
        the first row of each word and its number of rows.
    """
    texts: list[str] = []
    spans = []
    for word in words:
        starts = length - len(word) + 1
        spans.append((len(texts), starts))
        texts += [SPACE * start + word for start in range(starts)]
    tokens, _ = encode_texts(texts, length, SPACE, alphabet)
    return torch.from_numpy(tokens).long(), np.array(spans, dtype=np.int64)
