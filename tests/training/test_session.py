"""Whole trainings on toy data: their results, their files, and their errors."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor

from pyro_mmvae import (
    BarycentricGuide,
    Experts,
    MultimodalDataset,
    Penalty,
    Run,
    __version__,
    aggregations,
    fit,
    load,
    register_penalty,
    resume,
    runs,
    train,
)
from pyro_mmvae.data import register_data
from pyro_mmvae.runs import RunError, read_config, read_metrics
from pyro_mmvae.runs.checkpoint import FORMAT_VERSION, read_state
from pyro_mmvae.runs.config import Config, make_config
from pyro_mmvae.training import TrainingError, evaluate_elbo, session
from pyro_mmvae.training.elbo import ElboEstimate
from pyro_mmvae.training.trainer import Trainer

MakeConfig = Callable[..., Config]


def weights(path: Path) -> dict[str, Tensor]:
    return dict(load(path, checkpoint="last", device="cpu").vae.state_dict())


def test_train_improves_the_objective_and_writes_a_run_directory(
    toy_config: MakeConfig, opened: list[str], tmp_path: Path
) -> None:
    config = toy_config(train__epochs=12, train__lr=1e-2, model__aggregation="mwb", train__schedule="constant")
    run = train(config, tmp_path / "run", progress=False)
    assert {file.name for file in run.path.iterdir()} == {
        "config.yaml", "environment.json", "data.json", "metrics.jsonl", "checkpoint.safetensors", "best.safetensors",
        "samples.npz", "prior.npz", ".lock",
    }  # fmt: skip
    rows = read_metrics(run.path)
    assert [row["epoch"] for row in rows] == list(range(12))
    assert [row["step"] for row in rows] == [3 * (i + 1) for i in range(12)]
    assert rows[-1]["objective"] > rows[0]["objective"] + 20
    assert rows[-1]["val"]["elbo"] > rows[0]["val"]["elbo"] + 20
    for row in rows:
        parts = sum(row["log_likelihood"].values()) - row["kl"]
        assert row["objective"] == pytest.approx(parts, rel=1e-4)
        assert set(row["log_likelihood"]) == {"m0", "m1", "m2"}
        assert (row["bound"], row["beta"], row["penalties"]) == ("component", 1.0, {})
        val = row["val"]
        assert set(val) == {"elbo", "kl", "log_likelihood", "items", "seed", "samples", "density", "seconds"}
        assert (val["items"], val["seed"], val["samples"], val["density"]) == (32, 0, 1, "mixture")
        assert val["elbo"] == pytest.approx(sum(val["log_likelihood"].values()) - val["kl"])
        assert set(val["log_likelihood"]) == {"m0", "m1", "m2"}
        assert row["items_per_second"] > 0
    assert set(opened) == {"train", "val"}  # never the test split
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["data"] == {"seed": 0}
    assert environment["device"] == "cpu"
    assert (environment["format_version"], environment["versions"]["pyro_mmvae"]) == (FORMAT_VERSION, __version__)
    assert torch.__version__.startswith(environment["versions"]["torch"])
    assert not run.vae.training


def test_load_returns_the_best_checkpoint_or_the_last(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([-5.0, -1.0, -3.0, -2.0])
    evaluate = evaluate_elbo
    monkeypatch.setattr(session, "evaluate_elbo", lambda *a, **k: {**evaluate(*a, **k), "elbo": next(scores)})
    run = train(toy_config(train__epochs=4), tmp_path / "run", progress=False)
    assert run.state["epoch"] == 2
    assert run.state["best"] == -1.0
    last = load(run.path, checkpoint="last", device="cpu")
    assert last.state["epoch"] == 4
    assert last.state["best"] == -1.0
    different = [n for n, v in last.vae.state_dict().items() if not torch.equal(v, run.vae.state_dict()[n])]
    assert different


def test_train_records_the_elbo_of_the_best_checkpoint(toy_config: MakeConfig, tmp_path: Path) -> None:
    run = train(toy_config(model__aggregation="mopoe"), tmp_path / "run", progress=False)
    again = evaluate_elbo(run.vae, run.data("val"), seed=run.config.train.seed)
    assert again["elbo"] == pytest.approx(run.state["best"], rel=1e-5)
    assert max(row["val"]["elbo"] for row in read_metrics(run.path)) == run.state["best"]


def best_row(run: Run) -> dict[str, Any]:
    """Return the row of metrics.jsonl of the epoch whose checkpoint is the best."""
    return read_metrics(run.path)[run.state["epoch"] - 1]


def test_train_select_component_chooses_by_the_elbo_of_drawn_components(toy_config: MakeConfig, tmp_path: Path) -> None:
    config = toy_config(train__epochs=4, model__aggregation="mwb", train__select="component")
    run = train(config, tmp_path / "run", progress=False)
    rows = read_metrics(run.path)
    assert {row["select"]["by"] for row in rows} == {"component"}
    assert {row["val"]["density"] for row in rows} == {"mixture"}  # what is reported stays
    assert run.state["best"] == max(row["select"]["elbo"] for row in rows) == best_row(run)["select"]["elbo"]
    again = evaluate_elbo(run.vae, run.data("val"), seed=config.train.seed, density="component")
    assert again["elbo"] == pytest.approx(run.state["best"], rel=1e-5)
    assert again["density"] == "component"
    assert again["elbo"] != pytest.approx(best_row(run)["val"]["elbo"], rel=1e-5)


def test_train_select_last_takes_the_last_epoch(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elbos = iter([5.0, 4.0, 3.0])

    def falling(*args: Any, **options: Any) -> ElboEstimate:
        return {**evaluate_elbo(*args, **options), "elbo": next(elbos)}

    monkeypatch.setattr(session, "evaluate_elbo", falling)
    run = train(toy_config(train__epochs=3, train__select="last"), tmp_path / "run", progress=False)
    assert (run.state["epoch"], run.state["best"]) == (3, 3.0)
    assert {row["select"]["by"] for row in read_metrics(run.path)} == {"last"}


def test_train_select_mixture_records_components_if_the_mixture_is_too_large(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BarycentricGuide, "has_mixture", lambda self, count: False)
    run = train(toy_config(train__epochs=1, model__aggregation="mwb"), tmp_path / "run", progress=False)
    (row,) = read_metrics(run.path)
    assert row["select"] == {"by": "component", "elbo": row["val"]["elbo"]}


@pytest.mark.parametrize("aggregation", aggregations())
@pytest.mark.parametrize("bound", ["mixture", "component"])
def test_train_with_each_aggregation_gives_a_finite_elbo(
    toy_config: MakeConfig, tmp_path: Path, aggregation: str, bound: str
) -> None:
    config = toy_config(
        model__aggregation=aggregation, model__bound=bound, train__epochs=1, data__train_size=32, data__val_size=8
    )
    run = train(config, tmp_path / "run", progress=False)
    assert math.isfinite(run.state["best"])


def test_train_with_equal_seeds_gives_equal_bits(toy_config: MakeConfig, tmp_path: Path) -> None:
    settings = {"model__aggregation": "mwb"}
    torch.manual_seed(1)
    train(toy_config(**settings), tmp_path / "a", progress=False)
    torch.manual_seed(2)
    train(toy_config(**settings), tmp_path / "b", progress=False)
    train(toy_config(**settings, train__seed=1), tmp_path / "c", progress=False)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)
    rows = [
        [{**row["val"], "seconds": 0, "objective": row["objective"]} for row in read_metrics(tmp_path / name)]
        for name in "ab"
    ]
    assert rows[0] == rows[1]


def test_train_restores_global_state(toy_config: MakeConfig, tmp_path: Path) -> None:
    """The fixture around every test checks threads, handlers, Pyro's settings and denormal numbers."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    # The checks of annotations in tests look at a random entry of each list, by Python's generator.
    train(toy_config(train__threads=2, train__epochs=1, train__fit_prior=0), tmp_path / "run", progress=False)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # noqa: NPY002
    assert not list(pyro.get_param_store())


