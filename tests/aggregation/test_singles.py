"""Subset weights with a share of single modalities: their values, their draws, and what is refused."""

from __future__ import annotations

from math import comb

import pytest
import torch

from pyro_mmvae import MixtureOverSubsets, WassersteinBarycenter
from pyro_mmvae.aggregation import subsets
from pyro_mmvae.runs.config import ConfigError, make_config
from tests.strategies import random_experts


def draws(present: torch.Tensor, weights: str, *, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return subsets.draw_subset("powerset", present, weights)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_subset_probabilities_with_singles_match_a_count(share: float) -> None:
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0]]).bool()
    matrix, live = subsets.members_of("powerset", present)
    got = subsets.subset_probabilities(f"singles:{share}", matrix, live, dtype=torch.float64)
    rest = (1 - share) / 4
    assert got[0].tolist() == pytest.approx([share / 3, share / 3, rest, share / 3, rest, rest, rest])
    assert got[1].tolist() == pytest.approx([share / 2, 0, 0, share / 2, 1 - share, 0, 0])
    assert got[2].tolist() == pytest.approx([0, 1, 0, 0, 0, 0, 0])  # an item with one modality has one subset


def test_subset_probabilities_with_singles_of_a_family_without_singles_are_uniform() -> None:
    matrix = torch.tensor([[True, True, False], [False, True, True]])
    got = subsets.subset_probabilities("singles:0.9", matrix, torch.ones(2).bool())
    assert got.tolist() == pytest.approx([0.5, 0.5])


def test_mixture_with_singles_has_their_share_as_weights() -> None:
    rule = MixtureOverSubsets(WassersteinBarycenter(), subset_weights="singles:0.6")
    for absent in (False, True):
        experts = random_experts(5, 3, 2, absent=absent)
        probs = rule(experts).probs
        matrix = subsets.membership("powerset", 3)
        is_single = matrix.sum(-1) == 1
        present = experts.mask.sum(-1)
        expected = torch.where(present > 1, 0.6, (present == 1).double()).to(probs)
        shares = (probs * is_single).sum(-1)
        torch.testing.assert_close(shares[present > 0], expected[present > 0])


@pytest.mark.parametrize("modalities", [3, 5, 14])
def test_draw_subset_with_singles_has_expected_shares_of_sizes(modalities: int) -> None:
    present = torch.ones(6000, modalities).bool()
    sizes = draws(present, "singles:0.5").sum(-1).bincount(minlength=modalities + 1)[1:] / 6000
    total = 2**modalities - 1 - modalities
    expected = [0.5, *(0.5 * comb(modalities, k) / total for k in range(2, modalities + 1))]
    assert sizes.tolist() == pytest.approx(expected, abs=2e-3)  # stratified: nearly exact


def test_draw_subset_with_singles_of_many_modalities_draws_present_members_uniformly() -> None:
    present = torch.ones(4000, 40).bool()
    present[1::2, 2:] = False  # every other item has two of forty modalities
    present[0] = False
    drawn = draws(present, "singles:0.5")
    assert not (drawn & ~present).any()
    assert not drawn[0].any()
    few = drawn[1::2, :2]
    assert few.any(-1).all()
    assert few.all(-1).double().mean().item() == pytest.approx(0.5, abs=0.05)
    members = drawn[2::2].double().mean(0)
    assert ((members - members.mean()).abs() < 5 * 0.5 / 2000**0.5).all()


def test_draw_subset_with_all_or_no_share_of_singles_draws_only_these_or_none() -> None:
    for modalities in (4, 14):
        present = torch.ones(200, modalities).bool()
        assert (draws(present, "singles:1").sum(-1) == 1).all()
        assert (draws(present, "singles:0").sum(-1) > 1).all()
        assert (draws(present[:, :1], "singles:0").sum(-1) == 1).all()


@pytest.mark.parametrize("weights", ["singles:", "singles:-0.1", "singles:1.5", "singles:half", "singles:nan"])
def test_check_subset_weights_with_a_share_outside_of_the_unit_interval_raises(weights: str) -> None:
    with pytest.raises(ValueError, match="must have a share between 0 and 1, as in 'singles:0.5', got 'singles:"):
        subsets.check_subset_weights(weights)


def test_make_config_takes_a_share_of_singles_and_refuses_other_words() -> None:
    assert make_config(None, {"model.subset_weights": "singles:0.5"}).model.subset_weights == "singles:0.5"
    with pytest.raises(ConfigError, match=r"model\.subset_weights: must be 'uniform', .*'singles:SHARE', got 'sizes'"):
        make_config(None, {"model.subset_weights": "sizes"})
    with pytest.raises(ConfigError, match=r"model\.subset_weights: .* between 0 and 1"):
        make_config(None, {"model.subset_weights": "singles:2"})
