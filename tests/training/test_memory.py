"""Sizes beyond the memory of the machine, which are refused before anything is built or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_mmvae import train
from pyro_mmvae.runs.config import Config, ConfigError
from pyro_mmvae.training import memory
from pyro_mmvae.training.memory import in_words, memory_errors_explained, total_memory

MakeConfig = Callable[..., Config]


@pytest.mark.parametrize(
    "settings",
    [
        {"model__latent_size": 10**12},
        {"model__latent_size": 10**30},
        {"model__network__hidden": 10**9},
        {"model__network__depth": 10**12},
        {"model__latent_size": 10**9, "model__network__covariance": "full"},
        {"model__prior": {"name": "mixture", "components": 10**12}},
    ],
)
def test_train_with_sizes_beyond_memory_raises_before_a_run_directory_exists(
    toy_config: MakeConfig, tmp_path: Path, settings: dict[str, Any]
) -> None:
    message = r"must fit into the memory of cpu, .*iB, got weights, gradients and optimizer of .*iB: choose smaller"
    with pytest.raises(ValueError, match=message):
        train(toy_config(**settings), tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"train__objective": {"name": "iwae", "samples": 10**12}}, "samples of train.objective"),
        ({"train__objective": {"name": "iwae", "samples": 10**400}}, "samples of train.objective"),
        ({"model__prior": {"name": "mixture", "components": 5 * 10**6}}, "components of model.prior"),
    ],
)
def test_train_with_draws_beyond_memory_raises_before_a_run_directory_exists(
    toy_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    advice: str,
) -> None:
    monkeypatch.setattr(memory, "total_memory", lambda _: 2**30)
    message = rf"the draws of a step must fit into the memory of cpu, 1 GiB, got at least .*: choose fewer {advice} or"
    with pytest.raises(ValueError, match=message):
        train(toy_config(train__batch_size=96, **settings), tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value"), [("train__seed", 2**63), ("train__batch_size", 10**30), ("train__epochs", 10**30)]
)
def test_config_with_an_absurd_number_raises(toy_config: MakeConfig, key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"{key.replace('__', '.')}: must be an integer of at least \d and at most"):
        toy_config(**{key: value})


def test_total_memory_of_the_cpu_is_plausible() -> None:
    assert 2**28 < total_memory(torch.device("cpu")) < 2**50


@pytest.mark.parametrize(("count", "words"), [(0, "0 bytes"), (1024, "1 KiB"), (2**70, "1.049e+06 PiB")])
def test_in_words_chooses_a_unit(count: int, words: str) -> None:
    assert in_words(count) == words


def test_memory_errors_explained_leaves_other_errors_alone() -> None:
    with pytest.raises(ValueError, match="must fit into memory, got an error: .*overflow"), memory_errors_explained():
        torch.empty(2**62, 2**62)
    with pytest.raises(RuntimeError, match="other"), memory_errors_explained():
        raise RuntimeError("other")
