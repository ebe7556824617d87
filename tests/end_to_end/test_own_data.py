"""User data from the command line to figures, and the effect of missing modalities on training and evaluation."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from pyro_mmvae import Batch, Modality, MultimodalDataset, MultimodalVAE, load, runs, train
from pyro_mmvae.cli import main
from pyro_mmvae.data import Missing, make_batch
from pyro_mmvae.evaluation.likelihood import sample_importance
from pyro_mmvae.evaluation.ppc import posterior_predictive
from pyro_mmvae.experiments import make_cells
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.runs.config import make_config
from pyro_mmvae.runs.sampling import training_samples
from pyro_mmvae.runs.train_settings import TrainConfig
from pyro_mmvae.training import Trainer, evaluate_elbo, resume, session

N = 90
SETTINGS = TrainConfig(lr=1e-2, schedule="constant", device="cpu", precision="fp32", threads=1, batch_size=16)
FAST = ("--quiet", "--epochs", "1", "--threads", "1", "--device", "cpu", "--precision", "fp32")
SMALL = [f"--set={word}" for word in ("model.latent_size=3", "model.network.width=4", "model.network.hidden=8")]


@pytest.fixture
def folder(elsewhere: Path) -> Path:
    """Return a folder with an image, counts and tokens of four shared classes, some of each missing."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, N)
    image = generator.integers(0, 40, (N, 3, 10, 8), dtype=np.uint8)
    for row, label in enumerate(labels):
        image[row, :, 5 * (label // 2) : 5 * (label // 2) + 5, 4 * (label % 2) : 4 * (label % 2) + 4] += 180
    rates = generator.gamma(1.0, 3.0, (4, 6))
    present = generator.random((N, 3)) < 0.8
    present[~present.any(-1)] = True
    folder = elsewhere / "mine"
    folder.mkdir()
    np.save(folder / "image.npy", image)
    np.save(folder / "rna.npy", generator.poisson(rates[labels]))
    np.save(folder / "words.npy", (labels[:, None] + generator.integers(0, 2, (N, 4))) % 5)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "present.npy", present)
    (folder / "meta.yaml").write_text("modalities: {rna: {kind: counts, weight: 0.5}, words: {kind: tokens}}\n")
    return folder


def invoke(*words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code, result.output
    return result


def refused(*words: str) -> str:
    result = invoke(*words, code=2)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def trained(*words: str) -> Any:
    return invoke("train", "--data", "mine", "--out", "out", *FAST, *SMALL, *words)


@pytest.mark.usefixtures("folder")
def test_folder_of_three_data_types_trains_samples_and_evaluates(folder: Path) -> None:
    trained("--agg", "mwb", "--set", "data.missing_rate={rna: 3e-1}", "--set", "data.split_seed=2")
    data = yaml.safe_load(Path("out/config.yaml").read_text())["data"]
    assert data == {
        "name": str(folder), "kinds": None, "missing_nan": None, "allow_constant": None, "split_seed": 2,
        "memory_map": None, "missing_rate": {"rna": 0.3}, "missing_by_label": None, "missing_seed": 0,
        "missing_splits": ["train", "val"], "allow_empty": False, "tokenizer": None,
    }  # fmt: skip
    run = load("out")
    kinds = {m.name: (m.likelihood, m.network, m.scale, m.reconstruction_weight, m.classes) for m in run.vae.modalities}
    assert kinds["image"] == ("laplace", "auto", 0.75, 1.0, None)
    assert kinds["rna"][0] == "negative_binomial"
    assert kinds["rna"][3] == 0.5
    assert kinds["words"][::4] == ("categorical", 5)
    gaps = run.data("train")
    assert gaps.present[:, 1].float().mean() < 0.7
    values = next(m for m in run.vae.modalities if m.name == "rna").reference_total
    totals = gaps.tensors["rna"][gaps.present[:, 1]].sum(-1)
    assert values == totals[totals > 0].median()

    printed = invoke("sample", "out", "--given", "image", "-n", "3", "--device", "cpu").stdout.splitlines()
    assert printed == [
        "samples.png: 3 draws given image, seed 0",
        "samples.npz: generated.rna, generated.words; 3 draws given image, seed 0",
    ]
    with np.load("samples.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {"generated.rna": (3, 6), "generated.words": (3, 4)}
        assert ((arrays["generated.words"] >= 0) & (arrays["generated.words"] < 5)).all()
    printed = invoke("sample", "out", "--given", "rna,words", "--generate", "words", "-n", "2", "--out", "b.png").stdout
    assert printed.splitlines() == [
        "b.png: 2 draws given rna, words, seed 0",
        "b.npz: given.rna, given.words, generated.words; 2 draws given rna, words, seed 0",
    ]
    assert Path("b.png").read_bytes().startswith(b"\x89PNG")

    invoke("evaluate", "out", "--quiet", "--device", "cpu", "--threads", "1", "--samples", "4", "--khat-items", "5")
    summary = json.loads(Path("out/evaluation/summary.json").read_text())
    assert set(summary["classifier_accuracy"]) == {"image", "rna", "words"}
    rows = Path("out/evaluation/metrics.csv").read_text().splitlines()
    assert {"probe", "coherence", "log_likelihood", "ess", "mse", "exact_match", "khat"} <= {
        row.split(",")[0] for row in rows[1:]
    }
    assert all(math.isfinite(float(row.rsplit(",", 3)[1])) for row in rows[1:] if not row.startswith("khat"))

    invoke("train", "--resume", "out", "--epochs", "2", "--quiet")
    assert yaml.safe_load(Path("out/config.yaml").read_text())["data"] == data
    Path("mine/rna.npy").unlink()
    assert load("out").names == ("image", "rna", "words")  # a run can be loaded without its data


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--set", "data.splitseed=1"), "option of 'mine' must be one of kinds, missing_nan, "),
        (("--set", "data.split_seed=x"), "option 'split_seed' of 'mine' must be of type int, got 'x'"),
        (("--set", "data.missing_rate=2"), "missing_rate must be a number from 0 to 1, got 2.0"),
        (
            ("--set", "data.missing_rate={rnb: 0.1}"),
            "missing_rate: modality must be one of image, rna, words, got 'rnb'",
        ),
        (
            ("--set", "data.missing_splits=[trian]", "--set", "data.missing_rate=0.1"),
            "missing_splits must be some of train, val, test, got 'trian'",
        ),
        (
            ("--set", "model.modalities.rnb.reconstruction_weight=1"),
            "model.modalities names 'rnb', the data has image, rna, words",
        ),
        (("--set", "model.modalities.rna.likelihood=normal"), "model.modalities.rna: likelihood 'normal' does not fit"),
        (
            ("--set", "model.modalities.words.classes=3"),
            "model.modalities.words: classes must be at least 5 as in the data, got 3",
        ),
        (("--set", "model.modalities.rna.network=conv"), "network 'conv' needs images"),
        (("--data", "theirs"), "unknown data set 'theirs'. Available: "),
    ],
)
def test_train_unfit_settings_fail_in_one_line_without_files(words: tuple[str, ...], expected: str) -> None:
    assert expected in refused("train", "--data", "mine", "--out", "out", *FAST, *SMALL, *words)
    assert not Path("out").exists()


def test_train_modality_settings_override_the_data(folder: Path) -> None:
    modalities = {
        "rna": {"likelihood": "poisson", "reconstruction_weight": "2"},
        "image": {"likelihood": "normal", "scale": "learned", "network": "mlp"},
        "words": {"classes": 9},
    }
    config = make_config(
        None,
        {
            "data.name": str(folder), "model.modalities": modalities,
            "model.reconstruction_weights": {"rna": 5, "words": 3},
            "model.network.hidden": 8, "model.scale": 0.2, "train.epochs": 0, "train.threads": 1,
        },
    )  # fmt: skip
    run = train(config, "out", progress=False)
    by_name = {m.name: m for m in run.vae.modalities}
    assert (by_name["rna"].likelihood, by_name["rna"].reconstruction_weight) == ("poisson", 2.0)
    image = by_name["image"]
    assert (image.likelihood, image.scale, image.network) == ("normal", "learned", "mlp")
    assert (by_name["words"].classes, by_name["words"].reconstruction_weight) == (9, 3.0)
    assert run.model.reconstruction_weights == {"image": 1.0, "rna": 2.0, "words": 3.0}
    shared = make_config(None, {"data.name": str(folder), "model.likelihood": "normal", "model.scale": 0.2})
    settled = runs.resolve_modalities(shared, session.infer_specs(run.data("train")))
    assert {name: (t.likelihood, t.scale) for name, t in settled.items()} == {
        "image": ("normal", 0.2), "rna": ("negative_binomial", None), "words": ("categorical", None)
    }  # fmt: skip


def test_load_run_with_partial_configuration_fills_in_defaults(toy_config: Any, tmp_path: Path) -> None:
    config = toy_config(train__epochs=1)
    before = train(config, tmp_path / "wb-seed0", progress=False)
    file = tmp_path / "wb-seed0" / "config.yaml"
    tree = yaml.safe_load(file.read_text())
    old = ("name", "modalities", "train_size", "val_size", "test_size", "photographs", "seed")
    tree["data"] = {key: tree["data"][key] for key in old}
    tree["model"] |= {"likelihood": "laplace", "scale": 0.75}
    del tree["model"]["modalities"]
    file.write_text(yaml.safe_dump(tree))
    run = load(tmp_path / "wb-seed0")
    assert [m.likelihood for m in run.vae.modalities] == ["laplace"] * 3
    assert len(run.data("train")) == 96
    z = torch.randn(2, 4)
    assert all(torch.equal(a, b) for a, b in zip(run.decode(z).values(), before.decode(z).values(), strict=True))
    resolved = runs.resolve(runs.read_config(tmp_path / "wb-seed0"))
    assert resolved.data == runs.resolve(config).data
    assert make_cells(tmp_path, {("wb", "", 0): resolved})[0].path == tmp_path / "wb-seed0"
    other = toy_config(train__epochs=1, data__seed=1, model__likelihood="laplace", model__scale=0.75)
    with pytest.raises(runs.RunError, match="must have the settings of this comparison"):
        make_cells(tmp_path, {("wb", "", 0): other})
    resume(tmp_path / "wb-seed0", epochs=2, progress=False, force=True)
    assert make_config(file).data == resolved.data


def test_resolve_converts_and_is_idempotent(toy_config: Any) -> None:
    config = toy_config(data__train_size="48", data__missing_by_label={"3": "1e-1"}, data__photographs=["x"])
    resolved = runs.resolve(config)
    assert resolved.data.options()["train_size"] == 48
    assert resolved.data.options()["missing_by_label"] == {"3": 0.1}
    assert resolved.data.options()["photographs"] == ("x",)
    assert runs.resolve(resolved) == resolved
    assert len(runs.load_split(config, "train")) == 48


# Missing modalities --------------------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "a": {"shape": (1, 8, 8)},
    "c": {"shape": (5,), "likelihood": "negative_binomial", "reference_total": 9.0},
    "t": {"shape": (3,), "likelihood": "categorical", "classes": 4},
    "v": {"shape": (2,), "likelihood": "normal", "scale": "learned"},
}


