"""The files of a run directory: their names, their writers, and the refusal of other formats."""

from __future__ import annotations

import errno
import inspect
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

import pyro_mmvae
from pyro_mmvae import load, run_files
from pyro_mmvae.cli import main
from pyro_mmvae.run_files import CHECKPOINTS, RunFiles
from pyro_mmvae.runs import RunError, RunWriter, append_metrics, read_metrics, write_arrays
from pyro_mmvae.runs.checkpoint import CheckpointError
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.layout import process_rank
from pyro_mmvae.training import resume

MakeConfig = Callable[..., Config]
REFUSAL = (
    "written by pyro_mmvae 0.1.0 (format 1), this version reads format 2: train again or open it with pyro_mmvae 0.1"
)


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """Write a run directory as pyro_mmvae 0.1.0 did, with a setting that no longer exists."""
    path = tmp_path / "old"
    path.mkdir()
    (path / "config.yaml").write_text("model: {a_setting_of_0_1: 3}\n")
    environment = {"versions": {"python": "3.11.7", "pyro_mmvae": "0.1.0"}, "device": "cpu"}
    (path / "environment.json").write_text(json.dumps(environment))
    for name in ("best.safetensors", "checkpoint.safetensors"):
        metadata = {"pyro_mmvae": json.dumps({"format_version": 1, "epoch": 1, "shapes": {"m0": [3, 8, 8]}})}
        save_file({"model.weight": torch.zeros(2)}, path / name, metadata=metadata)
    return path


def test_load_and_resume_of_a_run_of_format_1_raise_in_one_line(old_run: Path) -> None:
    for open_run in (load, resume):
        with pytest.raises(RunError) as error:
            open_run(old_run)
        assert str(error.value) == f"{old_run}: {REFUSAL}"


@pytest.mark.parametrize("words", [["sample"], ["evaluate"], ["ppc"], ["train", "--resume"]], ids=" ".join)
def test_commands_on_a_run_of_format_1_print_one_line_and_exit_with_2(old_run: Path, words: list[str]) -> None:
    before = sorted(old_run.rglob("*"))
    result = CliRunner().invoke(main, [*words, str(old_run)])
    assert result.exit_code == 2
    assert result.stderr == f"error: {old_run}: {REFUSAL}\n"
    assert result.stdout == ""
    assert sorted(old_run.rglob("*")) == before


def test_load_without_an_environment_checks_the_format_of_the_checkpoint(old_run: Path) -> None:
    (old_run / "environment.json").unlink()
    (old_run / "config.yaml").write_text("{}")
    with pytest.raises(CheckpointError, match=re.escape("written by pyro_mmvae 0.1 (format 1), this version reads")):
        load(old_run)


def test_load_of_a_run_of_a_later_format_raises_and_suggests_an_update(old_run: Path) -> None:
    environment = {"format_version": 3, "versions": {"pyro_mmvae": "0.9"}}
    (old_run / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(RunError, match=re.escape("pyro_mmvae 0.9 (format 3), this version reads format 2: update")):
        load(old_run)


def test_run_files_checkpoint_with_an_unknown_name_raises(tmp_path: Path) -> None:
    assert RunFiles(tmp_path).checkpoint("last") == tmp_path / CHECKPOINTS["last"]
    with pytest.raises(ValueError, match="checkpoint must be 'best' or 'last', got 'first'"):
        RunFiles(tmp_path).checkpoint("first")


def test_run_files_checks_finds_every_labelled_check(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    assert files.checks() == []
    files.evaluation.mkdir()
    for label in ("", "m0", "prior"):
        files.check(label).touch()
    files.check_table.touch()
    assert [file.name for file in files.checks()] == ["ppc-m0.nc", "ppc-prior.nc", "ppc.nc"]


def test_names_of_run_files_stand_in_one_module_only() -> None:
    package = Path(pyro_mmvae.__file__).parent
    names = ["config.yaml", "environment.json", "metrics.jsonl", "samples.npz", "metrics.csv", "arrays.npz"]
    names += ["summary.json", *CHECKPOINTS.values()]
    for name in names:
        literal = f'"{name}"'
        modules = [file.name for file in package.rglob("*.py") if literal in file.read_text(encoding="utf-8")]
        assert modules == ["run_files.py"], name


def write_everything(writer: RunWriter, config: Config) -> set[str]:
    """Call every public method of a writer, and return their names."""
    arguments: dict[str, tuple[Any, ...]] = {
        "create": (config, {"device": "cpu"}),
        "write_config": (config,),
        "write_data_record": ({"fingerprints": {}},),
        "append_metrics": ({"epoch": 0},),
        "cut_metrics": (1,),
        "record_resumption": ({"step": 0},),
        "remove_leftovers": (),
        "write_samples": ({"a": np.zeros(2)},),
        "save_checkpoint": ("last", nn.Linear(2, 2)),
    }
    for name, values in arguments.items():
        getattr(writer, name)(*values)
    return set(arguments)


@pytest.mark.parametrize("rank", [0, 1])
def test_run_writer_writes_on_rank_0_only(tmp_path: Path, rank: int) -> None:
    path = tmp_path / "run"
    methods = {name for name, _ in inspect.getmembers(RunWriter, inspect.isfunction) if not name.startswith("_")}
    assert write_everything(RunWriter(path, rank), Config()) == methods
    assert path.exists() == (rank == 0)
    if rank == 0:
        assert {file.name for file in path.iterdir()} == {
            "config.yaml", "environment.json", "data.json", "metrics.jsonl", "samples.npz", "checkpoint.safetensors"
        }  # fmt: skip


def test_process_rank_of_a_single_process_is_0() -> None:
    assert process_rank() == 0


def test_read_metrics_keeps_the_last_row_per_epoch_and_skips_a_torn_line(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    for row in ({"epoch": 1, "loss": 1}, {"epoch": 0, "loss": 2}, {"epoch": 1, "loss": 3}):
        append_metrics(tmp_path, row)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lo')
    assert read_metrics(tmp_path) == [{"epoch": 0, "loss": 2}, {"epoch": 1, "loss": 3}]


def test_read_metrics_leaves_out_lines_that_are_not_rows(tmp_path: Path) -> None:
    lines = [
        b'{"epoch": 0}',
        b"\xff\xfe\x00",
        b"[1]",
        b'{"epoch": "x"}',
        b'{"epoch": true}',
        b'{"loss": 1}',
        b"[" * 100_000,
        b'{"epoch": 1}',
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    assert read_metrics(tmp_path) == [{"epoch": 0}, {"epoch": 1}]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"val": 5}, "val must be a mapping, got 5"),
        ({"val": {"elbo": []}}, r"val\.elbo must be a number, got \[\]"),
        ({"val": {"density": []}}, r"val\.density must be a text, got \[\]"),
        ({"select": {"by": "evil"}}, "select.by must be one of last, mixture, component, subsets, got 'evil'"),
        ({"log_likelihood": [1.0]}, r"log_likelihood must be a mapping of numbers, got \[1.0\]"),
        ({"penalties": "abc"}, "penalties must be a mapping of numbers, got 'abc'"),
        ({"objective": 10**400}, "objective must be a number, got 1000"),
        ({"step": None}, "step must be an integer of at least 0, got None"),
        ({"seconds": float("nan")}, "seconds must be a finite number, got nan"),
        ({"stopped": 1}, "stopped must be a text, got 1"),
    ],
    ids=lambda case: ",".join(case) if isinstance(case, dict) else "",
)
def test_read_metrics_of_a_value_of_another_type_names_file_and_line(
    values: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 0}\n' + json.dumps({"epoch": 1, **values}) + "\n")
    with pytest.raises(ValueError, match=rf"metrics\.jsonl, line 2: {reason}"):
        read_metrics(tmp_path)


