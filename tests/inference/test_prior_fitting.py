"""Priors that are fitted to the aggregated posterior: what they recover, their options, and the file that holds one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_mmvae import Batch, Experts, Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.inference import FittedPrior, fit_prior, flows, load_fitted_prior
from pyro_mmvae.inference.fitted_prior import prior_draws, prior_protocol

WEIGHTS = torch.tensor([0.2, 0.5, 0.3])
MEANS = torch.tensor([[-6.0, 0.0], [0.0, 5.0], [6.0, -1.0]])
SCALE = 0.3


def points(count: int) -> Tensor:
    """Return draws of a mixture of three round Gaussians."""
    centers = MEANS[torch.multinomial(WEIGHTS, count, replacement=True)]
    return centers + SCALE * torch.randn(count, 2)


def dataset(values: Tensor, present: Tensor | None = None) -> MultimodalDataset:
    if present is None:
        present = torch.ones(len(values), 2, dtype=torch.bool)
    return MultimodalDataset({"a": values, "b": values}, None, present, "points", "train")


def reading(aggregation: str = "wb", apart: float = 0.0) -> MultimodalVAE:
    """Return a model whose experts are certain of the values of an item, those of ``b`` shifted by ``apart``."""
    vae = MultimodalVAE([Modality("a", (2,)), Modality("b", (2,))], 2, aggregation).eval()

    def experts(batch: Batch) -> Experts:
        loc = torch.stack([batch.values["a"], batch.values["b"] + apart], 1)
        mask = torch.stack([batch.present.get(n, torch.ones(len(batch), dtype=torch.bool)) for n in ("a", "b")], 1)
        return Experts(loc, torch.full_like(loc, 1e-3), mask, validate_args=False)

    vae.guide.experts = experts  # type: ignore[method-assign, assignment]
    return vae


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_fit_prior_to_a_mixture_recovers_its_parameters(covariance: str) -> None:
    prior = fit_prior(reading(), dataset(points(2000)), components=3, covariance=covariance)
    order = prior.arrays["means"][:, 0].argsort()
    np.testing.assert_allclose(prior.arrays["weights"][order], WEIGHTS, atol=0.03)
    np.testing.assert_allclose(prior.arrays["means"][order], MEANS, atol=0.05)
    name = "scale_trils" if covariance == "full" else "scales"
    spread = prior.arrays[name]
    expected = SCALE * (np.eye(2) if covariance == "full" else np.ones(2))
    np.testing.assert_allclose(spread, np.broadcast_to(expected, spread.shape), atol=0.04)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_distribution_of_a_mixture_equals_that_of_torch(covariance: str) -> None:
    prior = fit_prior(reading(), dataset(points(300)), components=3, covariance=covariance)
    arrays = {name: torch.from_numpy(array) for name, array in prior.arrays.items()}
    if covariance == "full":
        parts: Any = torch.distributions.MultivariateNormal(arrays["means"], scale_tril=arrays["scale_trils"])
    else:
        parts = torch.distributions.Independent(torch.distributions.Normal(arrays["means"], arrays["scales"]), 1)
    expected = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(arrays["weights"]), parts)
    z = points(20)
    torch.testing.assert_close(prior.distribution().log_prob(z).double(), expected.log_prob(z.double()), rtol=1e-4,
                               atol=1e-3)  # fmt: skip


def test_fit_prior_judges_held_out_draws_under_both_priors() -> None:
    values, vae = points(1000), reading()
    held_out = fit_prior(vae, dataset(values), components=3).about["held_out"]
    truth = dist.MixtureSameFamily(dist.Categorical(WEIGHTS), dist.Normal(MEANS, SCALE).to_event(1))
    assert held_out["draws"] == 500  # five of each of a tenth of the items
    assert held_out["fitted"] == pytest.approx(float(truth.log_prob(values).mean()), abs=0.2)
    assert held_out["model"] == pytest.approx(float(vae.model.prior().log_prob(values).mean()), abs=2)


def test_fit_prior_draws_from_the_joint_component_unless_there_is_none() -> None:
    """Experts at 0 and 4 have their barycenter at 2, where the mixture of experts is not."""
    data, near = dataset(torch.zeros(200, 2) + 0.01 * torch.randn(200, 2)), {"atol": 0.1, "rtol": 0}
    joint = fit_prior(reading("mwb", apart=4.0), data, components=1)
    np.testing.assert_allclose(joint.arrays["means"], [[2.0, 2.0]], **near)
    assert joint.about["density"] == "joint"
    mixture = fit_prior(reading("mwb", apart=4.0), data, components=3, density="mixture")
    np.testing.assert_allclose(np.sort(mixture.arrays["means"][:, 0]), [0.0, 2.0, 4.0], **near)
    moe = fit_prior(reading("moe", apart=4.0), data, components=2)
    np.testing.assert_allclose(np.sort(moe.arrays["means"][:, 0]), [0.0, 4.0], **near)
    assert moe.about["density"] == "mixture"
    with pytest.raises(ValueError, match="has no component of everything present"):
        fit_prior(reading("moe"), data, density="joint")


def test_fit_prior_with_absent_modalities_uses_what_is_present() -> None:
    values = torch.full((90, 2), 3.0) + 0.01 * torch.randn(90, 2)
    present = torch.ones(90, 2, dtype=torch.bool)
    present[:30] = False  # these items would be drawn from the model's prior
    present[30:60, 1] = False
    prior = fit_prior(reading(), dataset(values, present), components=1)
    np.testing.assert_allclose(prior.arrays["means"], [[3.0, 3.0]], atol=0.05)
    assert prior.about["items"] == 60
    with pytest.raises(ValueError, match="data 'points' must have items with a modality to fit a prior to, got none"):
        fit_prior(reading(), dataset(values, torch.zeros(90, 2, dtype=torch.bool)))


@pytest.mark.parametrize(("items", "components"), [(1, 1), (2, 1), (35, 3), (400, 10)])
def test_fit_prior_of_few_items_fits_fewer_components(items: int, components: int) -> None:
    prior = fit_prior(reading(), dataset(points(items)))
    assert prior.about["components"] == components == len(prior.arrays["weights"])
    assert prior.label == f"{components} Gaussian{'s' if components > 1 else ''}"
    assert (prior.about["held_out"] is None) == (items < 20)
    assert bool(prior.distribution().sample(torch.Size((5,))).isfinite().all())


def test_fit_prior_of_equal_items_is_finite() -> None:
    prior = fit_prior(reading(), dataset(torch.ones(100, 2)))
    torch.testing.assert_close(prior.distribution().sample(torch.Size((50,))), torch.ones(50, 2), atol=0.05, rtol=0)


def test_fit_prior_is_determined_by_its_seed_and_leaves_the_generator_alone() -> None:
    data, vae = dataset(points(300)), reading()
    before = torch.get_rng_state()
    one, same, other = (fit_prior(vae, data, seed=seed, items=100) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(one.arrays["means"], same.arrays["means"])
    assert not np.array_equal(one.arrays["means"], other.arrays["means"])
    assert one.about["items"] == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 0}, "components must be a positive integer, got 0"),
        ({"components": 2.5}, "components must be a positive integer, got 2.5"),
        ({"items": -1}, "items must be a positive integer, got -1"),
        ({"covariance": "tied"}, "covariance must be one of full, diag, got 'tied'"),
        ({"density": "component"}, "density must be one of joint, mixture, got 'component'"),
    ],
)
def test_fit_prior_with_a_wrong_option_raises(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_prior(reading(), dataset(points(20)), **options)


def test_fit_prior_to_posteriors_that_are_not_finite_raises() -> None:
    with pytest.raises(ValueError, match="posteriors must be finite to fit a prior to them"):
        fit_prior(reading(), dataset(torch.full((30, 2), torch.nan)))


def test_load_fitted_prior_returns_what_was_saved(tmp_path: Path) -> None:
    prior, vae = fit_prior(reading(), dataset(points(300))), reading()
    prior.save(tmp_path / "prior.npz")
    loaded = load_fitted_prior(tmp_path / "prior.npz")
    assert loaded.about == prior.about
    draws = []
    for each in (prior, loaded):
        torch.manual_seed(3)
        draws.append(prior_draws(vae, 7, each))
    assert torch.equal(*draws)
    assert prior_protocol(vae, loaded) == "draws of the fitted prior (10 Gaussians), mean of the likelihood"
    assert prior_protocol(vae) == "prior draws, mean of the likelihood"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def _other(path: Path) -> None:
    np.savez(path, about=np.array('{"kind": "spline"}'))


def _foreign(path: Path) -> None:
    np.savez(path, weights=np.ones(1))


@pytest.mark.parametrize("damage", [_cut, _other, _foreign])
def test_load_fitted_prior_of_a_damaged_file_raises_in_one_line(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "prior.npz"
    fit_prior(reading(), dataset(points(30))).save(path)
    damage(path)
    with pytest.raises(ValueError, match="must be a fitted prior of pyro_mmvae, got .*: fit it again") as error:
        load_fitted_prior(path)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(find_spec("zuko") is None, reason="needs the extra flow")  # its import changes global state
def test_fit_prior_as_a_flow_recovers_a_density(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "_MAX_EPOCHS", 40)
    values = points(300)
    prior = fit_prior(reading(), dataset(values), flow=True)
    gaussian = fit_prior(reading(), dataset(values), components=1)
    assert prior.label == "flow"
    assert prior.about["held_out"]["fitted"] > gaussian.about["held_out"]["fitted"] + 0.5
    drawn = prior.distribution().sample(torch.Size((2000,)))
    nearest = torch.cdist(drawn, MEANS).argmin(-1)
    shares = torch.bincount(nearest, minlength=3) / len(drawn)
    torch.testing.assert_close(shares, WEIGHTS, atol=0.1, rtol=0)
    prior.save(tmp_path / "prior.npz")
    z = points(9)
    torch.testing.assert_close(
        load_fitted_prior(tmp_path / "prior.npz").distribution().log_prob(z), prior.distribution().log_prob(z)
    )


def test_fit_prior_as_a_flow_without_zuko_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko.flows", None)
    with pytest.raises(ImportError, match=r"a flow as prior needs zuko: pip install 'pyro-mmvae\[flow\]'"):
        fit_prior(reading(), dataset(points(30)), flow=True)
    stored = FittedPrior({}, {"kind": "flow", "flow": {"features": 2}})
    with pytest.raises(ImportError, match="needs zuko"):
        stored.distribution()