def dataset(present: torch.Tensor | None = None, items: int = 24) -> MultimodalDataset:
    generator = torch.Generator().manual_seed(0)
    values = {
        "a": torch.randint(0, 256, (items, 1, 8, 8), dtype=torch.uint8, generator=generator),
        "c": torch.poisson(torch.full((items, 5), 2.0), generator=generator),
        "t": torch.randint(0, 4, (items, 3), generator=generator),
        "v": torch.randn(items, 2, generator=generator),
    }
    present = torch.ones(items, 4, dtype=torch.bool) if present is None else present
    labels = torch.arange(items) % 2
    return MultimodalDataset(values, labels, present, "kinds", "train")


def make(aggregation: str = "mwb", bound: str = "component") -> MultimodalVAE:
    torch.manual_seed(0)
    modalities = [Modality(name, **kind) for name, kind in KINDS.items()]
    return MultimodalVAE(modalities, 3, aggregation, bound=bound, network=NetworkOptions(width=4, hidden=8))


def masked(batch: Batch) -> Batch:
    return Batch(batch.values, {name: torch.ones(len(batch), dtype=torch.bool) for name in batch.values})


@pytest.mark.parametrize("aggregation", ["poe", "moe", "mopoe", "wb", "mwb"])
@pytest.mark.parametrize("bound", ["mixture", "component"])
def test_batch_all_true_mask_equals_no_mask(aggregation: str, bound: str) -> None:
    batch = make_batch(dataset(), slice(None))
    results = []
    for given in (batch, masked(batch)):
        vae = make(aggregation, bound)
        trainer = Trainer(vae, SETTINGS, total_steps=5)
        losses = [trainer.step(given) for _ in range(3)]
        vae.eval()
        torch.manual_seed(1)
        with torch.no_grad():
            experts = vae.guide.experts(given)
            drawn = sample_importance(vae, experts, given, (0, 2), 4)
            check = posterior_predictive(vae, given, ("c",), samples=3)
        replicated = [torch.from_numpy(value) for value in check.replicated.values()]
        results.append([*losses, *vae.state_dict().values(), drawn.log_weights(vae.names), *replicated])
    assert all(torch.equal(without, masked_value) for without, masked_value in zip(*results, strict=True))


