"""Standardized likelihoods: moments, the change of variables, and use in a model."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import Tensor

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.data import complete_specs, find_moments, from_arrays
from pyro_mmvae.likelihoods import (
    LIKELIHOODS,
    Likelihood,
    StandardizedLikelihood,
    make_likelihood,
    moments,
    register_likelihood,
)
from pyro_mmvae.likelihoods.heads import SCALE_FLOOR
from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.networks import NetworkOptions

CENTER = torch.tensor([1e9, -3.0, 2e-6])
SPREAD = torch.tensor([2e5, 0.5, 1e-6])
SCIPY = {"normal": scipy.stats.norm, "laplace": scipy.stats.laplace}
NAMES = pytest.mark.parametrize("name", sorted(SCIPY))


def make(name: str = "normal", scale: float | str = 0.7, dtype: torch.dtype = torch.float64) -> StandardizedLikelihood:
    likelihood = make_likelihood(name, (3,), scale=scale, standardize=True).to(dtype)
    assert isinstance(likelihood, StandardizedLikelihood)
    likelihood.set_moments(CENTER, SPREAD)
    return likelihood


@NAMES
def test_log_prob_standardized_equals_scipy_in_the_units_of_the_data(name: str) -> None:
    likelihood = make(name)
    parameters = torch.randn(4, 3, dtype=torch.float64)
    center, spread = likelihood.center, likelihood.spread
    x = center + spread * torch.randn(4, 3, dtype=torch.float64)
    ours = likelihood(parameters)
    expected = SCIPY[name].logpdf(x.numpy(), (center + spread * parameters).numpy(), (0.7 * spread).numpy()).sum(-1)
    torch.testing.assert_close(ours.log_prob(x), torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
    assert (ours.batch_shape, ours.event_shape) == ((4,), (3,))
    torch.testing.assert_close(ours.mean, center + spread * parameters)
    torch.testing.assert_close(likelihood.mean(parameters), ours.mean)
    torch.testing.assert_close(ours.variance, likelihood.base(parameters).variance * spread.square())
    torch.testing.assert_close(likelihood.features(x), (x - center) / spread)


@NAMES
def test_log_prob_standardized_float32_is_accurate_far_from_zero(name: str) -> None:
    x = CENTER + SPREAD * torch.randn(50, 3)
    parameters = torch.randn(50, 3)
    exact = make(name)
    exact.center.copy_(CENTER.double())
    single = make(name, dtype=torch.float32)(parameters).log_prob(x)
    torch.testing.assert_close(single.double(), exact(parameters.double()).log_prob(x.double()), rtol=1e-5, atol=1e-4)


def test_expand_mask_and_sample_standardized() -> None:
    distribution = make()(torch.zeros(2, 3, dtype=torch.float64))
    draws = distribution.expand([5_000, 2]).sample()
    assert draws.shape == (5_000, 2, 3)
    standardised = (draws - CENTER.double()) / SPREAD.double()
    assert standardised.mean((0, 1)).abs().max() < 0.05
    assert (standardised.std((0, 1)) / 0.7 - 1).abs().max() < 0.05
    masked = distribution.mask(torch.tensor([True, False]))
    assert (masked.log_prob(draws[0]) == 0).tolist() == [False, True]


def test_moments_of_blocks_equal_those_of_the_whole() -> None:
    x = CENTER.double() + SPREAD.double() * torch.randn(101, 3, dtype=torch.float64)
    center, spread = moments([x[:7], x[7:7], x[7:60], x[60:]])
    torch.testing.assert_close(center, x.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(spread, x.std(0, correction=0), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("values", "spread"),
    [
        ([7.0, 7.0, 7.0], 7.0),  # constant: its size
        ([0.0, 0.0, 0.0], 1.0),
        ([1e9, 1e9 + 64, 1e9], 1e9),  # rounding of float32 only
        ([3e38, -3e38, 0.0], 3e38 * math.sqrt(2 / 3)),  # squares leave float32
        ([0.0, 0.0, 3e-20], 3e-20 * math.sqrt(2) / 3),
    ],
)
def test_moments_of_degenerate_columns_are_positive_and_finite(values: list[float], spread: float) -> None:
    center, result = moments([torch.tensor(values)[:, None]])
    assert float(result) == pytest.approx(spread, rel=1e-6)
    likelihood = make_likelihood("normal", (1,), standardize=True)
    likelihood.set_moments(center, result)  # type: ignore[operator]
    x = torch.cat([torch.tensor(values)[:, None], torch.zeros(1, 1)])  # 0 stands in absent slots
    parameters = torch.zeros(4, 1, requires_grad=True)
    log_prob = likelihood(parameters).log_prob(x)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert parameters.grad is not None
    assert parameters.grad.isfinite().all()


def test_moments_without_items_or_with_nan_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        moments([])
    with pytest.raises(ValueError, match="must be finite"):
        moments([torch.tensor([[1.0], [math.nan]])])


def test_standardized_likelihood_without_moments_says_what_to_call() -> None:
    likelihood = make_likelihood("normal", (2,), standardize=True)
    with pytest.raises(RuntimeError, match=r"call MultimodalVAE.standardize_from\(train\)"):
        likelihood.features(torch.zeros(1, 2))
    with pytest.raises(RuntimeError, match="moments"):
        likelihood(torch.zeros(1, 2))
    saved = make_likelihood("normal", (2,), standardize=True)
    saved.set_moments(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))  # type: ignore[operator]
    likelihood.load_state_dict(saved.state_dict())
    assert likelihood.mean(torch.ones(1, 2)).tolist() == [[4.0, 6.0]]


def test_set_moments_wrong_values_are_refused() -> None:
    likelihood = make()
    with pytest.raises(ValueError, match=r"center must have the shape \(3,\)"):
        likelihood.set_moments(torch.zeros(2), torch.ones(3))
    with pytest.raises(ValueError, match="spread must be positive and finite"):
        likelihood.set_moments(torch.zeros(3), torch.tensor([1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="center must be finite"):
        likelihood.set_moments(torch.full((3,), math.inf), torch.ones(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "poisson"}, "likelihood 'poisson' does not take standardize"),
        ({"output": "sigmoid"}, "standardize must be False for output 'sigmoid'"),
        ({"likelihood": make_likelihood("normal", (3,))}, "standardize must be left out with a likelihood of type"),
    ],
)
def test_modality_that_cannot_be_standardized_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Modality("v", (3,), standardize=True, **options).resolved()


def make_vae(**options: Any) -> MultimodalVAE:
    torch.manual_seed(0)
    modalities = [Modality("v", (3,), **options), Modality("w", (2,))]
    return MultimodalVAE(modalities, 2, network=NetworkOptions(hidden=8)).eval()


def test_vae_standardize_from_uses_present_items_and_equals_standardising_by_hand() -> None:
    x, w = CENTER + SPREAD * torch.randn(40, 3), torch.randn(40, 2)
    mask = torch.ones(40, 2, dtype=torch.bool)
    mask[:10, 0] = False
    vae, plain = make_vae(standardize=True), make_vae()
    vae.standardize_from({"v": x, "w": w, "present": mask})
    center, spread = moments([x[10:]])
    likelihood = vae.model.likelihoods["v"]
    torch.testing.assert_close(likelihood.center, center.float())
    torch.testing.assert_close(likelihood.spread, spread.float())
    by_hand = (x - likelihood.center) / likelihood.spread
    posterior, expected = (m.posterior({"v": v, "w": w}).mean for m, v in ((vae, x), (plain, by_hand)))
    torch.testing.assert_close(posterior, expected)
    decoded, expected = vae.decode(posterior)["v"], plain.decode(posterior)["v"]
    torch.testing.assert_close(decoded, likelihood.center + likelihood.spread * expected)
    parameters = vae.model.parameters_given(posterior, ["v"])["v"]
    density = vae.model.likelihoods["v"](parameters).log_prob(x)
    by_hand_density = plain.model.likelihoods["v"](parameters).log_prob(by_hand) - likelihood.spread.log().sum()
    torch.testing.assert_close(density, by_hand_density)
    with pytest.raises(ValueError, match="must have modality 'v'"):
        vae.standardize_from({"w": w})
    with pytest.raises(ValueError, match="values must be of modalities with standardize=True, got 'w'"):
        vae.set_moments({"w": (torch.zeros(2), torch.ones(2))})


def test_registered_likelihood_is_standardized_only_if_it_lists_the_option() -> None:
    class HeavyTails(Likelihood):
        def forward(self, parameters: Tensor, observed: Tensor | None = None) -> Any:
            return dist.StudentT(3.0, parameters, 1.0).to_event(len(self.shape))

    register_likelihood("heavy", data_types=("vector",), options=("standardize",))(HeavyTails)
    register_likelihood("rigid", data_types=("vector",))(HeavyTails)
    data = from_arrays({"v": (CENTER + SPREAD * torch.randn(30, 3)).numpy()}, split="train", name="mine")
    try:
        specs = {name: ModalitySpec(data_type="vector", likelihood=name) for name in ("heavy", "rigid")}
        completed = {name: complete_specs(data, {"v": spec})["v"] for name, spec in specs.items()}
        assert {name: spec.standardize for name, spec in completed.items()} == {"heavy": True, "rigid": False}
        likelihood = make_likelihood("heavy", (3,), standardize=True)
        with pytest.raises(ValueError, match="does not take standardize"):
            make_likelihood("rigid", (3,), standardize=True)
    finally:
        LIKELIHOODS.unregister("heavy")
        LIKELIHOODS.unregister("rigid")
    assert isinstance(likelihood, StandardizedLikelihood)
    likelihood.set_moments(*find_moments(data, {"v": completed["heavy"]})["v"])
    x = data.tensors["v"]
    expected = scipy.stats.t.logpdf(likelihood.features(x).numpy(), 3).sum(-1) - likelihood.spread.log().sum().item()
    torch.testing.assert_close(
        likelihood(torch.zeros(len(x), 3)).log_prob(x), torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-3
    )


@NAMES
def test_learned_scale_stays_at_its_floor_and_can_return(name: str) -> None:
    likelihood: Likelihood = make_likelihood(name, (3,), scale="learned")
    assert isinstance(likelihood.log_scale, Tensor)
    likelihood.log_scale.data.fill_(-50.0)
    distribution: Any = likelihood(torch.zeros(2, 3))
    assert distribution.scale.item() == pytest.approx(SCALE_FLOOR, rel=1e-5)
    distribution.log_prob(torch.ones(2, 3)).sum().backward()
    assert likelihood.log_scale.grad.item() > 0  # a larger scale is better, and the gradient says so
