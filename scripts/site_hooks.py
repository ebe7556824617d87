"""The hooks of MkDocs that add the pages which are made, and move links that lead out of ``docs``."""

from __future__ import annotations

import logging
import posixpath
import re
import sys
import zlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:  # the command mkdocs does not look for modules in the current folder
    sys.path.insert(0, str(ROOT))

from mkdocs.structure.files import File, Files  # noqa: E402

from scripts import site_pages  # noqa: E402
from scripts.site_links import FILES, ROOT_PAGES, for_site, site_path, targets  # noqa: E402

_LOG = logging.getLogger("mkdocs.hooks.site")  # a warning of this logger fails a strict build
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|link rel="(?:stylesheet|preconnect|icon)")[^>]* (?:src|href)="(?:https?:)?//"""
)


def _made_pages() -> dict[str, str | bytes]:
    """Return the content of all pages and pictures that are made, by their path in the site."""
    return {
        **dict(site_pages.root_pages()),
        **dict(site_pages.example_pages()),
        **dict(site_pages.notebook_pages()),
        "examples/index.md": site_pages.examples_index(),
        **dict(site_pages.api_pages()),
        "reference/api/index.md": site_pages.api_index(),
        "reference/command-line.md": site_pages.command_line_page(),
        "reference/all-settings.md": site_pages.settings_page(),
    }


def on_config(config: Any) -> Any:
    """Put the pages of the API and of the examples into the navigation, after the pages that list them."""
    listed = {
        "reference/api/index.md": [{room: f"reference/api/{room}.md"} for room in site_pages.rooms()],
        "notebooks/index.md": [
            {site_pages.notebook_title(path): f"notebooks/{path.stem}.md"} for path in site_pages.notebooks()
        ],
        "examples/index.md": [{Path(uri).stem: uri} for uri, _ in site_pages.example_pages()],
    }

    def extend(entries: list[Any]) -> None:
        for entry in list(entries):
            values = list(entry.values()) if isinstance(entry, dict) else [entry]
            for value in values:
                if isinstance(value, list):
                    extend(value)
                else:
                    entries.extend(listed.pop(value, []))

    extend(config.nav)
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made, and the files of the repository that pages link to."""
    outside = set()
    for page in files.documentation_pages():
        text = Path(str(page.abs_src_path)).read_text(encoding="utf-8")
        outside |= set(targets(text, posixpath.dirname(f"docs/{page.src_uri}")))
    for name in ROOT_PAGES:
        outside |= set(targets((ROOT / name).read_text(encoding="utf-8"), ""))
    for path in sorted(outside):
        if site_path(path).startswith(f"{FILES}/") and (ROOT / path).is_file():
            files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
    for uri, text in _made_pages().items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the Markdown of a written page with the links of the site."""
    if page.file.generated_by:
        return markdown
    uri = page.file.src_uri
    return for_site(markdown, posixpath.dirname(f"docs/{uri}"), uri)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Warn if a page would fetch anything from another server."""
    for match in _FETCHED.finditer(output):
        _LOG.warning("%s must not fetch anything from other servers, got %s", page.file.src_uri, match.group())
    return output


def on_post_build(config: Any) -> None:
    """Warn of public names that the API lacks, by the inventory that mkdocstrings writes."""
    inventory = (Path(config.site_dir) / "objects.inv").read_bytes()
    listed = {line.split()[0] for line in zlib.decompress(inventory.split(b"\n", 4)[4]).decode().splitlines()}
    for room in site_pages.rooms():
        for name in site_pages.public_names(room):
            if f"pyro_mmvae.{room}.{name}" not in listed:
                _LOG.warning("pyro_mmvae.%s.%s must be in the API, got a page without it", room, name)
