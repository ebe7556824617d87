"""Scales in closed form: the value, the gradients of the networks, and what does not change the value."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.likelihoods import (
    SCALE_FLOOR,
    CalibratedScale,
    calibrated_name,
    make_likelihood,
    parse_calibrated,
)
from pyro_mmvae.likelihoods.calibrated import MOMENTUM

NAMES = pytest.mark.parametrize("name", ["laplace", "normal"])
POWER = {"laplace": 1, "normal": 2}


def step(likelihood: Any, loc: Tensor, x: Tensor, mask: Tensor | None = None) -> None:
    """Take the gradient of one log density."""
    distribution = likelihood(loc, x)
    (distribution if mask is None else distribution.mask(mask)).log_prob(x).sum().neg().backward()


def draw(items: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(items, 2, 3, requires_grad=True), torch.randn(items, 2, 3)


@NAMES
def test_calibrated_first_step_has_the_mean_residual(name: str) -> None:
    likelihood, (loc, x) = make_likelihood(name, (2, 3), scale="calibrated:0.4"), draw()
    step(likelihood, loc, x)
    residual = (x - loc.detach()).abs()
    expected = residual.mean() if name == "laplace" else residual.square().mean().sqrt()
    distribution: Any = likelihood.eval()(loc)
    torch.testing.assert_close(distribution.scale, expected)


@NAMES
def test_calibrated_per_feature_has_the_mean_residual_of_each(name: str) -> None:
    likelihood, (loc, x) = make_likelihood(name, (2, 3), scale="calibrated_per_feature"), draw()
    step(likelihood, loc, x)
    energy = (x - loc.detach()).abs() ** POWER[name]
    distribution: Any = likelihood.eval()(loc)
    torch.testing.assert_close(distribution.scale, energy.mean(0) ** (1 / POWER[name]))
    family = {"laplace": torch.distributions.Laplace, "normal": torch.distributions.Normal}[name]
    expected = family(loc, distribution.scale).log_prob(x).sum((-1, -2))
    torch.testing.assert_close(distribution.log_prob(x), expected)
    torch.testing.assert_close(distribution.variance, family(loc, distribution.scale).variance)
    assert distribution.expand((4, 6)).sample().shape == (4, 6, 2, 3)


@NAMES
def test_calibrated_scale_maximises_the_likelihood(name: str) -> None:
    likelihood, (loc, x) = make_likelihood(name, (2, 3), scale="calibrated"), draw()
    step(likelihood, loc, x)
    scale: Tensor = likelihood.eval()(loc).scale
    values = [make_likelihood(name, (2, 3), scale=float(scale) * f)(loc).log_prob(x).sum() for f in (0.95, 1.0, 1.05)]
    assert values[1] > values[0]
    assert values[1] > values[2]


@NAMES
@pytest.mark.parametrize("scale", ["calibrated:0.3", "calibrated_per_feature:0.3"])
def test_calibrated_training_has_loss_and_gradients_of_the_training_scale(name: str, scale: str) -> None:
    x = {"a": torch.randn(8, 4), "b": torch.randn(8, 3), "present": torch.rand(8, 2) > 0.3}
    results = []
    for setting in (0.3, scale):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            modalities = [Modality(n, (k,), likelihood=name, scale=setting) for n, k in (("a", 4), ("b", 3))]  # type: ignore[arg-type]
            vae = MultimodalVAE(modalities, latent_size=2)
            for _ in range(2):  # the second loss would show a scale that entered the training
                vae.zero_grad()
                loss = Trace_ELBO(max_plate_nesting=1)(vae.model, vae.guide)(x)
                loss.backward()
        results.append([loss, *(parameter.grad for parameter in vae.parameters())])
    for fixed, ours in zip(*results, strict=True):
        assert torch.equal(fixed, ours)


def test_calibrated_running_mean_is_corrected_for_its_start() -> None:
    likelihood = make_likelihood("laplace", (2, 3), scale="calibrated")
    means = []
    for _ in range(3):
        loc, x = draw()
        step(likelihood, loc, x)
        means.append((x - loc.detach()).abs().mean())
    weights = torch.tensor([MOMENTUM**2, MOMENTUM, 1.0])
    expected = (weights * torch.stack(means)).sum() / weights.sum()
    likelihood.eval()
    torch.testing.assert_close(likelihood(loc).scale, expected)


def test_calibrated_running_mean_converges_to_the_scale_of_the_noise() -> None:
    likelihood, loc = make_likelihood("normal", (50,), scale="calibrated"), torch.zeros(64, 50, requires_grad=True)
    for _ in range(200):
        step(likelihood, loc, 0.2 * torch.randn(64, 50))
    assert float(likelihood.eval()(loc).scale) == pytest.approx(0.2, rel=0.01)


def test_calibrated_masked_items_do_not_count() -> None:
    likelihood, (loc, x) = make_likelihood("laplace", (2, 3), scale="calibrated"), draw()
    mask = torch.tensor([True, False, True, True, False, True])
    x[~mask] = torch.nan
    step(likelihood, loc, x, mask)
    torch.testing.assert_close(likelihood.eval()(loc).scale, (x - loc.detach())[mask].abs().mean())


def test_calibrated_batch_without_the_modality_changes_nothing() -> None:
    likelihood, (loc, x) = make_likelihood("laplace", (2, 3), scale="calibrated"), draw()
    step(likelihood, loc, x, torch.zeros(6, dtype=torch.bool))
    assert float(likelihood.eval()(loc).scale) == 1.0
    step(likelihood.train(), loc, x)
    torch.testing.assert_close(likelihood.eval()(loc).scale, (x - loc.detach()).abs().mean())


@pytest.mark.parametrize("options", [{}, {"vectorize_particles": True}])
def test_calibrated_several_particles_make_one_update(options: dict[str, Any]) -> None:
    vae = MultimodalVAE([Modality("a", (4,), scale="calibrated"), Modality("b", (3,))], latent_size=2)
    x = {"a": torch.randn(8, 4), "b": torch.randn(8, 3)}
    Trace_ELBO(num_particles=3, max_plate_nesting=1, **options)(vae.model, vae.guide)(x).backward()
    scale: CalibratedScale = vae.model.likelihoods["a"].calibration  # type: ignore[assignment]
    scale.update()
    assert float(scale.correction) == pytest.approx(1 - MOMENTUM)


def test_calibrated_evaluation_changes_nothing() -> None:
    likelihood, (loc, x) = make_likelihood("laplace", (2, 3), scale="calibrated"), draw()
    step(likelihood, loc, x)
    before = copy.deepcopy(likelihood.state_dict())
    likelihood(loc, 9 * x).log_prob(9 * x)  # no gradient
    step(likelihood.eval(), loc, 9 * x)
    with torch.no_grad():
        likelihood.train()(loc, 9 * x).log_prob(9 * x)
    assert all(torch.equal(value, before[key]) for key, value in likelihood.state_dict().items())


def test_calibrated_jit_has_the_gradient_without_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    likelihood, (loc, x) = make_likelihood("laplace", (2, 3), scale="calibrated:0.3"), draw()
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    step(likelihood, loc, x)
    torch.testing.assert_close(loc.grad, (loc.detach() - x).sign() / 0.3)
    assert float(likelihood.eval()(loc).scale) == pytest.approx(0.3)


def test_calibrated_saved_and_loaded_keeps_scale_and_running_mean() -> None:
    one, two = (make_likelihood("normal", (2, 3), scale="calibrated", standardize=True) for _ in range(2))
    one.set_moments(torch.zeros(2, 3), torch.full((2, 3), 5.0))
    loc, x = draw()
    step(one, loc, 5 * x)
    two.load_state_dict(one.state_dict())
    for likelihood in (one, two):
        step(likelihood, loc, 5 * x + 1)
    state = two.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in one.state_dict().items())
    torch.testing.assert_close(one.eval()(loc).variance, two.eval()(loc).variance)


def test_calibrated_standardized_scale_is_relative_to_the_spread() -> None:
    likelihood = make_likelihood("laplace", (2, 3), scale="calibrated", standardize=True)
    likelihood.set_moments(torch.ones(2, 3), torch.full((2, 3), 5.0))
    loc, x = draw()
    step(likelihood, loc, 1 + 5 * x)
    scale = (x - loc.detach()).abs().mean()
    torch.testing.assert_close(likelihood.eval()(loc).variance, (2 * (5 * scale) ** 2).expand(6, 2, 3))


def test_set_exponent_gives_a_generalized_normal_until_training_goes_on() -> None:
    likelihood, (loc, x) = make_likelihood("normal", (2, 3), scale="calibrated"), draw()
    calibration: CalibratedScale = likelihood.calibration  # type: ignore[assignment]
    calibration.set(0.5, 0.7)
    likelihood.eval()
    expected = -((x - loc).abs() / 0.5).pow(0.7) - torch.tensor(1.0).log() - torch.lgamma(torch.tensor(1 + 1 / 0.7))
    torch.testing.assert_close(likelihood(loc).log_prob(x), expected.sum((-1, -2)))
    loaded = make_likelihood("normal", (2, 3), scale="calibrated")
    loaded.load_state_dict(likelihood.state_dict())
    torch.testing.assert_close(loaded.eval()(loc).log_prob(x), expected.sum((-1, -2)))
    step(likelihood.train(), loc, x)
    torch.testing.assert_close(likelihood.eval()(loc).scale, (x - loc.detach()).square().mean().sqrt())
    assert not calibration.is_generalized


def test_set_exponent_of_the_family_is_the_family() -> None:
    calibration = CalibratedScale((), 1.0, 2)
    calibration.set(0.5, 2.0)
    assert float(calibration.scale) == pytest.approx(0.5 / 2**0.5)
    assert not calibration.is_generalized


def test_set_tiny_scale_stays_above_the_floor() -> None:
    calibration = CalibratedScale((3,), 1.0, 1)
    calibration.set(torch.tensor([1e-9, 0.2, 1.0]))
    assert float(calibration.scale.min()) == pytest.approx(SCALE_FLOOR)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="scale must be positive and finite"):
            calibration.set(wrong)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("calibrated", (False, None)),
        ("calibrated:0.75", (False, 0.75)),
        ("calibrated_per_feature:1e-1", (True, 0.1)),
        ("calibrated:0", None),
        ("calibrated:inf", None),
        ("calibrated:x", None),
        ("calibrated:", None),
        ("learned", None),
        (0.75, None),
    ],
)
def test_parse_calibrated_reads_names_with_a_training_scale(scale: object, expected: object) -> None:
    assert parse_calibrated(scale) == expected
    if isinstance(expected, tuple) and expected[1] is not None:
        assert parse_calibrated(calibrated_name(*expected)) == expected


def test_resolved_calibrated_scale_has_the_training_scale_of_its_type() -> None:
    assert Modality("a", (3, 8, 8), scale="calibrated").resolved().scale == "calibrated:0.75"
    assert Modality("a", (5,), scale="calibrated").resolved().scale == "calibrated:1"
    assert Modality("a", (5,), scale="calibrated_per_feature:0.2").resolved().scale == "calibrated_per_feature:0.2"
    with pytest.raises(ValueError, match="scale must be a positive number, 'learned', 'calibrated' or"):
        Modality("a", (5,), scale="calibrated:-1")
