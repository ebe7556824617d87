"""Tables and pictures of a comparison, drawn from written evaluations."""

from __future__ import annotations

import csv
import json
import math
import re
from itertools import product
from pathlib import Path

import pytest

from pyro_mmvae.plots import plot_differences
from pyro_mmvae.reports import draw_comparison, find_row, row_settings
from pyro_mmvae.reports.comparison_rows import read_cells
from pyro_mmvae.reports.html.runs_page import comparison_data
from pyro_mmvae.run_files import RunFiles
from tests.reports.comparison_files import write_cell


def test_draw_comparison_marks_log_likelihoods_that_do_not_stand(tmp_path: Path) -> None:
    paths = []
    for name, shares in (("wb", (1.0, 0.5)), ("mwb", (1.0, 1.0))):
        for seed, share in enumerate(shares):
            means = {"log_likelihood": {"K": {"1": -10.0 - seed}}, "log_likelihood_stands": {"K": {"1": share}}}
            paths.append(write_cell(tmp_path / f"{name}-{seed}", name, seed, means))
    draw_comparison(tmp_path, paths)
    assert [float(row["stands"]) for row in rows_of(tmp_path, "log_likelihood")] == [0.75, 1.0]
    assert not rows_of(tmp_path, "log_likelihood_stands")
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "| wb | ≥ -10.5 ± 0.5 |" in text
    assert "| mwb | -10.5 ± 0.5 |" in text
    assert "≥: estimates that do not stand" in text
    assert r"$\geq$ $-$10.5 $\pm$ 0.5" in (tmp_path / "comparison.tex").read_text(encoding="utf-8")


