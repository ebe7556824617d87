"""Text as tokens: one whole number a character of a fixed alphabet, padded to a fixed length."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae._typing import Int, Tensor
from pyro_mmvae.data.text import ALPHABET

_ABSENT = -1
_TOKENS = np.full(256, _ABSENT, dtype=np.int8)
_TOKENS[np.frombuffer(ALPHABET.encode("latin-1"), dtype=np.uint8)] = np.arange(len(ALPHABET), dtype=np.int8)
_LETTERS = np.array(list(ALPHABET))


def encode_texts(texts: Iterable[str], length: int, padding: str = "*") -> tuple[NDArray[np.int8], int]:
    """Texts as tokens.

    Args:
        texts: in characters of the alphabet.
        length: of each, longer ones are cut off.
        padding: the character behind shorter ones.

    Returns:
        Tokens 0…70, `(text, position)`, and how many texts were cut off.

    Raises:
        ValueError: for a character that the alphabet lacks; the message names it and the text.
    """
    parts, cut = [], 0
    for number, text in enumerate(texts):
        lacking = next((c for c in text if ord(c) > 255), "")
        if lacking:
            raise ValueError(_message(number, lacking))
        parts.append(text[:length].ljust(length, padding))
        cut += len(text) > length
    codes = np.frombuffer("".join(parts).encode("latin-1"), dtype=np.uint8).reshape(len(parts), length)
    tokens = _TOKENS[codes]
    bad = np.argwhere(tokens == _ABSENT)
    if len(bad):
        raise ValueError(_message(int(bad[0][0]), chr(codes[tuple(bad[0])])))
    return tokens, cut


def decode_texts(tokens: Int[Tensor, "text position"], padding: str = "*") -> list[str]:
    """The texts that tokens stand for, without the padding at their ends.

    Args:
        tokens: 0…70.
        padding: the character that was put behind.
    """
    return ["".join(row).rstrip(padding) for row in _LETTERS[tokens.cpu().numpy()]]


def _message(number: int, character: str) -> str:
    return f"text {number}: the alphabet lacks the character {character!r}, expected some of {ALPHABET!r}"
