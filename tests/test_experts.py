from __future__ import annotations

import dataclasses
from typing import Any

import pyro
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_mmvae import Experts
from tests.strategies import experts as any_experts
from tests.strategies import few

NAN, INF = float("nan"), float("inf")


@few
@given(experts=any_experts())
def test_init_broadcasts_all_tensors_and_fills_absent_slots(experts: Experts) -> None:
    full = (*experts.batch_shape, experts.num_modalities, experts.latent_size)
    assert tuple(experts.loc.shape) == tuple(experts.scale.shape) == full
    assert tuple(experts.mask.shape) == full[:-1]
    absent = ~experts.mask
    assert (experts.loc[absent] == 0).all()
    assert (experts.scale[absent] == 1).all()


def test_init_keeps_values_of_present_slots() -> None:
    loc, scale = torch.arange(6.0).reshape(1, 3, 2) + 1, torch.arange(6.0).reshape(1, 3, 2) + 7
    experts = Experts(loc, scale, torch.tensor([[True, False, True]]))
    assert experts.loc.tolist() == [[[1, 2], [0, 0], [5, 6]]]
    assert experts.scale.tolist() == [[[7, 8], [1, 1], [11, 12]]]
    assert loc.tolist() == [[[1, 2], [3, 4], [5, 6]]]  # the tensor of the caller is not changed


def test_init_broadcasts_isotropic_scale_and_shared_presence() -> None:
    scale = torch.tensor([[2.0], [3.0]])
    experts = Experts(torch.zeros(4, 2, 5), scale, torch.tensor([True, False]))
    assert experts.scale[1, 0].tolist() == [2.0] * 5
    assert experts.scale[1, 1].tolist() == [1.0] * 5
    assert experts.mask.tolist() == [[True, False]] * 4


def test_init_without_presence_has_all_present() -> None:
    experts = Experts(torch.zeros(3, 2, 1), torch.ones(3, 2, 1))
    assert experts.mask.shape == (3, 2)
    assert experts.mask.all()


@pytest.mark.parametrize("value", [NAN, INF])
def test_backward_through_networks_that_saw_nan_in_absent_slots_says_to_fill_them(value: float) -> None:
    network, present = torch.nn.Linear(4, 2), torch.tensor([[True], [False]])
    x = torch.randn(2, 1, 4)
    x[1] = value
    loc, log_scale = network(x).chunk(2, -1)
    experts = Experts(loc, log_scale.exp(), present)
    loss = (experts.loc / experts.scale).square().sum()
    assert loss.isfinite()
    with pytest.raises(ValueError, match=r"loc of absent slots must come from .*: fill absent values before the netw"):
        loss.backward()
    assert network.weight.grad is None
    filled = network(torch.where(present.unsqueeze(-1), x, 0.0)).chunk(2, -1)
    Experts(filled[0], filled[1].exp(), present).loc.square().sum().backward()
    assert network.weight.grad is not None
    assert network.weight.grad.isfinite().all()


def test_backward_with_nan_in_absent_slots_after_the_networks_passes() -> None:
    network, present = torch.nn.Linear(4, 2), torch.tensor([[True], [False]])
    loc, log_scale = network(torch.randn(2, 1, 4)).masked_fill(~present.unsqueeze(-1), NAN).chunk(2, -1)
    experts = Experts(loc, log_scale.exp(), present)
    (experts.loc / experts.scale).square().sum().backward()
    assert network.weight.grad is not None
    assert network.weight.grad.isfinite().all()


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_absent_slot_affects_neither_value_nor_gradient(value: float) -> None:
    loc, scale = (torch.full((3, 2), v, requires_grad=True) for v in (0.5, 2.0))
    spoiled = torch.tensor([False, True, False]).unsqueeze(-1)
    experts = Experts(loc.masked_fill(spoiled, value), scale.masked_fill(spoiled, value), ~spoiled.squeeze(-1))
    result = (experts.loc / experts.scale).square().sum() + experts.scale.log().sum()
    gradients = torch.autograd.grad(result, (loc, scale))
    assert result.isfinite()
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert (gradient[1] == 0).all()
        assert (gradient[0] != 0).all()


