"""The commands ``train``, ``sample`` and ``aggregations`` on toy data that a plugin registers."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from pyro_mmvae import aggregations, load
from pyro_mmvae.cli import main
from pyro_mmvae.device import MOST_THREADS
from pyro_mmvae.runs.config import ModelConfig
from pyro_mmvae.runs.recipes import RECIPES
from pyro_mmvae.training.trainer import Trainer

PLUGIN = '''
"""Toy data and an aggregation, from outside the package."""
import pyro.distributions as dist
import torch
from pyro_mmvae import MultimodalDataset, register_aggregation
from pyro_mmvae.data import register_data


@register_data("plugged")
def load_plugged(
    split, *, cache=True, modalities=2, train_size=48, val_size=12, test_size=12, photographs=None, seed=0
):
    size = {"train": train_size, "val": val_size, "test": test_size}[split]
    generator = torch.Generator().manual_seed(seed + len(split))
    values = {f"m{m}": torch.rand(size, 1, 8, 8, generator=generator) for m in range(modalities)}
    values["m1"][:] *= POISON
    return MultimodalDataset(values, None, torch.ones(size, modalities, dtype=torch.bool), "plugged", split)


@register_aggregation("outsider", subsets="powerset")
def outsider(experts):
    """The mean of the locs, of scale 1."""
    weights = experts.mask.float() / experts.mask.sum(-1, keepdim=True).clamp(min=1)
    return dist.Normal((weights.unsqueeze(-1) * experts.loc).sum(-2), 1.0).to_event(1)
'''
CONFIG = """
data: {name: plugged, modalities: 2, train_size: 48, val_size: 12, test_size: 12}
model: {latent_size: 3, network: {width: 4, hidden: 8}}
train: {epochs: 2, batch_size: 16, lr: 1e-3, threads: 1, device: cpu, precision: fp32}
plugins: [toy_plugin]
"""
TRAIN = ("train", "--config", "toy.yaml", "--plugin", "toy_plugin", "--out", "out", "--quiet")


def write_plugin(folder: Path, poison: str = "1.0") -> None:
    (folder / "toy_plugin.py").write_text(PLUGIN.replace("POISON", poison))


@pytest.fixture
def place(elsewhere: Path, registered: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a working directory with a configuration and an importable plugin."""
    (elsewhere / "toy.yaml").write_text(CONFIG)
    write_plugin(elsewhere)
    monkeypatch.syspath_prepend(elsewhere)
    yield elsewhere
    sys.modules.pop("toy_plugin", None)


