"""``encode``, ``impute``, ``predict`` and ``score`` from end to end, on a folder of a user."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pyro_mmvae import Run, load, load_data
from pyro_mmvae.cli import main
from tests.inference.own_files import KINDS, WORDS, train_on, write_folder

Session = tuple[Path, Path]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Return a trained run directory and the folder of its data."""
    place = tmp_path_factory.mktemp("answers")
    folder = write_folder(place / "own")
    return train_on(folder, place / "run").path, folder


@pytest.fixture
def run(session: Session) -> Run:
    return load(session[0], device="cpu")


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words), "--quiet", "--threads", "1", "--device", "cpu"])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_encode_writes_latents_with_identifiers_equal_to_those_of_python(
    session: Session, run: Run, tmp_path: Path
) -> None:
    result = invoke("encode", session[0], "--out", tmp_path / "z.csv")
    assert result.exit_code == 0, result.output
    rows = rows_of(tmp_path / "z.csv")
    test = run.data("test")
    assert test.item_ids is not None
    assert [row["id"] for row in rows] == test.item_ids.tolist()
    values = {**test.tensors, "present": test.present}
    expected = run.posterior(values).mean.numpy()
    latents = [[float(row[f"z_{d}"]) for d in range(3)] for row in rows]
    np.testing.assert_allclose(latents, expected, rtol=1e-3, atol=1e-4)
    again = invoke("encode", session[0], "--out", tmp_path / "z.csv")
    assert again.exit_code == 2
    [line] = again.output.splitlines()
    assert line.startswith(f"error: {tmp_path / 'z.csv'} must not exist, got an existing path: choose another one")
    assert invoke("encode", session[0], "--out", tmp_path / "z.csv", "--force").exit_code == 0


