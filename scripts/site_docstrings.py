"""An extension of griffe that turns the Sphinx markup of docstrings into what the site can show."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from griffe import Extension, NameResolutionError, Object
from latex2mathml.converter import convert

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")
_FORMULA = re.compile(r":math:`([^`]+)`")
_DISPLAY = re.compile(r"^( *)\.\. math:: *(.*)\n((?:\1 +\S.*(?:\n|\Z)|[ \t]*\n)*)", re.MULTILINE)


def _mathml(latex: str, display: str = "inline") -> str:
    """Return a formula as MathML, which browsers draw without a script."""
    found = convert(latex.replace(r"\arg", r"\operatorname{arg}"), display=display)
    if "\\" in found:
        raise ValueError(f"formulas of docstrings must use commands that latex2mathml knows, got {latex!r}")
    return found


def _displayed(match: re.Match[str]) -> str:
    """Return a formula on lines of its own as a block."""
    indent, first, rest = match.groups()
    latex = " ".join([first, textwrap.dedent(rest)]).strip()
    return f'\n{indent}<div class="formula">{_mathml(latex, "block")}</div>\n\n'


def _identifier(name: str, scope: Object) -> str:
    """Return the full name of what a docstring calls by a short name."""
    if name.startswith("pyro_mmvae."):
        return name
    first, dot, rest = name.partition(".")
    parent: Object | None = scope
    while parent is not None:
        if first in parent.members:
            return f"{parent.path}.{name}"
        parent = parent.parent
    try:
        return scope.resolve(first) + dot + rest
    except NameResolutionError:
        return name


def to_markdown(text: str, scope: Object) -> str:
    """Return a docstring with formulas as MathML, names as links, and examples as griffe expects them.

    Args:
        text: The docstring, with roles such as ``:class:`` and ``:math:``.
        scope: The object that the docstring belongs to, in which its names are looked up.
    """

    def link(match: re.Match[str]) -> str:
        is_short, name = match.groups()
        shown = name.rpartition(".")[2] if is_short else name
        return f'<autoref identifier="{_identifier(name, scope)}" optional><code>{shown}</code></autoref>'

    text = _DISPLAY.sub(_displayed, text + "\n").rstrip("\n")
    text = _FORMULA.sub(lambda m: _mathml(m.group(1)), text)
    text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
    return _ROLE.sub(link, text)


class SphinxMarkup(Extension):
    """An extension that rewrites every docstring of the package once it has been read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value, obj)