@pytest.mark.parametrize("aggregation", ["poe", "moe", "mopoe", "wb", "mwb"])
@pytest.mark.parametrize("bound", ["mixture", "component"])
def test_trainer_empty_items_contribute_zero(aggregation: str, bound: str) -> None:
    vae = make(aggregation, bound)
    data = dataset(torch.zeros(24, 4, dtype=torch.bool))
    data.tensors["v"][:] = math.nan
    batch = make_batch(data, slice(0, 8))
    loss = Trainer(vae, SETTINGS, total_steps=5).loss(batch)
    loss.backward()
    assert abs(float(loss.detach())) < 1e-5
    for parameter in vae.parameters():
        assert parameter.grad is None or float(parameter.grad.abs().max()) < 1e-5
    assert abs(evaluate_elbo(vae, data)["elbo"]) < 1e-5


def test_training_samples_ignore_absent_values(toy_config: Any, tmp_path: Path) -> None:
    run = train(toy_config(train__epochs=0, data__missing_rate=0.5), tmp_path / "run", progress=False)
    data = run.data("val")
    poisoned = dataclasses.replace(data, modalities={name: value.clone() for name, value in data.tensors.items()})
    for number, value in enumerate(poisoned.tensors.values()):
        value[~data.present[:, number]] = 255
    pictures, poisoned_pictures = training_samples(run, data), training_samples(run, poisoned)
    assert set(pictures) == set(poisoned_pictures)
    assert all((pictures[name] == poisoned_pictures[name]).all() for name in pictures)
    chosen = pictures["observed.m0"].reshape(10, -1)
    assert (chosen == 0).all(1).any()  # absent images are black


