"""What the read-outs take from posteriors, against values by hand, and probes of each of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from pyro_mmvae import Experts, Modality, MultimodalVAE
from pyro_mmvae._seeding import seeded
from pyro_mmvae.evaluation import EvaluationOptions
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.probe import linear_probe
from pyro_mmvae.evaluation.readouts import read_posterior
from tests.evaluation.toy_experts import LATENT, NAMES, experts_of, vae_of

ALL = (0, 1, 2)


def random_experts(items: int = 400) -> Experts:
    return experts_of(torch.randn(items, 3, LATENT), 0.1 + torch.rand(items, 3, LATENT))


@pytest.mark.parametrize("subset", [(1,), (0, 2), ALL])
def test_read_posterior_mean_with_equal_weights_is_the_average_of_locs(subset: tuple[int, ...]) -> None:
    experts = random_experts(20)
    average = experts.loc[:, list(subset)].mean(1)
    for aggregation in ("moe", "wb", "mwb", "moment"):
        read = read_posterior(vae_of(aggregation), experts, subset, "mean")
        torch.testing.assert_close(read, average, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(read_posterior(vae_of("mopoe"), experts, ALL, "mean"), average, atol=0.05)


def test_read_posterior_component_of_moe_is_the_loc_of_one_expert_per_item() -> None:
    experts = random_experts(3000)
    read = read_posterior(vae_of("moe"), experts, (0, 2), "component")
    is_expert = torch.isclose(read.unsqueeze(1), experts.loc, atol=1e-6).all(-1)
    assert is_expert.sum(-1).eq(1).all()
    shares = is_expert.float().mean(0)
    assert shares[1] == 0
    assert shares[0].item() == pytest.approx(0.5, abs=0.04)  # 4 standard errors
    weighted = MultimodalVAE([Modality(n, (2,)) for n in NAMES], LATENT, "moe", expert_weights=[3.0, 1.0, 1.0]).eval()
    read = read_posterior(weighted, experts, (0, 2), "component")
    shares = torch.isclose(read.unsqueeze(1), experts.loc, atol=1e-6).all(-1).float().mean(0)
    assert [shares[0].item(), shares[2].item()] == pytest.approx([0.75, 0.25], abs=0.035)


def test_read_posterior_component_of_mixtures_over_subsets_is_that_of_the_subset_itself() -> None:
    experts = random_experts(20)
    precision = experts.scale[:, :2] ** -2
    product = (precision * experts.loc[:, :2]).sum(1) / precision.sum(1)
    torch.testing.assert_close(read_posterior(vae_of("mopoe"), experts, (0, 1), "component"), product)
    average = experts.loc[:, :2].mean(1)
    torch.testing.assert_close(read_posterior(vae_of("mwb"), experts, (0, 1), "component"), average)


@pytest.mark.parametrize("aggregation", ["wb", "poe", "pool", "moment", "hellinger"])
def test_read_posterior_component_of_a_single_component_equals_the_mean(aggregation: str) -> None:
    experts, vae = random_experts(20), vae_of(aggregation)
    assert torch.equal(read_posterior(vae, experts, (0, 1), "component"), read_posterior(vae, experts, (0, 1), "mean"))


@pytest.mark.parametrize("aggregation", ["pairs", "holder"])
def test_read_posterior_component_is_selected_where_the_mixture_lacks_that_of_the_subset(aggregation: str) -> None:
    experts = random_experts(200)
    vae = MultimodalVAE([Modality(n, (2,)) for n in NAMES], LATENT, aggregation, bound="mixture").eval()
    components = vae.guide.posterior(experts, "mixture").components.mean  # type: ignore[attr-defined]
    read = read_posterior(vae, experts, ALL, "component")
    found = torch.isclose(read.unsqueeze(1), components, atol=1e-6).all(-1)
    assert found.any(-1).all()
    assert found.any(0).sum() > 1


def test_read_posterior_draw_has_the_moments_of_the_posterior() -> None:
    loc = torch.tensor([[-3.0], [0.0], [3.0]]).expand(4000, 3, LATENT)
    read = {a: read_posterior(vae_of(a), experts_of(loc, 0.5), (0, 2), "draw") for a in ("wb", "moe")}
    assert read["wb"].std().item() == pytest.approx(0.5, rel=0.05)
    assert read["moe"].std().item() == pytest.approx((9 + 0.25) ** 0.5, rel=0.05)
    assert abs(read["moe"].mean().item()) < 0.15


def test_read_posterior_unknown_readout_raises() -> None:
    with pytest.raises(ValueError, match="readout must be one of 'mean', 'component', 'draw', got 'median'"):
        read_posterior(vae_of(), random_experts(2), ALL, "median")


# Probes ---------------------------------------------------------------------------------------------------------------


def classes_of(count: int) -> Tensor:
    return torch.arange(count) % 3


def noisy_experts(labels: Tensor, noise: float = 1.0) -> Experts:
    """Return three experts with independent noise around the class."""
    centre = 2 * torch.nn.functional.one_hot(labels, LATENT).float().unsqueeze(1)
    loc = centre + noise * torch.randn(len(labels), 3, LATENT)
    return experts_of(loc, 1.0)


@pytest.fixture(scope="module")
def data() -> tuple[tuple[Experts, Tensor], tuple[Experts, Tensor]]:
    torch.manual_seed(0)
    train, test = classes_of(600), classes_of(600)
    return (noisy_experts(train), train), (noisy_experts(test), test)


def probe(aggregation: str, data: Any, **options: Any) -> dict[int, Metric]:
    rows = linear_probe(vae_of(aggregation), *data[0], *data[1], subsets=[(0,), ALL], **options)
    return {row.views: row for row in rows}


def test_linear_probe_component_of_moe_is_flat_and_its_mean_rises(data: Any) -> None:
    mean, component = probe("moe", data), probe("moe", data, readout="component")
    assert mean[3].value > mean[1].value + 0.1
    assert component[3].value == pytest.approx(component[1].value, abs=0.05)
    assert component[1].value == mean[1].value
    assert component[3].protocol == "component, per-subset, 600 points"
    assert mean[3].protocol == "per-subset, 600 points"


def test_linear_probe_draw_tells_barycenters_from_mixtures_that_share_their_mean(data: Any) -> None:
    mean = {name: probe(name, data)[3].value for name in ("wb", "moe")}
    draw = {name: probe(name, data, readout="draw")[3] for name in ("wb", "moe")}
    assert mean["wb"] == pytest.approx(mean["moe"], abs=0.005)
    assert draw["wb"].value > draw["moe"].value + 0.05
    assert draw["wb"].value < mean["wb"] - 0.05
    assert draw["wb"].protocol == "draw, per-subset, 600 points, 5 draws per test item"


def test_linear_probe_draw_is_the_mean_over_test_draws_of_a_probe_fitted_on_one_draw(data: Any) -> None:
    (train, train_labels), (test, test_labels) = data
    vae = vae_of("mwb")
    with seeded(8, torch.device("cpu")):  # twice the seed for training items, and one more for test items
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(
            read_posterior(vae, train, ALL, "draw").double().numpy(), train_labels.numpy()
        )
    with seeded(9, torch.device("cpu")):
        draws = [read_posterior(vae, test, ALL, "draw").double().numpy() for _ in range(3)]
    scores = [fitted.score(values, test_labels.numpy()) for values in draws]
    assert len(set(scores)) > 1
    assert probe("mwb", data, readout="draw", draws=3, seed=4)[3].value == pytest.approx(np.mean(scores))


def test_linear_probe_draws_depend_on_the_seed_and_neither_on_workers_nor_on_other_subsets(data: Any) -> None:
    rows = probe("mwb", data, readout="draw", seed=1)
    assert rows == probe("mwb", data, readout="draw", seed=1, workers=1)
    vae, before = vae_of("mwb"), torch.get_rng_state()
    alone = linear_probe(vae, *data[0], *data[1], subsets=[ALL], readout="draw", seed=1)
    assert alone == [rows[3]]
    assert torch.equal(before, torch.get_rng_state())
    assert probe("mwb", data, readout="draw", seed=2)[3].value != rows[3].value


def test_linear_probe_draw_of_the_joint_protocol_and_of_attributes(data: Any) -> None:
    joint = probe("wb", data, readout="draw", protocol="joint", draws=2)
    assert joint[3].protocol == "draw, joint, 600 points, 2 draws per test item"
    assert joint[3].value == probe("wb", data, readout="draw", draws=2)[3].value  # both are fitted given everything
    (train, train_labels), (test, test_labels) = data
    attributes = [(train, (train_labels == 1).long()[:, None]), (test, (test_labels == 1).long()[:, None])]
    row = probe("wb", attributes, readout="draw", draws=2)[3]
    assert row.protocol == "draw, per-subset, 600 points, 2 draws per test item, average precision"
    assert 0.5 < row.value < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"readout": "median"}, "readout must be one of 'mean', 'component', 'draw', got 'median'"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
    ],
)
def test_linear_probe_wrong_readout_or_draws_raises(data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probe("wb", data, **options)


def test_evaluation_options_without_probe_draws_raise() -> None:
    with pytest.raises(ValueError, match="probe_draws must be at least 1, got 0"):
        EvaluationOptions(probe_draws=0)
