"""Links and code blocks of the pages, from the form that a repository shows to the form that the site needs."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator

ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "about/contributing.md",
    "CHANGELOG.md": "about/changelog.md",
    "CODE_OF_CONDUCT.md": "about/code-of-conduct.md",
    "SECURITY.md": "about/security.md",
}
"""The site's page of each page in the root of the repository; the home page stands for the README."""

FILES = "files"
"""The folder of the site with files of the repository that pages link to and that are not pages."""

_MARKS = re.compile(r"^(```python) (?:no-run|needs-run|needs-omics)$", re.MULTILINE)
_CODE = re.compile(r"^```.*?^```$|``[^\n]*?``|`[^`]*`", re.MULTILINE | re.DOTALL)
_TARGET = re.compile(r"(?<=\]\()[^()\s#]+(?=[#)])")


def without_marks(text: str) -> str:
    """Return a page without the words after ``python`` that tell the tests which blocks run."""
    return _MARKS.sub(r"\1", text)


def site_path(path: str) -> str:
    """Return the place in the site of a file of the repository.

    Args:
        path: Path of a file or folder relative to the root of the repository.
    """
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    folder, name = posixpath.split(path)
    if folder == "examples" and name.endswith(".py"):
        return path.removesuffix(".py") + ".md"
    if folder == "notebooks" and name.endswith(".ipynb"):
        return path.removesuffix(".ipynb") + ".md"
    return ROOT_PAGES.get(path, f"{FILES}/{path}")


def _replace(text: str, change: Callable[[str], str]) -> str:
    """Return a page in which the relative targets of its links are changed, code left as it is."""
    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [_TARGET.sub(lambda m: _unless_absolute(m.group(), change), text[end : code.start()]), code.group()]
        end = code.end()
    return "".join([*parts, _TARGET.sub(lambda m: _unless_absolute(m.group(), change), text[end:])])


def _unless_absolute(target: str, change: Callable[[str], str]) -> str:
    return target if re.match(r"[a-z]+:", target) else change(target)


def targets(text: str, folder: str) -> Iterator[str]:
    """Yield the paths, relative to the root of the repository, that the links of a page lead to.

    Args:
        text: Markdown of the page.
        folder: Folder of the page in the repository, such as ``docs/results``.
    """
    found: list[str] = []
    _replace(text, lambda target: found.append(target) or target)
    for target in found:
        yield posixpath.normpath(posixpath.join(folder, target))


def for_site(text: str, folder: str, page: str) -> str:
    """Return a page with links that are right in the site.

    Args:
        text: Markdown of the page.
        folder: Folder of the page in the repository, to which its links are relative.
        page: Path of the page in the site, such as ``about/changelog.md``.
    """

    def change(target: str) -> str:
        place = site_path(posixpath.normpath(posixpath.join(folder, target)))
        return posixpath.relpath(place, posixpath.dirname(page) or ".")

    return without_marks(_replace(text, change))
