"""Run directories made to harm whoever opens them: links, bombs, FIFOs, absurd sizes, and files of other runs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from pyro_mmvae import load
from pyro_mmvae.cli import main
from pyro_mmvae.data import load_data
from pyro_mmvae.files import read_npz, write_text
from pyro_mmvae.reports import draw_run
from pyro_mmvae.run_files import RunFiles, UnsafePathError
from pyro_mmvae.runs import RunError, RunWriter, make_config, write_evaluation
from pyro_mmvae.runs.checkpoint import CheckpointError, read_state
from pyro_mmvae.runs.config import ConfigError
from pyro_mmvae.runs.layout import check_run_id
from pyro_mmvae.training import resume
from tests.runs.golden_runs import copy_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return copy_run(tmp_path / "run")


def refused(*words: str) -> str:
    """Return the error of a command, which must be one line."""
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


LINKED = ["config.yaml", "environment.json", "data.json", "metrics.jsonl", "best.safetensors", "prior.npz", "plots",
          "evaluation", "data", "predictors", "samples.npz", "checkpoint.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", LINKED)
def test_load_and_resume_of_a_run_with_a_link_raise_and_leave_its_target(run: Path, name: str) -> None:
    outside = run.parent / "outside"
    if (run / name).exists():
        (run / name).rename(outside)
    else:
        outside.mkdir()
    before = {file: file.read_bytes() for file in [outside, *outside.rglob("*")] if file.is_file()}
    (run / name).symlink_to(outside)
    for open_run in (load, resume):
        with pytest.raises(ValueError, match=f"{name} must be a file or folder of its own .*, got a symbolic link"):
            open_run(run)
    after = {file: file.read_bytes() for file in [outside, *outside.rglob("*")] if file.is_file()}
    assert after == before


def test_load_of_a_run_with_a_link_in_its_data_raises(run: Path) -> None:
    (run / "data" / "gauge.npy").rename(run.parent / "secret.npy")
    (run / "data" / "gauge.npy").symlink_to(run.parent / "secret.npy")
    with pytest.raises(ConfigError, match=r"gauge\.npy must be a file or folder of its own, got a symbolic link"):
        load(run)


@pytest.mark.parametrize("name", ["./../outside", "./data/../../outside"])
def test_load_of_a_run_whose_data_lead_out_of_it_raises(run: Path, name: str) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("name: ./data", f"name: {name}"))
    with pytest.raises(ConfigError, match=r"data\.name must be a folder in the run directory, got"):
        load(run)


def test_load_of_a_link_to_a_run_opens_it(run: Path) -> None:
    (run.parent / "link").symlink_to(run)
    assert load(run.parent / "link", device="cpu").names == ("gauge", "note")


@pytest.mark.parametrize("folder", ["evaluation", "plots"])
def test_writers_do_not_follow_a_link_in_a_run_directory(tmp_path: Path, folder: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / folder).symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafePathError, match=f"{folder} must be a file or folder of its own"):
        write_evaluation(tmp_path / "run", [{"a": 1}], {}, {}) if folder == "evaluation" else draw_run(tmp_path / "run")
    assert list((tmp_path / "outside").iterdir()) == []


def test_write_text_replaces_a_link_and_follows_none(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    file = tmp_path / "table.csv"
    file.symlink_to(outside)
    (tmp_path / f".table.csv.{os.getpid()}.tmp").symlink_to(outside)
    write_text(file, "new")
    assert outside.read_text() == "precious"
    assert (file.is_symlink(), file.read_text()) == (False, "new")


def test_results_of_other_data_do_not_follow_a_link(run: Path) -> None:
    (run / "on-mine").symlink_to(run.parent)
    with pytest.raises(UnsafePathError, match="on-mine must be a file or folder of its own"):
        RunFiles(run).results("mine")


@pytest.mark.parametrize("label", ["../../evil", "a/b", "..", "\x1b[2J", "a\0b"])
def test_run_files_of_hostile_labels_stay_inside_and_are_printable(tmp_path: Path, label: str) -> None:
    files = RunFiles(tmp_path)
    for path in (files.predictor(label), files.check(label), files.results(label).path):
        assert path.resolve().is_relative_to(tmp_path.resolve())
        assert str(path).isprintable()
    assert files.predictor("a/b") != files.predictor("a_b")


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGED = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
YAML = {
    "anchors that multiply": (BOMB, "more than 200,000 values, with those that anchors repeat"),
    "merges that multiply": (MERGED, "more than 200,000 values, with those that anchors repeat"),
    "an anchor in itself": ("a: &a [*a]", "the anchor 'a' must not contain itself"),
    "deep lists": ("a: " + "[" * 20_000, "nested deeper than 64 levels"),
    "deep blocks": ("".join(" " * n + "a:\n" for n in range(2_000)), "nested deeper than 64 levels"),
    "many values": ("a: [" + "1," * 300_000 + "]", "more than 200,000 values"),
    "a date that does not exist": ("a: 2020-13-01", "not a valid value of YAML"),
    "a long number": ("a: " + "9" * 10_000, "not a valid value of YAML"),
    "a Python object": ("a: !!python/object/apply:os.system [true]", "not valid YAML"),
}


@pytest.mark.parametrize("name", YAML)
def test_make_config_of_hostile_yaml_raises_one_line_at_once(tmp_path: Path, name: str) -> None:
    text, expected = YAML[name]
    (tmp_path / "config.yaml").write_text(text)
    started = time.process_time()
    with pytest.raises(ConfigError, match=expected) as error:
        make_config(tmp_path / "config.yaml")
    assert time.process_time() - started < 10
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert str(tmp_path / "config.yaml") in str(error.value)


def test_train_with_a_deep_setting_fails_in_one_line() -> None:
    assert "nested deeper than 64 levels" in refused("train", "--set", "train.lr=" + "[" * 5_000)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' * 500 + "1" + "}" * 500, "9" * 5_000, "[1]", "\xff\0"])
@pytest.mark.parametrize("name", ["environment.json", "data.json"])
def test_load_with_hostile_json_raises_one_line_or_opens(run: Path, name: str, content: str) -> None:
    (run / name).write_bytes(content.encode("latin-1"))
    opened = load(run, device="cpu")  # neither file is needed to open a model
    if name == "data.json":
        with pytest.raises(RunError, match=r"data\.json: must be the record of the run's data, got an error"):
            opened.data("test")


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_commands_on_special_files_fail_in_one_line_at_once(run: Path, kind: str, monkeypatch: Any) -> None:  # noqa: ANN401
    monkeypatch.chdir(run.parent)
    words = {"fifo": "a FIFO", "socket": "a socket", "device": "a device"}[kind]
    if kind == "fifo":
        os.mkfifo("special")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind("special")
    else:
        Path("special").symlink_to("/dev/zero")
    assert f"must be a regular file, got {words}" in refused("train", "--config", "special", "--out", "new")
    assert "got" in refused("train", "--data", "special", "--out", "new")
    Path("folder").mkdir()
    shutil.copy(run / "data" / "gauge.npy", "folder/gauge.npy")
    Path("special").rename("folder/other.npy")
    error = refused("train", "--data", "folder", "--out", "new")
    assert f"other.npy: data must be regular files and folders, got {words}" in error
    shutil.rmtree("run/plots", ignore_errors=True)
    Path("run/config.yaml").unlink()
    os.rename("folder/other.npy", "run/config.yaml")
    assert "config.yaml must be a file or folder of its own" in refused("sample", "run")
    assert not Path("new").exists()


def test_load_data_of_a_fifo_in_an_option_raises_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    with pytest.raises(ValueError, match=r"fifo\.png: data must be regular files and folders, got a FIFO"):
        load_data("polymnist-mini", "val", modalities=1, val_size=10, photographs=(str(tmp_path / "fifo.png"),))


SIZES = [
    ("latent_size: 2", "latent_size: 1000000000000"),
    ("latent_size: 2", "latent_size: 9999999999999999999"),
    ("hidden: 8", "hidden: 4000000000"),
    ("depth: 1", "depth: 100000000"),
    ("width: 1", "width: 1000000000"),
]


@pytest.mark.parametrize(("old", "new"), SIZES, ids=[new for _, new in SIZES])
def test_load_of_a_model_of_absurd_size_raises_before_it_takes_memory(run: Path, old: str, new: str) -> None:
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=r"best\.safetensors: the model of this configuration|config\.yaml") as error:
        load(run, device="cpu")
    assert "\n" not in str(error.value)


STATES: list[tuple[dict[str, Any], str]] = [
    ({"shapes": {"gauge": [10**11], "note": [4]}}, "the model of this configuration must take at most"),
    ({"shapes": {"gauge": [2**39, 2**39], "note": [4]}}, "the shape of modality 'gauge' must have fewer values"),
    ({"shapes": {"gauge": [-3], "note": [4]}}, "the shape of modality 'gauge' must be positive integers"),
    ({"shapes": [3]}, "the shapes of the modalities are missing"),
    ({"epoch": "two"}, "epoch must be an integer that is not negative, got two"),
    ({"modality_specs": [1]}, "modality_specs must be a mapping, got list"),
    ({"modality_specs": {"gauge": {"evil": 1}}}, "evil"),
    ({"modality_specs": {"gauge": {"scale": []}}}, r"modality_specs: gauge must be .*, got {'scale': \[\]}"),
    ({"modality_specs": {"gauge": {"width": "x"}}}, "modality_specs: gauge must be .*, got {'width': 'x'}"),
    ({"covariate_names": {"site": 3}}, "covariate_names: site must be a list of texts, got 3"),
    ({"covariate_names": 3}, "covariate_names must be a mapping, got int"),
    ({"best": "high"}, "best must be a number, got str"),
    ({"config": [1]}, "config must be a mapping, got list"),
]


def change_state(file: Path, change: dict[str, Any]) -> None:
    """Replace values of the state of a checkpoint, which has no checksums then."""
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        state = json.loads(opened.metadata()["pyro_mmvae"])
    save_file(tensors, file, metadata={"pyro_mmvae": json.dumps(state | change)})


@pytest.mark.parametrize(("change", "expected"), STATES, ids=[str(change)[:60] for change, _ in STATES])
def test_load_of_a_hostile_state_raises_one_line(run: Path, change: dict[str, Any], expected: str) -> None:
    file = run / "best.safetensors"
    change_state(file, change)
    with pytest.raises(CheckpointError, match=expected) as error:
        load(run, device="cpu")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(file))


@pytest.mark.parametrize("name", ["prior.npz", "samples.npz"])
def test_read_npz_with_a_flipped_bit_raises_or_returns_the_same(run: Path, name: str) -> None:
    content, expected = (run / name).read_bytes(), read_npz(run / name)
    for place in range(0, len(content), max(len(content) // 100, 1)):
        (run / name).write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            found = read_npz(run / name)
        except ValueError:
            continue
        # Names and times of members have no checksums.
        assert all(np.array_equal(found[key], expected[key]) for key in found if key in expected)


def test_read_npz_of_a_bomb_raises_before_it_is_unpacked(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as file,
    ):
        for _ in range(300):
            file.write(bytes(2**20))
    with pytest.raises(ValueError, match=r"bomb\.npz: must be a readable \.npz file, got an error: arrays of"):
        read_npz(tmp_path / "bomb.npz")


def test_read_npz_of_an_array_that_declares_more_than_it_has_raises(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
        file.write(bytes(80))
    with pytest.raises(ValueError, match="must have as many values as its header says"):
        read_npz(tmp_path / "a.npz")


PRIORS: list[tuple[dict[str, Any], str]] = [
    ({"means": np.zeros((4, 7))}, "must be a fitted prior"),
    ({"weights": np.array([-1.0, 1, 1, 1])}, "must be a fitted prior"),
    ({"means": np.full((4, 2), np.nan)}, "finite numbers"),
    ({"about": np.array('{"kind": "evil"}')}, "an unknown kind 'evil'"),
    ({"about": np.array("[" * 5000)}, "must be a fitted prior"),
]


@pytest.mark.parametrize(("change", "expected"), PRIORS)
def test_prior_of_hostile_arrays_raises_one_line(run: Path, change: dict[str, Any], expected: str) -> None:
    arrays = read_npz(run / "prior.npz")
    np.savez(run / "prior.npz", **(arrays | change))
    opened = load(run, device="cpu")
    with pytest.raises(ValueError, match=expected) as error:
        opened.prior("fitted")
    assert "\n" not in str(error.value)
    assert "prior.npz" in str(error.value)


def test_resume_of_a_hostile_state_raises_one_line(run: Path) -> None:
    file = run / "checkpoint.safetensors"
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        state = json.loads(opened.metadata()["pyro_mmvae"])
    for change in ({"config": 3}, {"schedule": [1]}, {"stopping": "x"}, {"accepted": {}}, {"seconds": True}):
        save_file(tensors, file, metadata={"pyro_mmvae": json.dumps(state | change)})
        with pytest.raises(CheckpointError, match=f"{next(iter(change))} must be a"):
            resume(run, epochs=3)


INSIDE: list[tuple[dict[str, Any], str]] = [
    ({"schedule": None}, "schedule must be left out or have values, got None"),
    ({"schedule": {"last_epoch": None}}, "schedule: last_epoch must be an integer, got None"),
    ({"schedule": {"step": 1}}, "schedule: step must be like None, got 1"),
    ({"stopping": {"best": []}}, r"stopping: best must be a number or None, got \[\]"),
    ({"stopping": {"epochs": []}}, r"stopping: epochs must be an integer of at least 0, got \[\]"),
    ({"checksums": {"val": True}}, "checksums: val must be a mapping of integers, got True"),
    ({"checksums": {"train": {"gauge": []}}}, r"checksums: train must be .*, got {'gauge': \[\]}"),
    ({"averages": {}}, "averages must have items, loss, kl, log_likelihood, penalties, got none"),
    ({"accepted": [1]}, r"accepted must be a list of texts, got \[1\]"),
]


@pytest.mark.parametrize(("change", "expected"), INSIDE, ids=[str(change) for change, _ in INSIDE])
def test_resume_of_values_of_another_type_inside_of_the_state_raises_one_line(
    run: Path, change: dict[str, Any], expected: str
) -> None:
    file = run / "checkpoint.safetensors"
    change_state(file, change)
    with pytest.raises(CheckpointError, match=expected) as error:
        resume(run, epochs=3)
    assert str(error.value).startswith(f"{file}: ")


def test_resume_of_an_optimizer_without_its_learning_rate_raises_one_line(run: Path) -> None:
    file = run / "checkpoint.safetensors"
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        state = json.loads(opened.metadata()["pyro_mmvae"])
    state["optimizer"]["groups"][0]["initial_lr"] = None
    save_file(tensors, file, metadata={"pyro_mmvae": json.dumps(state)})
    with pytest.raises(CheckpointError, match="option 'initial_lr' of the optimizer must be like .*, got None"):
        resume(run, epochs=3)


def test_check_run_id_refuses_the_checkpoint_of_another_run_of_the_same_shapes(tmp_path: Path) -> None:
    for number in (0, 1):
        writer = RunWriter(tmp_path / f"run{number}")
        writer.create(make_config(None, {"train.seed": number}), {"versions": {}})
        writer.save_checkpoint("best", nn.Linear(2, 2), epoch=1)
        check_run_id(writer.files, writer.files.checkpoint("best"), read_state(writer.files.checkpoint("best")))
    shutil.copy(tmp_path / "run1" / "best.safetensors", tmp_path / "run0" / "best.safetensors")
    files = RunFiles(tmp_path / "run0")
    with pytest.raises(RunError, match="must belong to the run of environment.json .*, got a checkpoint of another"):
        check_run_id(files, files.checkpoint("best"), read_state(files.checkpoint("best")))


def test_create_of_two_runs_of_one_configuration_gives_the_same_identity(tmp_path: Path) -> None:
    for name in ("a", "b"):
        RunWriter(tmp_path / name).create(make_config(), {"versions": {}, "started": name})
    assert RunWriter(tmp_path / "a").run_id == RunWriter(tmp_path / "b").run_id is not None


def test_load_of_a_checkpoint_without_the_identity_of_its_run_raises(run: Path) -> None:
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(environment | {"run_id": "0" * 32}))
    for open_run in (load, resume):
        with pytest.raises(RunError, match="got a checkpoint of another run"):
            open_run(run)


@pytest.mark.parametrize("words", [("train", "--out", "new"), ("sample", "run")], ids=lambda words: words[0])
def test_commands_with_the_device_meta_fail_in_one_line(run: Path, words: tuple[str, ...], monkeypatch: Any) -> None:  # noqa: ANN401
    monkeypatch.chdir(run.parent)
    assert "device 'meta' is unavailable: it only computes shapes" in refused(*words, "--device", "meta")
    assert not Path("new").exists()


def test_load_draws_no_numbers_of_the_global_generator(run: Path) -> None:
    before = torch.get_rng_state()
    load(run, device="cpu")
    assert torch.equal(before, torch.get_rng_state())