def test_trainer_missing_modalities_stay_finite() -> None:
    """Train on batches without a modality, items with one or none, and invalid values in absent slots."""
    missing = Missing(missing_rate=0.6, allow_empty=True)
    data = missing.apply(dataset())
    assert (~data.present).all(-1).any()
    data.present[:16, 1] = False
    data.tensors["v"][~data.present[:, 3]] = math.nan
    data.tensors["t"][~data.present[:, 2]] = -9
    data.tensors["c"][~data.present[:, 1]] = -1.0
    vae = make()
    trainer = Trainer(vae, SETTINGS, total_steps=30)
    for index in (*range(24), slice(0, 8), slice(8, 24)):
        rows = index if isinstance(index, slice) else slice(index, index + 1)
        assert trainer.step(make_batch(data, rows)).isfinite()
    assert all(parameter.isfinite().all() for parameter in vae.parameters())
    elbo = evaluate_elbo(vae, data)
    assert all(math.isfinite(value) for value in (elbo["elbo"], elbo["kl"], *elbo["log_likelihood"].values()))
    clean = MultimodalDataset(dataset().modalities, data.labels, data.present, "kinds", "train")
    assert evaluate_elbo(vae, clean)["elbo"] == elbo["elbo"]
    each = [evaluate_elbo(vae, data.subset([i]))["elbo"] for i in range(24)]
    assert all(math.isfinite(value) for value in each)
