"""Tests of the log density of Normals and of products of experts, whose derivatives are written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_mmvae import chunks
from pyro_mmvae.barycenters import diagonal
from pyro_mmvae.distributions.density import normal_log_prob

Function = Callable[..., Any]


def leaves(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    """Return positive float64 numbers, which may be weights, locs and scales."""
    generator = torch.Generator().manual_seed(0)
    noise = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    return [(0.5 * tensor).exp().requires_grad_() for tensor in noise]


CASES = {
    "one row of weights": (diagonal.natural, leaves((1, 3), (2, 3, 2), (2, 3, 2))),
    "few rows for all items": (diagonal.natural, leaves((4, 3), (2, 3, 2), (2, 3, 2))),
    "many rows for all items": (diagonal.natural, leaves((17, 3), (2, 3, 2), (2, 3, 2))),
    "rows per item": (diagonal.natural, leaves((2, 4, 3), (2, 3, 2), (2, 3, 2))),
    "no items": (diagonal.natural, leaves((4, 3), (3, 2), (3, 2))),
    "two dimensions of items": (diagonal.natural, leaves((4, 3), (2, 2, 3, 1), (2, 2, 3, 1))),
    "Wasserstein": (diagonal.wasserstein, leaves((4, 3), (2, 3, 2), (2, 3, 2))),
    "moments": (diagonal.moment, leaves((4, 3), (2, 3, 2), (2, 3, 2))),
    "density": (normal_log_prob, leaves((2, 4, 3), (2, 4, 3), (2, 4, 3))),
    "density of one value": (normal_log_prob, leaves((3, 2, 1, 3), (2, 4, 3), (2, 4, 3))),
    "density with one scale": (normal_log_prob, leaves((2, 1, 3), (2, 4, 3), (1, 3))),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")  # raised by torch in forward derivatives
@pytest.mark.parametrize("case", CASES)
def test_derivatives_equal_finite_differences(case: str) -> None:
    """Reverse mode, batched reverse mode, forward mode and second derivatives are checked."""
    function, inputs = CASES[case]
    assert torch.autograd.gradcheck(function, inputs, check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs, check_batched_grad=True)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")
@pytest.mark.parametrize("case", CASES)
def test_derivatives_in_chunks_equal_finite_differences(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and derivatives do not depend on the number of items per chunk."""
    function, inputs = CASES[case]
    together = function(*inputs)
    monkeypatch.setattr(chunks, "_ELEMENTS", 1)
    monkeypatch.setattr(diagonal, "_can_fold", lambda *_: False)
    torch.testing.assert_close(function(*inputs), together)
    assert torch.autograd.gradcheck(function, inputs, check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("case", ["few rows for all items", "rows per item", "density", "density of one value"])
def test_gradient_of_one_input_equals_that_among_all(case: str) -> None:
    """Gradients of one input, and of one output, do not depend on whether the others have gradients."""
    function, inputs = CASES[case]

    def total(arguments: list[torch.Tensor], chosen: slice) -> torch.Tensor:
        outputs = function(*arguments)
        return sum(value.sin().sum() for value in (outputs if isinstance(outputs, tuple) else (outputs,))[chosen])

    for chosen in (slice(None), slice(1), slice(1, 2)):
        if case.startswith("density") and chosen.start:
            continue
        together = torch.autograd.grad(total(inputs, chosen), inputs, materialize_grads=True)
        for position, expected in enumerate(together):
            alone = [value.detach().requires_grad_(at == position) for at, value in enumerate(inputs)]
            gradients = torch.autograd.grad(total(alone, chosen), alone[position], materialize_grads=True)
            torch.testing.assert_close(gradients[0], expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_vmap_over_one_argument_equals_each_alone(case: str, position: int) -> None:
    """Both values and gradients of ``torch.func`` are mapped."""
    function, inputs = CASES[case]
    fixed = [value.detach() for value in inputs]

    def total(value: torch.Tensor) -> torch.Tensor:
        outputs = function(*fixed[:position], value, *fixed[position + 1 :])
        return sum(out.sin().sum() for out in (outputs if isinstance(outputs, tuple) else (outputs,)))

    batch = torch.stack([fixed[position], 1.3 * fixed[position]])
    for transformed in (total, torch.func.grad(total)):
        alone = torch.stack([transformed(value) for value in batch])
        torch.testing.assert_close(torch.func.vmap(transformed)(batch), alone)


def test_normal_log_prob_equals_scipy() -> None:
    value, loc, scale = (tensor.detach() for tensor in leaves((5, 3, 1, 2), (3, 4, 2), (3, 4, 2)))
    expected = stats.norm(loc.numpy(), scale.numpy()).logpdf(value.numpy()).sum(-1)
    got = normal_log_prob(value, loc, scale)
    assert got.shape == (5, 3, 4)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_forward_and_backward_leave_their_inputs_unchanged() -> None:
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
