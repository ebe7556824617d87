"""Test statistics against hand-computed values, and their registry."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_mmvae.evaluation.statistic_registry import STATISTICS
from pyro_mmvae.evaluation.statistics import (
    StatisticContext,
    make_statistics,
    register_statistic,
    statistic_names,
    statistics_of,
    unregister_statistic,
)


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STATISTICS, "_parts", STATISTICS.snapshot())


class Brightness:
    """A classifier of images by their brightness, in tenths."""

    networks = {"m0": torch.nn.Identity()}

    def predict(self, name: str, images: Tensor) -> Tensor:
        assert name == "m0"
        assert images.dim() == 4
        return (10 * images.mean((1, 2, 3))).long()


@pytest.mark.parametrize("lead", [(), (4,), (2, 4)])
def test_make_statistics_images_match_numpy(lead: tuple[int, ...]) -> None:
    images = torch.rand(*lead, 3, 5, 6, dtype=torch.float64)
    made = make_statistics(None, "image", StatisticContext("m0"))
    assert set(made) == {"mean", "contrast", "sparsity", "edge_energy"}  # no classifier, no predicted class
    x = images.numpy().reshape(-1, 3, 5, 6)
    squares = [((i[:, 1:] - i[:, :-1]) ** 2).sum() + ((i[:, :, 1:] - i[:, :, :-1]) ** 2).sum() for i in x]
    pairs = 3 * (4 * 6 + 5 * 5)
    expected = {
        "mean": [i.mean() for i in x],
        "contrast": [np.sqrt(((i - i.mean()) ** 2).mean()) for i in x],
        "sparsity": [(np.abs(i) < 0.1).mean() for i in x],
        "edge_energy": np.array(squares) / pairs,
    }
    for label, values in expected.items():
        result = made[label](images, 3)
        assert result.dtype == torch.float64
        np.testing.assert_allclose(result.numpy(), np.reshape(values, lead), rtol=1e-12)


def test_edge_energy_single_pixel_and_step_match_hand_values() -> None:
    edge = make_statistics(["edge_energy"], "image", StatisticContext("m0"))["edge_energy"]
    assert edge(torch.ones(2, 1, 1, 1), 3).tolist() == [0, 0]
    step = torch.tensor([[[0.0, 0.0, 3.0]]])
    assert edge(step, 3).item() == pytest.approx(9 / 2)


def test_sparsity_negative_values_are_not_counted() -> None:
    sparsity = make_statistics(["sparsity"], "vector", StatisticContext("a"))["sparsity"]
    assert sparsity(torch.tensor([-5.0, 0.05, -0.05, 0.2]), 1).item() == 0.5


def test_mean_vectors_of_any_event_dimension_match_torch() -> None:
    mean = make_statistics(["mean"], "vector", StatisticContext("a"))["mean"]
    x = torch.rand(7, 2, 3)
    torch.testing.assert_close(mean(x, 2), x.double().mean((1, 2)))
    torch.testing.assert_close(mean(x, 0), x.double())


def test_token_frequency_texts_match_hand_counts() -> None:
    made = statistics_of("text", dist.Categorical(torch.ones(2, 4, 3)).to_event(1))
    assert list(made) == ["token_frequency.0", "token_frequency.1", "token_frequency.2"]
    text = torch.tensor([[0, 0, 2, 0], [1, 1, 1, 1]])
    frequencies = torch.stack([s(text, 1) for s in made.values()], -1)
    assert frequencies.tolist() == [[0.75, 0, 0.25], [0, 1, 0]]


def test_predicted_class_leading_dimensions_are_kept() -> None:
    made = make_statistics(["predicted_class"], "image", StatisticContext("m0", classifiers=Brightness()))
    images = torch.tensor([0.25, 0.95])[None, :, None, None, None].expand(3, 2, 3, 4, 4)
    assert made["predicted_class"].nominal
    assert made["predicted_class"](images, 3).tolist() == [[2, 9]] * 3
    assert not make_statistics(None, "image", StatisticContext("m1", classifiers=Brightness())).get("predicted_class")


class Sums:
    """A classifier of texts and vectors by their sums."""

    networks = {"text": torch.nn.Identity()}

    def predict(self, name: str, images: Tensor) -> Tensor:
        assert images.dim() == 2
        return images.sum(-1).long()


def test_predicted_class_texts_and_vectors_use_the_classifier() -> None:
    made = statistics_of("text", dist.Categorical(torch.ones(2, 4, 3)).to_event(1), classifiers=Sums())
    assert list(made)[0] == "predicted_class"
    assert made["predicted_class"].nominal
    tokens = torch.tensor([[0, 0, 2, 0], [1, 1, 1, 1]])
    assert made["predicted_class"](tokens.expand(3, 2, 4), 1).tolist() == [[2, 4]] * 3
    assert made["predicted_class"](tokens[0], 1).item() == 2
    vector = statistics_of("text", dist.Normal(torch.zeros(2, 2, 2), 1.0).to_event(2), classifiers=Sums())
    assert vector["predicted_class"](tokens.reshape(2, 2, 2).float(), 2).tolist() == [2, 4]
    other = statistics_of("other", dist.Categorical(torch.ones(2, 4, 3)).to_event(1), classifiers=Sums())
    assert "predicted_class" not in other


@pytest.mark.parametrize(
    ("fn", "labels"),
    [
        (dist.Normal(torch.zeros(5, 1, 4, 4), 1.0).to_event(3), {"mean", "contrast", "sparsity", "edge_energy"}),
        (dist.Bernoulli(torch.full((5, 1, 4, 4), 0.5)).to_event(3), {"mean", "contrast", "sparsity", "edge_energy"}),
        (dist.Normal(torch.zeros(5, 4), 1.0).to_event(1).mask(False), {"mean", "contrast", "sparsity"}),
        (dist.Bernoulli(torch.full((5, 4), 0.5)).to_event(1), {"mean", "contrast", "sparsity"}),
    ],
)
def test_statistics_of_likelihood_selects_the_kind(fn: object, labels: set[str]) -> None:
    assert set(statistics_of("a", fn)) == labels


def test_register_statistic_user_defined_can_be_made_and_removed() -> None:
    @register_statistic("brightest", kinds=("image", "vector"))
    def brightest(values: Tensor) -> Tensor:
        return values.flatten(1).amax(1)

    assert "brightest" in statistic_names("vector")
    assert "brightest" not in statistic_names("categorical")
    x = torch.rand(3, 1, 2, 2)
    made = make_statistics(["brightest"], "image", StatisticContext("m0"))
    torch.testing.assert_close(made["brightest"](x, 3), x.double().amax((1, 2, 3)))
    with pytest.raises(ValueError, match="'brightest' is already registered for kind 'vector'"):
        register_statistic("brightest", kinds=("vector",))(brightest)
    unregister_statistic("brightest")
    assert "brightest" not in statistic_names()


def test_register_statistic_built_in_name_raises_and_registers_nothing() -> None:
    with pytest.raises(ValueError, match="'edge_energy' is already registered"):
        register_statistic("edge_energy", kinds=("vector", "image"))(torch.sum)
    assert "edge_energy" not in statistic_names("vector")


@pytest.mark.parametrize("name", ["", "raw", "a.b", "a/b"])
def test_register_statistic_ambiguous_name_raises(name: str) -> None:
    with pytest.raises(ValueError, match="name of a statistic must not"):
        register_statistic(name)(torch.sum)


def test_make_statistics_unknown_name_lists_available_names() -> None:
    with pytest.raises(
        ValueError,
        match="unknown statistic 'men', did you mean 'mean'.* Available: mean, contrast, .*register_statistic",
    ):
        make_statistics(["men"], "image", StatisticContext("m0"))
    with pytest.raises(ValueError, match="unknown statistic 'men'"):
        unregister_statistic("men")
    with pytest.raises(
        ValueError, match="kinds of statistic 'loudness' must be among image, vector, categorical, got 'sound'"
    ):
        register_statistic("loudness", kinds=("sound",))(torch.sum)


def test_statistic_wrong_output_shape_raises() -> None:
    @register_statistic("everything")
    def everything(images: Tensor) -> Tensor:
        return images.sum()

    with pytest.raises(ValueError, match=r"'everything' must return shape \(3,\), got \(\)"):
        make_statistics(["everything"], "image", StatisticContext("m0"))["everything"](torch.rand(3, 1, 2, 2), 3)
