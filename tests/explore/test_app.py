"""Tests of the explorer's page: its widgets without a server, and in a browser where there is one."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from pyro_mmvae.cli import main
from pyro_mmvae.explore import Explorer

ROOT = Path(__file__).parents[2]
# Panel and what it imports, of several versions, warn about their own use of other packages.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def page(explorer: Explorer) -> Any:
    panel = pytest.importorskip("panel", reason="the extra 'explore' is not installed")
    from pyro_mmvae.explore.app import Page

    return Page(explorer, panel)


def png(value: int, size: tuple[int, int] = (20, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(buffer, "png")
    return buffer.getvalue()


def test_page_shows_what_is_given_under_the_aggregation_of_the_run(page: Any) -> None:
    assert "Posterior of mwb" in page.view.object
    assert page.given.value == list(page.given.options)
    page.given.value = ["photo"]
    assert "given photo" in page.view.object
    page.given.value = []
    assert "nothing: the prior" in page.view.object


def test_page_changes_with_aggregation_weight_and_seed(page: Any) -> None:
    shown = [page.view.object]
    for change in (
        lambda: setattr(page.aggregation, "value", "wb"),
        lambda: setattr(page.weights["photo"], "value", 5.0),
        lambda: setattr(page.seed, "value", 7),
    ):
        change()
        shown.append(re.sub(r"computed in \d+ ms", "", page.view.object))
    assert len(set(shown)) == 4
    assert not page.message.object


def test_page_with_all_weights_zero_says_what_is_wrong_and_reset_mends_it(page: Any) -> None:
    for slider in page.weights.values():
        slider.value = 0.0
    assert "one of them larger than 0" in page.message.object
    page.reset.clicks += 1
    assert not page.message.object


def test_page_explores_an_uploaded_item_and_returns(page: Any) -> None:
    page.uploads["photo"].value = png(200)
    page.uploads["caption"].value = "one"
    page.uploads["sensors"].value = "1, 2 3\n4"
    page.use.clicks += 1
    assert not page.message.object
    assert "the uploaded item" in page.view.object
    assert sorted(page.given.options) == ["caption", "photo", "sensors"]
    page.leave.clicks += 1
    assert "item 0" in page.view.object


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("photo", b"not an image", "photo must be a PNG"),
        ("sensors", "1 2 3", "sensors must be 4 numbers, got 3"),
        ("sensors", "1 2 3 four", "sensors must be numbers"),
        ("sensors", "1 2 3 nan", "sensors"),
    ],
)
def test_page_of_wrong_upload_names_the_modality(page: Any, name: str, content: Any, message: str) -> None:
    page.uploads[name].value = content
    page.use.clicks += 1
    assert message in page.message.object
    assert "the uploaded item" not in page.view.object


def test_page_takes_images_of_the_formats_that_the_documentation_names(page: Any) -> None:
    named = (ROOT / "docs" / "explore.md").read_text(encoding="utf-8")
    [formats] = re.findall(r"an image as a (.*?) file", named)
    assert re.split(r", | or ", formats) == ["PNG", "JPEG", "WebP", "BMP"]
    for name in re.split(r", | or ", formats):
        buffer = io.BytesIO()
        Image.new("RGB", (20, 16), (200, 200, 200)).save(buffer, name.lower())
        page.uploads["photo"].value = buffer.getvalue()
        page.use.clicks += 1
        assert not page.message.object
        assert "the uploaded item" in page.view.object
        page.leave.clicks += 1


def test_page_escapes_texts_of_the_data(page: Any) -> None:
    shown = []
    for item in range(6):
        page.item.value = item
        shown.append(page.view.object)
    assert "<script" not in "".join(shown)
    assert "&lt;script" in "".join(shown)


def test_explore_without_panel_names_the_extra(monkeypatch: pytest.MonkeyPatch, explorer: Explorer) -> None:
    monkeypatch.setitem(sys.modules, "panel", None)
    result = CliRunner().invoke(main, ["explore", str(explorer.run.path), "--no-browser"])
    assert result.exit_code == 2
    assert "pip install 'pyro-mmvae[explore]'" in result.output


def _browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium is installed")
    return found


def test_explore_in_a_browser_follows_its_controls_and_asks_no_other_host(explorer: Explorer, tmp_path: Path) -> None:
    pytest.importorskip("panel", reason="the extra 'explore' is not installed")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = _browser()
    command = [sys.executable, "-m", "pyro_mmvae", "explore", str(explorer.run.path), "--no-browser", "--threads", "1"]
    log = tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with log.open("w") as stream:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True, env=environment)
    try:
        assert server.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
        assert found, log.read_text()
        requests, errors = [], []
        with sync.sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=executable,
                args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
            )
            view = browser.new_page(viewport={"width": 1280, "height": 900})
            view.on("request", lambda request: requests.append(request.url))
            view.on("pageerror", lambda error: errors.append(str(error)))
            view.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
            view.goto(found.group())
            view.wait_for_selector("text=Posterior of mwb", timeout=60_000)
            view.select_option("select", "wb")
            view.wait_for_selector("text=Posterior of wb")
            view.get_by_label("photo", exact=True).first.uncheck()
            view.wait_for_selector("text=not given")
            view.set_viewport_size({"width": 390, "height": 800})
            assert view.evaluate("document.documentElement.scrollWidth") <= 390
            plot = view.locator("svg[aria-label^='Experts and posterior']")
            assert plot.evaluate("node => node.getBoundingClientRect().width / node.viewBox.baseVal.width") == 1
            region = plot.locator("xpath=..")  # in which the plot scrolls, and does not shrink
            assert region.evaluate("node => node.clientWidth") <= 390 < region.evaluate("node => node.scrollWidth")
            browser.close()
        assert errors == []
        assert [url for url in requests if not re.match(r"(http|ws)://127\.0\.0\.1:|data:|blob:", url)] == []
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert "Traceback" not in log.read_text()
