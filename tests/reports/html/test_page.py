"""The text of HTML reports: what is in them, what cannot get out of its place, and what they say is missing."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_mmvae._citation import CITATION, software_citation
from pyro_mmvae._version import __version__
from pyro_mmvae.reports.html import comparison_page, find_runs, run_page
from pyro_mmvae.reports.html.embedding import encode_sheets, rounded, script_json, sprite_sheet
from pyro_mmvae.reports.html.facts import group_findings, headlines, with_run
from pyro_mmvae.reports.html.figures import wilson_interval
from pyro_mmvae.reports.html.items import item_data, map_data
from pyro_mmvae.reports.html.runs_page import config_differences, read_runs
from pyro_mmvae.reports.html.training import training_panels
from pyro_mmvae.reports.styles import MARKERS, OKABE_ITO, class_style
from tests.reports.html import pages


def data_of(page: str) -> dict[str, Any]:
    """Return the data that a page embeds."""
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    result: dict[str, Any] = json.loads(text)
    return result


class Elements(HTMLParser):
    """A parser that collects the elements and attributes of a page, and the text outside of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_script_json_hostile_strings_stay_inside_of_the_script() -> None:
    text = script_json({"names": list(pages.HOSTILE), "bad": float("nan"), "array": np.arange(2), "lone": "\udcff"})
    assert "<" not in text
    assert "\u2028" not in text
    value = json.loads(text)
    assert value["names"] == list(pages.HOSTILE)
    assert value["bad"] is None
    assert value["array"] == [0, 1]


def test_rounded_keeps_digits_and_shape_and_replaces_infinity() -> None:
    assert rounded([[1.23456, np.inf], [1e-9, 12345.0]], 3) == [[1.23, None], [1e-09, 12300.0]]
    assert rounded(2.0) == 2.0


def test_sprite_sheet_pads_cells_to_blocks_of_compression() -> None:
    images = np.zeros((2, 3, 1, 5, 20), dtype=np.uint8)
    images[1, 2] = 255
    sheet, width, height = sprite_sheet(images)
    assert (width, height) == (32, 16)
    assert sheet.size == (96, 32)
    pixels = np.asarray(sheet)
    assert (pixels[16:, 64:] == 255).all()
    assert (pixels[:16] == 0).all()


def test_encode_sheets_lowers_quality_until_the_limit_holds() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (4, 4, 3, 32, 32), dtype=np.uint8)
    sheet = sprite_sheet(noise)[0]
    [best], [worst] = encode_sheets([sheet], 10**9), encode_sheets([sheet], 1)
    assert best.startswith(("data:image/webp;base64,", "data:image/jpeg;base64,"))
    assert len(worst) < len(best) / 2


def test_wilson_interval_is_inside_of_the_unit_interval_and_shrinks() -> None:
    low, high = wilson_interval(1.0, 50)
    assert low == pytest.approx(0.9287, abs=1e-4)
    assert high == pytest.approx(1.0)
    assert wilson_interval(0.5, 1000)[0] > wilson_interval(0.5, 100)[0]


def test_item_data_places_every_image_of_the_sheet() -> None:
    exhibits = pages.make_exhibits(items=3)
    data = item_data(exhibits)
    image, text, numbers = data["modalities"]
    assert image["perItem"] == 1 + len(exhibits.subsets)
    assert image["columns"] * image["rows"] >= 3 * image["perItem"]
    assert text["generated"][2][1] == "says (2,) 1"
    assert numbers["generated"][0][0] == pytest.approx(exhibits.modalities[2].generated[0, 0], rel=0.01)
    assert numbers["scales"] == [numbers["scales"][0]] * 4  # one scale, since the unit is shared
    assert data["distances"][-1][0][1] is None
    assert data["present"][-1] == [0, 1, 1]


