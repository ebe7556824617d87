"""Text streams that outlive what they are written to: a closed pipe, a full disk, or no stream at all."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Any, TextIO


class SurvivingStream:
    """A text stream that drops everything after the first error, so that a dead log does not end what it logs.

    Args:
        stream: The stream to write to; None where the process has none.

    Attributes:
        error: The first error of the stream, None so far.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.error: Exception | None = None

    @property
    def encoding(self) -> str:
        """The encoding of the stream."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    @property
    def was_lost(self) -> bool:
        """True if text was lost for another reason than a reader that has closed its end."""
        return isinstance(self.error, OSError) and self.error.errno not in {errno.EPIPE, errno.EBADF}

    def write(self, text: str) -> int:
        """Write a text, or drop it, and return its length."""
        if self.stream is not None and self.error is None:
            try:
                self.stream.write(text)
            except (OSError, ValueError) as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        if self.stream is not None and self.error is None:
            try:
                self.stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def isatty(self) -> bool:
        """Return True if the stream is a terminal."""
        try:
            return self.stream is not None and self.stream.isatty()
        except ValueError:  # it is closed
            return False

    def __getattr__(self, name: str) -> Any:
        if self.__dict__.get("stream") is None:
            raise AttributeError(name)
        return getattr(self.stream, name)

    def _give_up(self, error: Exception) -> None:
        if isinstance(error, UnicodeError):
            raise error
        self.error = error
        with suppress(OSError, ValueError, AttributeError):
            # What is in its buffer would raise the error again when the interpreter ends.
            descriptor = os.open(os.devnull, os.O_WRONLY)
            os.dup2(descriptor, self.stream.fileno())  # type: ignore[union-attr]
            os.close(descriptor)
