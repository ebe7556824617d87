"""Simulation-based calibration of exact and of wrong guides."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.evaluation.sbc import (
    IMAGE_NOTE,
    calibrate_by_simulation,
    simulation_calibration,
)
from pyro_mmvae.evaluation.sbc_result import SimulationCalibration, holm

ITEMS = 400


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.tensor([0.0, 1.0]), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def run(scale: float = 1.0, shift: float = 0.0, seed: int = 0) -> SimulationCalibration:
    """Calibrate the exact posterior (precision 5, mean (4 x + prior mean) / 5), or one that is wrong in z[0]."""

    def guide(x: Tensor) -> None:
        loc = (4 * x + torch.tensor([0.0, 1.0])) / 5 + torch.tensor([shift, 0.0])
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.2**0.5 * torch.tensor([scale, 1.0])).to_event(1))

    dummy = torch.full((ITEMS, 2), 100.0)
    return calibrate_by_simulation(model, guide, lambda values: ((values["x"],), {}), dummy, seed=seed)


def test_calibrate_by_simulation_exact_posterior_has_uniform_ranks() -> None:
    result = run()
    assert result.quantities == ("z[0]", "z[1]", "log_p", "tarp")
    assert result.ranks.shape == (ITEMS, 4)
    assert result.ranks.min() == 0
    assert result.ranks.max() == 99
    assert result.p_value() > 0.01
    assert (result.truth.shape, result.drawn.shape) == ((ITEMS, 2), (99, ITEMS, 2))
    np.testing.assert_array_equal((result.drawn < result.truth).sum(0), result.ranks[:, :2])


@pytest.mark.parametrize(("scale", "shift"), [(0.5, 0.0), (2.0, 0.0), (1.0, 0.3)])
def test_calibrate_by_simulation_wrong_guide_is_detected_in_its_dimension(scale: float, shift: float) -> None:
    result = run(scale, shift)
    p_values = dict(zip(result.quantities, result.p_values(), strict=True))
    assert p_values["z[0]"] < 1e-6
    assert p_values["z[1]"] > 0.01
    assert result.p_value() == pytest.approx(min(1.0, 4 * min(p_values.values())))
    outer = np.isin(result.ranks[:, 0] // 5, [0, 19]).mean()
    if shift:
        assert result.ranks[:, 0].mean() < 45  # the draws lie above the true value
    else:
        assert p_values["log_p"] < 1e-4
        assert (outer > 0.15) == (scale < 1)  # ∪ if the guide is too narrow, ∩ if it is too wide


def test_calibrate_by_simulation_seed_is_reproducible_and_local() -> None:
    state = torch.get_rng_state()
    first, again, other = run(seed=4), run(seed=4), run(seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert (first.ranks == again.ranks).all()
    assert (first.ranks != other.ranks).any()


def test_simulation_calibration_log_p_uses_given_modalities_only() -> None:
    # Given nothing the guide is the prior, so log p(z) has uniform ranks; log p(x, z) would not.
    vae = MultimodalVAE([Modality("a", (3,), scale=0.1), Modality("b", (2,))], 2, "poe", beta=3.0).eval()
    result = simulation_calibration(vae, (), simulations=300, draws=59)
    assert result.given == ()
    assert result.p_value() > 0.01
    assert result.note == ""


def test_simulation_calibration_images_add_a_note() -> None:
    vae = MultimodalVAE([Modality("a", (1, 4, 4)), Modality("b", (2,))], 2, "mopoe").eval()
    result = simulation_calibration(vae, ("a",), simulations=100, draws=19)
    assert result.note == IMAGE_NOTE
    assert "the encoder never saw" in result.protocol
    assert result.density == "mixture"
    assert simulation_calibration(vae, ("b",), simulations=100, draws=19).note == ""
    for row in result.metrics():
        assert (row.given, row.n, row.seed) == (("a",), 100, 0)
        assert "19 draws" in row.protocol
    assert [row.target for row in result.metrics()] == ["", *["z[0]", "z[1]", "log_p", "tarp"] * 2]
    with pytest.raises(ValueError, match=r"given must name modalities of the model \(a, b\), got 'c'"):
        simulation_calibration(vae, ("c",))


def test_calibrate_by_simulation_without_draws_raises() -> None:
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        calibrate_by_simulation(model, model, lambda values: ((values["x"],), {}), torch.zeros(3, 2), draws=0)


def test_calibrate_by_simulation_factors_are_left_out() -> None:
    def ranks(weight: float) -> SimulationCalibration:
        def penalised(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.factor("penalty", weight * z.square().sum(-1))
                pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.8 * x, 0.2**0.5).to_event(1))

        return calibrate_by_simulation(penalised, guide, lambda values: ((values["x"],), {}), torch.zeros(ITEMS, 2))

    result = ranks(50.0)
    assert result.given == ("x",)
    np.testing.assert_array_equal(result.ranks, ranks(0.0).ranks)


def test_holm_matches_hand_values() -> None:
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.5, 0.03])), [0.09, 0.04, 0.5, 0.09])
    np.testing.assert_allclose(holm(np.array([0.9, 0.6])), [1.0, 1.0])


def test_simulation_calibration_metrics_have_corrected_p_values() -> None:
    result = run(scale=1.1)
    rows = {(row.metric, row.target): row.value for row in result.metrics()}
    least = min(rows["sbc_p_value", name] for name in result.quantities)
    assert min(rows["sbc_holm_p_value", name] for name in result.quantities) == pytest.approx(min(1.0, 4 * least))
    assert rows["sbc_overall_p_value", ""] == pytest.approx(min(1.0, 4 * least))
    assert {name for name, _ in rows} == {"sbc_p_value", "sbc_holm_p_value", "sbc_overall_p_value"}
