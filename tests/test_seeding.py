"""Seeding of torch's generators for a block of code."""

from __future__ import annotations

import pytest
import torch

from pyro_mmvae._seeding import seeded

CPU = torch.device("cpu")


def test_seeded_gives_the_draws_of_manual_seed_and_restores_the_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    before = torch.get_rng_state()
    with seeded(3, CPU):
        assert torch.equal(torch.rand(2), expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_restores_the_generator_after_an_error() -> None:
    def fail() -> None:
        with seeded(3, CPU):
            torch.rand(2)
            raise ZeroDivisionError

    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_seeded_on_a_gpu_seeds_and_restores_its_generator() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    before = torch.cuda.get_rng_state(device)
    draws = []
    for _ in range(2):
        with seeded(3, device):
            draws.append(torch.rand(2, device=device))
    assert torch.equal(*draws)
    assert torch.equal(torch.cuda.get_rng_state(device), before)