def test_encode_other_data_takes_all_items_of_a_file(session: Session, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", count=15, seed=1, missing=False)
    (other / "genes.npy").unlink()
    np.save(other / "gauge.npy", np.load(other / "gauge.npy")[:, [2, 0, 1]])
    np.save(other / "features_gauge.npy", np.array(["west", "north", "south"]))
    np.save(other / "present.npy", np.ones((15, 3), dtype=bool))
    (other / "meta.yaml").unlink()
    command = ("encode", session[0], "--data", other, "--statistic", "loc_scale")
    result = invoke(*command, "--out", tmp_path / "z.npz")
    assert result.exit_code == 0, result.output
    assert "note: modality 'genes': absent from all items" in result.output
    assert "note: modality 'gauge': the features were put in the order of the training data" in result.output
    with np.load(tmp_path / "z.npz") as arrays:
        assert arrays["ids"].tolist() == [f"s1-{number:03d}" for number in range(15)]
        assert arrays["z"].shape == arrays["z_scale"].shape == (15, 3)
        everything = arrays["z"]
    (tmp_path / "chosen.txt").write_text("s1-004\ns1-002\n")
    for items, expected in ((tmp_path / "chosen.txt", [4, 2]), ("2:4", [2, 3]), (3, [0, 1, 2])):
        result = invoke(*command, "--out", tmp_path / "part.npz", "--items", items, "--force")
        assert result.exit_code == 0, result.output
        with np.load(tmp_path / "part.npz") as arrays:
            np.testing.assert_allclose(arrays["z"], everything[expected], rtol=1e-4, atol=1e-5)
    result = invoke(*command, "--out", tmp_path / "none.npz", "--items", "12 items")
    assert "--items must be a number, rows A:B, or a file of identifiers, got '12 items'" in result.output


def test_impute_writes_figures_flags_and_complete_data_sets(session: Session, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "imputed"
    command = ["impute", session[0], "--split", "train", "--out", out, "--quantiles", ".05,.95", "--multiple"]
    command += ["--draws", 3]
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    data, imputed = run.data("train"), np.load(out / "imputed.npy")
    assert np.array_equal(imputed, ~data.present.numpy())
    assert imputed.any(0).all()
    assert data.item_ids is not None
    assert np.load(out / "ids.npy").tolist() == data.item_ids.tolist()
    gauge, lower, upper = (np.load(out / figure / "gauge.npy") for figure in ("mean", "quantile-0.05", "quantile-0.95"))
    kept = ~imputed[:, 0]
    np.testing.assert_allclose(gauge[kept], data.tensors["gauge"].numpy()[kept])
    assert (np.abs(gauge[~kept] - 102_000) < 3_000).all()  # in the units of the data
    assert (lower <= upper).all()
    assert (lower < upper)[~kept].all()
    texts = np.load(out / "text" / "note.npy")
    assert set(texts[~imputed[:, 2]]) <= set(WORDS)
    assert json.loads((out / "imputation.json").read_text())["imputed"]["note"] == imputed[:, 2].sum()
    for number in range(3):
        complete = load_data(str(out / f"draw-{number:03d}"), "train")
        assert complete.complete
        assert complete.names == data.names
        assert complete.class_names == data.class_names
        assert complete.item_ids is not None
        assert complete.item_ids.tolist() == data.item_ids.tolist()
        assert complete.feature_names == data.feature_names
        for m, name in enumerate(data.names):
            value, seen = complete.tensors[name], data.present[:, m]
            assert value.dtype == data.tensors[name].dtype
            assert value.shape == data.tensors[name].shape
            assert (value[seen] == data.tensors[name][seen]).all()
            assert len(value[~seen].unique()) > 1
    assert invoke("encode", session[0], "--data", out / "draw-000", "--out", tmp_path / "z.csv").exit_code == 0
    assert "pass --force" in invoke(*command).output


def test_impute_to_a_csv_file_writes_a_table_of_items(session: Session, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "i.csv"
    command = ("impute", session[0], "--split", "train", "--quantiles", ".9")
    result = invoke(*command, "--out", out)
    assert result.exit_code == 0, result.output
    rows, imputed = rows_of(out), run.impute(run.data("train"), quantiles=[0.9])
    assert [row["id"] for row in rows] == imputed.ids.tolist()
    features = run.data("train").feature_names["gauge"]
    flags = imputed.imputed[:, imputed.names.index("gauge")]
    assert [row["imputed_gauge"] for row in rows] == [str(flag) for flag in flags]
    assert flags.any()
    for figure, prefix in (("mean", ""), ("sd", "sd_"), ("quantile-0.9", "quantile-0.9_")):
        values = [[float(row[prefix + feature]) for feature in features] for row in rows]
        np.testing.assert_allclose(values, imputed.of(figure)["gauge"], rtol=1e-4, atol=1e-4)
    for name in imputed.text:
        assert [row[name] for row in rows] == imputed.text[name].tolist()
    assert invoke(*command, "--out", out).exit_code == 2


def test_impute_to_a_file_of_another_format_raises_in_one_line(session: Session, tmp_path: Path) -> None:
    for name, reason in (("i.npz", "must be a folder, or a file .csv"), ("i.csv", "must be a folder with --multiple")):
        result = invoke("impute", session[0], "--out", tmp_path / name, "--multiple")
        assert result.exit_code == 2
        [line] = result.output.splitlines()
        assert reason in line
        assert not (tmp_path / name).exists()


def test_impute_of_complete_items_says_what_to_do(session: Session, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", count=15, seed=1, missing=False)
    result = invoke("impute", session[0], "--data", other, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "leave what is to be imputed out of given (--given)" in result.output
    result = invoke(
        "impute", session[0], "--data", other, "--given", "note", "--targets", "genes", "--out", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    assert "imputed genes of 15 items" in result.output
    assert not (tmp_path / "out" / "mean" / "gauge.npy").exists()


def test_predict_fits_once_and_writes_probabilities_by_class(session: Session, tmp_path: Path) -> None:
    result = invoke("predict", session[0], "--out", tmp_path / "p.csv")
    assert result.exit_code == 0, result.output
    rows = rows_of(tmp_path / "p.csv")
    assert list(rows[0]) == ["id", "predicted", "label", *(f"p_{name}" for name in KINDS)]
    for row in rows:
        values = {name: float(row[f"p_{name}"]) for name in KINDS}
        assert sum(values.values()) == pytest.approx(1)
        assert row["predicted"] == max(values, key=lambda name: values[name])
    assert "test items of the run, fitted to 34 training items: accuracy" in result.output
    stored = session[0] / "predictors" / "labels.npz"
    before = stored.read_bytes()
    assert invoke("predict", session[0], "--out", tmp_path / "p.csv", "--force").exit_code == 0
    assert stored.read_bytes() == before
    other = write_folder(tmp_path / "other", count=9, seed=1, missing=False)
    labels = np.load(other / "labels.npy").astype("U9")
    labels[0] = "blizzard"  # a class that sorts before the others and that no training item has
    np.save(other / "labels.npy", labels)
    result = invoke("predict", session[0], "--data", other, "--out", tmp_path / "other.csv")
    assert result.exit_code == 0, result.output
    assert [row["label"] for row in rows_of(tmp_path / "other.csv")][1:] == labels[1:].tolist()
    (other / "labels.npy").unlink()
    result = invoke("predict", session[0], "--data", other, "--out", tmp_path / "bare.csv")
    assert result.exit_code == 0, result.output
    assert "label" not in rows_of(tmp_path / "bare.csv")[0]


def test_predict_of_an_unknown_label_raises_in_one_line(session: Session, tmp_path: Path) -> None:
    result = invoke("predict", session[0], "--label", "height", "--out", tmp_path / "p.csv")
    assert result.exit_code == 2
    assert "data 'own' must have a label 'height', got none in split 'train'" in result.output


def test_score_writes_sorted_rows_and_prints_the_most_unusual(session: Session, tmp_path: Path) -> None:
    result = invoke("score", session[0], "--out", tmp_path / "s.csv", "--sort", "outlier", "--draws", 4, "--top", 2)
    assert result.exit_code == 0, result.output
    rows = rows_of(tmp_path / "s.csv")
    outliers = [float(row["outlier"]) for row in rows]
    assert outliers == sorted(outliers, reverse=True)
    assert {"log_likelihood", "ess", "nll_genes", "error_note", "disagreement_photo", "mismatch_pair"} <= set(rows[0])
    assert f"    {rows[0]['id']}  {outliers[0]:.3f}" in result.output


def test_answers_of_a_run_whose_data_have_moved_need_only_other_data(session: Session, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(session[0], moved)
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config.replace(str(session[1]), str(tmp_path / "gone")))
    other = write_folder(tmp_path / "other", count=15, seed=1)
    assert invoke("encode", moved, "--data", other, "--out", tmp_path / "z.csv").exit_code == 0
    assert "gone" in invoke("encode", moved, "--out", tmp_path / "y.csv").output


def test_sample_given_items_of_a_user_keeps_their_order(session: Session, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", count=9, seed=1, missing=False)
    (tmp_path / "chosen.txt").write_text("s1-004\ns1-000\n")
    words = ("sample", session[0], "--data", other, "--given", "note", "--items", tmp_path / "chosen.txt")
    result = CliRunner().invoke(main, [*map(str, words), "--device", "cpu", "--out", str(tmp_path / "s.npz")])
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "s.npz") as arrays:
        assert arrays["given.note.string"].tolist() == [WORDS[1], WORDS[0]]
        assert arrays["generated.gauge"].shape == (2, 3)
    result = CliRunner().invoke(main, ["sample", str(session[0]), "--data", str(other)])
    assert "--data and --items must come with --given" in result.output


def test_sample_of_chosen_items_without_what_is_given_says_how_many_are_left_out(
    session: Session, tmp_path: Path
) -> None:
    other = write_folder(tmp_path / "other", count=6, seed=1, missing=False)
    present = np.ones((6, 4), dtype=bool)
    present[[1, 2], 2] = False  # note
    np.save(other / "present.npy", present)
    words = ("sample", session[0], "--data", other, "--given", "note", "--generate", "gauge", "--items", "0:5")
    result = CliRunner().invoke(main, [*map(str, words), "--device", "cpu", "--out", str(tmp_path / "s.npz")])
    assert result.exit_code == 0, result.output
    assert "note: items without note are left out: 2\n" in result.output
    with np.load(tmp_path / "s.npz") as arrays:
        assert arrays["given.note.string"].tolist() == [WORDS[0], WORDS[0], WORDS[1]]


def test_predict_closes_a_progress_bar_before_the_next_one_starts(session: Session, tmp_path: Path) -> None:
    words = ("predict", session[0], "--refit", "--threads", 1, "--device", "cpu", "--out", tmp_path / "p.csv")
    result = CliRunner().invoke(main, [*map(str, words)])
    assert result.exit_code == 0, result.output
    assert "encode training items: 100%" in result.output
    assert "\x1b[A" not in result.output  # which moves the cursor to the line of an earlier bar


def test_evaluate_and_ppc_of_other_data_leave_the_results_of_the_run_alone(session: Session, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", count=12, seed=1, missing=False)
    (other / "labels.npy").unlink()  # without labels no classifiers are trained
    small = ("--likelihood-items", 4, "--samples", 2, "--khat-items", 0, "--no-quality", "--no-diagnostics")
    result = invoke("evaluate", session[0], "--data", other, "--items", "2:12", *small)
    assert result.exit_code == 0, result.output
    rows = rows_of(session[0] / "on-other" / "evaluation" / "metrics.csv")
    assert {row["n"] for row in rows if row["metric"] == "log_likelihood"} == {"4"}
    result = invoke("ppc", session[0], "--data", other, "--items", "1:5", "--given", "note", "--statistics", "mean")
    assert result.exit_code == 0, result.output
    assert (session[0] / "on-other" / "evaluation" / "ppc.nc").exists()
    assert not (session[0] / "evaluation").exists()
