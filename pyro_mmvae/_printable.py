"""Text from data as a terminal or a picture can show it: characters that a terminal would obey are escaped."""

from __future__ import annotations

import unicodedata

_KEPT = "\n\t\u200b\u200c\u200d"  # the last two join letters of some scripts and parts of emoji


def printable(text: str) -> str:
    r"""Return a text in which control characters, also those of the writing direction, are escaped as in Python.

    Line breaks and tabs stay as they are.

    Args:
        text: The text, such as a message with names from data in it.

    Example:
        >>> print(printable("red \x1b[31m, left \u202e"))
        red \x1b[31m, left \u202e
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(_escape(character) for character in text)


def printable_line(text: str) -> str:
    r"""Return a text as :func:`printable` does, with its line breaks and tabs escaped too.

    Args:
        text: The text, such as the path of a file from a cell of a table.

    Example:
        >>> print(printable_line("photo\n.png"))
        photo\n.png
    """
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def one_line(error: BaseException, most: int = 200) -> str:
    r"""Return the message of an error as a single line that a message of our own can quote.

    Args:
        error: The error, such as one of a library that reads files.
        most: The largest number of characters to return.

    Returns:
        The message with runs of white space as single spaces and control characters escaped; the name of the class if
        it is empty.

    Example:
        >>> one_line(ValueError("not a table\n  in line 3"))
        'not a table in line 3'
    """
    return printable(" ".join(str(error).split()))[:most] or type(error).__name__


def _escape(character: str) -> str:
    # Spaces of other widths than that of ASCII do not count as printable in Python.
    if character.isprintable() or character in _KEPT or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")
