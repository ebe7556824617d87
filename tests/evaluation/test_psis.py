"""PSIS k-hat of exact and of wrong guides."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from pyro_mmvae import Experts, Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.data import make_batch
from pyro_mmvae.evaluation import psis
from pyro_mmvae.evaluation.diagnostics import diagnose
from pyro_mmvae.evaluation.pareto import draws_needed
from pyro_mmvae.evaluation.psis import KHat, khat, khat_threshold, psis_khat
from pyro_mmvae.inference.importance import effective_sample_size, importance_weights, sample_importance
from pyro_mmvae.inference.posteriors import encode_dataset, has_several_components
from pyro_mmvae.networks import NetworkOptions
from tests.evaluation.exact_models import X, guide_of, model

LATENT, NOISE = 3, 0.5


@pytest.mark.parametrize(("factor", "shift"), [(0.3, 0.0), (0.5, 1.0)])
def test_psis_khat_narrow_or_shifted_guide_exceeds_the_threshold(factor: float, shift: float) -> None:
    weights = importance_weights(model, guide_of(factor, shift), X.repeat(5), samples=1000)
    assert (effective_sample_size(weights) < 500).all()
    assert np.mean(psis_khat(weights) > khat_threshold(1000)) > 0.6


def test_psis_khat_wide_guide_stays_small() -> None:
    weights = importance_weights(model, guide_of(1.3), X, samples=1000)
    assert (effective_sample_size(weights) > 500).all()
    assert (psis_khat(weights) < 0.5).all()


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_psis_khat_pareto_weights_recover_the_shape(shape: float) -> None:
    uniform = torch.rand(4000, 20, dtype=torch.float64)
    assert np.mean(psis_khat(-shape * uniform.log())) == pytest.approx(shape, abs=0.08)


def test_psis_khat_flat_is_zero_and_nan_is_infinite() -> None:
    columns = torch.stack([torch.randn(2000, dtype=torch.float64) * s for s in (0.0, 1e-3, 0.3, 0.3, 0.3)], 1)
    columns[0, 3], columns[:9, 4] = torch.nan, -torch.inf
    shapes = psis_khat(columns - 3000)
    assert shapes[:2].tolist() == [0, 0]
    assert shapes[2] < 0.5
    assert shapes[3] == np.inf
    assert shapes[4] < 0.5
    assert psis.FLAT < 0.3


def test_khat_threshold_matches_the_formula() -> None:
    assert khat_threshold(100) == 0.5
    assert khat_threshold(1000) == pytest.approx(2 / 3)
    assert khat_threshold(10**6) == 0.7


def linear(
    shift: float = 0.0, factor: float = 1.0, items: int = 40, aggregation: str = "poe"
) -> tuple[MultimodalVAE, MultimodalDataset]:
    """Return a model x = z + noise in two modalities with the exact posterior as guide, or one shifted or scaled."""
    modalities = [Modality(n, (LATENT,), likelihood="normal", scale=NOISE) for n in "ab"]
    vae = MultimodalVAE(modalities, LATENT, aggregation, network=NetworkOptions(depth=0)).eval()
    networks: Any = vae.guide.encode.networks
    decoders: Any = vae.model.decoders.networks
    with torch.no_grad():
        decoders[0].body[0].weight.copy_(torch.eye(LATENT).expand(2, -1, -1))
        decoders[0].body[0].bias.zero_()
        head = networks[0].head.linear
        head.weight.copy_(torch.cat([torch.eye(LATENT), torch.zeros(LATENT, LATENT)], 1).expand(2, -1, -1))
        head.bias[:, 0, :LATENT] = shift
        head.bias[:, 0, LATENT:] = math.log(factor * NOISE)
    z = torch.randn(items, 1, LATENT)
    x = z + NOISE * torch.randn(items, 2, LATENT)
    present = torch.ones(items, 2, dtype=torch.bool)
    return vae, MultimodalDataset({"a": x[:, 0], "b": x[:, 1]}, None, present, "linear", "test")


def khat_of(vae: MultimodalVAE, data: MultimodalDataset, **options: Any) -> KHat:
    return khat(vae, encode_dataset(vae, data), data, **{"subset": (0, 1), **options})


def test_khat_exact_posterior_is_small() -> None:
    result = khat_of(*linear(), items=25)
    assert result.values.shape == result.items.shape == (25,)
    assert (result.values < 0.5).all()
    median, share, draws = result.rows
    assert (median.metric, median.given, median.target, median.n) == ("khat", ("a", "b"), "", 25)
    assert (share.metric, share.value) == ("khat_share", 0.0)
    assert (draws.metric, draws.value) == ("khat_draws", draws_needed(median.value))
    assert result.threshold == khat_threshold(1000)
    assert "S=1000" in median.protocol
    assert "25 of 40 items" in median.protocol
    assert not [w for w in diagnose(result.rows, ("a", "b")) if "lower bounds" in w.what]


def test_khat_wrong_guide_is_large_and_found() -> None:
    result = khat_of(*linear(shift=0.6, factor=0.4), items=25)
    assert np.median(result.values) == result.rows[0].value > result.threshold
    assert result.rows[1].value == np.mean(result.values > result.threshold) > 0.5
    (finding,) = diagnose(result.rows, ("a", "b"))
    assert finding.what.startswith("log likelihoods given a, b are lower bounds")
    assert finding.advice == ""  # a note


def test_khat_single_modality_judges_the_posterior_given_it() -> None:
    """The exact posterior given one of two modalities fits, however little it says about the other one."""
    vae, data = linear()
    result = khat_of(vae, data, subset=(0,), items=25)
    assert (result.values < 0.5).all()
    assert result.rows[0].given == ("a",)
    wrong, data = linear(shift=0.6, factor=0.4)
    assert khat_of(wrong, data, subset=(0,), items=25).rows[1].value > 0.5


@pytest.mark.parametrize(("aggregation", "several"), [("mwb", True), ("poe", False), ("moe", False)])
def test_has_several_components_of_mixtures_over_subsets_only(aggregation: str, several: bool) -> None:
    vae = MultimodalVAE([Modality(n, (2,)) for n in "ab"], LATENT, aggregation).eval()
    experts = Experts(torch.zeros(3, 2, LATENT), torch.ones(3, 2, LATENT))
    assert has_several_components(vae, experts, (0, 1)) == several
    assert not has_several_components(vae, experts, (0,))


def test_khat_of_the_joint_component_differs_from_that_of_the_mixture() -> None:
    """The joint component is the exact posterior here, and the mixture with wide single experts is not."""
    vae, data = linear(aggregation="mopoe")
    joint, mixture = khat_of(vae, data, density="joint", items=25), khat_of(vae, data, items=25)
    assert [row.metric for row in joint.rows] == ["khat_joint", "khat_joint_share", "khat_joint_draws"]
    assert "joint component" in joint.rows[0].protocol
    assert "mixture density" in mixture.rows[0].protocol
    weights = [sample_importance(vae, encode_dataset(vae, data), make_batch(data, slice(None)), (0, 1), 500, density=d)
               for d in ("joint", "mixture")]  # fmt: skip
    exact, mixed = (effective_sample_size(w.log_weights(("a", "b"))) for w in weights)
    assert (exact > 495).all()
    assert (mixed < 450).all()


def test_khat_chooses_items_with_the_subset() -> None:
    vae, data = linear(items=30)
    present = torch.ones(30, 2, dtype=torch.bool)
    present[::3, 1] = False
    data = MultimodalDataset(data.modalities, None, present, "linear", "test")
    everything = khat_of(vae, data, items=100)
    assert everything.items.tolist() == [i for i in range(30) if i % 3]
    sampled = khat_of(vae, data, items=5, seed=1)
    assert set(sampled.items) < set(everything.items)
    assert sampled.items.tolist() != khat_of(vae, data, items=5, seed=2).items.tolist()
    assert (khat_of(vae, data, items=5, seed=1).values == sampled.values).all()


def test_khat_too_few_draws_or_items_raise() -> None:
    vae, data = linear(items=3)
    with pytest.raises(ValueError, match="at least 1000 for a Pareto fit, got 999"):
        khat_of(vae, data, samples=999)
    nothing = MultimodalDataset(data.modalities, None, torch.tensor([[True, False]] * 3), "linear", "test")
    with pytest.raises(ValueError, match="no item has"):
        khat_of(vae, nothing)
