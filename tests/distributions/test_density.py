"""The log density of Normals, and the products of experts, whose derivatives are written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_mmvae.barycenters import diagonal, pieces
from pyro_mmvae.distributions.density import normal_log_prob

Function = Callable[..., Any]


def leaves(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    """Positive numbers, float64, which may be weights, locs and scales."""
    generator = torch.Generator().manual_seed(0)
    noise = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    return [(0.5 * tensor).exp().requires_grad_() for tensor in noise]


CASES = {
    "one row of weights": (diagonal.natural, leaves((1, 3), (2, 3, 2), (2, 3, 2))),
    "few rows for all items": (diagonal.natural, leaves((4, 3), (2, 3, 2), (2, 3, 2))),
    "many rows for all items": (diagonal.natural, leaves((17, 3), (2, 3, 2), (2, 3, 2))),
    "rows of their own": (diagonal.natural, leaves((2, 4, 3), (2, 3, 2), (2, 3, 2))),
    "no items": (diagonal.natural, leaves((4, 3), (3, 2), (3, 2))),
    "two dimensions of items": (diagonal.natural, leaves((4, 3), (2, 2, 3, 1), (2, 2, 3, 1))),
    "Wasserstein": (diagonal.wasserstein, leaves((4, 3), (2, 3, 2), (2, 3, 2))),
    "moments": (diagonal.moment, leaves((4, 3), (2, 3, 2), (2, 3, 2))),
    "density": (normal_log_prob, leaves((2, 4, 3), (2, 4, 3), (2, 4, 3))),
    "density of one value": (normal_log_prob, leaves((3, 2, 1, 3), (2, 4, 3), (2, 4, 3))),
    "density with one scale": (normal_log_prob, leaves((2, 1, 3), (2, 4, 3), (1, 3))),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")  # torch's own, in its forward derivatives
@pytest.mark.parametrize("case", CASES)
def test_derivatives_by_finite_differences(case: str) -> None:
    """Backwards, backwards for many outputs at once, forwards, and once more of the gradient."""
    function, inputs = CASES[case]
    assert torch.autograd.gradcheck(function, inputs, check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs, check_batched_grad=True)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")
@pytest.mark.parametrize("case", CASES)
def test_item_by_item(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and derivatives do not depend on how many items go at once."""
    function, inputs = CASES[case]
    together = function(*inputs)
    monkeypatch.setattr(pieces, "_ELEMENTS", 1)
    monkeypatch.setattr(diagonal, "_FOLDED", dict.fromkeys(diagonal._FOLDED, 0))
    torch.testing.assert_close(function(*inputs), together)
    assert torch.autograd.gradcheck(function, inputs, check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_pieces_cover_every_item_once() -> None:
    cpu = torch.device("cpu")
    for shape in ((1000, 40, 200), (5, 10**7), (2**20 + 3,), (7, 31, 64), (0, 4), (3, 0, 2)):
        parts = [range(shape[0])[at] for at in pieces.pieces(shape, cpu)]
        assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
        assert parts[-1].stop == shape[0]
    assert len(pieces.pieces((1000, 40, 200), cpu)) > 1
    assert pieces.pieces((1000, 40, 200), torch.device("cuda")) == [slice(None)]


@pytest.mark.parametrize("case", ["few rows for all items", "rows of their own", "density", "density of one value"])
def test_only_the_derivatives_that_are_asked_for(case: str) -> None:
    """One input or one output alone gives what it gives among the others."""
    function, inputs = CASES[case]

    def total(arguments: list[torch.Tensor], chosen: slice) -> torch.Tensor:
        outputs = function(*arguments)
        return sum(value.sin().sum() for value in (outputs if isinstance(outputs, tuple) else (outputs,))[chosen])

    for chosen in (slice(None), slice(1), slice(1, 2)):
        if case.startswith("density") and chosen.start:
            continue
        together = torch.autograd.grad(total(inputs, chosen), inputs, materialize_grads=True)
        for position, wanted in enumerate(together):
            alone = [value.detach().requires_grad_(at == position) for at, value in enumerate(inputs)]
            gradients = torch.autograd.grad(total(alone, chosen), alone[position], materialize_grads=True)
            torch.testing.assert_close(gradients[0], wanted)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_mapped_over_one_argument(case: str, position: int) -> None:
    """The values and the gradients of ``torch.func``, mapped, are those of each alone."""
    function, inputs = CASES[case]
    fixed = [value.detach() for value in inputs]

    def total(value: torch.Tensor) -> torch.Tensor:
        outputs = function(*fixed[:position], value, *fixed[position + 1 :])
        return sum(out.sin().sum() for out in (outputs if isinstance(outputs, tuple) else (outputs,)))

    batch = torch.stack([fixed[position], 1.3 * fixed[position]])
    for transformed in (total, torch.func.grad(total)):
        alone = torch.stack([transformed(value) for value in batch])
        torch.testing.assert_close(torch.func.vmap(transformed)(batch), alone)


def test_density_against_scipy() -> None:
    value, loc, scale = (tensor.detach() for tensor in leaves((5, 3, 1, 2), (3, 4, 2), (3, 4, 2)))
    wanted = stats.norm(loc.numpy(), scale.numpy()).logpdf(value.numpy()).sum(-1)
    got = normal_log_prob(value, loc, scale)
    assert got.shape == (5, 3, 4)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_inputs_are_left_as_they_were() -> None:
    for function, inputs in CASES.values():
        before = [value.detach().clone() for value in inputs]
        outputs = function(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        gradients = [torch.ones_like(value) for value in outputs]
        kept = [value.detach().clone() for value in outputs]
        for _ in range(2):
            torch.autograd.grad(outputs, inputs, gradients, retain_graph=True)
        for value, copy in zip([*inputs, *outputs], [*before, *kept], strict=True):
            assert torch.equal(value, copy)
        assert all((gradient == 1).all() for gradient in gradients)
