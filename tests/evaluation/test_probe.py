"""The linear probe on features whose accuracy is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from torch import Tensor

from pyro_mmvae import Experts, Modality, MultimodalVAE
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.probe import linear_probe

CLASSES, LATENT = 4, 6
SUBSETS = [(0,), (1,), (0, 1)]


@pytest.fixture
def vae() -> MultimodalVAE:
    return MultimodalVAE([Modality("a", (2,)), Modality("b", (3,))], LATENT, "wb").eval()


def labels_of(count: int) -> Tensor:
    return torch.arange(count) % CLASSES


def informative(labels: Tensor, first: int = 0) -> Tensor:
    """Return features in which the class is one of the dimensions from ``first`` on."""
    spread = 0.05 * torch.randn(len(labels), LATENT)
    spread[torch.arange(len(labels)), (first + labels) % LATENT] += 1
    return spread


def experts_of(*locs: Tensor, present: Tensor | None = None) -> Experts:
    loc = torch.stack(locs, 1)
    return Experts(loc, torch.ones_like(loc), present)


def probe(vae: MultimodalVAE, train: Any, test: Any, **options: Any) -> dict[tuple[str, ...], Metric]:
    rows = linear_probe(vae, *train, *test, **{"subsets": SUBSETS, **options})
    assert all(row.metric == "probe" for row in rows)
    return {row.given: row for row in rows}


@pytest.mark.parametrize("protocol", ["per-subset", "joint"])
def test_linear_probe_perfect_random_and_constant_features(vae: MultimodalVAE, protocol: str) -> None:
    train, test = labels_of(400), labels_of(200)
    noise = torch.randn
    shuffled = probe(
        vae,
        (experts_of(informative(train), noise(400, LATENT)), train),
        (experts_of(informative(test), noise(200, LATENT)), test),
    )
    assert shuffled[("a",)].value == 1
    assert shuffled[("b",)].value == pytest.approx(0.25, abs=0.12)
    assert shuffled[("a", "b")].n == 200
    same = torch.ones(400, LATENT)
    constant = probe(
        vae, (experts_of(same, same), train), (experts_of(same[:200], same[:200]), test), protocol=protocol
    )
    assert {row.value for row in constant.values()} == {0.25}
    both = probe(
        vae,
        (experts_of(informative(train), informative(train)), train),
        (experts_of(informative(test), informative(test)), test),
        protocol=protocol,
    )
    assert {row.value for row in both.values()} == {1.0}
    assert all(row.protocol == f"{protocol}, 400 points" for row in both.values())


def test_linear_probe_joint_protocol_misreads_a_differently_encoded_subset(vae: MultimodalVAE) -> None:
    train, test = labels_of(400), labels_of(200)
    # b has the class two dimensions further on: its separate probe reads it, the joint one, ruled by a, misreads it.
    data = (
        (experts_of(3 * informative(train), informative(train, 2)), train),
        (experts_of(3 * informative(test), informative(test, 2)), test),
    )
    per_subset, joint = probe(vae, *data), probe(vae, *data, protocol="joint")
    assert per_subset[("b",)].value == 1
    assert joint[("b",)].value < 0.6
    assert joint[("a", "b")].value == per_subset[("a", "b")].value == 1


def test_linear_probe_items_without_the_subset_are_left_out(vae: MultimodalVAE) -> None:
    train, test = labels_of(400), labels_of(200)
    present = torch.ones(200, 2, dtype=torch.bool)
    present[:50, 0] = present[50:70, 1] = False
    present[:10] = False
    loc = informative(test)
    loc[~present[:, 0]] = torch.nan
    rows = probe(
        vae,
        (experts_of(informative(train), informative(train)), train),
        (experts_of(loc, informative(test), present=present), test),
    )
    assert [rows[given].n for given in (("a",), ("b",), ("a", "b"))] == [150, 170, 130]
    assert rows[("a",)].value == rows[("a", "b")].value == 1
    nothing = present & torch.tensor([True, False])
    rows = probe(
        vae, (experts_of(informative(train), informative(train)), train), (experts_of(loc, loc, present=nothing), test)
    )
    assert set(rows) == {("a",)}
    absent = torch.tensor([True, False]).expand(400, 2)
    partial = (experts_of(informative(train), informative(train), present=absent), train)
    complete = (experts_of(informative(test), informative(test)), test)
    assert set(probe(vae, partial, complete)) == {("a",)}
    assert set(probe(vae, partial, complete, protocol="joint")) == {("a",), ("b",), ("a", "b")}


def test_linear_probe_attributes_match_average_precision(vae: MultimodalVAE) -> None:
    torch.manual_seed(1)
    train, test = torch.randn(300, LATENT), torch.randn(150, LATENT)
    attributes = [(x[:, :3] + torch.randn(len(x), 3) > 0.5).long() for x in (train, test)]
    expected = []
    for k in range(3):
        standard = (train - train.mean(0)) / train.std(0, correction=0)
        tested = (test - train.mean(0)) / train.std(0, correction=0)
        by_hand = LogisticRegression(max_iter=1000).fit(standard.double().numpy(), attributes[0][:, k].numpy())
        scores = by_hand.decision_function(tested.double().numpy())
        expected.append(average_precision_score(attributes[1][:, k].numpy(), scores))
    data = ((experts_of(train, train), attributes[0]), (experts_of(test, test), attributes[1]))
    assert probe(vae, *data)[("a",)].value == pytest.approx(np.mean(expected), abs=1e-6)
    assert 0.4 < np.mean(expected) < 0.95
    # An attribute that no test item has is left out; one that no training item has gets a constant score.
    rare = [torch.cat([a, torch.zeros(len(a), 1).long()], 1) for a in attributes]
    data = ((data[0][0], rare[0]), (data[1][0], rare[1]))
    assert probe(vae, *data)[("a",)].value == pytest.approx(np.mean(expected), abs=1e-6)
    rare[1][:15, 3] = 1
    assert probe(vae, *data)[("a",)].value == pytest.approx(np.mean([*expected, 0.1]), abs=1e-6)


def test_linear_probe_points_depend_on_the_seed(vae: MultimodalVAE) -> None:
    train, test = labels_of(400), labels_of(200)
    loc = informative(train) + torch.randn(400, LATENT)
    data = ((experts_of(loc, loc), train), (experts_of(*[informative(test) + torch.randn(200, LATENT)] * 2), test))
    sampled = probe(vae, *data, points=40)
    assert sampled == probe(vae, *data, points=40, workers=1)
    assert sampled[("a",)].protocol == "per-subset, 40 points"
    assert sampled[("a",)].value != probe(vae, *data, points=40, seed=1)[("a",)].value
    with pytest.raises(ValueError, match="protocol must be one of 'per-subset', 'joint', got 'own'"):
        probe(vae, *data, protocol="own")