def test_read_metrics_of_a_file_above_the_limit_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 0}\n')
    monkeypatch.setattr(run_files, "MAX_METRICS_BYTES", 12)
    with pytest.raises(OSError, match=r"must be a text file of at most 12 bytes, got 13.*metrics\.jsonl"):
        read_metrics(tmp_path)


def test_run_writer_cut_metrics_leaves_one_line_per_finished_epoch(tmp_path: Path) -> None:
    for row in ({"epoch": 0, "loss": 1}, {"epoch": 1, "loss": 2}, {"epoch": 0, "loss": 3}, {"epoch": 2, "loss": 4}):
        append_metrics(tmp_path, row)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    RunWriter(tmp_path).cut_metrics(2)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch": 0, "loss": 3}\n{"epoch": 1, "loss": 2}\n'


def test_run_writer_remove_leftovers_keeps_files_of_others(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    dead, alive = child, os.getpid()
    kept = {f".prior.npz.{alive}.tmp", "mine.tmp", f".mine.{dead}.temporary"}
    removed = {f".prior.npz.{dead}.tmp", f".best.safetensors.{alive}.tmp", ".checkpoint.safetensors.12.tmp"}
    (tmp_path / "plots").mkdir()
    for name in (*kept, *removed, f"plots/.curves.{dead}.tmp.png", f"plots/.curves.{alive}.tmp.png"):
        (tmp_path / name).touch()
    RunWriter(tmp_path).remove_leftovers()
    assert {file.name for file in tmp_path.iterdir()} == kept | {"plots"}
    assert [file.name for file in (tmp_path / "plots").iterdir()] == [f".curves.{alive}.tmp.png"]


def test_run_writer_in_a_directory_that_was_removed_says_so(tmp_path: Path) -> None:
    message = "metrics.jsonl cannot be written: No such file or directory: the run directory was removed or renamed"
    with pytest.raises(OSError, match=message):
        RunWriter(tmp_path / "gone").append_metrics({"epoch": 0})


def test_run_writer_on_a_full_disk_names_the_file_and_the_command_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    append_metrics(tmp_path, {"epoch": 0})
    monkeypatch.setattr(os, "fsync", full)
    for write in (
        lambda: RunWriter(tmp_path).append_metrics({"epoch": 1}),
        lambda: RunWriter(tmp_path).write_data_record({}),
        lambda: RunWriter(tmp_path).save_checkpoint("last", nn.Linear(1, 1)),
    ):
        with pytest.raises(
            OSError, match="cannot be written: No space left on device: free some space, and continue with"
        ):
            write()
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert read_metrics(tmp_path) == [{"epoch": 0}]


def test_write_arrays_writes_no_pickle(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", {"x.y": np.arange(3, dtype=np.uint8)})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["x.y"].tolist() == [0, 1, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]