def invoke(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code, result.output
    return result


def refused(*words: str, code: int = 2) -> str:
    """Return the one-line error of a command that fails."""
    result = invoke(*words, code=code)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert isinstance(result.exception, SystemExit)
    return line


def trained(*more: str) -> Result:
    return invoke(*TRAIN, *more)


@pytest.mark.usefixtures("place")
def test_train_writes_a_run_that_can_be_sampled() -> None:
    result = trained("--agg", "mopoe", "--seed", "4", "--set", "train.batch_size=24", "--bound", "mixture")
    out = Path("out")
    assert {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()} == {
        "config.yaml", "environment.json", "data.json", "checkpoint.safetensors", "best.safetensors", "metrics.jsonl",
        "samples.npz", "prior.npz", "plots/curves.png", "plots/reconstructions.png", "plots/cross_generation.png",
        ".lock",
    }  # fmt: skip
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("best validation ELBO -")
    assert lines[1] == "run directory: out"
    assert {line.strip() for line in lines[2:5]} == {str(file) for file in (out / "plots").iterdir()}
    config = load(out).config
    assert (config.model.aggregation, config.model.bound, config.train.seed) == ("mopoe", "mixture", 4)
    assert (config.train.batch_size, config.train.epochs, config.model.latent_size) == (24, 2, 3)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    assert lines[-2].startswith("next: pyro-mmvae sample ")
    sampled = invoke(*shlex.split(lines[-2].removeprefix("next: pyro-mmvae ")))  # the suggested command works
    assert sampled.stdout == "grid.png: 8 draws given m0, seed 0\n"
    assert Path("grid.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("place")
def test_sample_prior_and_given_modalities_write_pictures() -> None:
    trained()
    prior = invoke("sample", "out", "--device", "cpu", "-n", "3", "--seed", "5")
    assert prior.stdout == "samples.png: 3 draws from the fitted prior (4 Gaussians), seed 5\n"
    first = Path("samples.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    given = invoke("sample", "out", "--given", "m0", "--checkpoint", "last", "--out", "new/folder/grid.png", "-n", "3")
    assert given.stdout == f"{Path('new/folder/grid.png')}: 3 draws given m0, seed 0\n"
    invoke("sample", "out", "-n", "3", "--seed", "5", "--out", "again.png")
    assert Path("again.png").read_bytes() == first
    invoke("sample", "out", "-n", "3", "--seed", "6", "--out", "other.png")
    assert Path("other.png").read_bytes() != first
    invoke("sample", "out", "--given", "m0, m1", "--generate", " m1 ", "--out", "both.pdf", "-n", "2")
    assert Path("both.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("name", ["mine.png", "mine.npz"])
def test_sample_existing_file_is_replaced_with_force_only(name: str) -> None:
    trained("--epochs", "0")
    Path(name).write_bytes(b"precious")
    line = refused("sample", "out", "-n", "2", "--out", name)
    assert line.startswith(f"error: {name} must not exist, got an existing path: choose another one, or pass --force")
    assert Path(name).read_bytes() == b"precious"
    assert invoke("sample", "out", "-n", "2", "--out", name, "--force").stdout.startswith(f"{name}: ")
    assert Path(name).read_bytes() != b"precious"


@pytest.mark.usefixtures("place")
def test_train_plugin_aggregation_trains_and_is_listed() -> None:
    trained("--agg", "outsider")
    assert load("out").config.model.aggregation == "outsider"
    listed = invoke("aggregations", "--plugin", "toy_plugin").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(aggregations())
    assert listed[-1].endswith("  The mean of the locs, of scale 1.")
    assert {"poe", "moe", "mopoe", "wb", "mwb", "outsider"} <= {line.split()[0] for line in listed}
    assert all(len(line.split()) > 3 for line in listed)


@pytest.mark.usefixtures("place")
def test_train_stopped_early_says_so_and_why() -> None:
    result = trained("--epochs", "9", "--set", "train.patience=1", "--set", "train.min_delta=1e9", "--threads", "auto")
    first = result.stdout.splitlines()[0]
    assert first.startswith("stopped early after epoch 2 of 9: the validation ELBO did not improve by more than 1e+09")
    assert load("out").config.train.threads == "auto"
    again = invoke("train", "--resume", "out", "--quiet")
    assert again.stdout.splitlines()[0] == first
    further = invoke("train", "--resume", "out", "--epochs", "3", "--quiet")
    assert "stopped early" not in further.stdout


@pytest.mark.usefixtures("place")
def test_train_log_level_writes_messages_to_standard_error() -> None:
    handlers, level = list(logging.getLogger("pyro_mmvae").handlers), logging.getLogger("pyro_mmvae").level
    result = trained("--log-level", "info")
    lines = result.stderr.splitlines()
    assert any("INFO pyro_mmvae.training.session: training out on cpu with fp32" in line for line in lines)
    assert "INFO" not in result.stdout
    logger = logging.getLogger("pyro_mmvae")
    assert (logger.handlers, logger.level) == (handlers, level)


@pytest.mark.usefixtures("place")
def test_train_resume_continues_and_refuses_other_settings() -> None:
    trained("--epochs", "1")
    result = invoke("train", "--resume", "out", "--epochs", "3", "--quiet")
    assert "run directory: out" in result.stdout
    rows = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    again = invoke("train", "--resume", "out", "--quiet").stdout
    assert again.startswith("note: out has all its 3 epochs: nothing was trained; --epochs N trains more\n")
    fewer = refused("train", "--resume", "out", "--epochs", "1")
    assert fewer == "error: out: epochs must be at least 3, which the run has trained already, got 1"
    assert "epochs: 3" in Path("out/config.yaml").read_text()
    assert "leave out aggregation" in refused("train", "--resume", "out", "--agg", "wb")
    assert "leave out overrides" in refused("train", "--resume", "out", "--set", "train.lr=1")
    assert "leave out --out" in refused("train", "--resume", "out", "--out", "elsewhere")
    assert "is not a run directory" in refused("train", "--resume", "nowhere")
    metrics = Path("out/metrics.jsonl")
    metrics.write_text(json.dumps({**rows[-1], "val": 5}) + "\n")
    assert refused("train", "--resume", "out") == f"error: {metrics}, line 1: val must be a mapping, got 5"
    metrics.write_text("")
    emptied = invoke("train", "--resume", "out", "--quiet").stdout
    assert "nats per item, epoch " in emptied
    assert emptied.startswith("note: out has all its 3 epochs")


@pytest.mark.usefixtures("place")
def test_train_resume_with_an_edited_setting_is_refused_without_force() -> None:
    trained("--epochs", "1", "--set", "train.fit_prior=0")
    file = Path("out/config.yaml")
    file.write_text(file.read_text().replace("beta: 1.0", "beta: 2.0"))
    line = refused("train", "--resume", "out", "--epochs", "2")
    assert line.startswith(
        "error: out/config.yaml: the settings have changed since the last checkpoint: model.beta: 1.0"
    )
    invoke("train", "--resume", "out", "--epochs", "2", "--force", "--quiet")
    changes = json.loads(Path("out/environment.json").read_text())["resumed"][0]["changes"]
    assert changes == ["model.beta: 1.0 → 2.0", "train.epochs: 1 → 2"]
    assert "--force must come with --resume" in refused("train", "--force")


def test_train_help_has_the_bound_of_every_recipe() -> None:
    text = " ".join(invoke("train", "--help").stdout.split())
    others = {
        name: recipe.settings["model.bound"] for name, recipe in RECIPES.items() if "model.bound" in recipe.settings
    }
    stated = [f"{bound} with the recipe {name}" for name, bound in others.items()]
    assert f"[default: ({', '.join(stated)}, otherwise {ModelConfig().bound}, or that of --config)]" in text


@pytest.mark.usefixtures("place")
def test_train_ctrl_c_saves_and_prints_how_to_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.step

    def interrupted(self: Trainer, batch: Any) -> Tensor:
        if self.steps == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        result = invoke(*TRAIN, code=130)
    assert result.stderr == (
        "interrupted in epoch 1; everything is saved in out\ncontinue with: pyro-mmvae train --resume out "
        "--plugin toy_plugin\n"
    )
    invoke("train", "--resume", "out", "--quiet")
    assert len(Path("out/metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("poison", ["float('nan')", "float('inf')"])
def test_train_non_finite_data_fails_in_one_line(place: Path, poison: str) -> None:
    write_plugin(place, poison)
    line = refused(*TRAIN, code=1)
    assert "step 0 (epoch 1)" in line
    assert "log p(m1 | z)" in line
    assert "no checkpoint is good" in line
    assert "no checkpoint is good" not in refused("sample", "out", code=2)


OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nframe #0"


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "error", [RuntimeError(OUT_OF_MEMORY), MemoryError(), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_train_out_of_memory_in_a_step_fails_in_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def step(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Trainer, "step", step)
    line = refused(*TRAIN, code=1)
    assert line.startswith("error: epoch 1: memory must hold a step and its gradients, got ")
    assert "Try a smaller train.batch_size" in line
    assert "frame" not in line


def test_train_other_error_in_a_step_is_not_one_of_memory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: Any) -> None:
        raise RuntimeError("other")

    monkeypatch.setattr(Trainer, "step", step)
    assert str(CliRunner().invoke(main, TRAIN).exception) == "other"


@pytest.mark.usefixtures("place")
def test_sample_beyond_memory_fails_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    trained("--epochs", "0")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(OUT_OF_MEMORY)

    monkeypatch.setattr("pyro_mmvae.runs.sampling.draw_samples", fail)
    line = refused("sample", "out")
    assert line.startswith("error: the samples must fit into memory, got an error: DefaultCPUAllocator")
    assert line.endswith(": draw fewer (-n)")
    monkeypatch.setattr("pyro_mmvae.training.memory.total_memory", lambda _: 2**20)
    line = refused("sample", "out", "-n", "2000000000")
    assert line.startswith("error: the samples must fit into the memory of cpu, 1 MiB, got 2000000000 draws of ")
    assert not Path("samples.png").exists()


REFUSALS = [
    (("--agg", "web"), "unknown aggregation 'web', did you mean 'wb'? Available: poe, moe, mopoe, wb, mwb"),
    (("--data", "mnist"), "unknown data set 'mnist'. Available: "),
    (
        ("--set", "model.reconstruction_weights={m9: 1}"),
        "model.reconstruction_weights names 'm9', the data has m0, m1",
    ),
    (("--set", "train.rate=1"), "train.rate: no such setting"),
    (("--set", "train.lr=fast"), "train.lr: "),
    (("--set", "train.optimizer=sdg"), "train.optimizer: unknown optimizer 'sdg', did you mean 'SGD'?"),
    (("--set", "train.callbacks=[tensorbord]"), "unknown callback 'tensorbord', did you mean 'tensorboard'?"),
    (("--threads", "0"), "train.threads: must be a positive number, auto, or null"),
    (("--set", "train.lr"), "is not of the form section.key=value"),
    (("--set", "model.expert_weights=[1]"), "one number per modality, in the order m0, m1, got 1"),
    (("--device", "warp"), "device 'warp' is unavailable"),
    (("--plugin", "no_such_plugin"), "plugin 'no_such_plugin' cannot be imported"),
    (("--config", "missing.yaml"), "cannot read the configuration missing.yaml: No such file or directory"),
]


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(("words", "expected"), REFUSALS, ids=[" ".join(words) for words, _ in REFUSALS])
def test_train_invalid_settings_fail_in_one_line_without_files(words: tuple[str, ...], expected: str) -> None:
    assert expected in refused(*TRAIN, *words)
    assert not Path("out").exists()


@pytest.mark.usefixtures("place")
def test_train_too_many_components_advise_the_component_bound() -> None:
    words = ("--agg", "mwb", "--bound", "mixture", "--set", "data.modalities=13", "--set", "data.train_size=4")
    assert "bound='component'" in refused(*TRAIN, *words)
    assert not Path("out").exists()


@pytest.mark.usefixtures("place")
def test_train_existing_folder_is_refused_and_unchanged() -> None:
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("mine")
    line = refused(*TRAIN)
    assert line == "error: out exists already: give another --out, or continue it with --resume out"
    assert [file.name for file in Path("out").iterdir()] == ["thesis.txt"]
    invoke("train", "--config", "toy.yaml", "--plugin", "toy_plugin", "--quiet", "--epochs", "0")
    invoke("train", "--config", "toy.yaml", "--plugin", "toy_plugin", "--quiet", "--epochs", "0")
    assert {path.name for path in Path("runs").iterdir()} == {"plugged-wb-seed0", "plugged-wb-seed0-2"}


@pytest.mark.usefixtures("place")
def test_sample_invalid_arguments_fail_in_one_line() -> None:
    trained("--epochs", "0")
    for words, expected in (
        (("out", "--given", "m9"), "unknown modality 'm9'; the run has m0, m1"),
        (("out", "--generate", "m9"), "unknown modality 'm9'"),
        (("out", "--given", "m0", "-n", "13"), "count must be at most 12, the test items with m0, got 13"),
        (("nowhere",), "nowhere is not a run directory"),
        (("out", "--device", "warp"), "device 'warp' is unavailable"),
        (("out", "--out", "a.doc"), "a.doc: the suffix of a picture must be one of"),
    ):
        assert expected in refused("sample", *words)
    assert not Path("samples.png").exists()
    Path("out/checkpoint.safetensors").write_bytes(b"x")
    assert "checkpoint.safetensors: damaged" in refused("sample", "out")


@pytest.mark.usefixtures("place")
def test_commands_show_usage_for_help_and_invalid_options() -> None:
    for words in (("train", "--epochs", "-1"), ("train", "--bound", "x"), ("sample",), ("fly",), ("train", "--fast")):
        result = invoke(*words, code=2)
        assert "Usage: " in result.stderr
    for words in (("--help",), ("train", "-h"), ("sample", "--help"), ("aggregations", "-h")):
        assert "Usage: " in invoke(*words).stdout


@pytest.mark.parametrize(
    "words",
    [
        *(
            (name, "RUN", "--seed", "9" * 23)
            for name in ("sample", "evaluate", "ppc", "fit-prior", "report", "calibrate")
        ),
        ("sample", "RUN", "-n", "1000000000000"),
        ("score", "RUN", "--draws", "1000000000000"),
        ("evaluate", "RUN", "--samples", "1000000000000"),
        ("ppc", "RUN", "--num-samples", "1000000000000"),
        ("evaluate", "RUN", "--threads", "1000000000000"),
    ],
    ids=" ".join,
)
def test_commands_with_a_number_beyond_its_range_name_the_option_and_the_range(words: tuple[str, ...]) -> None:
    result = invoke(*words, code=2)
    assert re.search(rf"Invalid value for '{words[2]}'.*: {words[3]} is not in the range \d+<=x<=\d+", result.stderr)


def test_option_threads_has_the_largest_number_of_the_setting() -> None:
    (kind,) = (option.type for option in main.commands["evaluate"].params if option.name == "threads")
    assert isinstance(kind, click.IntRange)
    assert kind.max == MOST_THREADS


@pytest.mark.usefixtures("place")
def test_plain_errors_debug_variable_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRO_MMVAE_DEBUG", "1")
    result = CliRunner().invoke(main, ["train", "--config", "toy.yaml", "--plugin", "toy_plugin", "--agg", "web"])
    assert isinstance(result.exception, ValueError)


def test_train_threads_option_is_restored(place: Path) -> None:
    before = torch.get_num_threads()
    trained("--epochs", "0", "--threads", "2")
    assert torch.get_num_threads() == before
    assert place.joinpath("out").is_dir()
