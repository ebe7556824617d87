"""MNIST-SVHN-TEXT from end to end: configurations, training, resumption, samples, evaluation, checks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor

import pyro_mmvae
from pyro_mmvae import load, runs, train
from pyro_mmvae.cli import main
from pyro_mmvae.data import cache_folder, make_batch
from pyro_mmvae.data.text import ALPHABET
from pyro_mmvae.evaluation import classifiers, train_classifiers
from pyro_mmvae.evaluation.ppc import posterior_predictive
from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.runs.config import Config, ConfigError, make_config
from pyro_mmvae.runs.run import Run, build_vae
from pyro_mmvae.runs.sampling import draw_samples
from pyro_mmvae.training import Interrupted, resume
from pyro_mmvae.training.trainer import Trainer, batches
from tests.digit_samples import write_idx, write_mat

CONFIGS = Path(pyro_mmvae.__file__).parents[1] / "configs"
RECIPE, SHORT = CONFIGS / "mnist-svhn-text.yaml", CONFIGS / "mnist-svhn-text-cpu.yaml"
SHAPES = {"mnist": [1, 28, 28], "svhn": [3, 32, 32], "text": [8]}
TRAITS = {
    "mnist": ModalitySpec(data_type="image", pixels=True),
    "svhn": ModalitySpec(data_type="image", pixels=True),
    "text": ModalitySpec(data_type="tokens", classes=71, alphabet=ALPHABET),
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_make_config_every_shipped_configuration_is_valid(path: Path) -> None:
    assert make_config(path).data.name


@pytest.mark.parametrize("path", [RECIPE, SHORT], ids=lambda path: path.stem)
def test_build_vae_configuration_matches_the_published_model(path: Path) -> None:
    config = make_config(path)
    vae = build_vae(config, SHAPES, runs.resolve_modalities(config, TRAITS))
    networks = {
        group[0]: type(net).__name__
        for group, net in zip(vae.guide.encode.groups, vae.guide.encode.networks, strict=True)
    }
    assert networks == {"mnist": "MLPEncoder", "svhn": "Conv4Encoder", "text": "TextEncoder"}
    for name, shape in SHAPES.items():
        assert vae.model.reconstruction_weights[name] == pytest.approx(3072 / np.prod(shape), rel=1e-4)
    assert (vae.latent_size, vae.model.beta, vae.guide.bound) == (20, 2.5, "component")
    likelihoods: dict[str, Any] = dict(vae.model.likelihoods.items())
    assert [likelihoods[name].scale for name in ("mnist", "svhn")] == [0.75, 0.75]
    assert [likelihoods[name].output for name in ("mnist", "svhn")] == ["sigmoid", "identity"]
    assert likelihoods["text"].is_categorical
    with torch.no_grad():
        decoded = vae.decode(50 * torch.randn(20, 20))
    assert 0 <= decoded["mnist"].min() < decoded["mnist"].max() <= 1
    assert decoded["svhn"].min() < 0
    torch.testing.assert_close(decoded["text"].sum(-1), torch.ones(20, 8))


def test_make_config_recipe_matches_the_published_optimisation() -> None:
    train = make_config(RECIPE).train
    assert (train.batch_size, train.lr, train.epochs, train.betas) == (256, 1e-3, 200, (0.9, 0.999))
    assert (train.schedule, train.precision) == ("constant", "fp32")
    assert make_config(RECIPE).data.pairings == 20


def test_make_config_unfit_modality_settings_raise() -> None:
    config = make_config(RECIPE, {"model.modalities.text.output": "sigmoid"})
    with pytest.raises(ValueError, match=r"model.modalities.text: likelihood 'categorical' does not take output"):
        runs.resolve_modalities(config, TRAITS)
    with pytest.raises(ConfigError, match=r"model.modalities.mnist: output must be one of identity, sigmoid, got"):
        make_config(RECIPE, {"model.modalities.mnist.output": "tanh"})
    config = make_config(RECIPE, {"model.modalities.mnist.network": "resnet"})
    with pytest.raises(ValueError, match=r"model.modalities.mnist: unknown network 'resnet'"):
        runs.resolve_modalities(config, TRAITS)


def small(root: Path, **changes: Any) -> Config:
    return make_config(
        SHORT,
        {
            "data.root": str(root), "data.val_share": 0.2, "model.aggregation": "mwb", "model.network.width": 4,
            "model.network.hidden": 16, "model.latent_size": 4, "train.epochs": 2, "train.batch_size": 64,
            "train.threads": 1, "train.device": "cpu", "train.precision": "fp32", **changes,
        },
    )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "digits"
    folder.mkdir()
    return write_mat(write_idx(folder))


def test_resume_redraws_the_same_text(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(root)
    uninterrupted = train(config, tmp_path / "uninterrupted", progress=False)
    step, texts = Trainer.step, list[Tensor]()

    def interrupted(self: Trainer, batch: Any) -> Tensor:
        texts.append(batch.values["text"])
        if self.steps == 4:
            raise Interrupted(tmp_path / "parts", 1)
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "parts", progress=False)
    resume(tmp_path / "parts", progress=False)
    values, resumed = (load_file(tmp_path / run / "checkpoint.safetensors") for run in ("uninterrupted", "parts"))
    assert all(torch.equal(value, resumed[name]) for name, value in values.items())
    data = uninterrupted.data("train")
    for epoch, number, seen in ((0, 0, texts[0]), (0, 2, texts[2]), (1, 0, texts[3])):
        index = batches(len(data), 64, 0, epoch)[number]
        assert torch.equal(seen, data.at_epoch(epoch).modalities["text"][index])
        assert torch.equal(seen, data.at_epoch(1 - epoch).modalities["text"][index]) is False
    assert uninterrupted.alphabet("text") == ALPHABET
    assert uninterrupted.alphabet("mnist") is None


def test_mnist_svhn_text_trains_samples_evaluates_and_checks(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifiers, "_MAX_ITEMS", 128)  # a few steps for images, whose accuracy does not matter
    run = train(small(root, **{"train.epochs": 1}), tmp_path / "run", progress=False)
    with np.load(run.path / "samples.npz", allow_pickle=False) as file:
        pictures = dict(file)
    assert pictures["observed.text"].shape == (10,)
    assert {str(text).strip() for text in pictures["observed.text"]} == {
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"
    }  # fmt: skip
    assert all(len(text) == 8 for text in pictures["generated.mnist.text"])
    assert pictures["generated.text.svhn"].shape == (10, 3, 32, 32)
    check_samples(run.path, tmp_path)
    check_evaluation(run.path)
    check_ppc(load(run.path))


def check_ppc(run: Run) -> None:
    """Check the statistics of replicated texts."""
    train, test = run.data("train"), run.data("test").subset(range(20))
    judges = train_classifiers(train, run.data("test"), cache=cache_folder() / train.fingerprint)
    batch = make_batch(test, slice(None))
    predictive = posterior_predictive(run.vae, batch, ("mnist",), samples=3, classifiers=judges)
    keys = [key for key in predictive.replicated if key.startswith("text.")]
    assert keys == ["text.predicted_class", *(f"text.token_frequency.{token}" for token in range(71))]
    assert test.labels is not None
    assert np.array_equal(predictive.observed["text.predicted_class"], test.labels.numpy())
    letters = (test.tensors["text"] == ALPHABET.index("e")).double().mean(-1)
    assert np.array_equal(predictive.observed[f"text.token_frequency.{ALPHABET.index('e')}"], letters.numpy())
    frequencies = sum(predictive.replicated[key] for key in keys[1:])
    assert np.allclose(frequencies, 1.0)


def check_samples(run: Path, folder: Path) -> None:
    """Check that ``sample`` shows text in the grid and in the terminal, and stores its tokens."""
    out = folder / "grid.png"
    words = ["sample", str(run), "--given", "mnist,text", "-n", "4", "--out", str(out)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("  given text")]
    texts = line.split("|")[1:-1]
    assert [len(text) for text in texts] == [8] * 4
    with np.load(folder / "grid.npz", allow_pickle=False) as file:
        tokens = file["given.text"]
    assert [[ALPHABET[t] for t in row] for row in tokens] == [list(text) for text in texts]
    # A row of texts makes the picture of three rows higher than one of the two rows of images alone.
    with_text = matplotlib.image.imread(out).shape[0]
    only_images = CliRunner().invoke(main, ["sample", str(run), "--given", "mnist", "--generate", "svhn", "-n", "4",
                                            "--out", str(out), "--force"])  # fmt: skip
    assert only_images.exit_code == 0, only_images.output
    assert with_text > matplotlib.image.imread(out).shape[0] + 10
    drawn = draw_samples(load(run), (), ("text", "svhn"), 3)
    assert drawn.generated["text"].dtype.kind == "U"
    assert drawn.generated["svhn"].shape == (3, 3, 32, 32)
    words = ["sample", str(run), "--generate", "text", "-n", "2", "--out", str(out)]
    out.unlink()
    beside = CliRunner().invoke(main, words)  # refused for the arrays alone, without writing the picture
    assert (beside.exit_code, out.exists()) == (2, False)
    assert f"{folder / 'grid.npz'} must not exist" in beside.output.replace("\n", " ")
    text_only = CliRunner().invoke(main, [*words, "--force"])
    assert text_only.exit_code == 0, text_only.output
    assert matplotlib.image.imread(out).std() > 0  # the texts are drawn


def check_evaluation(run: Path) -> None:
    """Check that ``evaluate`` judges text."""
    words = ["evaluate", str(run), "--khat-items", "0", "--likelihood-items", "20", "--samples", "4",
             "--no-diagnostics", "--quiet"]  # fmt: skip
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    assert set(summary["classifier_accuracy"]) == {"mnist", "svhn", "text"}
    with (run / "evaluation" / "metrics.csv").open() as table:
        rows = list(csv.DictReader(table))
    coherence = [row for row in rows if row["metric"] == "coherence"]
    assert {row["target"] for row in coherence} == {"mnist", "svhn", "text"}
    assert all(row["protocol"].endswith("mean of the likelihood, of tokens the most probable") for row in coherence)
    assert {row["target"] for row in rows if row["metric"] == "exact_match"} == {"text"}
    joint = [row["protocol"].split(",")[0] for row in rows if row["metric"] == "joint_coherence"]
    assert joint == ["1000 prior draws", "1000 draws of the fitted prior (10 Gaussians)"]
