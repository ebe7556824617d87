"""Importance-weighted log likelihoods against the exact evidences of linear Gaussian models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pyro_mmvae import MultimodalDataset
from pyro_mmvae.evaluation.likelihood import mean_bias, stands
from tests.evaluation.exact_models import LATENT, SIZES, Linear


def test_held_out_log_likelihood_exact_posterior_equals_the_evidence() -> None:
    linear = Linear()
    rows = linear.rows(samples=16, batch_size=3)
    for given in (("a",), ("b",), ("a", "b")):
        exact = np.mean([linear.evidence(i, given) for i in range(7)])
        assert rows["log_likelihood", given, "given"].value == pytest.approx(exact, abs=1e-4)
        assert rows["ess", given, "given"].value == pytest.approx(16, abs=1e-3)
        assert rows["log_likelihood", given, "given"].n == 7
    both = ("a", "b")
    assert rows["log_likelihood", both, "all"].value == rows["log_likelihood", both, "given"].value
    # Given one modality only, the proposal is too wide for both, and the estimate falls short of the evidence.
    assert rows["ess", ("a",), "all"].value < 13
    many = linear.rows(samples=4000, subsets=[(0,)])["log_likelihood", ("a",), "all"]
    assert many.value == pytest.approx(np.mean([linear.evidence(i, both) for i in range(7)]), abs=0.05)
    assert "K=4000" in many.protocol
    assert "mixture density" in many.protocol


def test_held_out_log_likelihood_items_far_apart_are_not_averaged_within_draws() -> None:
    linear = Linear(items=6)
    for name in SIZES:
        linear.data.modalities[name][::2] += 20
    evidences = [linear.evidence(i, ("a", "b")) for i in range(6)]
    assert max(evidences) - min(evidences) > 1000
    for samples in (6, 5):
        row = linear.rows(samples=samples)["log_likelihood", ("a", "b"), "given"]
        assert row.value == pytest.approx(np.mean(evidences), rel=1e-5)


def test_held_out_log_likelihood_items_without_the_subset_are_left_out() -> None:
    linear = Linear()
    complete = linear.data
    present = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1], [0, 0], [1, 1], [0, 1]], dtype=torch.bool)
    values = {n: v.clone() for n, v in complete.modalities.items()}
    for m, name in enumerate(SIZES):
        values[name][~present[:, m]] = torch.nan
    linear.data = MultimodalDataset(values, None, present, "linear", "test")
    rows = linear.rows(samples=8, batch_size=2)
    for given, items in ((("a",), [0, 1, 3, 5]), (("b",), [0, 2, 3, 5, 6]), (("a", "b"), [0, 3, 5])):
        row = rows["log_likelihood", given, "given"]
        assert row.n == len(items)
        assert row.value == pytest.approx(np.mean([linear.evidence(i, given) for i in items]), abs=1e-4)
        assert rows["ess", given, "given"].value == pytest.approx(8, abs=1e-3)
    linear.data = MultimodalDataset(values, None, present & torch.tensor([True, False]), "linear", "test")
    assert {given for _, given, _ in linear.rows()} == {("a",)}


def test_held_out_log_likelihood_seed_is_local_and_independent_of_other_subsets() -> None:
    linear = Linear()
    before = torch.get_rng_state()
    rows = linear.rows(samples=4, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    key = ("log_likelihood", ("b",), "all")
    assert linear.rows(samples=4, seed=3, subsets=[(1,)])[key] == rows[key]
    assert linear.rows(samples=4, seed=4)[key].value != rows[key].value


def test_held_out_log_likelihood_large_mixture_uses_the_joint_component(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = Linear()
    monkeypatch.setattr(type(linear.vae.guide), "has_mixture", lambda self, count: False)
    assert {"joint component" in row.protocol for row in linear.rows(samples=2).values()} == {True}


def test_held_out_log_likelihood_training_weights_have_no_effect() -> None:
    linear = Linear()
    plain = linear.rows(samples=4)
    linear.vae.model.beta = linear.vae.guide.beta = 2.5
    linear.vae.model.reconstruction_weights = {"a": 3.0, "b": 0.0}
    assert linear.rows(samples=4) == plain


def test_held_out_log_likelihood_has_the_standard_error_over_items_and_their_number() -> None:
    linear = Linear()
    rows = linear.rows(samples=16)
    for given in (("a",), ("a", "b")):
        evidences = np.array([linear.evidence(i, given) for i in range(7)])
        error = rows["log_likelihood_se", given, "given"]
        assert error.value == pytest.approx(evidences.std(ddof=1) / 7**0.5, rel=1e-4)
        assert error.protocol == rows["log_likelihood", given, "given"].protocol
        assert "7 items" in error.protocol
    linear.data = linear.data.subset([0])
    assert "log_likelihood_se" not in {metric for metric, _, _ in linear.rows(samples=2)}


# The number of draws --------------------------------------------------------------------------------------------------


def test_held_out_log_likelihood_of_an_exact_proposal_stands_at_once() -> None:
    rows = Linear().rows(samples=16, max_samples=512)
    for given in (("a",), ("b",), ("a", "b")):
        assert rows["log_likelihood_stands", given, "given"].value == 1
    assert rows["log_likelihood_samples", ("a", "b"), "given"].value == 16
    assert "K=16 to 512" in rows["log_likelihood", ("a", "b"), "given"].protocol


def misplaced(shift: float) -> Linear:
    """Return the linear model with an encoder whose locations are off."""
    linear = Linear(items=20)
    head: Any = linear.vae.guide.encode.networks[0].head.linear
    with torch.no_grad():
        head.bias[0, 0, :LATENT] += shift
    return linear


def test_held_out_log_likelihood_samples_grow_until_the_estimate_stands() -> None:
    linear = misplaced(0.5)
    few, many = (linear.rows(samples=16, max_samples=limit, subsets=[(0,)]) for limit in (16, 512))
    exact = np.mean([linear.evidence(i, ("a",)) for i in range(20)])
    key = (("a",), "given")
    assert few["log_likelihood_stands", *key].value == 0
    assert few["log_likelihood", *key].value < exact - 0.3
    assert "K=16, 20 items" in few["log_likelihood", *key].protocol
    assert many["log_likelihood_stands", *key].value == 1
    assert many["log_likelihood_samples", *key].value == 64
    assert many["log_likelihood", *key].value == pytest.approx(exact, abs=0.15)
    assert "K=16 to 512, 20 items" in many["log_likelihood", *key].protocol
    # It stands with 64 draws because it does not with 32.
    half = linear.rows(samples=16, max_samples=32, subsets=[(0,)])
    assert half["log_likelihood_samples", *key].value == 32
    assert half["log_likelihood_stands", *key].value == 0


def test_held_out_log_likelihood_first_draws_do_not_depend_on_the_limit() -> None:
    linear = Linear()
    key = ("log_likelihood", ("a", "b"), "given")
    fixed, grown = linear.rows(samples=16), linear.rows(samples=16, max_samples=64)
    assert fixed[key].value == grown[key].value


def test_held_out_log_likelihood_does_not_grow_where_the_limit_is_out_of_reach() -> None:
    rows = misplaced(4.0).rows(samples=64, max_samples=128, subsets=[(0,)])
    for target in ("given", "all"):
        assert rows["ess", ("a",), target].value < 1.5
        assert rows["log_likelihood_samples", ("a",), target].value == 64
        assert rows["log_likelihood_stands", ("a",), target].value == 0


def test_stands_by_hand() -> None:
    equal = torch.zeros(8, 3, dtype=torch.float64)
    assert stands(equal)
    assert not stands(equal[:1])
    # One draw has all the weight: ESS 1, and a bias of (1 - 1/8) / 2.
    heavy = equal.clone()
    heavy[5] = 100.0
    assert mean_bias(heavy) == pytest.approx(7 / 16)
    assert not stands(heavy)
    # The halves differ by log 2 for each item, although no draw dominates: ESS = (3/2)² / (5/2) · 100 = 90.
    drift = torch.zeros(100, 3, dtype=torch.float64)
    drift[50:] = np.log(2)
    assert mean_bias(drift) == pytest.approx((1 / 90 - 1 / 100) / 2)
    assert not stands(drift)
    # Items that change in opposite directions have a standard error larger than the change.
    drift[50:, 1] = -np.log(2)
    drift[:, 2] = 0
    assert stands(drift)
    assert not stands(torch.full((8, 2), -torch.inf, dtype=torch.float64))