def test_map_data_sorts_numbers_by_value_and_leaves_out_empty_labels() -> None:
    latent = pages.make_exhibits(labels=("10", "9")).latent
    data = map_data(latent)
    assert data["classes"] == ["9", "10"]
    assert data["codes"][:7] == [1, 0, 1, 0, 1, 0, -1]
    assert min(data["points"][0]) >= 0
    assert max(map(max, data["points"])) == 999


@pytest.mark.parametrize("classes", [2, 10, 60])
def test_map_data_styles_classes_as_the_figure_does(classes: int) -> None:
    latent = pages.make_exhibits(items=classes * 2, labels=[str(number) for number in range(classes)]).latent
    data = map_data(latent)
    styles = [
        {"color": OKABE_ITO[color] if isinstance(color, int) else color, "marker": MARKERS[marker]}
        for color, marker in data["styles"]
    ]
    assert styles == [class_style(number, len(data["classes"])) for number in range(len(data["classes"]))]
    assert len({tuple(style.values()) for style in styles}) == len(styles)
    assert all(isinstance(color, int) for color, _ in data["styles"]) == (classes <= 56)


def test_training_panels_keep_differences_of_large_values() -> None:
    rows = [{"epoch": epoch, "objective": -123456.78 - epoch / 100, "kl": 1.0} for epoch in range(2)]
    assert training_panels(rows)[0]["series"][0]["points"] == [[1, -123456.78], [2, -123456.79]]


def test_headlines_name_the_time_of_the_training() -> None:
    [tile] = headlines([{"epoch": 0, "seconds": 90.0}], [], ["photo"])
    assert tile == {"label": "training time", "value": "1.5 min", "note": "1 epoch"}


def test_with_run_commands_of_findings_name_run_plugins_and_data() -> None:
    finding = {
        "mode": "unfit guide",
        "what": "bounds; pyro-mmvae evaluate RUN --refine 400 compares them",
        "advice": "a prior (pyro-mmvae fit-prior RUN)",
    }
    [found] = with_run([finding], Path("my runs/a"), {"plugins": ["mine"]}, ["--data", "new.npz"])
    command = "pyro-mmvae evaluate 'my runs/a' --plugin mine --data new.npz --refine 400"
    assert found["what"] == f"bounds; {command} compares them"
    assert found["advice"] == "a prior (pyro-mmvae fit-prior 'my runs/a' --plugin mine)"


def test_run_page_commands_of_findings_name_the_run(tmp_path: Path) -> None:
    path = pages.write_run(tmp_path / "run")
    file = path / "evaluation" / "summary.json"
    summary = json.loads(file.read_text(encoding="utf-8"))
    summary["warnings"][1]["what"] = "bounds; pyro-mmvae evaluate RUN --refine 400 compares them"
    file.write_text(json.dumps(summary), encoding="utf-8")
    text = " ".join(Elements(run_page(path)).texts)
    assert f"pyro-mmvae evaluate {path} --refine 400" in text
    assert "RUN" not in text


def test_run_page_contains_every_section_of_an_evaluated_run(tmp_path: Path) -> None:
    page = run_page(
        pages.write_run(tmp_path / "run"), exhibits=pages.make_exhibits(), summary="Mixture of barycenters."
    )
    data, parsed = data_of(page), Elements(page)
    assert [panel["title"] for panel in data["training"]] == [
        "Evidence lower bound", "KL divergence of posterior and prior", "photo", "caption", "sensor", "infonce",
    ]  # fmt: skip
    probe, coherence, joint = data["views"]
    assert probe["series"][0]["points"][0] == pytest.approx([1, 0.7, *wilson_interval(0.7, 200)], abs=1e-3)
    assert {(tuple(cell[0]), cell[1]) for cell in data["matrix"][0]["cells"]} == {
        ((0,), 1), ((0,), 2), ((1,), 0), ((1,), 2), ((2,), 0), ((2,), 1), ((0, 1), 2), ((0, 2), 1), ((1, 2), 0),
    }  # fmt: skip
    assert (coherence["metric"], joint["metric"]) == ("coherence", "joint_coherence")
    assert [group["infinite"] for group in data["khat"]["groups"]] == [0, 0, 0, 1]
    text = " ".join(parsed.texts)
    assert "try a mixture (--agg mwb)" in text
    assert "pyro-mmvae ppc" in text  # the only part that was not computed
    assert "pyro-mmvae evaluate" not in text
    assert CITATION in text
    assert software_citation(__version__) in text


