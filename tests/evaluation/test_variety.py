"""Diversity and conditional Fréchet distances against closed forms and decoders whose output is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_mmvae import Experts, MultimodalDataset
from pyro_mmvae.evaluation import EvaluationOptions
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.conditional_frechet import conditional_frechet_distance, frechet_conditional
from pyro_mmvae.evaluation.diversity import diversity, mean_pairwise_distance
from pyro_mmvae.evaluation.frechet import frechet_distance
from tests.evaluation.fixed_decoder import fixed

POOL = Classifiers({"image": nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(1, 2))}, {"image": 1.0}, 0)
"""Classifiers whose feature is the mean of an image."""


def make_data(brightness: Tensor, labels: Tensor | None, present: Tensor | None = None, **options: Any) -> Any:
    count = len(brightness)
    images = brightness[:, None, None, None].expand(-1, 1, 8, 8)
    mask = torch.ones(count, 2, dtype=torch.bool) if present is None else present
    values = {"image": images, "text": torch.arange(2 * count).reshape(count, 2) % 3}
    return MultimodalDataset(values, labels, mask, "fixed", "test", **options)


def experts_at(brightness: Tensor, scale: float, present: Tensor | None = None) -> Experts:
    loc = brightness[:, None, None].expand(-1, 2, 2)
    return Experts(loc, torch.full(loc.shape, scale), present)


def test_mean_pairwise_distance_three_draws_is_the_mean_of_three_pairs() -> None:
    values = torch.tensor([[[0.0, 0.0], [1.0, 1.0]], [[3.0, 4.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]]])
    wanted = torch.tensor([10 / 3 / math.sqrt(2), 0.0], dtype=torch.float64)
    torch.testing.assert_close(mean_pairwise_distance(values), wanted)
    codes = torch.tensor([[0, 1, 2, 0], [0, 2, 2, 0], [1, 2, 2, 0]])
    assert float(mean_pairwise_distance(codes, categorical=True)) == pytest.approx((1 + 2 + 1) / 3 / 4)
    with pytest.raises(ValueError, match="values must have at least two draws in the first dimension, got shape"):
        mean_pairwise_distance(values[:1])


def test_diversity_fixed_decoder_is_that_of_its_latent() -> None:
    brightness, scale = torch.linspace(-1, 1, 400), 0.3
    vae, data = fixed(), make_data(brightness, None)
    options: dict[str, Any] = {"subsets": [(1,), (0,)], "items": 300, "draws": 20, "batch_size": 999}
    rows = diversity(vae, experts_at(brightness, scale), data, POOL, **options)
    found = {(row.given, row.target, row.protocol.split(",")[0]): row for row in rows if row.given}
    assert set(found) == {
        (("text",), "image", "values"), (("text",), "image", "classifier features"), (("image",), "text", "values"),
    }  # fmt: skip
    for space in ("values", "classifier features"):
        row = found[("text",), "image", space]
        assert row.value == pytest.approx(2 * scale / math.sqrt(math.pi), rel=0.03)
        assert (row.metric, row.n) == ("diversity", 300)
    again = diversity(vae, experts_at(brightness, scale), data, POOL, **options)
    assert [row.value for row in again] == [row.value for row in rows]
    same = diversity(vae, experts_at(brightness, 1e-7), data, subsets=[(1,), (0,)])
    assert all(row.value == pytest.approx(0, abs=1e-6) for row in same if row.given)


def test_diversity_tokens_is_the_share_of_positions_that_differ() -> None:
    loc = torch.full((50, 2, 2), 0.5)  # the first letter is 0 or 1, each with probability 1/2, the second is constant
    rows = diversity(fixed(), Experts(loc, torch.full(loc.shape, 0.2)), make_data(loc[:, 0, 0], None), subsets=[(0,)])
    (row,) = [row for row in rows if row.given]
    assert row.value == pytest.approx(0.25, abs=0.02)


def test_diversity_of_real_items_is_within_their_class() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, -1])
    brightness = torch.tensor([0.0, 1.0, 5.0, 8.0, 9.0, 30.0])
    present = torch.ones(6, 2, dtype=torch.bool)
    data = make_data(brightness, labels, present)
    rows = diversity(fixed(), experts_at(brightness, 1.0), data, subsets=[])
    (image,) = [row for row in rows if row.target == "image"]
    assert (image.protocol, image.given) == ("values, real items of one class", ())
    assert image.value == pytest.approx((1 + 3) / 2)
    (pooled,) = [
        row for row in diversity(fixed(), experts_at(brightness, 1.0), make_data(brightness[:2], None), subsets=[])
        if row.target == "image"
    ]  # fmt: skip
    assert pooled.protocol == "values, real items"
    assert pooled.value == pytest.approx(1.0)


def test_conditional_frechet_distance_one_class_is_the_frechet_distance() -> None:
    first, second = torch.randn(30, 3), 2 * torch.randn(40, 3) + 1
    one, two = torch.zeros(30).long(), torch.zeros(40).long()
    found = conditional_frechet_distance(first, one, second, two)
    assert found == pytest.approx(frechet_distance(first, second), rel=1e-9)


def test_conditional_frechet_distance_classes_matches_hand_values() -> None:
    noise = torch.randn(200, 2, dtype=torch.float64)
    labels = torch.arange(200) % 2
    for label in (0, 1):
        noise[labels == label] -= noise[labels == label].mean(0)
    means = torch.tensor([[0.0, 0.0], [9.0, 3.0]], dtype=torch.float64)
    real, swapped = means[labels] + noise, means[1 - labels] + noise
    assert conditional_frechet_distance(real, labels, real, labels) == pytest.approx(0, abs=1e-9)
    # Both sets have one distribution when the classes are forgotten, but every generated item has the wrong class.
    assert conditional_frechet_distance(real, labels, swapped, labels) == pytest.approx(90)
    trace = float((noise.mT @ noise / 198).trace())
    collapsed = means[labels]
    assert conditional_frechet_distance(real, labels, collapsed, labels) == pytest.approx(trace)
    assert conditional_frechet_distance(real, labels, means[labels] + 3 * noise, labels) == pytest.approx(4 * trace)


def test_conditional_frechet_distance_attributes_regress_on_all_of_them() -> None:
    labels = torch.rand(300, 2) < 0.5
    effect = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    real = labels.float() @ effect + 0.01 * torch.randn(300, 2)
    without = labels.float() @ torch.tensor([[1.0, 0.0], [0.0, 0.0]]) + 0.01 * torch.randn(300, 2)
    wanted = float((4 * labels[:, 1].float()).square().mean())
    assert conditional_frechet_distance(real, labels, without, labels) == pytest.approx(wanted, rel=0.02)


def test_conditional_frechet_distance_sets_that_do_not_fit_are_refused() -> None:
    features, labels = torch.randn(4, 2), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match="as many features as the other"):
        conditional_frechet_distance(features, labels, features[:, :1], labels)
    with pytest.raises(ValueError, match="must have the same classes"):
        conditional_frechet_distance(features, labels, features, torch.tensor([0, 0, 0, 2]))
    with pytest.raises(ValueError, match="more items each than distinct labels, got 2 items of 2"):
        conditional_frechet_distance(features, labels, features[1:3], labels[1:3])


def test_frechet_conditional_fixed_decoder_sees_wrong_classes_and_lost_variation() -> None:
    labels = torch.arange(400) % 2
    noise = torch.randn(400)
    brightness = 6.0 * labels + noise
    present = torch.ones(400, 2, dtype=torch.bool)
    present[:40, 0] = False
    data = make_data(brightness, labels, present)

    def judged(latent: Tensor, scale: float = 1e-6, **options: Any) -> float:
        experts = experts_at(latent, scale, present)
        (row,) = frechet_conditional(fixed(), experts, data, POOL, subsets=[(1,), (0,), (0, 1)], **options)
        assert (row.metric, row.given, row.target) == ("frechet_conditional", ("text",), "image")
        assert row.protocol.startswith("given the class, one draw of the posterior")
        return row.value

    assert judged(brightness) == pytest.approx(0, abs=0.05)  # the real images are 360 of the 400 generated ones
    assert judged(6.0 - brightness) == pytest.approx(36, rel=0.1)
    assert judged(6.0 * labels) == pytest.approx(float(noise.var()), rel=0.2)
    assert judged(6.0 * labels, 1.0) == pytest.approx(0, abs=0.1)
    assert judged(brightness, items=100) == pytest.approx(0, abs=0.1)


def test_frechet_conditional_too_few_items_leaves_the_row_out() -> None:
    brightness, labels = torch.randn(2), torch.tensor([0, 1])
    data = make_data(brightness, labels)
    assert frechet_conditional(fixed(), experts_at(brightness, 1.0), data, POOL, subsets=[(1,)]) == []


def test_evaluation_options_one_draw_for_the_diversity_is_refused() -> None:
    with pytest.raises(ValueError, match="diversity_draws must be at least 2, which make a pair, got 1"):
        EvaluationOptions(diversity_draws=1)
