"""Findings about the training and the pairing of the data, on histories and figures made up for the purpose."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import pytest
import torch

from pyro_mmvae import Experts
from pyro_mmvae.evaluation.diagnostics import diagnose
from pyro_mmvae.evaluation.geometry import expert_correlation, expert_geometry
from pyro_mmvae.evaluation.learning import diverged, lost_pairing, shared_residuals, short_training
from pyro_mmvae.evaluation.metrics import Metric
from tests.evaluation.toy_experts import LATENT, NAMES, alike, vae_of


def history(*elbos: float, steps: int = 1000) -> list[dict[str, Any]]:
    last = len(elbos)
    return [{"step": steps * (i + 1) // last, "val": {"elbo": elbo}} for i, elbo in enumerate(elbos)]


def test_short_training_of_a_converged_run_is_not_found() -> None:
    assert short_training([]) == []
    assert short_training(history(-100.0, -50.0, -45.0, -44.0)) == []  # 1 of 56 nats after the second epoch of four
    assert short_training(history(-50.0, -60.0, -70.0)) == []  # a falling ELBO is not mended by more epochs
    assert short_training(history(-50.0)) == []
    assert short_training([{"step": 1000, "val": None}, {"step": 2000}]) == []


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (history(-100.0, -99.9, steps=199), "it had 199 steps"),
        (history(-100.0, -90.0, -80.0, -70.0), "contributed 67% of the rise of the validation ELBO"),
    ],
)
def test_short_training_of_few_steps_or_a_rising_elbo_is_found(rows: list[dict[str, Any]], words: str) -> None:
    (finding,) = short_training(rows)
    assert words in finding.what
    assert finding.advice == "more --epochs"


def test_diagnose_short_training_hides_what_more_epochs_mend() -> None:
    rows = [
        *(Metric("expert_scale", "", (n,), "", 1.0, 9, 0) for n in NAMES),
        Metric("w2_experts", "", ("a",), "b", 20.0, 9, 0),
        Metric("aggregate_kl_moments", "", NAMES, "z", 30.0, 9, 0),
        Metric("active_share", "", NAMES, "z", 0.0, 9, 0),
    ]
    modes = ["experts far apart", "inactive latent", "posterior far from the prior"]
    assert [finding.mode for finding in diagnose(rows, NAMES)] == modes
    found = diagnose(rows, NAMES, history=history(-2.0, -1.0))
    assert [finding.mode for finding in found] == ["short training", "inactive latent"]


def test_diagnose_diverged_training_hides_its_consequences() -> None:
    rows = [
        Metric("residual_share", "", NAMES, "a", 0.5, 9, 0),
        Metric("residual_share", "", NAMES, "b", 30.0, 9, 0),
        Metric("aggregate_kl_moments", "", NAMES, "z", 30.0, 9, 0),
        Metric("khat_share", "", NAMES, "", 0.9, 9, 0),
    ]
    assert [finding.mode for finding in diagnose(rows, NAMES)] == ["diverged training", "unfit guide"]


def test_diverged_of_good_collapsed_and_nan_residuals() -> None:
    assert diverged({"a": 0.2, "b": 2.9}) == []
    (finding,) = diverged({"a": 3.1, "b": math.nan, "c": 0.1})
    assert finding.what.startswith("a, b are reconstructed worse")
    assert "of b have nan times" in finding.what


def test_expert_correlation_equals_moments_over_all_permutations() -> None:
    x, y = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    r, deviation = expert_correlation(x, y)
    centred = [v - v.mean(0) for v in (x, y)]
    scale = math.sqrt(float(centred[0].square().sum() * centred[1].square().sum()))
    every = torch.tensor([float((centred[0] * centred[1][list(p)]).sum()) / scale for p in permutations(range(5))])
    assert r == pytest.approx(float(every[0]), abs=1e-6)
    assert deviation == pytest.approx(float(every.std(correction=0)), rel=1e-5)
    assert all(math.isnan(value) for value in expert_correlation(x, torch.ones(5, 2)))


def test_expert_geometry_of_shuffled_pairs_is_found_and_of_pairs_not() -> None:
    experts = alike(250, 0.5, 0.9)
    rows = expert_geometry(vae_of("mwb"), experts)
    assert [row.value for row in rows if row.metric == "expert_correlation"] == pytest.approx(
        [0.81 / 1.06] * 3, abs=0.1
    )
    assert diagnose(rows, NAMES, mixture=True) == []
    loc = experts.loc.clone()
    loc[:, 1] = loc[torch.randperm(250), 1]
    (finding,) = diagnose(expert_geometry(vae_of("mwb"), Experts(loc, experts.scale)), NAMES, mixture=True)
    assert finding.mode == "lost pairing"
    assert finding.what.startswith("the expert of b is not nearer")


def test_lost_pairing_of_a_collapsed_modality_is_not_judged() -> None:
    r, deviation = {(("a",), "b"): 0.001}, {(("a",), "b"): 0.01}
    assert lost_pairing(r, deviation, {"a"}) == []
    assert len(lost_pairing(r, deviation, set())) == 1
    assert lost_pairing(r, {}, set()) == []
    assert lost_pairing({(("a",), "b"): 0.1}, deviation, set()) == []
    loc = torch.randn(100, 3, LATENT)
    loc[:, 0] = 0.0
    rows = expert_geometry(vae_of("mwb"), Experts(loc, torch.full(loc.shape, 0.5)))
    assert not any(row.metric == "expert_correlation" and row.given == ("a",) for row in rows)


def test_shared_residuals_counts_pairs_and_names_the_largest() -> None:
    assert shared_residuals({"a+b": 0.29, "a+c": -0.5}) == []
    (finding,) = shared_residuals({"a+b": 0.4, "a+c": 0.6, r"b\+d+c": 0.9})
    assert finding.what.startswith("b+d and c share what")
    assert finding.what.endswith("0.90; so do 2 other pairs")
    (finding,) = shared_residuals({"a+b": 0.4, "a+c": 0.6})
    assert finding.what.endswith("; so does 1 other pair")


def test_short_training_of_an_epoch_without_a_validation_figure_judges_the_steps() -> None:
    [finding] = short_training([{"epoch": 0, "step": 3, "val": {"kl": 1.0}}])
    assert "it had 3 steps" in finding.what