def test_run_page_without_evaluation_names_the_commands(tmp_path: Path) -> None:
    path = pages.write_run(tmp_path / "a run", evaluated=False)
    page = run_page(path, findings=[{"mode": "short training", "what": "it was short", "advice": "more --epochs"}])
    text = " ".join(Elements(page).texts)
    for verb in ("evaluate", "ppc", "report"):
        assert f"pyro-mmvae {verb} '{path}'" in text
    assert "try more --epochs" in text
    data = data_of(page)
    assert data["items"] is data["map"] is data["khat"] is None


def test_run_page_maps_the_stored_latents_without_a_model(tmp_path: Path) -> None:
    data = data_of(run_page(pages.write_run(tmp_path / "run")))
    assert data["map"]["classes"] == ["cat", "dog"]
    assert len(data["map"]["codes"]) == 30


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("classifier_accuracy", -1, "classifier_accuracy must be a mapping of numbers, got -1"),
        ("classifier_accuracy", {"photo": "x"}, "classifier_accuracy must be a mapping of numbers"),
        ("attribute_frequency", {"photo": 10**400}, "attribute_frequency must have shares of items"),
        ("warnings", 2**70, "warnings must be a list of mode, what, advice, got 1180591620717411303424"),
        ("warnings", [{"mode": "x"}], "warnings must be a list of mode, what, advice"),
    ],
)
def test_run_page_of_a_summary_of_other_types_names_the_file(
    key: str, value: Any, expected: str, tmp_path: Path
) -> None:
    path = pages.write_run(tmp_path / "run")
    file = path / "evaluation" / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {key: value}), encoding="utf-8")
    for make in (run_page, lambda run: comparison_page([run])):
        with pytest.raises(ValueError, match=expected) as error:
            make(path)
        assert str(error.value).startswith(f"{file}: ")


HEADER = "metric,protocol,given,target,views,value,n,seed\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"{HEADER}probe,{'x' * 200_000},photo,,1,0.5,9,0\n", "field larger than field limit"),
        ("metric,protocl,given,target,views,value,n,seed\n", "it lacks the column protocol"),
        ("a\n", "it lacks the columns metric, protocol, given, target, value, n"),
        (f"{HEADER}probe,x\n", "line 2 has too few cells"),
        (f"{HEADER}probe,x,photo,,1,high,9,0\n", "line 2: value and n must be numbers"),
        (f"{HEADER}probe,x,photo,,1,0.5,inf,0\n", "line 2: n must be a number of items, got inf"),
        (b"\xff", "can't decode byte"),
    ],
    ids=["long field", "header", "other table", "short row", "value", "n", "bytes"],
)
def test_run_page_of_a_damaged_table_names_the_file(content: str | bytes, expected: str, tmp_path: Path) -> None:
    path = pages.write_run(tmp_path / "run")
    file = path / "evaluation" / "metrics.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=expected) as error:
        run_page(path)
    assert str(error.value).startswith(f"{file}: must be the table of an evaluation, got an error: ")


def test_run_page_of_an_empty_table_has_no_panels(tmp_path: Path) -> None:
    path = pages.write_run(tmp_path / "run")
    (path / "evaluation" / "metrics.csv").write_text("\n")
    assert data_of(run_page(path))["views"] == []


def test_run_page_hostile_names_are_text(tmp_path: Path) -> None:
    names = pages.HOSTILE[:6]
    path = pages.write_run(tmp_path / "run<b>", names)
    page = run_page(path, exhibits=pages.make_exhibits(names, labels=pages.HOSTILE), summary=pages.HOSTILE[0])
    parsed = Elements(page)
    assert data_of(page)["names"] == list(names)
    assert [tag for tag, _ in parsed.found].count("script") == 2
    assert not [tag for tag, _ in parsed.found if tag in {"img", "b"} and tag == "img"]
    assert not [key for _, attributes in parsed.found for key in attributes if key.startswith("on")]
    assert "run<b>" in " ".join(parsed.texts)