def rows_of(out: Path, metric: str) -> list[dict[str, str]]:
    with (out / "comparison.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["metric"] == metric]


def test_draw_comparison_states_errors_over_seeds_and_over_items(tmp_path: Path) -> None:
    paths = []
    for seed, value, error in ((0, -10.0, 56.0), (1, -14.0, 58.0)):
        means = {"log_likelihood": {"100 items": {"1": value}}, "log_likelihood_se": {"100 items": {"1": error}}}
        paths.append(write_cell(tmp_path / f"wb-{seed}", "wb", seed, means))
    draw_comparison(tmp_path, paths)
    (row,) = rows_of(tmp_path, "log_likelihood")
    assert (float(row["mean"]), float(row["se"]), float(row["se_items"])) == pytest.approx((-12.0, 2.0, 57.0))
    assert rows_of(tmp_path, "log_likelihood_se") == []
    table = (tmp_path / "comparison.md").read_text()
    assert "| wb | -12.0 ± 2.0 (± 57.0) |" in table
    assert "In brackets: standard error over the test items" in table


def test_draw_comparison_does_not_average_other_numbers_of_items(tmp_path: Path) -> None:
    paths = [
        write_cell(tmp_path / f"wb-{seed}", "wb", seed, {"log_likelihood": {f"{items} items": {"1": -items}}})
        for seed, items in ((0, 100), (1, 500))
    ]
    draw_comparison(tmp_path, paths)
    assert {row["protocol"]: float(row["mean"]) for row in rows_of(tmp_path, "log_likelihood")} == {
        "100 items": -100.0, "500 items": -500.0,
    }  # fmt: skip


def test_draw_comparison_of_variants_keeps_them_apart_and_states_their_settings(tmp_path: Path) -> None:
    paths = []
    for variant, words, value in (("plain", [], 0.5), ("warm", ["model.beta=2", "train.lr=1e-3"], 0.75)):
        path = write_cell(tmp_path / variant, "wb", 0, {"probe": {"joint": {"1": value}}})
        file = RunFiles(path).evaluation_summary
        summary = json.loads(file.read_text()) | {"variant": variant, "variant_settings": words}
        file.write_text(json.dumps(summary))
        paths.append(path)
    draw_comparison(tmp_path, paths)
    rows = {(row["aggregation"], row["variant"]): float(row["mean"]) for row in rows_of(tmp_path, "probe")}
    assert rows == {("wb", "plain"): 0.5, ("wb", "warm"): 0.75}
    table = (tmp_path / "comparison.md").read_text()
    assert "| wb, plain | 0.500 |\n| wb, warm | 0.750 |" in table
    assert "Variant plain: no further settings." in table
    assert "Variant warm: `model.beta=2 train.lr=1e-3`." in table


def test_draw_comparison_writes_tables_for_latex(tmp_path: Path) -> None:
    means = {"probe": {"100 % of items": {"1": 0.5, "2": 0.75}}, "log_likelihood": {"K_64": {"2": -1.5}}}
    path = write_cell(tmp_path / "a", "renyi_{0.5}", 0, means)
    other = write_cell(tmp_path / "b", "wb", 0, {"probe": means["probe"]})
    files = draw_comparison(tmp_path, [path, other])
    assert [file.name for file in files] == [f"comparison.{suffix}" for suffix in ("csv", "md", "tex", "png")]
    text = (tmp_path / "comparison.tex").read_text()
    assert r"\caption{probe (100 \% of items)}" in text
    assert r"renyi\_\{0.5\} & 0.500 & 0.750 \\" in text
    assert r"renyi\_\{0.5\} & $-$1.5 \\" in text
    assert "wb &  " in text  # it has no log likelihood
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3


def test_draw_comparison_without_plotted_metrics_plots_the_others(tmp_path: Path) -> None:
    path = write_cell(tmp_path / "a", "wb", 0, {"mse": {"draws": {"1": 0.5}}})
    assert draw_comparison(tmp_path, [path])[-1].stat().st_size > 3000


def compared(folder: Path, seeds: int = 3) -> list[Path]:
    """Write the runs of two aggregations, whose differences given one modality are 0.1, 0.2 and 0.3."""
    paths = []
    for seed in range(seeds):
        base = {"1": 0.5 + 0.05 * seed, "2": 0.75}
        paths.append(write_cell(folder / f"a{seed}", "mopoe", seed, {"probe": {"joint": base}}))
        above = {"1": base["1"] + 0.1 * (seed + 1), "2": 0.75 + 0.125 * (seed - 1)}
        paths.append(write_cell(folder / f"b{seed}", "wb_x", seed, {"probe": {"joint": above}}))
    return paths


def test_draw_comparison_baseline_adds_differences_to_all_tables(tmp_path: Path) -> None:
    files = draw_comparison(tmp_path, compared(tmp_path / "runs"), baseline="mopoe", formats=("svg",))
    assert [file.name for file in files[-2:]] == ["comparison.svg", "differences.svg"]
    base, _, above, even = rows_of(tmp_path, "probe")
    assert (base["difference"], base["pairs"]) == ("nan", "0")
    # The mean of 0.1, 0.2, 0.3 is 0.2 with standard error 0.1 / sqrt(3), and p = 1 - t / sqrt(2 + t²) for 2 degrees.
    t = 2 * math.sqrt(3)
    p = 1 - t / math.sqrt(2 + t**2)
    figures = [float(above[name]) for name in ("difference", "difference_se", "t", "p", "p_holm")]
    assert figures == pytest.approx([0.2, 0.1 / math.sqrt(3), t, p, 2 * p])
    assert float(even["difference"]) == pytest.approx(0, abs=1e-12)
    assert float(even["p_holm"]) == pytest.approx(1)
    text = (tmp_path / "comparison.md").read_text()
    assert "## Differences from mopoe\n\nRow minus mopoe, paired by seed: mean ± standard error over 3 pairs" in text
    assert "| wb_x | +0.200 ± 0.058 | +0.000 ± 0.072 |" in text  # 2 p = 0.148: no star
    latex = (tmp_path / "comparison.tex").read_text()
    assert r"wb\_x & $+$0.200 $\pm$ 0.058 & $+$0.000 $\pm$ 0.072 \\" in latex
    assert (
        r"\caption{probe (joint): row minus mopoe, mean $\pm$ standard error over 3 pairs of seeds; * p $<$ 0.05"
        in latex
    )


def test_draw_comparison_baseline_marks_what_survives_the_correction(tmp_path: Path) -> None:
    paths = []
    for seed, small in enumerate((0.001, 0.002, -0.001)):
        paths.append(write_cell(tmp_path / f"a{seed}", "a", seed, {"probe": {"joint": {"1": 0.5, "2": 0.5}}}))
        above = {"1": 0.75 + small, "2": 0.5 + small}
        paths.append(write_cell(tmp_path / f"b{seed}", "b", seed, {"probe": {"joint": above}}))
    draw_comparison(tmp_path, paths, baseline="a")
    assert "| b | +0.2507 ± 0.0009* | +0.0007 ± 0.0009 |" in (tmp_path / "comparison.md").read_text()
    assert r"b & $+$0.2507 $\pm$ 0.0009$^{*}$ & $+$0.0007 $\pm$ 0.0009 \\" in (tmp_path / "comparison.tex").read_text()


def test_draw_comparison_baseline_of_one_seed_says_that_there_is_no_error(tmp_path: Path) -> None:
    draw_comparison(tmp_path, compared(tmp_path / "runs", seeds=1), baseline="mopoe")
    text = (tmp_path / "comparison.md").read_text()
    assert "one seed: there is neither a standard error nor a test" in text
    assert "| wb_x | +0.100 | -0.125 |" in text
    assert "A star" not in text
    assert "*" not in text.partition("## Differences")[2].replace("**probe**", "")


def test_draw_comparison_baseline_says_that_bounds_do_not_rank_models(tmp_path: Path) -> None:
    metrics = [{"log_likelihood": {"K = 64": {"1": value}}} for value in (-5.0, -4.0)]
    paths = [write_cell(tmp_path / name, name, 0, means) for name, means in zip("ab", metrics, strict=True)]
    draw_comparison(tmp_path, paths, baseline="a")
    assert "then differences do not rank the rows" in (tmp_path / "comparison.md").read_text()
    draw_comparison(tmp_path, compared(tmp_path / "probes", 1), baseline="mopoe")
    assert "do not rank the rows" not in (tmp_path / "comparison.md").read_text()


def test_draw_comparison_without_baseline_has_no_differences(tmp_path: Path) -> None:
    files = draw_comparison(tmp_path, compared(tmp_path / "runs", seeds=2))
    assert "difference" not in "".join(file.read_text() for file in files[:3]).lower()
    assert not (tmp_path / "differences.png").exists()


def test_draw_comparison_unknown_baseline_lists_the_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"baseline must be the name of a row \(mopoe; wb_x\), got 'poe'"):
        draw_comparison(tmp_path, compared(tmp_path / "runs", seeds=1), baseline="poe")


