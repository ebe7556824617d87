"""Posterior SBC of a model whose posterior is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.data import make_batch
from pyro_mmvae.evaluation.posterior_sbc import posterior_calibration
from pyro_mmvae.evaluation.sbc import IMAGE_NOTE
from tests.evaluation.exact_models import Linear


def test_posterior_calibration_exact_posterior_has_uniform_ranks() -> None:
    linear = Linear(items=300)
    batch = make_batch(linear.data, slice(None))
    result = posterior_calibration(linear.vae, batch, ["a"], draws=49)
    assert result.quantities == ("z[0]", "z[1]", "log_p", "tarp")
    assert result.ranks.shape == (300, 4)
    assert result.p_value() > 0.01
    assert (result.data, result.given) == (("a",), ("a", "b"))
    assert result.protocol.startswith("posterior SBC around a, mixture density, 49 draws")
    assert {row.metric for row in result.metrics()} == {
        "posterior_sbc_overall_p_value", "posterior_sbc_p_value", "posterior_sbc_holm_p_value",
    }  # fmt: skip


def test_posterior_calibration_wrong_encoder_of_a_simulated_modality_is_detected() -> None:
    linear = Linear(items=300)
    head = linear.vae.guide.encode.networks[1].head.linear  # type: ignore[union-attr, index]
    with torch.no_grad():
        head.bias[0, 0, 0] += 1.0
    result = posterior_calibration(linear.vae, make_batch(linear.data, slice(None)), ["a"], draws=49)
    assert result.p_values()[0] < 1e-4
    assert result.p_values()[1] > 1e-3


def test_posterior_calibration_seed_is_reproducible_and_depends_on_the_items() -> None:
    linear = Linear(items=40)
    batch = make_batch(linear.data, slice(None))
    first, again = (posterior_calibration(linear.vae, batch, ["b"], draws=9, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.ranks, again.ranks)
    moved = posterior_calibration(linear.vae, {"b": linear.data.tensors["b"] + 5}, ["b"], draws=9, seed=3)
    assert np.abs(moved.truth - first.truth).min() > 0.01


def test_posterior_calibration_takes_complete_items_and_refuses_nothing_to_simulate() -> None:
    vae = MultimodalVAE([Modality("a", (1, 4, 4)), Modality("b", (2,), private_size=1)], 2, "mopoe").eval()
    present = torch.ones(12, 2, dtype=torch.bool)
    present[:5, 1] = False
    batch = {"a": torch.rand(12, 1, 4, 4), "b": torch.randn(12, 2), "present": present}
    result = posterior_calibration(vae, batch, ["b"], draws=9)
    assert result.simulations == 7
    assert result.note == IMAGE_NOTE
    assert posterior_calibration(vae, batch, ["a"], draws=9).note == ""
    for given, message in (([], "got none"), (["b", "a"], "got a, b"), (["c"], r"\(a, b\), got 'c'")):
        with pytest.raises(ValueError, match=message):
            posterior_calibration(vae, batch, given)
    present[:, 1] = False
    with pytest.raises(ValueError, match="an item must have all of b, got none of 12 items"):
        posterior_calibration(vae, batch, ["b"])