def test_run_page_policy_allows_its_own_script_alone(tmp_path: Path) -> None:
    page = run_page(pages.write_run(tmp_path / "run"))
    [policy] = [a["content"] or "" for tag, a in Elements(page).found if a.get("http-equiv")]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/=]{44}'", policy)
    addresses = [a.get(key) or "" for _, a in Elements(page).found for key in ("src", "href") if key in a]
    assert all(address.startswith(("#", "data:")) for address in addresses)


def test_comparison_page_contains_figures_and_paired_differences(tmp_path: Path) -> None:
    for aggregation, quality in (("poe", 0.5), ("mwb", 0.6)):
        for seed in range(3):
            pages.write_run(
                tmp_path / f"{aggregation}-seed{seed}",
                seed=seed,
                aggregation=aggregation,
                quality=quality + 0.01 * seed,
            )
    pages.write_run(tmp_path / "late", evaluated=False)
    page = comparison_page(find_runs([tmp_path]), title="both", baseline="poe")
    data, text = data_of(page), " ".join(Elements(page).texts)
    probe = data["compared"]["figures"][0]
    assert [series["name"] for series in probe["series"]] == ["mwb", "poe"]
    assert {d["label"] for d in probe["differences"]} == {"mwb"}
    assert probe["differences"][0]["points"][0] == pytest.approx(0.1)
    assert probe["differences"][0]["pairs"] == 3
    assert f"pyro-mmvae evaluate {tmp_path / 'late'}" in text
    assert len(data["training"][0]["series"]) == 7


def test_comparison_page_tells_runs_of_one_aggregation_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [pages.write_run(tmp_path / name) for name in ("beta1", "beta2")]
    assert [cell["aggregation"] for cell in read_runs(paths)] == ["beta1", "beta2"]
    data = data_of(comparison_page(paths))
    assert data["compared"]["labels"] == ["beta1", "beta2"]


def test_comparison_page_unknown_baseline_raises(tmp_path: Path) -> None:
    paths = [pages.write_run(tmp_path / name, aggregation=name) for name in ("poe", "mwb")]
    with pytest.raises(ValueError, match=r"baseline must be the name of a row \(poe; mwb\), got 'moe'"):
        comparison_page(paths, baseline="moe")


def test_find_runs_folder_without_runs_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be a run directory or a folder of runs, got one without"):
        find_runs([tmp_path])
    with pytest.raises(FileNotFoundError, match="got no such folder"):
        find_runs([tmp_path / "nothing"])


def test_group_findings_warnings_come_first_and_cases_are_kept() -> None:
    findings = [
        {"mode": "a", "what": "one", "advice": ""},
        {"mode": "b", "what": "two", "advice": "less"},
        {"mode": "a", "what": "three", "advice": ""},
    ]
    assert group_findings(findings) == [
        {"mode": "b", "cases": ["two"], "advice": "less"},
        {"mode": "a", "cases": ["one", "three"], "advice": ""},
    ]


def test_config_differences_lists_changed_settings_with_dots() -> None:
    found = config_differences([{"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}, {"a": {"c": 2}}])
    assert found == [("a.b", ["1", "3", ""])]


def test_reports_of_html_do_not_import_torch() -> None:
    names = {name for name in sys.modules if name.startswith("pyro_mmvae.reports.html")}
    assert names
    assert not any(hasattr(sys.modules[name], "torch") for name in names)


def test_page_of_a_hundred_items_and_31_subsets_is_small(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d", "e")
    page = run_page(pages.write_run(tmp_path / "run", names), exhibits=pages.make_exhibits(names, items=100, side=28))
    assert len(page.encode()) < 15e6
