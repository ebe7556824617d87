"""The site: links, made pages and docstrings are turned into what MkDocs shows."""

from __future__ import annotations

import functools
import importlib
import posixpath
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

import pyro_mmvae
from scripts import draw_barycenters, site_links, site_pages

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def navigation() -> list[str]:
    """Return the pages that ``mkdocs.yml`` names, in their order."""
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def leaves(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in leaves(part)]

    return leaves(yaml.safe_load(text)["nav"])


@functools.lru_cache
def made_pages() -> dict[str, str]:
    return {
        **dict(site_pages.root_pages()),
        **dict(site_pages.example_pages()),
        **dict(site_pages.api_pages()),
        **{uri: text for uri, text in site_pages.notebook_pages() if isinstance(text, str)},
        "examples/index.md": site_pages.examples_index(),
        "reference/api/index.md": site_pages.api_index(),
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("docs/results/khat.md", "results/khat.md"),
        ("examples/cite_seq.py", "examples/cite_seq.md"),
        ("README.md", "index.md"),
        ("CONTRIBUTING.md", "about/contributing.md"),
        ("benchmarks/results/table.csv", "files/benchmarks/results/table.csv"),
    ],
)
def test_site_path_each_kind_of_file_has_its_place(path: str, expected: str) -> None:
    assert site_links.site_path(path) == expected


def test_for_site_link_out_of_docs_is_moved_and_code_is_left() -> None:
    text = "[a](../examples/cite_seq.py) `[b](../README.md)` [c](#here) [d](https://x.org/y) [e](x.md#z)\n"
    moved = site_links.for_site(text, "docs", "omics.md")
    assert moved == "[a](examples/cite_seq.md) `[b](../README.md)` [c](#here) [d](https://x.org/y) [e](x.md#z)\n"
    assert site_links.for_site("[a](docs/data.md#x)", "", "about/contributing.md") == "[a](../data.md#x)"


def test_without_marks_word_for_the_tests_is_removed() -> None:
    assert site_links.without_marks("```python needs-run\nx\n```\n") == "```python\nx\n```\n"
    assert site_links.without_marks("```sh\nx\n```\n") == "```sh\nx\n```\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_for_site_every_link_of_a_page_leads_to_a_page_or_file(page: Path) -> None:
    uri = page.relative_to(ROOT / "docs").as_posix()
    made = made_pages().keys() | {"reference/command-line.md", "reference/all-settings.md"}
    text = site_links.for_site(page.read_text(encoding="utf-8"), posixpath.dirname(f"docs/{uri}"), uri)
    for path in site_links.targets(text, posixpath.dirname(uri)):
        place = path.removeprefix("files/")
        assert path in made or (ROOT / "docs" / path).exists() or (path != place and (ROOT / place).exists()), path


def test_navigation_names_pages_that_exist_once() -> None:
    made = made_pages().keys() | {"reference/command-line.md", "reference/all-settings.md"}
    pages = navigation()
    assert [page for page in pages if page not in made and not (ROOT / "docs" / page).exists()] == []
    assert [page for page in pages if pages.count(page) > 1] == []
    assert pages[0] == "index.md"


@pytest.mark.parametrize("room", site_pages.rooms())
def test_public_names_of_a_room_can_be_imported(room: str) -> None:
    module = importlib.import_module(f"pyro_mmvae.{room}")
    assert [name for name in site_pages.public_names(room) if not hasattr(module, name)] == []


def test_api_has_every_name_of_reports_that_the_pages_document() -> None:
    api = "\n".join(text for uri, text in made_pages().items() if uri.startswith("reference/api/"))
    named = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named |= set(re.findall(r"pyro_mmvae\.reports\.\w+\.\w+", text))
        for module, names in re.findall(r"from (pyro_mmvae\.reports\.\w+) import (.+)", text):
            named |= {f"{module}.{name.strip()}" for name in names.split(",")}
    assert {"pyro_mmvae.reports.html.run_page", "pyro_mmvae.reports.styles.STYLE"} <= named
    assert [name for name in named if f"::: {name}\n" not in api] == []


def test_navigation_has_the_tasks_of_a_user_under_do() -> None:
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    sections = {name: part for entry in yaml.safe_load(text)["nav"] for name, part in entry.items()}
    assert {"Several GPUs and large data": "scale.md"} in sections["Do"]


def test_public_names_of_the_package_are_those_of_its_table() -> None:
    assert set(site_pages.public_names("")) == set(pyro_mmvae.__all__) - {"__version__"}
    homes = {name for room in site_pages.rooms() for name in site_pages.public_names(room)}
    assert set(site_pages.public_names("")) <= homes
    index = site_pages.api_index()
    assert [name for name in site_pages.public_names("") if f"`{name}`" not in index] == []


def test_settings_page_lists_every_setting_once() -> None:
    from pyro_mmvae.runs.settings import list_settings

    page = site_pages.settings_page()
    assert [setting.key for setting in list_settings() if page.count(f"| `{setting.key}` |") != 1] == []


def test_command_line_page_describes_options_as_the_help_does() -> None:
    page = site_pages.command_line_page()
    assert "\n## pyro-mmvae train\n" in page
    assert "\n## pyro-mmvae data check\n" in page
    assert re.search(r"^\| `--agg \S+` \| .*aggregation", page, re.MULTILINE | re.IGNORECASE)
    assert "Sentinel" not in page


def test_to_markdown_sphinx_markup_becomes_mathml_links_and_examples() -> None:
    pytest.importorskip("griffe")
    pytest.importorskip("latex2mathml")
    from scripts.site_docstrings import to_markdown

    scope: Any = SimpleNamespace(path="pyro_mmvae.guides", members={"Penalty": None}, parent=None)
    text = to_markdown(
        "See :class:`Penalty`, :math:`q_m`.\n\n.. math:: \\sum_m\n    x_m\n\nExample:\n    >>> 1\n    1\n", scope
    )
    assert '<autoref identifier="pyro_mmvae.guides.Penalty" optional><code>Penalty</code></autoref>' in text
    assert "<msub><mi>q</mi><mi>m</mi></msub>" in text
    assert '<div class="formula"><math' in text
    assert text.count("<msub>") == 2
    assert "Examples:\n    >>> 1" in text
    with pytest.raises(ValueError, match="latex2mathml knows"):
        to_markdown(r":math:`\unknowncommand x`", scope)


@pytest.mark.parametrize("name", pyro_mmvae.aggregations())
def test_density_of_each_aggregation_that_is_drawn_has_its_moments(name: str) -> None:
    curve = draw_barycenters.density(name)
    posterior = pyro_mmvae.aggregate(draw_barycenters.experts(), name)
    assert float(torch.trapezoid(curve, draw_barycenters.GRID)) == pytest.approx(1, abs=2e-3)
    if name in {"holder", "helvae"}:  # the former has no moments in closed form, the latter has its moments
        posterior = pyro_mmvae.aggregate(draw_barycenters.experts(), "helvae")
    expected = (posterior.mean.item(), posterior.variance.sqrt().item())
    assert draw_barycenters.moments(curve) == pytest.approx(expected, abs=0.02)


def test_pictures_of_the_page_on_barycenters_are_those_that_are_drawn() -> None:
    page = (ROOT / "docs" / "learn" / "barycenters.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\((\w+)\.png\)", page)) == set(draw_barycenters.FIGURES)
    assert all((ROOT / "docs" / "learn" / f"{name}.png").is_file() for name in draw_barycenters.FIGURES)
    assert [name for name in pyro_mmvae.aggregations() if f"`{name}`" not in page] == []
