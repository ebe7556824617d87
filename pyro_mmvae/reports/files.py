"""The writer of figures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.text import Text

from pyro_mmvae._printable import printable
from pyro_mmvae.files import write_atomically

DPI = 150
"""The default number of pixels per inch of a picture."""

# Journals reject the Type 3 fonts that matplotlib embeds by default; text of an SVG must look alike on every machine.
_SAVING: dict[Any, Any] = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "pyro_mmvae"}
_DATES = {"pdf": "CreationDate", "svg": "Date"}  # the metadata that would make two equal pictures differ


def picture_format(file: Path) -> str:
    """Return the format of a picture, which the suffix of its file names.

    Args:
        file: The path of the picture; without a suffix, it is a PNG file.

    Returns:
        The name of the format in lower case, such as ``"pdf"``.

    Raises:
        ValueError: If matplotlib cannot write the format; the message lists those that it can write.
    """
    suffix = file.suffix.lower().removeprefix(".") or "png"
    formats = FigureCanvasBase.get_supported_filetypes()
    if suffix not in formats:
        raise ValueError(f"{file}: the suffix of a picture must be one of {', '.join(formats)}, got {suffix!r}")
    return suffix


def picture_files(file: Path, formats: Sequence[str] = ()) -> list[Path]:
    """Return the paths of a picture in several formats.

    Args:
        file: The path of the picture, whose suffix is replaced by that of each format.
        formats: The names of the formats; without any, the suffix of the file is the only one.

    Returns:
        The paths, in the order of the formats.

    Raises:
        ValueError: If matplotlib cannot write a format.
    """
    supported = FigureCanvasBase.get_supported_filetypes()
    stem = file.with_suffix("") if file.suffix.lower().removeprefix(".") in supported else file
    files = [stem.with_name(f"{stem.name}.{name}") for name in dict.fromkeys(formats)] or [file]
    for one in files:
        picture_format(one)
    return files


def save_figure(figure: Figure, file: Path, **options: Any) -> Path:
    """Write a figure atomically, in the format of the file's suffix.

    Args:
        figure: The figure to write.
        file: The path of the picture, see :func:`picture_format`.
        **options: Further keyword arguments of :meth:`matplotlib.figure.Figure.savefig`; ``dpi`` is 150 by default.

    Returns:
        The argument ``file``.
    """
    for text in figure.findobj(Text):  # names may come from data of anyone
        text.set_text(printable(text.get_text()))
    buffer, name = io.BytesIO(), picture_format(file)
    metadata = {_DATES[name]: None} if name in _DATES else None
    with matplotlib.rc_context(_SAVING):
        figure.savefig(buffer, format=name, metadata=metadata, **{"dpi": DPI, **options})
    write_atomically(file, buffer.getvalue())
    return file


def save_pictures(figure: Figure, file: Path, formats: Sequence[str] = ("png",), dpi: int = DPI) -> list[Path]:
    """Write a figure in one or several formats, one file per format.

    Args:
        figure: The figure to write.
        file: The path of the pictures without the suffix, which is that of each format.
        formats: The names of the formats, such as ``("pdf", "svg")``; PNG by default.
        dpi: The number of pixels per inch, which PDF and SVG use for images inside of the picture; 150 by default.

    Returns:
        The files written, in the order of the formats.

    Raises:
        ValueError: If matplotlib cannot write a format; nothing is written then.
    """
    files = picture_files(file.with_name(f"{file.name}.png"), formats)  # a name may contain dots
    return [save_figure(figure, one, dpi=dpi) for one in files]
