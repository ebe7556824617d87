"""Tests of posteriors and generations of single items from cached experts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from pyro_mmvae.data import make_batch
from pyro_mmvae.explore import Component, Explorer
from pyro_mmvae.inference.posteriors import subset_posterior

NAMES = ("caption", "photo", "sensors")


def first_complete(explorer: Explorer) -> int:
    return next(item for item in range(len(explorer)) if explorer.present(item) == NAMES)


def test_view_of_own_aggregation_equals_the_posterior_of_the_run(explorer: Explorer) -> None:
    item = first_complete(explorer)
    view = explorer.view(item, ["photo", "caption"])
    run = explorer.run
    with torch.no_grad():
        experts = run.guide.experts(make_batch(explorer.data, slice(item, item + 1)))
        expected = subset_posterior(run.vae, experts, [0, 1])
    assert view.given == ("caption", "photo")
    np.testing.assert_allclose(view.mean, expected.mean[0], atol=1e-5)
    np.testing.assert_allclose(view.scale, expected.variance[0].sqrt(), atol=1e-5)


def test_view_of_wb_with_weights_is_the_barycenter_of_its_experts(explorer: Explorer) -> None:
    item = first_complete(explorer)
    view = explorer.view(item, NAMES, aggregation="wb", weights={"caption": 2.0, "photo": 1.0, "sensors": 1.0})
    locs, scales = (np.stack([view.experts[name][part] for name in NAMES]) for part in (0, 1))
    weights = np.array([0.5, 0.25, 0.25])[:, None]
    np.testing.assert_allclose(view.mean, (weights * locs).sum(0), atol=1e-5)
    np.testing.assert_allclose(view.scale, (weights * scales).sum(0), atol=1e-5)
    for first, second in combinations(range(3), 2):
        distance = np.sqrt(((locs[first] - locs[second]) ** 2 + (scales[first] - scales[second]) ** 2).sum())
        assert view.disagreement[NAMES[first], NAMES[second]] == pytest.approx(distance, rel=1e-5)


def test_view_components_of_a_mixture_are_its_subsets(explorer: Explorer) -> None:
    view = explorer.view(first_complete(explorer), ["caption", "sensors"])
    assert view.num_components == 3
    assert {part.names for part in view.components} == {("caption",), ("sensors",), ("caption", "sensors")}
    assert sum(part.weight for part in view.components) == pytest.approx(1)


def test_view_components_of_holder_are_single_experts_and_pairs(explorer: Explorer) -> None:
    view = explorer.view(first_complete(explorer), NAMES, aggregation="holder")
    subsets = {(name,) for name in NAMES} | set(combinations(NAMES, 2))
    assert {part.names for part in view.components} <= subsets
    assert view.num_components == len(subsets)


def test_view_given_nothing_is_the_prior(explorer: Explorer) -> None:
    view = explorer.view(0, [])
    np.testing.assert_allclose(view.mean, 0)
    np.testing.assert_allclose(view.scale, 1)
    assert view.components == (Component((), 1.0),)


def test_view_of_absent_modality_leaves_it_out(explorer: Explorer) -> None:
    item = next(item for item in range(len(explorer)) if explorer.present(item) != NAMES)
    assert explorer.view(item, NAMES).given == explorer.present(item)
    assert set(explorer.observed(item)) == set(explorer.present(item))


def test_view_with_equal_seeds_repeats_its_draws_and_others_differ(explorer: Explorer) -> None:
    item = first_complete(explorer)
    first, again, other = (explorer.view(item, ["photo"], draws=3, seed=seed).generated for seed in (4, 4, 5))
    assert first["photo"].shape == (3, 1, 8, 8)
    assert first["sensors"].shape == (3, 4)
    np.testing.assert_array_equal(first["photo"], again["photo"])
    assert not np.array_equal(first["sensors"], other["sensors"])


def test_view_draws_leave_the_global_generator_alone(explorer: Explorer) -> None:
    state = torch.get_rng_state()
    explorer.view(0, ["photo"])
    assert torch.equal(torch.get_rng_state(), state)


def test_upload_of_an_item_of_the_data_has_the_posterior_of_that_item(explorer: Explorer) -> None:
    item = first_complete(explorer)
    pixels = explorer.data.subset(torch.tensor([item])).modalities["photo"].numpy()
    uploaded = explorer.upload({"photo": pixels})
    assert uploaded.present(0) == ("photo",)
    np.testing.assert_allclose(uploaded.view(0, NAMES).mean, explorer.view(item, ["photo"]).mean, atol=1e-5)


def test_upload_of_a_wrong_shape_names_the_modality(explorer: Explorer) -> None:
    with pytest.raises(ValueError, match="sensors"):
        explorer.upload({"sensors": np.zeros((1, 5), dtype=np.float32)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"item": 99}, "item must be from 0 to"),
        ({"given": ["smell"]}, "given must be modalities of the run"),
        ({"weights": {"photo": -1.0}}, "weights must be from 0 to 10"),
        ({"weights": dict.fromkeys(NAMES, 0.0)}, "one of them larger than 0"),
    ],
)
def test_view_of_unknown_arguments_names_those_allowed(
    explorer: Explorer, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        explorer.view(**{"item": 0, "given": ["photo"], **arguments})


def test_aggregations_begin_with_that_of_the_run_and_can_all_be_viewed(explorer: Explorer) -> None:
    names = explorer.aggregations()
    assert names[0] == "mwb"
    assert {"poe", "moe", "mopoe", "wb", "hellinger"} <= set(names)
    for name in names:
        view = explorer.view(first_complete(explorer), NAMES, aggregation=name, draws=1)
        assert np.isfinite(view.mean).all()
        assert 1 <= len(view.components) <= view.num_components


def test_explorer_of_no_items_is_refused(explorer: Explorer) -> None:
    with pytest.raises(ValueError, match="at least one item"):
        Explorer(explorer.run, explorer.data.subset(torch.arange(0)))