LABELS = ["wb, warm", "wb, beta_0.5-lr_1", "mopoe, beta_0.5-lr_1"]
SETTINGS = row_settings([(label.partition(", ")[0], label.partition(", ")[2], ["model.beta=0.5", "train.lr=1"])
                         for label in LABELS[1:]])  # fmt: skip


@pytest.mark.parametrize(
    ("name", "label"),
    [
        (" wb ,warm", LABELS[0]),
        ("mopoe,beta_0.5-lr_1", LABELS[2]),
        ("mopoe, model.beta=0.5, train.lr=1", LABELS[2]),
        ("wb,train.lr = 1,model.beta=0.5", LABELS[1]),
    ],
)
def test_find_row_takes_the_variant_or_its_settings(name: str, label: str) -> None:
    assert find_row(name, LABELS, SETTINGS) == label


@pytest.mark.parametrize("name", ["wb, model.beta=0.5", "poe, model.beta=0.5, train.lr=1", "wb", "wb, model.beta=0.5,"])
def test_find_row_of_other_settings_lists_the_rows(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"baseline must be the name of a row ({'; '.join(LABELS)}), got")):
        find_row(name, LABELS, SETTINGS)


def test_draw_comparison_and_report_take_the_settings_of_a_variant_as_baseline(tmp_path: Path) -> None:
    paths = []
    for beta, seed in product(("0.5", "2"), (0, 1)):
        means = {"probe": {"joint": {"1": float(beta) + seed}}}
        path = write_cell(tmp_path / f"wb-beta_{beta}-seed{seed}", "wb", seed, means)
        file = RunFiles(path).evaluation_summary
        variant = {"variant": f"beta_{beta}", "variant_settings": [f"model.beta={beta}"]}
        file.write_text(json.dumps({**json.loads(file.read_text()), **variant}))
        paths.append(path)
    draw_comparison(tmp_path, paths, baseline="wb, model.beta=0.5")
    assert "## Differences from wb, beta_0.5" in (tmp_path / "comparison.md").read_text()
    cells = read_cells(paths)
    assert comparison_data(cells, "wb, model.beta=2") == comparison_data(cells, "wb, beta_2")
    assert comparison_data(cells, "wb, model.beta=2") != comparison_data(cells, "wb, beta_0.5")
    assert plot_differences(paths, "wb, model.beta=2").get_suptitle().startswith("row minus wb, beta_2, ")


def test_draw_comparison_baseline_names_rows_with_other_data(tmp_path: Path) -> None:
    paths = compared(tmp_path / "runs", seeds=2)
    for path in paths:
        size = 100 if path.name == "b1" else 200
        (path / "config.yaml").write_text(f"data: {{name: x, train_size: {size}}}\n")
    draw_comparison(tmp_path, paths, baseline="mopoe")
    text = (tmp_path / "comparison.md").read_text()
    assert "Trained with other settings of the data than mopoe: wb_x." in text


@pytest.mark.parametrize(
    ("recipes", "line"),
    [
        (
            {"poe": "plain", "wb": "contrastive", "mwb": "contrastive"},
            "Recipes differ, plain: poe; contrastive: wb, mwb.",
        ),
        ({"poe": "plain", "wb": "plain"}, None),
    ],
)
def test_draw_comparison_names_recipes_that_differ(tmp_path: Path, recipes: dict[str, str], line: str | None) -> None:
    paths = []
    for name, recipe in recipes.items():
        paths.append(write_cell(tmp_path / name, name, 0, {"probe": {"per-subset": {"1": 0.5}}}))
        RunFiles(paths[-1]).config.write_text(f"recipe: {recipe}\n")
    draw_comparison(tmp_path, paths)
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert ("Recipes differ" in text) == (line is not None)
    assert line is None or line in text
