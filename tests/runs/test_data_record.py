"""Tests of changed data: every command that uses the data of a run notices them, names the change, and can go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pyro_mmvae import load
from pyro_mmvae.cli import main
from pyro_mmvae.data import data_names, match_data
from pyro_mmvae.runs import DataChangedError, RunError
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import resume, train

N = 60
SETTINGS = ("model.latent_size=2", "model.network.hidden=8", "train.device=cpu", "train.threads=1")
EVALUATE = (
    "evaluate", "out", "--quiet", "--samples=2", "--likelihood-items=4", "--khat-items=0", "--no-quality",
    "--no-diagnostics",
)  # fmt: skip
PPC = ("ppc", "out", "--quiet", "--given=table", "--num-samples=4", "--items=4", "--statistics=mean")
SAMPLE = ("sample", "out", "--given=table", "--out=draws.npz", "--force")
RESUME = ("train", "--resume=out", "--epochs=2", "--quiet")
PERMUTED = "split 'train': modality 'table': the columns are in another order"


def write_folder(folder: Path) -> None:
    generator = np.random.default_rng(0)
    folder.mkdir()
    table = generator.normal(size=(N, 3))
    np.save(folder / "table.npy", table)
    np.save(folder / "other.npy", table[:, :2] + generator.normal(size=(N, 2)))
    np.save(folder / "labels.npy", np.array(["cat", "dog"] * (N // 2)))
    np.save(folder / "ids.npy", np.arange(N) + 100)
    np.save(folder / "features_table.npy", np.array(["age", "height", "weight"]))


def run_command(*words: str) -> Any:  # noqa: ANN401
    return CliRunner().invoke(main, list(words))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train once, by the command, on a folder ``data`` into ``out``; the test split is opened by its last line."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write_folder(place / "data")
        sets = [f"--set={word}" for word in SETTINGS]
        result = run_command("train", "--data=data", "--agg=poe", "--epochs=1", "--out=out", "--quiet", *sets)
    assert result.exit_code == 0, result.output
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the folder and the run, in which commands are run."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "out" / "config.yaml"
    config.write_text(config.read_text().replace(str(trained), str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change_table(place: Path, change: Callable[[np.ndarray[Any, Any]], Any]) -> None:
    file = place / "data" / "table.npy"
    np.save(file, change(np.load(file)))


def forget(place: Path, *splits: str) -> None:
    """Remove fingerprints of splits from the record of the run, as if it had not used them."""
    file = place / "out" / "data.json"
    record = json.loads(file.read_text())
    for split in splits:
        del record["fingerprints"][split]
    file.write_text(json.dumps(record))


@pytest.mark.parametrize("words", [EVALUATE, PPC, SAMPLE, RESUME], ids=lambda words: words[0])
def test_commands_on_permuted_columns_stop_with_one_line_unless_allowed(place: Path, words: tuple[str, ...]) -> None:
    change_table(place, lambda x: x[:, [1, 0, 2]])
    forget(place, "test")
    result = run_command(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: out: the data have changed since the run used them: {PERMUTED}")
    assert result.stderr.endswith(
        ": restore them, or pass --allow-changed-data (in Python, allow_changed_data=True) to go on\n"
    )
    assert result.stderr.count("\n") == 1
    allowed = run_command(*words, "--allow-changed-data")
    assert allowed.exit_code == 0, allowed.output


@pytest.mark.parametrize("words", [SAMPLE, RESUME], ids=lambda words: words[0])
def test_commands_on_moved_and_rewritten_files_go_on(place: Path, words: tuple[str, ...]) -> None:
    change_table(place, lambda x: np.asfortranarray(x.astype(">f4")))
    meta = place / "data" / "meta.yaml"
    meta.write_text("modalities: {table: {reconstruction_weight: 1.0}}\n")
    result = run_command(*words)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda x: 1000 * x, "split 'test': modality 'table': the values are 1000 times what they were"),
        (lambda x: x * [1, 2.54, 1], "split 'test': modality 'table': the values of column 'height' differ"),
        (lambda x: x[:-10], "split 'test': the number of items was 6 and is 5"),
    ],
)
def test_run_data_on_a_changed_folder_raises_the_line(place: Path, change: Callable[..., Any], line: str) -> None:
    change_table(place, change)
    if len(np.load(place / "data" / "table.npy")) < N:
        for name in ("other", "labels", "ids"):
            np.save(place / "data" / f"{name}.npy", np.load(place / "data" / f"{name}.npy")[:-10])
    with pytest.raises(DataChangedError) as error:
        load("out").data("test")
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert len(load("out", allow_changed_data=True).data("test")) > 0


def test_run_data_on_reordered_labels_raises_and_restored_labels_pass(place: Path) -> None:
    file = place / "data" / "labels.npy"
    labels = np.load(file)
    np.save(file, np.roll(labels, 1))
    with pytest.raises(DataChangedError, match="split 'val': the labels "):
        load("out").data("val")
    np.save(file, labels)
    assert load("out").data("val").class_names == ("cat", "dog")


def test_run_data_first_use_of_a_split_records_it(place: Path) -> None:
    forget(place, "test")
    load("out").data("test")
    assert set(json.loads((place / "out" / "data.json").read_text())["fingerprints"]) == {"train", "val", "test"}


def test_run_data_first_use_of_changed_files_raises_and_records_nothing(place: Path) -> None:
    forget(place, "test")
    change_table(place, lambda x: x[:, ::-1])
    before = (place / "out" / "data.json").read_bytes()
    with pytest.raises(DataChangedError, match=PERMUTED):
        load("out").data("test")
    load("out", allow_changed_data=True).data("test")
    assert (place / "out" / "data.json").read_bytes() == before


def test_run_data_of_a_run_without_a_record_goes_on(place: Path) -> None:
    (place / "out" / "data.json").unlink()
    change_table(place, lambda x: x[:, ::-1])
    run = load("out")
    assert len(run.data("test")) == 6
    assert run.description.shapes == {"other": (2,), "table": (3,)}
    assert run.description.feature_names == {}
    assert run_command(*RESUME).exit_code == 0
    assert not (place / "out" / "data.json").exists()


@pytest.mark.parametrize("content", ["", "[1]", '{"fingerprints": {"train": 3}}'])
def test_run_data_with_a_damaged_record_raises_in_one_line(place: Path, content: str) -> None:
    (place / "out" / "data.json").write_text(content)
    with pytest.raises(RunError, match=r"data\.json: must be the record of the run's data, got an error: ") as error:
        load("out").data("test")
    assert "\n" not in str(error.value)


def test_resume_with_changed_data_allowed_records_them_anew(place: Path) -> None:
    change_table(place, lambda x: x[:, [1, 0, 2]])
    with pytest.raises(DataChangedError, match=PERMUTED):
        resume("out", epochs=2, progress=False)
    run = resume("out", epochs=2, progress=False, allow_changed_data=True)
    assert len(run.data("train")) == 48


def test_train_allow_changed_data_without_resume_exits_with_an_error() -> None:
    result = run_command("train", "--agg=poe", "--allow-changed-data")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: --allow-changed-data must come with --resume, got it without: leave it out\n"


def test_run_description_matches_new_data_by_name(place: Path) -> None:
    run = load("out")
    assert run.description.feature_names == {"table": ("age", "height", "weight")}
    assert run.description.class_names == ("cat", "dog")
    assert run.description.modality_specs["table"].standardize is True
    data = run.data("train")
    np.testing.assert_allclose(run.description.feature_means["table"], data.tensors["table"].mean(0), atol=1e-6)
    change_table(place, lambda x: x[:, [2, 0, 1]])
    np.save(place / "data" / "features_table.npy", np.array(["weight", "age", "height"]))
    changed = load("out", allow_changed_data=True).data("train")
    matched, notes = match_data(changed, run.description)
    assert matched.tensors["table"].tolist() == data.tensors["table"].tolist()
    assert matched.item_ids is not None
    assert data.item_ids is not None
    assert matched.item_ids.tolist() == data.item_ids.tolist()
    assert notes == ("modality 'table': the features were put in the order of the training data",)


def test_train_on_named_data_opens_no_test_split_and_records_it_at_first_use(
    toy_config: Callable[..., Config], opened: list[str], tmp_path: Path
) -> None:
    run = train(toy_config(train__epochs=1, model__aggregation="poe"), tmp_path / "run", progress=False)
    record = tmp_path / "run" / "data.json"
    assert "toy" in data_names()
    assert opened == ["train", "val"]
    assert set(json.loads(record.read_text())["fingerprints"]) == {"train", "val"}
    run.data("test")
    assert opened == ["train", "val", "test"]
    assert set(json.loads(record.read_text())["fingerprints"]) == {"train", "val", "test"}


def test_encode_after_the_data_were_moved_says_where_they_were_and_takes_their_new_path(place: Path) -> None:
    folder = Path(load("out").config.data.name)
    moved = folder.rename(folder.with_name("moved"))
    result = run_command("encode", "out", "--out", "z.csv", "--quiet")
    assert result.exit_code == 2
    assert f"must exist, got nothing at {folder}: put them back, or pass their new path as --data" in result.stderr
    assert run_command("encode", "out", "--data", str(moved), "--out", "z.csv", "--quiet").exit_code == 0
