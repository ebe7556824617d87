"""The items of a report: what is decoded given each subset, distances of experts, and the map."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.evaluation.metrics import choose_subsets
from pyro_mmvae.evaluation.quick_findings import quick_findings
from pyro_mmvae.runs import Run, load_run
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.exhibit_values import _most_variable
from pyro_mmvae.runs.exhibits import collect_exhibits
from pyro_mmvae.runs.sampling import to_pixels
from pyro_mmvae.training import train

SUBSETS = choose_subsets(3)


@pytest.fixture
def run(toy_config: Callable[..., Config], elsewhere: Path) -> Run:
    config = toy_config(train__epochs=1, model__aggregation="mopoe", model__private_size=2)
    return load_run(train(config, elsewhere / "run", progress=False).path, device="cpu")


def without_first(data: MultimodalDataset, row: int) -> MultimodalDataset:
    """Return data in which an item lacks its first modality."""
    present = data.present.clone()
    present[row, 0] = False
    return replace(data, present=present)


def test_collect_exhibits_decodes_the_mean_given_each_subset(run: Run) -> None:
    data = run.data("test")
    exhibits = collect_exhibits(run, data, SUBSETS, items=[4, 1], points=10)
    values = {name: tensor[[4, 1]] for name, tensor in data.tensors.items()}
    number = SUBSETS.index((0, 2))
    posterior = run.posterior(values, ["m0", "m2"], density="joint")
    private = {name: q.mean for name, q in run.private_posterior(values, ["m0", "m2"], posterior.mean).items()}
    expected = to_pixels(run.decode(posterior.mean, private)["m2"])
    assert np.abs(exhibits.modalities[2].generated[number].astype(int) - expected.astype(int)).max() <= 1
    assert exhibits.spread[number] == pytest.approx(posterior.variance.sum(-1).sqrt().numpy(), rel=1e-4)
    assert (exhibits.modalities[0].observed == values["m0"].numpy()).all()
    assert exhibits.ids.tolist() == ["4", "1"]
    assert "joint component" in exhibits.protocol


def test_collect_exhibits_private_draws_are_equal_for_all_subsets_and_leave_the_generator(run: Run) -> None:
    data = run.data("test")
    state = torch.get_rng_state()
    first = collect_exhibits(run, data, SUBSETS, items=3, points=5, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    again = collect_exhibits(run, data, [(0,), (0, 1, 2)], items=3, points=5, seed=1)
    for one, other in zip(first.modalities, again.modalities, strict=True):
        assert (one.generated[0] == other.generated[0]).all()


def test_collect_exhibits_absent_modality_has_no_distance(run: Run) -> None:
    data = without_first(run.data("test"), 0)
    exhibits = collect_exhibits(run, data, SUBSETS, items=[0, 1], points=4)
    assert np.isnan(exhibits.distances[0, 0]).all()
    assert math.isfinite(exhibits.distances[0, 1, 2])
    assert exhibits.present.tolist() == [[False, True, True], [True, True, True]]
    assert exhibits.latent.seen[:, 0].tolist() == [0 not in subset for subset in SUBSETS]
    pairs = exhibits.distances[0, 1, 2]
    assert exhibits.latent.disagreement[0] == pytest.approx(pairs)


def test_collect_exhibits_distance_is_w2_of_the_experts(run: Run) -> None:
    data = run.data("test")
    exhibits = collect_exhibits(run, data, SUBSETS, items=[3], points=1)
    with torch.no_grad():
        experts = run.guide.experts({name: tensor[[3]].float() / 255 for name, tensor in data.tensors.items()})
    loc, scale = experts.loc[0].double(), experts.scale[0].double()
    expected = ((loc[0] - loc[1]).square().sum() + (scale[0] - scale[1]).square().sum()).sqrt()
    assert exhibits.distances[0, 0, 1] == pytest.approx(float(expected), rel=1e-4)
    assert exhibits.expected[0, 0, 1] == pytest.approx(float((scale[0] ** 2 + scale[1] ** 2).sum().sqrt()), rel=1e-4)


def test_collect_exhibits_map_begins_with_the_items_and_is_centred(run: Run) -> None:
    exhibits = collect_exhibits(run, run.data("test"), SUBSETS, items=[7, 2], points=12)
    latent = exhibits.latent
    assert latent.ids[:2].tolist() == ["7", "2"]
    assert len(set(latent.ids.tolist())) == 12
    assert latent.points.shape == (7, 12, 2)
    assert latent.points[-1].mean(0) == pytest.approx([0, 0], abs=1e-4)
    assert latent.explained[0] >= latent.explained[1] > 0


def test_most_variable_features_keep_their_order() -> None:
    values = np.zeros((4, 30))
    values[:, [29, 3]] = np.arange(4)[:, None]
    values[3, 5] = 1e9  # of an item that lacks the modality
    chosen = _most_variable(values, np.array([True, True, True, False]))
    assert len(chosen) == 24
    assert chosen.tolist() == sorted(chosen.tolist())
    assert {3, 29} <= set(chosen.tolist())


def test_quick_findings_find_a_short_training(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # The model of one epoch has diverged, beside which the length of the training is not judged.
    assert quick_findings(run.vae, run.data("test"))[0].mode == "diverged training"
    monkeypatch.setattr("pyro_mmvae.evaluation.quick_findings.residuals", lambda *_: [])
    found = quick_findings(run.vae, run.data("test"), history=[{"step": 3, "val": {"elbo": -9.0}}])
    assert found[0].mode == "short training"
    assert found[0].advice == "more --epochs"
