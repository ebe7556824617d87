"""Texts as tokens of a tokenizer of the package ``tokenizers``, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from pyro_mmvae._bounded import load_json, read_text
from pyro_mmvae._printable import one_line
from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.text import decode_texts
from pyro_mmvae.modality_spec import ModalitySpec

FILE_NAME = "tokenizer.json"
"""The name of the file of a tokenizer in a folder."""

_BPE = "bpe:"
_BYTES = 256  # the tokens of a byte-pair vocabulary without any pair
_PADDING_NAMES = ("[PAD]", "<pad>")
_LEAST, _MULTIPLE = 8, 4  # networks for text take 8, 12, 16, … positions


class TextTokenizer:
    """A tokenizer with a fixed vocabulary and a token for padding.

    Special tokens are neither added to texts nor shown in them. The token for padding is that of the tokenizer, or
    otherwise one more than the largest token of its vocabulary.

    Args:
        text: The content of a file ``tokenizer.json``.

    Attributes:
        padding: Token that fills up shorter texts.
        classes: Number of tokens, that for padding among them.

    Raises:
        ValueError: If the content is not a tokenizer.
        ImportError: If the package ``tokenizers`` is not installed.
    """

    def __init__(self, text: str) -> None:
        try:
            self._tokenizer = _import_tokenizers().Tokenizer.from_str(text)
        except ImportError:
            raise
        except Exception as error:  # noqa: BLE001  (the package raises plain exceptions)
            raise ValueError(f"must be the JSON of a tokenizer, got an error: {one_line(error)}") from None
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise ValueError("must be a tokenizer with a vocabulary, got an empty one: train it")
        names = ((self._tokenizer.padding or {}).get("pad_token"), *_PADDING_NAMES)
        self._tokenizer.no_padding()  # texts are padded to a length that does not depend on the other texts
        self._num_known = max(vocabulary.values()) + 1
        self.padding = next((vocabulary[name] for name in names if name in vocabulary), self._num_known)
        self.classes = max(self._num_known, self.padding + 1)
        self._longest = max(map(len, vocabulary))

    def encode(self, texts: Sequence[str], describe: Callable[[int], str] = "text {}".format) -> list[list[int]]:
        """Return the tokens of each text, without padding; those of an empty text are none.

        Args:
            texts: The texts to encode.
            describe: A function from the position of a text to its name in messages; ``text 0``, … by default.

        Raises:
            ValueError: If a text cannot be encoded, or its characters give no token; the message names it.
        """
        try:
            found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        except Exception:  # noqa: BLE001  (which does not say what text is meant)
            found = [self._encode_one(text, describe(number)) for number, text in enumerate(texts)]
        rows: list[list[int]] = [encoding.ids for encoding in found]
        for number, (text, row) in enumerate(zip(texts, rows, strict=True)):
            if text.strip() and not row:
                raise ValueError(
                    f"{describe(number)} must have characters that the tokenizer knows, got none in {text[:40]!r}"
                )
        return rows

    def _encode_one(self, text: str, name: str) -> Any:
        try:
            return self._tokenizer.encode(text, add_special_tokens=False)
        except Exception as error:  # noqa: BLE001  (the package raises plain exceptions)
            raise ValueError(
                f"{name} must be text that the tokenizer can encode, got {text[:40]!r}: {one_line(error)}"
            ) from None

    def decode(self, tokens: Tensor | NDArray[Any]) -> list[str]:
        """Return the texts of tokens, without padding, special tokens and numbers that are not tokens.

        Args:
            tokens: Tokens, `(text, position)`, of any numeric type.
        """
        rows = tokens.tolist()
        kept = [[t for t in map(int, row) if 0 <= t < self._num_known and t != self.padding] for row in rows]
        texts: list[str] = self._tokenizer.decode_batch(kept, skip_special_tokens=True)
        return texts

    def most_characters(self, length: int) -> int:
        """Return the number of characters that a text of so many tokens has at most, with a space per token."""
        return length * (self._longest + 1)


def read_tokenizer(where: str, request: str, folder: Path, texts: Callable[[], Iterable[str]] | None) -> str:
    """Return the JSON of a tokenizer that is read from a file or trained.

    Args:
        where: Data and modality, the beginning of error messages.
        request: Path of a file ``tokenizer.json`` or of its folder; ``bpe:N`` for a byte-pair vocabulary of N tokens
            that is trained on texts; or the JSON itself.
        folder: Path of the folder that a path is relative to.
        texts: A function that returns the texts to train on, or None if there are none.

    Raises:
        ValueError: If the file does not exist or is not a tokenizer, or the size is not allowed.
        ImportError: If the package ``tokenizers`` is not installed.
    """
    if is_json(request):
        content, source = request, ""
    elif request.startswith(_BPE):
        if texts is None:
            raise ValueError(f"{where}: tokenizer must be a file if values are tokens already, got {request!r}")
        return _train_pairs(where, request, texts())
    else:
        path = folder / Path(request).expanduser()
        path, source = path / FILE_NAME if path.is_dir() else path, f" {path}"
        try:
            content = read_text(path)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{where}: tokenizer must be a file {FILE_NAME} or bpe:N, such as bpe:500, got {request!r}, which "
                f"cannot be read: {one_line(error)}"
            ) from None
    try:
        compact = json.dumps(load_json(content), separators=(",", ":"))
        open_tokenizer(compact)
    except ValueError as error:
        raise ValueError(f"{where}: tokenizer{source}: {one_line(error)}") from None
    return compact


@lru_cache(maxsize=8)
def open_tokenizer(text: str) -> TextTokenizer:
    """Return the tokenizer of a JSON text, which is made once.

    Args:
        text: The content of a file ``tokenizer.json``.

    Raises:
        ValueError: If the content is not a tokenizer.
        ImportError: If the package ``tokenizers`` is not installed.
    """
    return TextTokenizer(text)


def _train_pairs(where: str, request: str, texts: Iterable[str]) -> str:
    """Return the JSON of a byte-pair vocabulary (Sennrich et al., 2016) over bytes, which has every character.

    One token of its size is left for padding, so that no text contains it.
    """
    size = request.removeprefix(_BPE)
    if not size.isdecimal() or int(size) <= _BYTES:
        raise ValueError(
            f"{where}: tokenizer must be bpe:N with N of at least {_BYTES + 1}, the bytes and padding, got {request!r}"
        )
    package = _import_tokenizers()
    tokenizer = package.Tokenizer(package.models.BPE())
    tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = package.decoders.ByteLevel()
    trainer = package.trainers.BpeTrainer(
        vocab_size=int(size) - 1,
        initial_alphabet=sorted(package.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(texts), trainer=trainer)
    return json.dumps(json.loads(tokenizer.to_str()), separators=(",", ":"))


def text_length(longest: int) -> int:
    """Return the number of positions of texts of which the longest has so many tokens, as networks for text need."""
    return max(_LEAST, -(-longest // _MULTIPLE) * _MULTIPLE)


def pad_tokens(rows: Sequence[Sequence[int]], length: int, padding: int) -> NDArray[np.int32]:
    """Return tokens of a fixed length, int32, `(text, position)`; longer texts are cut.

    Args:
        rows: The tokens of each text.
        length: Number of positions of a text.
        padding: Token that fills up shorter texts.
    """
    tokens = np.full((len(rows), length), padding, dtype=np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row[:length]
    return tokens


def decode_tokens(tokens: Tensor | NDArray[Any], spec: ModalitySpec) -> list[str]:
    """Return the texts of tokens by the tokenizer or the alphabet of their modality, without padding.

    Args:
        tokens: Tokens, `(text, position)`, of any numeric type.
        spec: Description of a modality of text.
    """
    if spec.tokenizer is not None:
        return open_tokenizer(spec.tokenizer).decode(tokens)
    return decode_texts(tokens, spec.padding, spec.alphabet or "")


def decode_to_array(tokens: Tensor, spec: ModalitySpec) -> NDArray[np.str_]:
    """Return texts as an array whose type depends on the number of positions alone, so that parts fit together.

    Args:
        tokens: Tokens of the texts, `(text, position)`, of any numeric type.
        spec: Description of a modality of text.
    """
    length = tokens.shape[1]
    most = length if spec.tokenizer is None else open_tokenizer(spec.tokenizer).most_characters(length)
    return np.array(decode_tokens(tokens, spec), dtype=f"U{most}")


def padding_token(spec: ModalitySpec) -> int | None:
    """Return the token that fills up shorter texts; None if the modality is not text or does not have one.

    Args:
        spec: Description of a modality.
    """
    if spec.tokenizer is not None:
        return open_tokenizer(spec.tokenizer).padding
    return spec.alphabet.index(spec.padding) if spec.alphabet is not None and spec.padding else None


def is_json(request: str) -> bool:
    """Return True if a text is the JSON of a tokenizer and not a request for one."""
    return request.lstrip().startswith("{")


def make_absolute(request: str) -> str:
    """Return a request with an absolute path, so that it means the same from every folder."""
    if is_json(request) or request.startswith(_BPE):
        return request
    return str(Path(request).expanduser().absolute())


Request = Annotated[str, AfterValidator(make_absolute)]
"""A tokenizer that a user asks for: a path or ``bpe:N``."""

TokenizerOption = Request | Mapping[str, Request] | None
"""One tokenizer for all texts, or tokenizers by the name of the modality, or none."""


def _import_tokenizers() -> Any:
    try:
        import tokenizers  # noqa: PLC0415  (an extra)
    except ImportError:
        raise ImportError(
            "the package tokenizers must be installed to encode or decode this text, got none: pip install "
            "'pyro-mmvae[tokenizers]'"
        ) from None
    return tokenizers