@pytest.mark.parametrize(
    ("loc", "scale", "present", "match"),
    [
        ([[0.0]], torch.ones(1, 1), None, r"loc must be a floating point tensor, got list"),
        (torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1), None, r"loc must be a floating point .*torch\.int64"),
        (torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), None, r"scale must be a floating .*torch\.bool"),
        (torch.zeros(1, 1), 1.0, None, r"scale must be a floating point tensor, got float"),
        (torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1), r"present must be a bool tensor, got torch\.float32"),
        (torch.zeros(1, 1), torch.ones(1, 1), [True], r"present must be a bool tensor, got list"),
    ],
)
def test_init_with_wrong_type_raises(loc: Any, scale: Any, present: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        Experts(loc, scale, present)


@pytest.mark.parametrize(
    ("loc", "scale", "present", "match"),
    [
        (torch.zeros(3), torch.ones(3), None, r"\(\*batch, modality, latent\).*got \(3,\)"),
        (torch.zeros(2, 0, 3), torch.ones(2, 0, 3), None, r"at least one modality.*got \(2, 0, 3\)"),
        (torch.zeros(2, 3, 0), torch.ones(2, 3, 0), None, r"at least one modality.*got \(2, 3, 0\)"),
        (torch.zeros(2, 3), torch.ones(2, 2), None, r"scale of shape \(2, 2\) does not broadcast to \(2, 3\)"),
        (torch.zeros(2, 3), torch.ones(4, 2, 3), None, r"scale of shape \(4, 2, 3\) does not broadcast"),
        (torch.zeros(2, 3), torch.ones(2, 3), torch.ones(3) > 0, r"present of shape \(3,\) does not broadcast to \(2,"),
        (torch.zeros(2, 3), torch.ones(2, 3), torch.ones(4, 2) > 0, r"present of shape \(4, 2\) does not broadcast"),
    ],
)
def test_init_with_wrong_shape_raises(
    loc: torch.Tensor, scale: torch.Tensor, present: torch.Tensor | None, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        Experts(loc, scale, present, validate_args=False)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_init_with_infinite_present_loc_raises(value: float) -> None:
    loc = torch.zeros(2, 3, 4)
    loc[1, 2, 3] = loc[1, 2, 1] = value
    with pytest.raises(
        ValueError, match=r"loc must be finite .*got -?(nan|inf) at loc\[1, 2, 1\] \(modality 2\); 2 such"
    ):
        Experts(loc, torch.ones(2, 3, 4))


@pytest.mark.parametrize("value", [NAN, INF, 0.0, -1.0])
def test_init_with_invalid_present_scale_raises(value: float) -> None:
    scale = torch.ones(3, 2)
    scale[1, 0] = value
    match = r"scale must be finite and positive .*got (nan|inf|0\.0|-1\.0) at scale\[1, 0\] \(modality 1\); 1 such"
    with pytest.raises(ValueError, match=match):
        Experts(torch.zeros(3, 2), scale)
    Experts(torch.zeros(3, 2), scale, torch.tensor([True, False, True]))  # the value of an absent slot does not matter


def test_init_checks_values_as_torch_does_by_default() -> None:
    bad = torch.zeros(2, 1)  # a scale of 0 is invalid
    with pyro.validation_enabled(False):
        assert Experts(torch.zeros(2, 1), bad).scale.sum() == 0
        with pytest.raises(ValueError, match="positive"):
            Experts(torch.zeros(2, 1), bad, validate_args=True)
    assert Experts(torch.zeros(2, 1), bad, validate_args=False).scale.sum() == 0
    with pytest.raises(ValueError, match="positive"):
        Experts(torch.zeros(2, 1), bad)


@few
@given(experts=any_experts(), data=st.data())
def test_condition_on_makes_other_modalities_absent(experts: Experts, data: st.DataObject) -> None:
    count = experts.num_modalities
    chosen = data.draw(st.lists(st.integers(0, count - 1), unique=True))
    flags = torch.tensor([m in chosen for m in range(count)])
    for members in (chosen, tuple(chosen), flags, flags.expand(experts.mask.shape)):
        cut = experts.condition_on(members)
        assert torch.equal(cut.mask, experts.mask & flags)
        assert torch.equal(cut.loc[cut.mask], experts.loc[cut.mask])
        assert torch.equal(cut.scale[cut.mask], experts.scale[cut.mask])
        assert (cut.loc[~cut.mask] == 0).all()
        assert (cut.scale[~cut.mask] == 1).all()


def test_condition_on_leaves_absent_modality_absent() -> None:
    experts = Experts(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([True, False]))
    assert experts.condition_on([0, 1]).mask.tolist() == [True, False]
    assert experts.condition_on([]).mask.tolist() == [False, False]


def test_condition_on_unknown_modality_raises() -> None:
    with pytest.raises(IndexError):
        Experts(torch.zeros(2, 1), torch.ones(2, 1)).condition_on([2])


def test_init_passes_gradients_to_isotropic_scales() -> None:
    scale = torch.full((3, 1), 2.0, requires_grad=True)
    Experts(torch.zeros(3, 5), scale, torch.tensor([True, False, True])).scale.sum().backward()
    assert scale.grad is not None
    assert scale.grad.flatten().tolist() == [5.0, 0.0, 5.0]


def test_experts_are_frozen() -> None:
    experts = Experts(torch.zeros(2, 1), torch.ones(2, 1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        experts.loc = torch.ones(2, 1)  # type: ignore[misc]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_init_keeps_dtype(dtype: torch.dtype) -> None:
    experts = Experts(torch.zeros(2, 1, dtype=dtype), torch.ones(2, 1, dtype=dtype), torch.tensor([True, False]))
    assert experts.loc.dtype == experts.scale.dtype == dtype


@pytest.mark.parametrize(
    ("experts", "expected"),
    [
        (Experts(torch.zeros(8, 3, 4), torch.ones(1)), "Experts(normal, batch (8,), 3 modalities, latent 4, complete)"),
        (
            Experts(torch.zeros(2, 1), scale_tril=torch.eye(1), present=torch.tensor([True, False])),
            "Experts(full, batch (), 2 modalities, latent 1, masked)",
        ),
        (
            Experts(torch.zeros(5, 6, 2, 1), torch.ones(1), family="student_t", df=4.5),
            "Experts(student_t df 4.5, batch (5, 6), 2 modalities, latent 1, complete)",
        ),
    ],
)
def test_repr_names_kind_sizes_and_presence(experts: Experts, expected: str) -> None:
    assert repr(experts) == expected
