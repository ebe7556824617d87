"""Coverage of predictive intervals against an exact model, and fits against distributions that are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_mmvae import Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.inference.intervals import (
    LEVELS,
    ErrorLaw,
    Residuals,
    collect_residuals,
    error_law,
    location_likelihood,
)
from pyro_mmvae.likelihoods import SharedScaleGeneralizedNormal, make_likelihood
from tests.evaluation.exact_models import NOISE, Linear


def residuals(values: Tensor, features: int = 1, power: int = 1) -> Residuals:
    """Return residuals of one draw of each item, whose features take turns."""
    feature = torch.arange(values.numel()) % features
    energy = torch.stack([values[feature == k].abs().pow(power).mean() for k in range(features)])
    return Residuals(values.unsqueeze(0), feature, energy if features > 1 else energy[0], len(values))


def generalized(scale: float, exponent: float, count: int = 10_000) -> Tensor:
    law = SharedScaleGeneralizedNormal(torch.zeros(count, 1), torch.tensor(scale), torch.tensor(exponent))
    return law.sample()[:, 0]


@pytest.fixture(scope="module")
def linear() -> Linear:
    with torch.random.fork_rng():
        return Linear(items=1500, seed=3)


@pytest.mark.parametrize("given", ["others", "all"])
def test_collect_residuals_exact_linear_model_has_nominal_coverage(linear: Linear, given: str) -> None:
    found = collect_residuals(linear.vae, linear.data, range(1500), given=given, draws=20)
    for name in NOISE:
        base: Any = location_likelihood(linear.vae.model.likelihoods[name])  # type: ignore[arg-type]
        law = error_law(base)
        assert law.exponent == 2.0
        assert float(law.scale) == pytest.approx(NOISE[name] * math.sqrt(2))
        covered = found[name].coverage(law)
        if given == "others":
            assert covered == pytest.approx(LEVELS, abs=0.02)
        else:  # what was seen lies nearer to the middle
            assert covered[0] > LEVELS[0] + 0.02
        assert found[name].items == 1500


def test_fit_exact_linear_model_finds_its_noise(linear: Linear) -> None:
    found = collect_residuals(linear.vae, linear.data, range(1000), draws=20)
    for name, noise in NOISE.items():
        law = found[name].fit(2, per_feature=False, fit_exponent=False)
        assert float(law.scale) == pytest.approx(noise * math.sqrt(2), rel=0.05)
    free = found["a"].fit(2, per_feature=False, fit_exponent=True)
    assert found["a"].coverage(free) == pytest.approx(LEVELS, abs=0.005)
    assert free.exponent == pytest.approx(2.0, abs=0.6)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, 6.0])
def test_fit_free_exponent_recovers_a_generalized_normal(exponent: float) -> None:
    found = residuals(generalized(0.3, exponent))
    law = found.fit(1, per_feature=False, fit_exponent=True)
    assert law.exponent == pytest.approx(exponent, rel=0.15)
    assert float(law.scale) == pytest.approx(0.3, rel=0.15)
    assert found.coverage(law) == pytest.approx(LEVELS, abs=0.003)


def test_fit_family_alone_balances_the_errors_of_both_levels() -> None:
    found = residuals(generalized(0.3, 6.0))
    law = found.fit(1, per_feature=False, fit_exponent=False)
    below, above = (value - level for value, level in zip(found.coverage(law), LEVELS, strict=True))
    assert law.exponent == 1.0
    assert below < -0.02 < 0.02 < above
    assert below / 0.25 + above / 0.09 == pytest.approx(0, abs=0.01)


def test_fit_per_feature_follows_the_scales_of_the_features() -> None:
    scales = torch.tensor([0.1, 1.0, 5.0])
    values = generalized(1.0, 1.0, 12_000) * scales.repeat(4_000)
    found = residuals(values, features=3)
    law = found.fit(1, per_feature=True, fit_exponent=True)
    torch.testing.assert_close(law.scale, scales, rtol=0.1, atol=0.0)
    assert found.coverage(law) == pytest.approx(LEVELS, abs=0.005)
    torch.testing.assert_close(found.closed_form(1, per_feature=False), values.abs().mean())


def test_coverage_of_several_draws_is_that_of_their_mixture() -> None:
    values = torch.tensor([[-3.0, 0.2], [1.0, 0.4]])
    found = Residuals(values, torch.zeros(2, dtype=torch.long), torch.tensor(1.0), 2)
    u = torch.distributions.Laplace(0.0, 0.5).cdf(values).mean(0)
    expected = [float(((u - 0.5).abs() <= level / 2).float().mean()) for level in (0.1, 0.4, 0.9)]
    assert found.coverage(ErrorLaw(torch.tensor(0.5), 1.0), (0.1, 0.4, 0.9)) == expected


def test_collect_residuals_skips_absent_items_and_other_likelihoods() -> None:
    modalities = [
        Modality("a", (2,), scale=0.5),
        Modality("b", (3,), scale=0.5),
        Modality("c", (2,), data_type="binary"),
    ]
    vae = MultimodalVAE(modalities, latent_size=2).eval()
    present = torch.tensor([[True, True, True], [True, False, False], [False, True, True], [True, False, True]])
    data = MultimodalDataset(
        {"a": torch.randn(4, 2), "b": torch.randn(4, 3), "c": torch.rand(4, 2).round()}, None, present, "d", "val"
    )
    found = collect_residuals(vae, data, range(4), draws=3)
    assert {name: value.items for name, value in found.items()} == {"a": 2, "b": 2}  # item 1 has nothing but a
    assert found["a"].values.shape == (3, 4)
    again = collect_residuals(vae, data, range(4), draws=3)
    assert torch.equal(found["b"].values, again["b"].values)


def test_error_law_standardized_is_in_standardised_units() -> None:
    likelihood = make_likelihood("laplace", (2,), scale=0.4, standardize=True)
    likelihood.set_moments(torch.zeros(2), torch.full((2,), 10.0))  # type: ignore[operator]
    base: Any = location_likelihood(likelihood)
    assert float(error_law(base).scale) == pytest.approx(0.4)
    assert location_likelihood(make_likelihood("poisson", (2,))) is None
