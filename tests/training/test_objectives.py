"""Training objectives: their registry, custom ones from a plugin, and their use by DistributedDataParallel."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn

from pyro_mmvae import Batch, Modality, MultimodalDataset, MultimodalVAE, load, train
from pyro_mmvae.cli import main
from pyro_mmvae.data import register_data
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.runs import read_metrics
from pyro_mmvae.runs.checkpoint import CheckpointError
from pyro_mmvae.runs.config import Config, ConfigError, dump_config, make_config
from pyro_mmvae.runs.train_settings import TrainConfig
from pyro_mmvae.training import (
    ELBOObjective,
    Interrupted,
    NonFiniteError,
    Objective,
    SettingsChangedError,
    Terms,
    Trainer,
    TrainingError,
    evaluate_elbo,
    local_pyro,
    make_objective,
    objective_names,
    register_objective,
    resume,
    unregister_objective,
)

MakeConfig = Callable[..., Config]
SETTINGS = TrainConfig(lr=1e-2, schedule="constant", device="cpu", precision="fp32", threads=1)

PLUGIN = '''
"""An objective as in MVTCAE (Hwang et al., 2021), with a learned scale of its reconstruction terms."""

import torch
from torch import nn
from torch.distributions import Independent, Normal

from pyro_mmvae.training import Objective, Terms, register_objective


class MVTCAE(Objective):
    def __init__(self, vae, alpha=0.9, learned_scale=False):
        super().__init__(vae)
        self.alpha = alpha
        self.log_scale = nn.Parameter(torch.zeros(())) if learned_scale else None

    def forward(self, batch):
        vae, count = self.vae, len(self.vae.names)
        experts = vae.guide.experts(batch)
        posterior = vae.guide.posterior(experts)
        z = posterior.rsample()
        log_q = posterior.log_prob(z)
        parameters = vae.model.decoders(z, vae.names)
        log_likelihood = {
            name: vae.model.likelihoods[name](parameters[name]).log_prob(value).sum()
            for name, value in batch.values.items()
        }
        kl = (log_q - vae.model.prior().log_prob(z)).sum()
        each = Independent(Normal(experts.loc, experts.scale), 1).log_prob(z.unsqueeze(-2))
        conditional_kl = (log_q - each.mean(-1)).sum()
        reconstruction = sum(log_likelihood.values())
        if self.log_scale is not None:
            reconstruction = reconstruction * self.log_scale.exp() - 1e3 * self.log_scale
        loss = (self.alpha / count - 1) * reconstruction + (1 - self.alpha) * kl + self.alpha * conditional_kl
        terms = {name: value.detach() for name, value in log_likelihood.items()}
        return loss, Terms(terms, kl.detach(), {"conditional_kl": conditional_kl.detach()})


register_objective("tc_autoencoder", MVTCAE)
'''


@pytest.fixture
def plugin(tmp_path: Path, registered: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Write a module that registers the objective ``tc_autoencoder`` when it is imported, and return its name."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "mvtcae_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(folder)
    yield "mvtcae_plugin"
    sys.modules.pop("mvtcae_plugin", None)


def make(aggregation: str = "poe", names: tuple[str, ...] = ("a", "b"), **options: Any) -> MultimodalVAE:
    torch.manual_seed(0)
    modalities = [Modality(name, (5,), likelihood="normal", scale=0.5) for name in names]
    return MultimodalVAE(modalities, 3, aggregation, network=NetworkOptions(hidden=8), **options)


@pytest.fixture
def batch() -> Batch:
    return Batch({"a": torch.randn(6, 5), "b": torch.randn(6, 5)})


def test_make_objective_from_a_name_or_mapping_returns_the_elbo() -> None:
    vae = make()
    for objective in ("elbo", {"name": "elbo"}):
        made = make_objective(objective, vae)
        assert isinstance(made, ELBOObjective)
        assert made.vae is vae
        assert made.extra_state_dict() == {}


def test_make_objective_with_an_unknown_name_or_option_raises() -> None:
    with pytest.raises(ValueError, match="unknown objective 'elbow', did you mean 'elbo'"):
        make_objective("elbow", make())
    with pytest.raises(ValueError, match="unknown objective None"):
        make_objective({}, make())
    with pytest.raises(ValueError, match="option 'alpha' of objective 'elbo' must be left out"):
        make_objective({"name": "elbo", "alpha": 0.5}, make())


@pytest.mark.usefixtures("registered")
def test_register_objective_adds_a_name_that_unregister_objective_removes() -> None:
    built_in = objective_names()
    register_objective("twice", ELBOObjective)
    assert objective_names() == (*built_in, "twice")
    with pytest.raises(ValueError, match="objective 'twice' is already registered"):
        register_objective("twice", ELBOObjective)
    unregister_objective("twice")
    assert objective_names() == built_in
    with pytest.raises(ValueError, match="objective 'elbo' is built in and cannot be removed"):
        unregister_objective("elbo")


@pytest.mark.usefixtures("registered")
def test_make_objective_of_a_factory_that_returns_something_else_raises() -> None:
    register_objective("wrong", lambda vae: nn.Identity())
    with pytest.raises(TypeError, match="objective 'wrong' must be an Objective, got Identity"):
        make_objective("wrong", make())


def test_elbo_objective_returns_the_weighted_loss_and_unweighted_terms(batch: Batch) -> None:
    vae = make("mwb", beta=2.0)
    with local_pyro():
        loss, terms = ELBOObjective(vae)(batch)
    expected = -sum(terms.log_likelihood.values()) + 2.0 * terms.kl
    torch.testing.assert_close(loss.detach(), expected)
    assert loss.requires_grad
    assert set(terms.log_likelihood) == {"a", "b"}


def test_elbo_objective_records_the_entropy_of_learned_weights_as_a_penalty(batch: Batch) -> None:
    vae = make("mwb", expert_weights="gate", expert_weights_entropy=0.3)
    with local_pyro():
        loss, terms = ELBOObjective(vae)(batch)
    (penalty,) = terms.penalties.values()
    assert penalty < 0  # entropy is rewarded
    torch.testing.assert_close(loss.detach(), -sum(terms.log_likelihood.values()) + terms.kl + penalty)


def test_trainer_with_an_objective_takes_the_steps_of_the_model_alone(batch: Batch) -> None:
    losses = []
    for wrap in (lambda vae: vae, ELBOObjective):
        trainer = Trainer(wrap(make("mwb")), SETTINGS, total_steps=10)
        torch.manual_seed(1)
        with local_pyro():
            losses.append([trainer.step(batch).item() for _ in range(3)])
    assert losses[0] == losses[1]


def test_trainer_with_a_penalty_that_is_not_finite_raises_and_names_it(batch: Batch) -> None:
    class Broken(ELBOObjective):
        def forward(self, batch: Batch) -> tuple[torch.Tensor, Terms]:
            loss, terms = super().forward(batch)
            return loss + math.nan, Terms(terms.log_likelihood, terms.kl, {"broken": loss.detach() * math.nan})

    trainer = Trainer(Broken(make()), SETTINGS, total_steps=10)
    with local_pyro(), pytest.raises(NonFiniteError, match="step 0: a penalty not finite"):
        trainer.step(batch)


def test_trainer_trains_the_parameters_of_the_objective(batch: Batch) -> None:
    class Scaled(ELBOObjective):
        def __init__(self, vae: MultimodalVAE) -> None:
            super().__init__(vae)
            self.factor = nn.Parameter(torch.ones(()))

        def forward(self, batch: Batch) -> tuple[torch.Tensor, Terms]:
            loss, terms = super().forward(batch)
            return loss * self.factor, terms

    objective = Scaled(make())
    with local_pyro():
        Trainer(objective, SETTINGS, total_steps=10).step(batch)
    assert objective.factor.item() != 1.0
    assert set(objective.extra_state_dict()) == {"factor"}


def test_custom_objective_without_its_term_equals_the_elbo(plugin: str, batch: Batch) -> None:
    __import__(plugin)
    losses = []
    for objective in ("elbo", {"name": "tc_autoencoder", "alpha": 0.0}):
        vae = make("poe")
        with local_pyro():
            torch.manual_seed(1)
            losses.append(make_objective(objective, vae)(batch)[0].detach())
    torch.testing.assert_close(*losses)


def test_train_with_a_custom_objective_improves_it_and_records_its_terms(
    plugin: str, toy_config: MakeConfig, tmp_path: Path
) -> None:
    objective = {"name": "tc_autoencoder", "alpha": 0.5}
    config = toy_config(
        plugins=[plugin], train__objective=objective, model__aggregation="poe", train__epochs=6, train__lr=1e-2
    )
    run = train(config, tmp_path / "run", progress=False, plugins=[plugin])
    rows = read_metrics(run.path)
    assert rows[-1]["objective"] > rows[0]["objective"]
    for row in rows:
        reconstruction, penalty = sum(row["log_likelihood"].values()), row["penalties"]["conditional_kl"]
        expected = (1 - 0.5 / 3) * reconstruction - 0.5 * row["kl"] - 0.5 * penalty
        assert row["objective"] == pytest.approx(expected, rel=1e-4)
    assert load(run.path).config.train.objective == objective


def test_resume_with_parameters_of_the_objective_equals_the_uninterrupted_training(
    plugin: str, toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(
        plugins=[plugin], train__objective={"name": "tc_autoencoder", "learned_scale": True}, model__aggregation="poe"
    )
    train(config, tmp_path / "whole", progress=False, plugins=[plugin])
    step = Trainer.step

    def interrupted(self: Trainer, batch: Any) -> torch.Tensor:
        if self.steps == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "cut", progress=False)
    resume(tmp_path / "cut", progress=False)
    ours, theirs = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("cut", "whole"))
    assert ours["extra.log_scale"].item() != 0.0
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    text = (tmp_path / "cut" / "config.yaml").read_text().replace("learned_scale: true", "learned_scale: false")
    (tmp_path / "cut" / "config.yaml").write_text(text)
    with pytest.raises(SettingsChangedError, match="learned_scale: true → false"):
        resume(tmp_path / "cut", progress=False)
    with pytest.raises(CheckpointError, match=r"the parameters of the objective must be \[\], got \['log_scale'\]"):
        resume(tmp_path / "cut", progress=False, force=True)


def test_train_command_with_a_plugin_uses_its_objective(plugin: str, toy_config: MakeConfig, tmp_path: Path) -> None:
    config = toy_config(model__aggregation="poe", train__epochs=1)
    (tmp_path / "toy.yaml").write_text(dump_config(config))
    words = ["train", "--config", str(tmp_path / "toy.yaml"), "--plugin", plugin, "--quiet"]
    words += ["--set", "train.objective={name: tc_autoencoder, alpha: 0.5}", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert set(read_metrics(tmp_path / "run")[0]["penalties"]) == {"conditional_kl"}


def test_train_with_an_unknown_objective_raises_and_creates_no_folder(toy_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown objective 'elbow', did you mean 'elbo'"):
        train(toy_config(train__objective="elbow"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_make_config_reads_an_objective_with_options() -> None:
    objective = {"name": "tc_autoencoder", "alpha": 0.5, "levels": [1, 2]}
    config = make_config(None, {"train.objective": objective})
    assert config.train.objective == objective
    assert Config.model_validate(yaml.safe_load(dump_config(config))) == config
    assert make_config().train.objective == "elbo"
    for wrong in ({"alpha": 0.5}, {"name": 3}):
        with pytest.raises(ConfigError, match=r"train\.objective: .* the name of an objective, or a mapping"):
            make_config(None, {"train.objective": wrong})


@pytest.mark.usefixtures("registered")
def test_train_with_modalities_named_like_terms_runs_every_command(tmp_path: Path, toy_config: MakeConfig) -> None:
    names = ("loss", "elbo", "kl", "seconds")

    @register_data("terms")
    def load_terms(
        split: str, *, cache: bool = True, modalities: int = 4, train_size: int = 64, val_size: int = 16,
        test_size: int = 16, photographs: Any = None, seed: int = 0,
    ) -> MultimodalDataset:  # fmt: skip
        size = {"train": train_size, "val": val_size, "test": test_size}[split]
        generator = torch.Generator().manual_seed(size)
        values = {name: torch.rand(size, 5, generator=generator) for name in names}
        return MultimodalDataset(values, None, torch.ones(size, len(names), dtype=torch.bool), "terms", split)

    path = tmp_path / "run"
    run = train(toy_config(data__name="terms", data__modalities=4, train__epochs=1), path, progress=False)
    (row,) = read_metrics(path)
    assert list(row["log_likelihood"]) == list(row["val"]["log_likelihood"]) == list(names)
    assert row["objective"] == pytest.approx(sum(row["log_likelihood"].values()) - row["kl"], rel=1e-4)
    assert run.state["best"] == row["val"]["elbo"]
    resume(path, epochs=2, progress=False)
    assert len(read_metrics(path)) == 2
    few = ["--samples", "4", "--likelihood-items", "4", "--khat-items", "2", "--probe-points", "20"]
    for words in (
        ["sample", str(path), "--given", "kl", "--out", str(tmp_path / "a.npz")],
        ["evaluate", str(path), "--quiet", *few],
        ["ppc", str(path), "--given", "loss,elbo", "--num-samples", "4", "--items", "6", "--quiet"],
    ):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output


def test_train_with_an_objective_that_is_not_finite_raises_a_training_error(
    registered: None, toy_config: MakeConfig, tmp_path: Path
) -> None:
    class Broken(ELBOObjective):
        def forward(self, batch: Batch) -> tuple[torch.Tensor, Terms]:
            loss, terms = super().forward(batch)
            return loss * math.nan, terms

    register_objective("broken", Broken)
    with pytest.raises(TrainingError, match=r"step 0 \(epoch 1\): the loss not finite"):
        train(toy_config(train__objective="broken"), tmp_path / "run", progress=False)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_distributed_data_parallel_with_one_process_gives_the_same_gradients(batch: Batch, tmp_path: Path) -> None:
    if not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    gradients, losses = [], []
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        for wrap in (lambda objective: objective, nn.parallel.DistributedDataParallel):
            objective: Objective = ELBOObjective(make("mwb"))
            module = wrap(objective)
            torch.manual_seed(1)
            with local_pyro():
                loss, terms = module(batch)
            loss.backward()
            losses.append(loss.detach())
            gradients.append([parameter.grad for parameter in objective.parameters()])
            assert set(terms.log_likelihood) == {"a", "b"}
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(*losses)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_evaluate_elbo_returns_the_elbo_and_its_terms() -> None:
    vae = make("mwb")
    data = MultimodalDataset(
        {"a": torch.randn(6, 5), "b": torch.randn(6, 5)}, None, torch.ones(6, 2, dtype=torch.bool), "two", "val"
    )
    estimate = evaluate_elbo(vae, data, seed=3)
    assert estimate["elbo"] == pytest.approx(sum(estimate["log_likelihood"].values()) - estimate["kl"])
    assert (estimate["items"], estimate["seed"], estimate["samples"], estimate["density"]) == (6, 3, 1, "mixture")
