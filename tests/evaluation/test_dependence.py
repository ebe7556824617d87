"""Items that share observations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_mmvae.evaluation.dependence import effective_items, independent_items, repeated_observations


def test_repeated_observations_finds_images_and_long_real_vectors_alone() -> None:
    rng = torch.Generator().manual_seed(0)
    rows = torch.tensor([0, 1, 2, 0, 1, 0])
    image, vector = torch.rand(3, 1, 4, 4, generator=rng)[rows], torch.rand(3, 12, generator=rng)[rows]
    values = {
        "image": image,
        "pixels": (image * 255).to(torch.uint8),
        "vector": vector,
        "short": vector[:, :2],
        "counts": torch.ones(6, 12),
        "tokens": torch.ones(6, 12, dtype=torch.long),
        "distinct": torch.rand(6, 12, generator=rng),
        "blank": torch.zeros(6, 1, 4, 4),
    }
    codes = repeated_observations(values)
    assert set(codes) == {"image", "pixels", "vector"}
    for code in codes.values():
        assert code.tolist() == rows.tolist()


def test_independent_items_share_nothing_and_no_other_item_fits() -> None:
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 150, 200), rng.integers(0, 120, 200)]
    mask = independent_items(codes, 200)
    for code in codes:
        assert len(set(code[mask])) == mask.sum()
        # Every item that is left out shares an observation with one that is taken.
    for item in np.flatnonzero(~mask):
        assert any((code[mask] == code[item]).any() for code in codes)
    assert mask.sum() > 60
    assert independent_items([], 3).all()


def test_independent_items_takes_items_with_few_partners_first() -> None:
    # The first item shares with all others by one modality or the other, which share nothing among themselves.
    codes = [np.array([0, 0, 1, 2]), np.array([5, 6, 5, 7])]
    assert independent_items(codes, 4).tolist() == [False, True, True, True]


def test_effective_items_bounds_the_variance_of_the_mean() -> None:
    codes = [np.arange(12) // 3]
    assert effective_items(codes, 12) == pytest.approx(4.0)  # exact if equal observations have equal values
    assert effective_items([], 7) == 7
    assert effective_items([np.zeros(5)] * 3, 5) == 1.0
