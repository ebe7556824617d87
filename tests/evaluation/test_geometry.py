"""Distances of experts with hand-computed values."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_mmvae import Experts
from pyro_mmvae.evaluation.geometry import expert_geometry
from tests.evaluation.toy_experts import LATENT, experts_of, vae_of


def test_expert_geometry_matches_hand_values() -> None:
    loc = torch.zeros(10, 3, LATENT)
    loc[:, 1, 0], loc[:, 2, 1] = 3.0, 5.0
    scale = torch.ones(10, 3, LATENT)
    scale[:, 1, 2] = 5.0
    present = torch.ones(10, 3, dtype=torch.bool)
    present[:4, 2] = False
    loc[:2, 2] = torch.nan
    rows = {(r.metric, r.given, r.target): r for r in expert_geometry(vae_of(), Experts(loc, scale, present))}
    assert rows["w2_experts", ("a",), "b"].value == pytest.approx(5)  # 3 in loc, 4 in scale
    assert rows["w2_experts", ("a",), "b"].n == 10
    assert rows["w2_experts", ("a",), "c"].value == pytest.approx(5)
    assert rows["w2_experts", ("a",), "c"].n == 6
    assert rows["w2_experts", ("b",), "c"].value == pytest.approx(math.sqrt(9 + 25 + 16))
    # The barycenter of a and b has loc 1.5 and scale 3; of all, loc 1 and 5/3, scale 7/3.
    two, three = 2.5, math.sqrt(1 + (5 / 3) ** 2 + (4 / 3) ** 2)
    assert rows["w2_to_barycenter", ("a",), ""].value == pytest.approx((4 * two + 6 * three) / 10)
    assert rows["expert_kl", ("a",), ""].value == pytest.approx(0)
    assert rows["expert_kl", ("c",), ""].value == pytest.approx(12.5)
    assert rows["expert_kl", ("c",), ""].n == 6
    assert rows["expert_scale", ("b",), ""].value == pytest.approx(math.sqrt(27))
    assert rows["expert_spread", ("b",), ""].value == 0


def test_expert_geometry_mixture_uses_the_moments() -> None:
    loc = torch.tensor([-1.0, 1.0, 0.0])[:, None].expand(4, 3, 3)
    present = torch.tensor([True, True, False]).expand(4, 3)
    rows = {(r.metric, r.given): r.value for r in expert_geometry(vae_of("moe"), experts_of(loc, 1.0, present))}
    assert rows["w2_to_barycenter", ("a",)] == pytest.approx(math.sqrt(3 * (1 + (math.sqrt(2) - 1) ** 2)), rel=1e-6)
    assert ("w2_to_barycenter", ("c",)) not in rows
    single = experts_of(loc, 1.0, torch.tensor([True, False, False]).expand(4, 3))
    assert {r.metric for r in expert_geometry(vae_of(), single)} == {"expert_kl", "expert_scale", "expert_spread"}
