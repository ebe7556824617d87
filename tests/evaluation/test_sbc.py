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
    SimulationCalibration,
    calibrate_by_simulation,
    holm,
    rank_bins,
    simulation_calibration,
)

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
    assert result.quantities == ("z[0]", "z[1]", "log_p")
    assert result.ranks.shape == (ITEMS, 3)
    assert result.ranks.min() == 0
    assert result.ranks.max() == 99
    assert (result.chi_square() > 0.01).all()
    assert (result.ks() > 0.01).all()


@pytest.mark.parametrize(("scale", "shift"), [(0.5, 0.0), (2.0, 0.0), (1.0, 0.3)])
def test_calibrate_by_simulation_wrong_guide_is_detected_in_its_dimension(scale: float, shift: float) -> None:
    result = run(scale, shift)
    assert result.chi_square()[0] < 1e-4
    assert result.chi_square()[1] > 0.01
    outer = np.isin(result.ranks[:, 0] // 5, [0, 19]).mean()
    if shift:
        assert result.ks()[0] < 1e-6
        assert result.ranks[:, 0].mean() < 45  # the draws lie above the true value
    else:
        assert result.chi_square()[2] < 1e-4
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
    assert (result.chi_square() > 0.01).all()
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
    assert [row.target for row in result.metrics()] == ["z[0]", "z[1]", "log_p"] * 4
    with pytest.raises(ValueError, match=r"given must name modalities of the model \(a, b\), got 'c'"):
        simulation_calibration(vae, ("c",))


@pytest.mark.parametrize(
    ("draws", "simulations", "bins"), [(99, 1000, 20), (99, 60, 10), (18, 200, 19), (63, 1000, 16)]
)
def test_rank_bins_returns_the_largest_valid_number(draws: int, simulations: int, bins: int) -> None:
    assert rank_bins(draws, simulations) == bins


@pytest.mark.parametrize(("draws", "simulations"), [(22, 100), (99, 9)])
def test_rank_bins_too_few_simulations_raise(draws: int, simulations: int) -> None:
    with pytest.raises(ValueError, match="choose draws"):
        rank_bins(draws, simulations)


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
    least = min(rows["sbc_chi_square_p_value", name] for name in result.quantities)
    assert min(rows["sbc_chi_square_holm_p_value", name] for name in result.quantities) == pytest.approx(3 * least)
    assert {name for name, _ in rows} == {
        f"sbc_{test}{corrected}_p_value" for test in ("chi_square", "ks") for corrected in ("", "_holm")
    }
