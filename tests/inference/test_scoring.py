"""Scores of items against closed forms, and of pairs that were swapped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pyro_mmvae import Experts, Modality, MultimodalVAE
from pyro_mmvae.inference import encode, score
from pyro_mmvae.inference.scoring import _distances
from pyro_mmvae.networks import NetworkOptions
from tests.evaluation.exact_models import Linear


def test_score_exact_posterior_gives_the_evidence_and_all_draws() -> None:
    linear = Linear()
    table = score(linear.vae, linear.data, draws=8)
    expected = [linear.evidence(item, ("a", "b")) for item in range(7)]
    np.testing.assert_allclose(table["log_likelihood"], expected, atol=0.05)
    np.testing.assert_allclose(table["ess"], 8, rtol=0.02)


def test_score_nll_is_the_expected_loss_under_the_posterior() -> None:
    linear = Linear()
    table = score(linear.vae, linear.data, draws=3000)
    latents = encode(linear.vae, linear.data, statistic="loc_scale")
    z, scale = (torch.as_tensor(latents[name]) for name in ("z", "z_scale"))
    for m, (name, noise) in enumerate({"a": 0.5, "b": 0.8}.items()):
        a, b = linear.maps[name]
        residual = (linear.data.tensors[name] - z @ a.T - b).square().sum(-1)
        spread = (a.square() * scale.square()[:, None]).sum((-2, -1))
        loss = (residual + spread) / (2 * noise**2) + len(a) * (np.log(noise) + 0.5 * np.log(2 * np.pi))
        np.testing.assert_allclose(table["nll"][:, m], loss.numpy(), atol=0.3)


def test_score_error_of_the_mean_of_a_modality_is_one() -> None:
    linear = Linear(items=200)
    table = score(linear.vae, linear.data, draws=1)
    a, b = linear.maps["a"]
    z = torch.as_tensor(encode(linear.vae, linear.data)["z"])
    values = linear.data.tensors["a"].double()
    error = (z @ a.T + b - values).square().mean(-1).sqrt() / values.var(0, correction=0).mean().sqrt()
    np.testing.assert_allclose(table["error"][:, 0], error.numpy(), rtol=1e-4)


def test_score_flags_swapped_pairs() -> None:
    linear = Linear(items=100, seed=1)
    b = linear.data.tensors["b"].clone()
    distance = torch.cdist(b, b)
    first, second = divmod(int(distance.argmax()), 100)  # a swap of two similar items is no mismatch
    b[[first, second]] = b[[second, first]]
    table = score(linear.vae, replace(linear.data, modalities={**linear.data.modalities, "b": b}), draws=16)
    for name in ("mismatch", "outlier"):
        assert set(np.argsort(-table[name])[:2].tolist()) == {first, second}
    assert table["mismatch_pair"][first] == "a, b"
    assert table["disagreement"][first].min() > 3 * np.median(table["disagreement"])


def test_score_absent_modalities_are_nan() -> None:
    linear = Linear()
    present = torch.ones(7, 2, dtype=torch.bool)
    present[0, 1] = present[1, 0] = False
    present[2] = False
    table = score(linear.vae, replace(linear.data, present=present), draws=2)
    for name in ("nll", "error"):
        assert np.array_equal(np.isnan(table[name]), ~present.numpy())
    assert np.array_equal(np.isnan(table["disagreement"]).any(-1), ~present.numpy().all(-1))
    assert np.isnan(table["mismatch"][:3]).all()
    assert table["mismatch_pair"][0] == ""
    assert np.isnan(table["log_likelihood"][2])
    assert np.isnan(table["outlier"][2])
    assert not np.isnan(table["outlier"][[0, 1]]).any()


@pytest.mark.parametrize("batch_size", [1, 60])
def test_score_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    linear = Linear(items=70)
    first, other = (
        score(linear.vae, linear.data, draws=3),
        score(linear.vae, linear.data, draws=3, batch_size=batch_size),
    )
    for name in ("log_likelihood", "nll", "error", "disagreement", "outlier"):
        np.testing.assert_allclose(other[name], first[name], rtol=1e-4, atol=1e-3)


def test_distances_of_full_covariances_agree_with_diagonal_ones() -> None:
    torch.manual_seed(0)
    loc, scale = torch.randn(4, 3, 2).double(), torch.rand(4, 3, 2).double() + 0.2
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])
    diagonal = _distances(Experts(loc, scale, present))
    full = _distances(Experts(loc, scale_tril=torch.diag_embed(scale), present=present))
    for value, expected in zip(full, diagonal, strict=True):
        torch.testing.assert_close(value, expected, equal_nan=True, atol=1e-6, rtol=1e-6)
    middle = scale[0].mean(0), loc[0].mean(0)
    expected = ((loc[0, 0] - middle[1]).square().sum() + (scale[0, 0] - middle[0]).square().sum()).sqrt()
    torch.testing.assert_close(diagonal[0][0, 0], expected)


def test_score_model_with_full_covariances_and_private_latents_has_finite_values() -> None:
    torch.manual_seed(0)
    modalities = [Modality(n, (s,), likelihood="normal", private_size=1) for n, s in (("a", 4), ("b", 6))]
    vae = MultimodalVAE(modalities, 2, "wb", network=NetworkOptions(covariance="full")).eval()
    table = score(vae, Linear(items=5).data, draws=2)
    assert all(np.isfinite(array).all() for name, array in table.arrays.items() if name != "mismatch_pair")