def test_train_for_no_epochs_writes_a_run_that_can_be_loaded(toy_config: MakeConfig, tmp_path: Path) -> None:
    run = train(toy_config(train__epochs=0), tmp_path / "run", progress=False)
    assert run.state["epoch"] == 0
    assert run.state["best"] is None
    assert run.posterior({"m0": torch.rand(2, 3, 8, 8)}, ("m0",)).batch_shape == (2,)


def test_train_writes_progress_to_standard_error_only(
    toy_config: MakeConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(toy_config(train__epochs=1), tmp_path / "quiet", progress=False)
    assert capfd.readouterr() == ("", "")
    train(toy_config(train__epochs=1), tmp_path / "loud")
    out, err = capfd.readouterr()
    assert out == ""
    assert "epoch 1/1" in err
    assert "val_elbo" in err


def test_train_into_an_existing_folder_raises_and_changes_nothing(toy_config: MakeConfig, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match=rf"{full} exists already: give another --out, or continue it with --resume"):
        train(toy_config(), full, progress=False)
    assert [file.name for file in full.iterdir()] == ["thesis.txt"]
    assert (full / "thesis.txt").read_text() == "mine"
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        train(toy_config(), file, progress=False)
    assert file.read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert train(toy_config(train__epochs=0), tmp_path / "empty", progress=False).path == tmp_path / "empty"


@pytest.mark.usefixtures("elsewhere")
def test_train_without_out_chooses_a_free_path(toy_config: MakeConfig) -> None:
    paths = [train(toy_config(train__epochs=0, train__seed=3), progress=False).path for _ in range(3)]
    assert [str(path) for path in paths] == ["runs/toy-wb-seed3", "runs/toy-wb-seed3-2", "runs/toy-wb-seed3-3"]


def broken(name: str, value: float) -> None:
    """Register data in which one value of one modality is not finite."""

    @register_data(name)
    def load_broken(
        split: str, *, cache: bool = True, modalities: int = 2, train_size: int = 64, val_size: int = 16,
        test_size: int = 16, photographs: Sequence[str] | None = None, seed: int = 0,
    ) -> MultimodalDataset:  # fmt: skip
        size = {"train": train_size, "val": val_size, "test": test_size}[split]
        values = {f"m{m}": torch.rand(size, 3, 8, 8) for m in range(modalities)}
        if split == "train":
            values["m1"][size // 2, 0, 3, 3] = value
        return MultimodalDataset(values, None, torch.ones(size, modalities, dtype=torch.bool), name, split)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("aggregation", ["wb", "poe", "moe"])
def test_train_on_data_that_are_not_finite_raises_and_names_the_modality(
    toy_config: MakeConfig, tmp_path: Path, value: float, aggregation: str
) -> None:
    broken("broken", value)
    config = toy_config(data__name="broken", data__modalities=2, data__train_size=64, model__aggregation=aggregation)
    with pytest.raises(TrainingError) as error:
        train(config, tmp_path / "run", progress=False)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(("step 0 (epoch 1): ", "step 1 (epoch 1): "))
    assert "log p(m1 | z)" in message
    assert "not finite" in message
    assert "; no checkpoint is good. Try a lower train.lr" in message  # the one before the first step is not trained
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_train_with_a_gradient_that_is_not_finite_raises(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def poisoned(self: Trainer, batch: Any) -> Tensor:
        if self.steps == 4:
            first = next(self.vae.guide.encode.parameters())
            first.register_hook(lambda gradient: gradient * math.inf)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(TrainingError) as error:
        train(toy_config(), tmp_path / "run", progress=False)
    message = str(error.value)
    assert message.startswith("step 4 (epoch 2): the gradient of guide.encode.networks.0.")
    assert f"the last good checkpoint is {tmp_path / 'run' / 'best.safetensors'}." in message
    state = read_state(tmp_path / "run" / "checkpoint.safetensors")
    assert (state["epoch"], state["step"]) == (1, 3)
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_train_with_settings_that_do_not_fit_raises_and_creates_no_folder(
    toy_config: MakeConfig, tmp_path: Path
) -> None:
    for settings, message in (
        (
            {"model__reconstruction_weights": {"m7": 1.0}},
            "model.reconstruction_weights names 'm7', the data has m0, m1, m2",
        ),
        (
            {"model__expert_weights": [1.0, 2.0]},
            "expert_weights must have one number per modality, in the order m0, m1, m2, got 2",
        ),
        ({"model__network__name": "conv", "data__name": "absent"}, "unknown data set 'absent'"),
        ({"train__device": "cuda:99"}, "device 'cuda:99' is unavailable"),
        ({"model__aggregation": "web"}, "unknown aggregation 'web'"),
        (
            {"model__scale": -1.0},
            "model: scale must be a positive number, 'learned', 'cal.*, got -1.0",
        ),
    ):
        with pytest.raises(ValueError, match=message) as error:
            train(toy_config(**settings), tmp_path / "run", progress=False)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()


def refuse(experts: Experts, members: Any, guide: Any) -> Tensor:
    raise ValueError("penalty 'refusing' must have other experts")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model__aggregation": "code:1"}, "rho must be below 1 for experts of different scales"),
        ({"train__penalties": ["refusing"]}, "penalty 'refusing' must have other experts"),
    ],
)
@pytest.mark.usefixtures("registered")
def test_train_with_a_part_that_refuses_the_experts_raises_and_creates_no_folder(
    toy_config: MakeConfig, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    register_penalty("refusing", type("Refusing", (Penalty,), {"forward": staticmethod(refuse)}))
    with pytest.raises(ValueError, match=message):
        train(toy_config(**settings), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective", ["elbo", "masked", "sub_elbos", {"name": "iwae", "gradient": "plain"}], ids=str)
def test_train_holder_with_the_recipe_of_barycenters_and_each_objective_that_draws_subsets(
    toy_config: MakeConfig, tmp_path: Path, objective: Any
) -> None:
    small = {"train__epochs": 1, "data__train_size": 32, "data__val_size": 8, "train__fit_prior": 2}
    config = toy_config(model__aggregation="holder", recipe="contrastive", train__objective=objective, **small)
    run = train(config, tmp_path / "run", progress=False)
    (row,) = read_metrics(run.path)
    assert row["bound"] == "subsets"
    assert row["penalties"]["z_infonce"] > 0
    assert math.isfinite(row["val"]["elbo"])


def test_train_with_each_likelihood_gives_a_finite_elbo(toy_config: MakeConfig, tmp_path: Path) -> None:
    for likelihood in ("laplace", "normal", "bernoulli"):
        config = toy_config(model__likelihood=likelihood, train__epochs=1, data__train_size=32)
        assert math.isfinite(train(config, tmp_path / likelihood, progress=False).state["best"])
    with pytest.raises(
        ValueError, match=r"model.modalities.m0: likelihood 'categorical' does not fit data_type 'image'"
    ):
        train(toy_config(model__likelihood="categorical"), tmp_path / "categorical", progress=False)


def test_train_passes_settings_to_the_model(toy_config: MakeConfig, tmp_path: Path) -> None:
    config = toy_config(
        model__beta=2.0, model__scale="learned", model__expert_weights=[1, 2, 0],
        model__reconstruction_weights={"m1": 0.5},
        model__network__isotropic=True, model__prior_expert="all", model__subset_weights="by_size",
        model__aggregation="mwb", train__epochs=0,
    )  # fmt: skip
    run = train(config, tmp_path / "run", progress=False)
    guide, model = run.guide, run.model
    assert (guide.beta, model.beta, guide.bound) == (2.0, 2.0, "component")
    assert torch.equal(guide.aggregation.expert_weights, torch.tensor([1.0, 2.0, 0.0]))
    assert (guide.aggregation.prior_expert, guide.aggregation.subset_weights) == ("all", "by_size")
    assert model.reconstruction_weights == {"m0": 1.0, "m1": 0.5, "m2": 1.0}
    assert {name for name, _ in model.named_parameters() if "log_scale" in name}
    _, scale = guide.encode.networks[0](torch.rand(2, 3, 3, 8, 8))
    assert (scale.amax(-1) == scale.amin(-1)).all()
    assert make_config(run.path / "config.yaml") == runs.resolve(config)


def test_train_warns_of_float_images_outside_the_unit_interval(
    toy_config: MakeConfig, opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_split = runs.load_split

    def brighter(config: Config, split: str) -> MultimodalDataset:
        data = load_split(config, split)
        modalities = {**data.modalities, "m0": 300 * torch.rand(len(data), 1, 8, 8)}
        return dataclasses.replace(data, modalities=modalities)

    monkeypatch.setattr(session.runs, "load_split", brighter)
    with pytest.warns(UserWarning, match=r"modality 'm0': images of floats must have values in \[0, 1\], got values"):
        train(toy_config(), tmp_path / "run", progress=False)
    assert opened


def figures(monkeypatch: pytest.MonkeyPatch, elbos: Sequence[float]) -> None:
    """Let the validation return these ELBOs, one per epoch."""
    values, evaluate = iter(elbos), evaluate_elbo
    monkeypatch.setattr(session, "evaluate_elbo", lambda *a, **k: {**evaluate(*a, **k), "elbo": next(values)})


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [({"train__patience": 2}, 5), ({"train__patience": 2, "train__min_delta": 1.5}, 4), ({"train__patience": 3}, 6)],
)
def test_train_with_patience_stops_at_the_right_epoch(
    toy_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, Any],
    epochs: int,
) -> None:
    figures(monkeypatch, [-9.0, -5.0, -4.0, -4.5, -4.2, -4.1])
    with caplog.at_level(logging.INFO, logger="pyro_mmvae"):
        run = train(toy_config(train__epochs=8, **settings), tmp_path / "run", progress=False)
    rows = read_metrics(run.path)
    assert len(rows) == epochs
    assert all("stopped" not in row for row in rows[:-1])
    best = -5.0 if "train__min_delta" in settings else -4.0
    assert f"on {best:.2f} for {settings['train__patience']} epochs (train.patience)" in rows[-1]["stopped"]
    assert run.state["epoch"] == 3  # the best checkpoint counts every gain
    assert any(f"stopped early after epoch {epochs} of 8: the validation" in line for line in caplog.messages)


def test_train_with_patience_in_the_last_epoch_is_not_stopped_early(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures(monkeypatch, [-1.0, -2.0])
    run = train(toy_config(train__patience=1), tmp_path / "run", progress=False)
    assert [row.get("stopped") for row in read_metrics(run.path)] == [None, None]
    assert read_state(run.path / "checkpoint.safetensors")["stopped"] is None


def test_train_with_threads_auto_records_the_number_and_the_elbo(toy_config: MakeConfig, tmp_path: Path) -> None:
    fixed = train(toy_config(train__batch_size=4), tmp_path / "fixed", progress=False)
    tuned = train(toy_config(train__batch_size=4, train__threads="auto"), tmp_path / "tuned", progress=False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert all(1 <= row["threads"] <= cores for row in read_metrics(tuned.path))
    assert "threads" not in read_metrics(fixed.path)[0]
    assert tuned.state["best"] == pytest.approx(fixed.state["best"], rel=1e-3)
    assert tuned.config.train.threads == "auto"


def test_train_logs_its_start_and_its_epochs_and_prints_nothing(
    toy_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="pyro_mmvae"):
        train(toy_config(), tmp_path / "run", progress=False)
    assert f"training {tmp_path / 'run'} on cpu with fp32, 1 threads, 96 items, epoch 1 of 2" in caplog.messages
    assert sum(message.startswith(("epoch 1: objective", "epoch 2: objective")) for message in caplog.messages) == 2
    assert capfd.readouterr() == ("", "")


def test_train_one_modality_leaves_out_a_recipe_that_compares_modalities(
    toy_config: Callable[..., Config], elsewhere: Path
) -> None:
    config = toy_config(recipe="contrastive", data__modalities=1, train__epochs=1, train__fit_prior=0)
    run = train(config, elsewhere / "run", progress=False)
    stored = read_config(run.path)
    assert (stored.recipe, stored.train.penalties, stored.model.private_size) == ("contrastive, left out", (), 0)
    assert resume(run.path, epochs=2, progress=False).state["epoch"] == 2


def test_train_recipe_of_barycenters_is_resumed_and_answers(toy_config: Callable[..., Config], elsewhere: Path) -> None:
    run = train(toy_config(recipe="contrastive", train__epochs=1), elsewhere / "run", progress=False)
    assert run.vae.guide.bound == "subsets"
    assert read_metrics(run.path)[-1]["penalties"]["z_infonce"] > 0
    again = resume(run.path, epochs=2, progress=False)
    assert again.encode(items=range(4)).ids.shape == (4,)


def test_train_data_with_covariates_leaves_the_recipe_out(elsewhere: Path) -> None:
    values = {name: np.random.default_rng(m).normal(size=(40, 3)) for m, name in enumerate("ab")}
    donors = {"donor": np.array(["x", "y"] * 20)}
    settings = {"train.threads": 1, "train.fit_prior": 0, "model.network": {"hidden": 4}}
    recipes = [
        read_config(
            fit(values, covariates=given, epochs=1, settings=settings, out=elsewhere / name, progress=False).path
        )
        for name, given in (("without", None), ("with", donors))
    ]
    assert [config.recipe for config in recipes] == ["contrastive", "contrastive, left out"]
    assert [config.model.private_size for config in recipes] == [8, 0]
