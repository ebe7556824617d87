"""The writer of figures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.text import Text

from pyro_mmvae._printable import printable
from pyro_mmvae.files import write_atomically


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


def save_figure(figure: Figure, file: Path, **options: Any) -> Path:
    """Write a figure atomically, in the format of the file's suffix.

    Args:
        figure: The figure to write.
        file: The path of the picture, see :func:`picture_format`.
        **options: Further keyword arguments of :meth:`matplotlib.figure.Figure.savefig`.

    Returns:
        The argument ``file``.
    """
    for text in figure.findobj(Text):  # names may come from data of anyone
        text.set_text(printable(text.get_text()))
    buffer = io.BytesIO()
    figure.savefig(buffer, format=picture_format(file), **options)
    write_atomically(file, buffer.getvalue())
    return file
