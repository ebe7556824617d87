"""HTML reports in a browser: no errors, no requests, every control works, and hostile names stay text.

The tests need the extra ``browser`` and Chromium: Debian's package, or the program that ``CHROMIUM`` names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_mmvae.reports.html import comparison_page, find_runs, run_page
from tests.reports.html.pages import HOSTILE, make_exhibits, write_run

PROGRAM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
CONTRAST = """() => {
  const light = c => { const v = c.map(x => x / 255).map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
    return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const behind = node => { for (; node; node = node.parentElement) {
    const c = parse(getComputedStyle(node).backgroundColor); if (c.length === 3 || c[3] === 1) { return c; } }
    return [255, 255, 255]; };
  const bad = [];
  const tags = "h1, h2, h3, p, dt, dd, th, td, a, summary, label, button, li, figcaption span";
  document.querySelectorAll(tags).forEach(n => {
    if (!n.offsetParent || !n.textContent.trim() || n.closest(".unseen-row")) { return; }
    const a = light(parse(getComputedStyle(n).color)), b = light(behind(n));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) { bad.push(n.tagName + " " + n.textContent.trim().slice(0, 30) + " " + ratio.toFixed(2)); }
  });
  return bad;
}"""


def is_outside(address: str) -> bool:
    return not address.startswith(("file:", "data:"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser'")
    if PROGRAM is None:
        pytest.skip("needs Chromium, such as Debian's package chromium")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=PROGRAM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that opens HTML, and check at the end that there were no errors and no requests."""
    faults: list[str] = []
    contexts: list[Any] = []

    def open_page(text: str, *, width: int = 1280, scheme: str = "light") -> Any:
        file = tmp_path / "report.html"
        file.write_text(text, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else faults.append(request.url),
        )
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def run_text(tmp_path: Path) -> str:
    return run_page(write_run(tmp_path / "run"), exhibits=make_exhibits(), summary="Mixture of barycenters.")


def test_page_every_control_changes_its_part(opened: Callable[..., Any], run_text: str) -> None:
    page = opened(run_text)
    assert page.locator("[data-view=training] svg[role=img]").count() == 6
    rows = page.locator("[data-view=items] .says tbody tr")
    assert rows.count() == 8
    page.get_by_role("group", name="subsets of size").get_by_text("2", exact=True).click()
    assert rows.count() == 4
    page.locator("[role=option]").nth(3).click()
    assert page.locator("[role=option][aria-selected=true]").get_attribute("id") == "item-3"
    assert page.locator("aside.side h3").text_content() == f"Item {HOSTILE[3]}"
    page.locator(".cell").first.click()
    page.locator("dialog[open]").wait_for()
    page.keyboard.press("Escape")
    page.locator("dialog[open]").wait_for(state="detached")

    matrix = page.locator("[data-view=matrix]")
    assert matrix.locator("tbody tr").count() == 3
    matrix.get_by_text("2", exact=True).click()
    assert matrix.locator("tbody th").first.text_content().strip() == "photo + caption"

    map_view = page.locator("[data-view=map]")
    pixels = "document.querySelector('canvas').toDataURL()"
    pictures = [page.evaluate(pixels)]
    for name in ("disagreement", "what was given"):
        map_view.get_by_text(name, exact=True).click()
        pictures.append(page.evaluate(pixels))
    map_view.get_by_text("label", exact=True).click()
    map_view.locator("select").select_option(label="photo")
    pictures.append(page.evaluate(pixels))
    assert len(set(pictures)) == 4

    page.locator("details.numbers summary").first.click()
    page.locator("details.numbers tbody tr").first.wait_for()  # the table is made when the browser reports the opening
    assert page.locator("details.numbers tbody tr").count() == 4
    page.locator("#nav a").last.click()
    page.wait_for_selector("#nav a[aria-current]:has-text('Setup')")


def test_page_works_by_keyboard(opened: Callable[..., Any], run_text: str) -> None:
    page = opened(run_text)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator("[role=listbox]").focus()
    for key, item in (("ArrowRight", 1), ("End", 5), ("ArrowLeft", 4), ("Home", 0)):
        page.keyboard.press(key)
        assert page.locator("[role=listbox]").get_attribute("aria-activedescendant") == f"item-{item}"
    page.locator("[data-view=training] svg[role=img]").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#live").text_content() == "epoch 1; training: -9; validation: -8"
    page.locator("canvas").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("[role=option][aria-selected=true]").get_attribute("id") == "item-1"
    assert page.evaluate("[...document.querySelectorAll('button, select, input, canvas')].every(n => n.tabIndex >= 0)")


def test_page_missing_modality_is_shown_as_absent(opened: Callable[..., Any], run_text: str) -> None:
    page = opened(run_text)
    page.locator("[role=option]").last.click()
    truth = page.locator(".says tr.truth td")
    assert truth.first.text_content() == "absent"
    assert page.locator(".says tr.unseen-row").count() == 4  # all subsets that hold the absent modality
    assert page.locator("aside.side .heat td.none").count() == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_has_contrast_in_both_themes(opened: Callable[..., Any], run_text: str, scheme: str) -> None:
    page = opened(run_text, scheme=scheme)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert page.evaluate(CONTRAST) == []


def test_page_theme_button_overrules_the_system(opened: Callable[..., Any], run_text: str) -> None:
    page = opened(run_text, scheme="dark")
    button = page.locator("#theme")
    button.click()
    assert button.text_content() == "Colours: light"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    button.click()
    button.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_page_fits_a_phone(opened: Callable[..., Any], run_text: str, tmp_path: Path) -> None:
    page = opened(run_text, width=390)
    assert page.evaluate(OVERFLOW) <= 0
    for aggregation in ("poe", "mwb"):
        for seed in range(2):
            write_run(tmp_path / "all" / f"{aggregation}-seed{seed}", seed=seed, aggregation=aggregation)
    assert opened(comparison_page(find_runs([tmp_path / "all"])), width=390).evaluate(OVERFLOW) <= 0


