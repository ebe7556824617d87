"""``pyro-mmvae evaluate``, ``ppc`` and ``compare`` from end to end, on toy data."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import pyro_mmvae
from pyro_mmvae import load, reports
from pyro_mmvae.cli import main
from pyro_mmvae.cli.check import _dependence, _label
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.evaluation import EvaluationOptions, masking
from pyro_mmvae.evaluation.inference_data import read_inference_data
from pyro_mmvae.experiments.compare import Cell, make_cells, parse_variants
from pyro_mmvae.reports import ppc as pictures
from pyro_mmvae.runs import RunError
from pyro_mmvae.runs.config import Config, dump_config
from pyro_mmvae.training import train

COLUMNS = ["metric", "protocol", "given", "target", "views", "value", "n", "seed"]


@pytest.fixture
def config(toy_config: Callable[..., Config], elsewhere: Path) -> Path:
    path = elsewhere / "toy.yaml"
    path.write_text(dump_config(toy_config(train__epochs=1)), encoding="utf-8")
    return path


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "evaluation" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_evaluate_writes_table_summary_and_pictures(toy_config: Callable[..., Config], elsewhere: Path) -> None:
    run = train(toy_config(train__epochs=1, model__aggregation="mwb"), elsewhere / "run", progress=False).path
    words = ["evaluate", str(run), "--quiet", "--device", "cpu", "--threads", "1", "--samples", "4", "--seed", "3"]
    words += ["--likelihood-items", "8", "--khat-items", "4", "--refine", "2", "--refine-items", "2"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = rows_of(run)
    assert list(rows[0]) == COLUMNS
    probes = [row for row in rows if row["metric"] == "probe" and row["protocol"].startswith("per-subset")]
    assert [row["given"] for row in probes] == ["m0", "m1", "m2", "m0+m1", "m0+m2", "m1+m2", "m0+m1+m2"]
    assert {row["seed"] for row in rows} == {"3"}
    coherence = {(row["given"], row["target"]) for row in rows if row["metric"] == "coherence"}
    assert ("m0+m2", "m1") in coherence
    assert not any(target in given.split("+") for given, target in coherence)
    assert [row["given"] for row in rows if row["metric"] == "joint_coherence"] == ["", ""]  # of both priors
    assert {row["given"] for row in rows if row["metric"] == "log_likelihood"} == {"m0", "m1", "m2", "m0+m1+m2"}
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    one = [float(row["value"]) for row in probes if row["views"] == "1"]
    protocol = probes[0]["protocol"]
    assert summary["means_by_views"]["probe"][protocol]["1"] == pytest.approx(sum(one) / 3)
    assert set(summary["classifier_accuracy"]) == {"m0", "m1", "m2"}
    assert "coherence" in result.output
    assert "\nlog_likelihood: nats per item; pixels in [0, 1], not dequantised; vectors in" in result.output
    kinds = {row["metric"] for row in rows}
    assert {"khat", "khat_share", "mse", "ssim", "frechet_classifier", "kl", "active_units", "w2_experts"} <= kinds
    for metric in ("frechet_conditional", "precision", "recall", "density", "coverage"):
        pairs = {(row["given"], row["target"]) for row in rows if row["metric"] == metric}
        assert pairs == coherence
    for metric in ("agreement", "agreement_pairs", "agreement_label"):
        assert {row["given"] for row in rows if row["metric"] == metric} == {"m0", "m1", "m2"}
    assert {row["given"] for row in rows if row["metric"] == "diversity"} == {"", "m0", "m1", "m2"}
    for metric in ("khat", "khat_draws", "proposal_khat"):
        assert {row["given"] for row in rows if row["metric"] == metric} == {"m0", "m1", "m2", "m0+m1+m2"}
    assert {row["given"] for row in rows if row["metric"] == "khat_joint"} == {"m0+m1+m2"}
    assert "khat_draws: draws per item that the median k-hat asks for" in result.output
    draws = {row["protocol"].split(",")[0] for row in rows if row["metric"] == "coherence"}
    assert draws == {"one draw of the joint component", "one draw of the posterior"}
    cases: dict[str, list[str]] = {}
    for warning in summary["warnings"]:
        assert bool(warning["advice"]) == (warning["mode"] != "unfit guide")
        cases.setdefault(warning["mode"], []).append(warning["what"])
    printed = " ".join(result.output.split())
    for gravest, *others in cases.values():
        assert f": {gravest}{f' (and {len(others)} more)' if others else ''}" in printed
    for name in ("views", "khat", "latent"):
        assert (run / "plots" / f"{name}.png").exists()


def test_evaluate_mask_writes_table_report_and_picture(
    toy_config: Callable[..., Config], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masking, "_FEATURES", 9)
    run = train(toy_config(train__epochs=1, model__aggregation="wb"), elsewhere / "run", progress=False).path
    words = ["evaluate", str(run), "--quiet", "--device", "cpu", "--threads", "1", "--likelihood-items", "0"]
    words += ["--khat-items", "0", "--no-quality", "--no-diagnostics", "--subsets", "1", "--probe-points", "20"]
    result = CliRunner().invoke(main, [*words, "--mask", "0.4", "--mask-items", "16"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with (run / "evaluation" / "imputation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["pattern", "target", "views", "method", "metric", "value", "se", "n", "seed"]
    assert {row["pattern"] for row in rows} == {"leave one out", "at random, rate 0.4"}
    assert {(row["target"], row["views"]) for row in rows if row["pattern"] == "leave one out"} == {
        ("m0", "2"), ("m1", "2"), ("m2", "2")
    }  # fmt: skip
    judged = {row["method"] for row in rows if row["metric"] == "class_accuracy"}
    assert judged == {"model", "mean", "k-nearest neighbours", "iterative imputation", "observed"}
    assert max(int(row["n"]) for row in rows) == 16
    report = (run / "evaluation" / "imputation.md").read_text(encoding="utf-8")
    assert report.strip() in result.output
    assert (run / "plots" / "imputation.png").exists()
    assert str(run / "evaluation" / "imputation.tex") in result.output
    assert (run / "evaluation" / "imputation.tex").exists()
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    assert summary["imputation"]["used"]["test_items"] == 16


def test_evaluate_fid_without_rgb_images_is_refused_in_one_line(elsewhere: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    views = {"grey": torch.rand(40, 1, 8, 8, generator=generator), "vector": torch.rand(40, 3, generator=generator)}
    pyro_mmvae.fit(views, epochs=1, latent_size=2, out="run", progress=False)
    for words in ([], ["--agg", "poe"]):
        result = CliRunner().invoke(main, ["evaluate", "run", "--fid", "--quiet", "--device", "cpu", *words])
        assert result.exit_code == 2
        assert result.stderr == (
            "error: fid must have a modality of RGB images (3, height, width), got grey (1, 8, 8), vector (3,): leave "
            "fid out\n"
        )
    assert not (elsewhere / "run" / "evaluation").exists()


def test_evaluate_mask_of_one_is_refused(elsewhere: Path) -> None:
    result = CliRunner().invoke(main, ["evaluate", "run", "--mask", "1"])
    assert result.exit_code == 2
    assert "1.0 is not in the range 0<=x<1" in result.output


def test_evaluate_options_leave_parts_out(toy_config: Callable[..., Config], elsewhere: Path) -> None:
    run = train(toy_config(train__epochs=1, model__aggregation="wb"), elsewhere / "run", progress=False).path
    words = ["evaluate", str(run), "--quiet", "--threads", "1", "--samples", "2", "--likelihood-items", "4"]
    words += ["--khat-items", "0", "--no-quality", "--no-diagnostics", "--likelihood-subsets", "all"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = rows_of(run)
    assert {row["metric"] for row in rows} == {
        "probe", "coherence", "joint_coherence", "log_likelihood", "log_likelihood_se", "ess",
        "log_likelihood_samples", "log_likelihood_stands", "agreement", "agreement_pairs", "agreement_label",
    }  # fmt: skip
    assert len({row["given"] for row in rows if row["metric"] == "log_likelihood"}) == 7
    assert not (run / "plots" / "khat.png").exists()
    values: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        if row["metric"] == "coherence":  # with a single component all protocols agree
            values.setdefault((row["given"], row["target"]), set()).add(row["value"])
    assert {len(figures) for figures in values.values()} == {1}


def test_ppc_default_checks_none_each_size_and_all(
    toy_config: Callable[..., Config], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests of the reports draw all pictures; one kind is enough here.
    monkeypatch.setattr(pictures, "_GRIDS", {"-pit": pictures._GRIDS["-pit"]})
    run = train(toy_config(train__epochs=1, model__aggregation="mwb"), elsewhere / "run", progress=False).path
    words = ["ppc", str(run), "--quiet", "--threads", "1", "--num-samples", "12", "--items", "20", "--seed", "2"]
    words += ["--statistics", "mean,contrast,predicted_class"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    names = sorted(file.name for file in (run / "evaluation").glob("ppc*.nc"))
    assert "ppc.nc" in names
    assert "ppc-prior.nc" in names
    assert "ppc-m0+m1+m2.nc" in names
    assert len(names) == 4
    data = read_inference_data(run / "evaluation" / "ppc.nc")
    groups = data.children if hasattr(data, "children") else data.groups()  # an InferenceData before version 1
    assert set(groups) == {
        "posterior", "posterior_predictive", "log_likelihood", "observed_data", "constant_data"
    }  # fmt: skip
    assert data.posterior["z"].dims == ("chain", "draw", "item", "latent")
    assert data.posterior["z"].shape == (1, 12, 20, 4)
    assert int(data.constant_data["given"].sum()) == 1
    assert "m0.predicted_class" in data.observed_data
    assert bool(data.constant_data["nominal"].sel(statistic="m0.predicted_class"))
    assert "m0.raw" not in data.posterior_predictive
    with (run / "evaluation" / "ppc.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    assert {row["seed"] for row in rows} == {"2"}
    assert {row["views"] for row in rows} == {"0", "1", "2", "3"}
    assert "12 samples, 20 items, seed 2" in result.output
    assert "in-sample, conservative by construction" in result.output
    assert "noisier than data" in result.output  # Laplace noise of scale 0.75 on pixels in [0, 1]


def test_ppc_given_raw_and_sbc_are_stored(
    toy_config: Callable[..., Config], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_GRIDS", {"-pit": pictures._GRIDS["-pit"]})
    run = train(toy_config(train__epochs=0), elsewhere / "run", progress=False).path
    words = ["ppc", str(run), "--quiet", "--num-samples", "9", "--items", "10", "--statistics", "mean", "--raw"]
    result = CliRunner().invoke(
        main, [*words, "--given", "m2,m0", "--sbc", "--posterior-sbc", "--lc2st", "--simulations", "60"]
    )
    assert result.exit_code == 0, result.output
    assert [file.name for file in (run / "evaluation").glob("*.nc")] == ["ppc.nc"]
    data = read_inference_data(run / "evaluation" / "ppc.nc")
    assert data.attrs["given"] == "m0,m2"
    assert data.posterior_predictive["m1.raw"].shape == (1, 9, 10, 3, 8, 8)
    assert set(data.observed_data) == {f"m{m}.{k}" for m in range(3) for k in ("mean", "raw")}
    assert data.constant_data["sbc_rank"].sizes["simulation"] == 60
    assert data.constant_data["posterior_sbc_rank"].sizes["posterior_simulation"] == 10
    assert data.constant_data["lc2st_p_value"].dims == ("item",)
    assert "the encoder never saw" in result.output
    assert "posterior SBC around m0, m2, " in result.output
    assert "L-C2ST, kernel classifier of 60 simulations" in result.output
    with (run / "evaluation" / "ppc.csv").open(newline="") as file:
        metrics = {row["metric"] for row in csv.DictReader(file)}
    assert {"sbc_overall_p_value", "posterior_sbc_overall_p_value", "lc2st_p_value", "ppc_pit_p_value"} <= metrics
    assert all((run / "plots" / f"ppc-{name}.png").exists() for name in ("sbc", "posterior-sbc"))
    grouped = CliRunner().invoke(main, [*words, "--given", "m0", "--groups", "donor"])
    assert grouped.stderr.strip().endswith("--groups must be a covariate (none), got 'donor'")
    useless = CliRunner().invoke(main, [*words, "--given", "all", "--posterior-sbc"])
    assert (useless.exit_code, useless.stderr.count("\n")) == (2, 1)
    assert "--posterior-sbc must have a --given that names some modalities and leaves others" in useless.stderr
    wrong = CliRunner().invoke(main, ["ppc", str(run), "--quiet", "--given", "m0,m9"])
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert "--given must name modalities of the run (m0, m1, m2), got 'm9'" in wrong.stderr
    assert "unknown statistic 'skew'" in CliRunner().invoke(main, [*words[:-2], "skew"]).stderr


def test_dependence_of_groups_counts_unknown_categories_as_groups_of_one() -> None:
    donors = torch.tensor([1, 0, 1, -1, -1])
    data = MultimodalDataset(
        {"a": torch.zeros(5, 1)}, None, torch.ones(5, 1, dtype=torch.bool), "toy", "test",
        covariates={"donor": donors}, covariate_names={"donor": ("A", "B")},
    )  # fmt: skip
    assert _dependence(data, None) == {}
    assert _dependence(data, "donor")[""].tolist() == [1, 0, 1, -4, -5]


def test_compare_resumes_unfinished_cells_only(config: Path, elsewhere: Path) -> None:
    words = ["compare", "--agg", "wb,poe", "--seeds", "2", "--config", str(config), "--likelihood-items", "0"]
    words += ["--out", str(elsewhere / "grid"), "--quiet"]
    first = CliRunner().invoke(main, words, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    cells = sorted(path.parent.parent for path in (elsewhere / "grid").glob("*/evaluation/summary.json"))
    assert [cell.name for cell in cells] == ["poe-seed0", "poe-seed1", "wb-seed0", "wb-seed1"]
    stamps = {cell: (cell / "best.safetensors").stat().st_mtime_ns for cell in cells}
    (cells[0] / "evaluation" / "summary.json").unlink()
    again = CliRunner().invoke(main, words, catch_exceptions=False)
    assert "4 cells, 3 already finished" in again.output
    assert {cell: (cell / "best.safetensors").stat().st_mtime_ns for cell in cells} == stamps
    with (elsewhere / "grid" / "comparison.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = [r for r in table if (r["aggregation"], r["metric"]) == ("wb", "joint_coherence")]
    assert [row["protocol"].split(", ")[0] for row in rows] == [
        "1000 prior draws", "1000 draws of the fitted prior (8 Gaussians)",
    ]  # fmt: skip
    for row in rows:
        values = []
        for seed in (0, 1):
            metrics = rows_of(elsewhere / "grid" / f"wb-seed{seed}")
            values += [float(r["value"]) for r in metrics if r["protocol"] == row["protocol"]]
        assert float(row["mean"]) == pytest.approx(sum(values) / 2)
        assert float(row["se"]) == pytest.approx(abs(values[0] - values[1]) / 2)
    assert row["seeds"] == "2"
    assert "± " in (elsewhere / "grid" / "comparison.md").read_text()
    assert (elsewhere / "grid" / "comparison.png").exists()
    drawn = CliRunner().invoke(main, [*words, "--baseline", "wb", "--format", "svg"], catch_exceptions=False)
    assert "4 cells, 4 already finished" in drawn.output
    assert "## Differences from wb" in drawn.output
    assert {file.name for file in (elsewhere / "grid").glob("*.svg")} == {"comparison.svg", "differences.svg"}


def test_compare_generated_items_judges_quality_on_that_many_items(config: Path, elsewhere: Path) -> None:
    out = elsewhere / "grid"
    words = ["compare", "--agg", "wb", "--seeds", "1", "--config", str(config), "--likelihood-items", "0"]
    words += ["--out", str(out), "--quiet", "--generated-items", "20"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = rows_of(out / "wb-seed0")
    for metric in ("coherence", "frechet_conditional", "mse"):
        assert {row["n"] for row in rows if row["metric"] == metric} == {"20"}
    frechet = [row for row in rows if row["metric"] == "frechet_conditional"]
    means = []
    for views in ("1", "2"):
        values = [float(row["value"]) for row in frechet if row["views"] == views]
        assert len(values) == {"1": 6, "2": 3}[views]
        means.append(f"{sum(values) / len(values):.2f}")
    assert f"| wb | {means[0]} | {means[1]} |" in (out / "comparison.md").read_text()
    without = CliRunner().invoke(main, [*words, "--no-quality"], catch_exceptions=False)
    assert "1 cells were evaluated with other options" in without.stderr
    kinds = {row["metric"] for row in rows_of(out / "wb-seed0")}
    assert "coherence" in kinds
    assert not kinds & {"frechet_conditional", "mse", "diversity"}


def test_compare_with_other_options_evaluates_cells_again_without_training(config: Path, elsewhere: Path) -> None:
    words = ["compare", "--agg", "wb", "--seeds", "1", "--config", str(config), "--out", str(elsewhere / "grid")]
    first = CliRunner().invoke(main, [*words, "--likelihood-items", "0", "--quiet"], catch_exceptions=False)
    assert first.exit_code == 0, first.output
    cell = elsewhere / "grid" / "wb-seed0"
    stamp = (cell / "best.safetensors").stat().st_mtime_ns
    assert not any(row["metric"] == "log_likelihood" for row in rows_of(cell))
    again = CliRunner().invoke(main, [*words, "--likelihood-items", "8", "--quiet"], catch_exceptions=False)
    assert "1 cells, 0 already finished" in again.output
    assert "1 cells were evaluated with other options, by hand or incompletely, and are evaluated again" in again.output
    assert {row["n"] for row in rows_of(cell) if row["metric"] == "log_likelihood"} == {"8"}
    assert (cell / "best.safetensors").stat().st_mtime_ns == stamp
    third = CliRunner().invoke(main, [*words, "--likelihood-items", "8", "--quiet"], catch_exceptions=False)
    assert "1 cells, 1 already finished" in third.output


def test_compare_cell_with_an_evaluation_of_the_command_evaluate_is_not_finished(tmp_path: Path) -> None:
    options, cell = EvaluationOptions(), Cell(tmp_path, Config())
    assert not cell.is_finished(options)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "config.yaml").write_text(dump_config(Config()), encoding="utf-8")
    summary = {"options": asdict(options), "checkpoint": "last", "aggregation": "wb"}
    summary |= {"means_by_views": {}, "classifier_accuracy": {}}
    (tmp_path / "evaluation" / "summary.json").write_text(json.dumps(summary))
    assert not cell.is_finished(options)
    (tmp_path / "evaluation" / "summary.json").write_text(json.dumps({**summary, "train_seed": 0}))
    assert not cell.is_finished(options)  # as an earlier version wrote it, without a fitted prior
    finished = {**summary, "train_seed": 0, "prior": None}
    (tmp_path / "evaluation" / "summary.json").write_text(json.dumps(finished))
    assert cell.is_finished(options)
    assert not cell.is_finished(EvaluationOptions(samples=8))


def test_check_label_of_names_with_plus_is_different_for_different_subsets() -> None:
    subsets = [("a+b", "c"), ("a", "b+c"), ("a", "b", "c"), ("a+", "b"), ("a", "+b"), ("prior",), ()]
    given = [("first",), *subsets]
    labels = [_label(names, given) for names in subsets]
    assert len(set(labels)) == len(subsets)
    assert labels[2] == "a+b+c"
    assert _label(("first",), given) == ""


def test_compare_other_settings_in_the_folder_fail(config: Path, elsewhere: Path) -> None:
    words = ["compare", "--agg", "wb", "--seeds", "1", "--config", str(config), "--out", str(elsewhere / "grid")]
    words += ["--likelihood-items", "0", "--quiet"]
    assert CliRunner().invoke(main, words, catch_exceptions=False).exit_code == 0
    result = CliRunner().invoke(main, [*words, "--set", "train.lr=1e-4"])
    assert result.exit_code == 2
    assert "wb-seed0 must have the settings of this comparison, got others in its config.yaml" in result.output


def test_compare_variants_trains_each_with_its_settings(config: Path, elsewhere: Path) -> None:
    out = elsewhere / "variants"
    words = ["compare", "--agg", "wb", "--seeds", "1", "--config", str(config), "--out", str(out), "--quiet"]
    words += ["--likelihood-items", "0", "--variant", "plain", "--variant", "warm: model.beta=2 train.lr=1e-3"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0
    betas = {path.name: load(path).config.model.beta for path in sorted(out.iterdir()) if path.is_dir()}
    assert betas == {"wb-plain-seed0": 1.0, "wb-warm-seed0": 2.0}
    assert "| wb, warm | " in result.output
    again = CliRunner().invoke(main, words, catch_exceptions=False)
    assert "2 cells, 2 already finished" in again.stderr


def test_compare_sweep_trains_each_value_and_draws_the_front(config: Path, elsewhere: Path) -> None:
    out = elsewhere / "sweep"
    words = ["compare", "--agg", "wb", "--seeds", "1", "--config", str(config), "--out", str(out), "--quiet"]
    words += ["--likelihood-items", "0", "--sweep", "model.beta=0.5,2", "--baseline", "wb, model.beta=0.5"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    betas = {path.name: load(path).config.model.beta for path in sorted(out.iterdir()) if path.is_dir()}
    assert betas == {"wb-beta_0.5-seed0": 0.5, "wb-beta_2-seed0": 2.0}
    with (out / "sweep.csv").open(newline="") as file:
        table = {row["model.beta"]: row for row in csv.DictReader(file)}
    rows = rows_of(out / "wb-beta_2-seed0")
    singles = [float(r["value"]) for r in rows if r["metric"] == "frechet_conditional" and r["views"] == "1"]
    assert float(table["2"]["frechet_conditional"]) == pytest.approx(sum(singles) / len(singles))
    assert "True" in {row["pareto"] for row in table.values()}
    assert (out / "sweep.png").exists()
    assert (out / "sweep.md").read_text(encoding="utf-8") in result.output
    assert "## Differences from wb, beta_0.5" in (out / "comparison.md").read_text(encoding="utf-8")
    assert (out / "sweep.tex").exists()
    wrong = CliRunner().invoke(main, [*words, "--no-quality"])
    assert (wrong.exit_code, "--sweep must have figures of quality" in wrong.output) == (2, True)
    unknown = CliRunner().invoke(main, [*words[:-3], "model.gamma=1,2"])
    assert (unknown.exit_code, "gamma" in unknown.stderr) == (2, True)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["model.beta=2"], "must have a name of letters, digits and"),
        (["a b: model.beta=2"], "got 'a b'"),
        (["a", "a: model.beta=2"], "different names, got 'a' twice"),
        (["a: model.modalities='{"], "variant 'a': the settings cannot be read: No closing quotation"),
    ],
)
def test_parse_variants_of_wrong_words_raises(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_variants(texts)


def test_draw_comparison_without_evaluations_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run must have an evaluation"):
        reports.draw_comparison(tmp_path, [tmp_path / "missing"])


def test_compare_of_other_recipes_says_so_before_training(elsewhere: Path) -> None:
    words = ["compare", "--agg", "poe,wb", "--seeds", "1", "--baseline", "nothing", "--out", str(elsewhere / "grid")]
    result = CliRunner().invoke(main, words)  # the unknown baseline ends it
    assert result.exit_code == 2
    assert "note: recipes differ, plain: poe; contrastive: wb; --set recipe=plain" in result.output
    assert "note" not in CliRunner().invoke(main, [*words, "--set", "recipe=plain"]).output


def test_compare_of_data_that_do_not_suit_the_recipe_goes_on_with_its_own_cells(
    toy_config: Callable[..., Config], elsewhere: Path
) -> None:
    config = toy_config(recipe="contrastive", data__modalities=1, train__epochs=1, train__fit_prior=0)
    path = elsewhere / "grid" / "wb-seed0"
    train(config, path, progress=False)
    assert make_cells(elsewhere / "grid", {("wb", "", 0): config})[0].path == path
    plain = toy_config(data__modalities=1, train__epochs=1, train__fit_prior=0)
    with pytest.raises(RunError, match="must have the settings of this comparison"):
        make_cells(elsewhere / "grid", {("wb", "", 0): plain})


def test_evaluate_options_have_the_defaults_of_the_library() -> None:
    # Click leaves the default of the plain flag --fid unset.
    options = {option.name: option.default for option in main.commands["evaluate"].params if option.name != "fid"}
    shared = {name: value for name, value in asdict(EvaluationOptions()).items() if name in options}
    assert len(shared) > 15
    assert {name: options[name] for name in shared} == shared