def test_page_hostile_names_stay_text(opened: Callable[..., Any], tmp_path: Path) -> None:
    names = HOSTILE[:6]
    path = write_run(tmp_path / "run", names, aggregation=HOSTILE[1])
    page = opened(run_page(path, exhibits=make_exhibits(names, labels=HOSTILE), summary=HOSTILE[0]), width=390)
    assert page.evaluate(OVERFLOW) <= 0
    assert page.locator("script").count() == 2
    assert page.locator("img").count() == 0
    assert names[0] in page.locator(".says thead").text_content()
    assert "[object" not in page.locator("main").text_content()
    widths = page.locator(".says .phrase").evaluate_all("nodes => nodes.map(node => node.clientWidth)")
    assert min(widths) >= 80  # a narrow column would break words into letters
    for item in range(6):
        page.locator("[role=option]").nth(item).click()
        page.locator(".cell").first.click()
        page.keyboard.press("Escape")
    page.locator("canvas").hover()
    page.locator("[data-view=khat]").scroll_into_view_if_needed()


def test_comparison_page_draws_figures_and_differences(opened: Callable[..., Any], tmp_path: Path) -> None:
    for aggregation, quality in (("poe", 0.5), (HOSTILE[0], 0.6)):
        for seed in range(3):
            write_run(tmp_path / f"run{quality}-seed{seed}", seed=seed, aggregation=aggregation, quality=quality)
    page = opened(comparison_page(find_runs([tmp_path]), baseline="poe"))
    assert page.locator("[data-view=compared] svg[role=img]").count() == 2
    assert page.locator("[data-view=differences] svg[role=img]").count() == 2
    page.locator("[data-view=differences] details.numbers summary").first.click()
    page.locator("[data-view=differences] details.numbers").first.get_by_text("3 pairs of seeds").first.wait_for()


def test_page_of_ten_classes_has_okabe_ito_colours_and_markers(opened: Callable[..., Any], tmp_path: Path) -> None:
    exhibits = make_exhibits(items=40, labels=[str(number) for number in range(10)])
    page = opened(run_page(write_run(tmp_path / "run"), exhibits=exhibits))
    entries = page.locator("[data-view=map] .legend path").evaluate_all(
        "nodes => nodes.map(node => [getComputedStyle(node).fill, node.getAttribute('d')])"
    )
    colors = page.evaluate(
        "[0, 1, 2, 3, 4, 5, 6].map(i => getComputedStyle(document.documentElement).getPropertyValue('--c' + i))"
    )
    used = [tuple(int(part) for part in re.findall(r"\d+", fill)) for fill, _ in entries]
    assert used == [tuple(bytes.fromhex(color.strip()[1:])) for color in [*colors, *colors[:3]]]
    assert len({shape for _, shape in entries}) == 2
    assert {shape for _, shape in entries[:7]}.isdisjoint({shape for _, shape in entries[7:]})
    pixels = page.locator("[data-view=map] canvas").evaluate(
        "node => Array.from(node.getContext('2d').getImageData(0, 0, node.width, node.height).data)"
        ".filter((value, index) => index % 4 === 3 && value > 0).length"
    )
    assert pixels > 40 * 20  # each point covers more than twenty pixels


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_of_many_classes_draws_all_of_them(opened: Callable[..., Any], tmp_path: Path, scheme: str) -> None:
    exhibits = make_exhibits(items=120, labels=[f"class {number}" for number in range(60)])
    page = opened(run_page(write_run(tmp_path / "run"), exhibits=exhibits), scheme=scheme)
    entries = page.locator("[data-view=map] .legend path").evaluate_all(
        "nodes => nodes.map(node => getComputedStyle(node).fill + node.getAttribute('d'))"
    )
    assert len(set(entries)) == len(entries) == 60
    assert not [entry for entry in entries if "null" in entry or "undefined" in entry]


def test_page_of_close_values_has_ticks_that_differ(opened: Callable[..., Any], tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", evaluated=False)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        row["objective"], row["val"]["elbo"] = -1599.42 + 0.02 * number, -1599.44 + 0.02 * number
    (path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    page = opened(run_page(path))
    plot = page.locator("[data-view=training] svg[role=img]").first
    labels = [text for text in plot.locator("text").all_text_contents() if text.startswith("-1599")]
    assert len(set(labels)) == len(labels) >= 2
    box, left = plot.bounding_box(), plot.locator("text").first.bounding_box()
    assert left["x"] >= box["x"]  # labels with more digits are not cut off
    plot.focus()
    page.keyboard.press("Home")
    page.locator("[data-view=training] .numbers summary").first.click()
    table = page.locator("[data-view=training] .numbers").first
    table.locator("tbody tr").first.wait_for()  # the table is made when the browser reports the opening
    cells = table.locator("td").all_text_contents()
    assert len(set(cells[::2])) == 4  # the values of the training in the table differ, too


def test_page_of_one_modality_without_labels_works(opened: Callable[..., Any], tmp_path: Path) -> None:
    exhibits = make_exhibits(("sensor",))
    object.__setattr__(exhibits, "labels", None)
    object.__setattr__(exhibits.latent, "labels", None)
    page = opened(run_page(write_run(tmp_path / "run", ("sensor",), evaluated=False), exhibits=exhibits))
    assert page.locator(".says tbody tr").count() == 2
    assert "Fewer than two modalities" in page.locator("aside.side").text_content()
