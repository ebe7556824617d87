"""Floating types, autocast, and devices; fake devices show mixed ones without an accelerator."""

from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pyro_mmvae import Experts, SubsetMixture, aggregate, draw_component, register_aggregation, unregister_aggregation
from tests.fake_cuda import needs_fake_cuda
from tests.strategies import BUILT_IN, random_experts, wasserstein_rule

BUILDERS = (aggregate, draw_component)


def cast(dtype: torch.dtype, scale_dtype: torch.dtype | None = None) -> Experts:
    experts = random_experts(3, 4, 2)
    return Experts(experts.loc.to(dtype), experts.scale.to(scale_dtype or dtype), experts.mask)


def values(q: Any, z: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    z = torch.full((3, 2), 0.25, dtype=q.mean.dtype) if z is None else z
    return q.mean, q.variance, q.log_prob(z)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_aggregate_returns_at_least_float32(name: str, build: Any, given: torch.dtype, wanted: torch.dtype) -> None:
    q = build(cast(given), name)
    for tensor in (*values(q), q.sample(), q.rsample()):
        assert tensor.dtype == wanted


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("types", [(torch.float64, torch.float32), (torch.float32, torch.float64),
                                   (torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])  # fmt: skip
def test_aggregate_of_mixed_dtypes_returns_the_wider(
    name: str, build: Any, types: tuple[torch.dtype, torch.dtype]
) -> None:
    q = build(cast(*types), name, expert_weights=torch.ones(4))
    wider = torch.promote_types(torch.promote_types(*types), torch.float32)
    for tensor in (*values(q), q.sample()):
        assert tensor.dtype == wider


@pytest.mark.parametrize("name", BUILT_IN)
def test_aggregate_in_float32_is_close_to_float64(name: str) -> None:
    torch.testing.assert_close(
        values(aggregate(cast(torch.float32), name)), values(aggregate(cast(torch.float64), name)),
        rtol=1e-5, atol=1e-5, check_dtype=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", BUILT_IN)
def test_aggregate_of_bfloat16_computes_in_float32(name: str) -> None:
    """Compare with the rounded experts in float32."""
    rounded = cast(torch.bfloat16)
    same = Experts(rounded.loc.float(), rounded.scale.float(), rounded.mask)
    torch.testing.assert_close(values(aggregate(rounded, name)), values(aggregate(same, name)), rtol=0, atol=0)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_aggregate_under_autocast_is_unchanged(name: str, build: Any, dtype: torch.dtype) -> None:
    weights = torch.rand(4).requires_grad_(name != "moe")
    results = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            q = build(cast(dtype), name, expert_weights=weights)
            results.append((*values(q), q.rsample()))
            assert torch.is_autocast_enabled("cpu") == enabled
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert all(tensor.dtype == torch.float32 for tensor in results[1])


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BUILT_IN)
def test_aggregate_ignores_the_default_dtype(name: str, default: torch.dtype) -> None:
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(default)
        for dtype in (torch.float32, torch.float64):
            q: Any = aggregate(cast(dtype), name, prior=(0.5, 2.0), subset_weights="by_size")
            assert {tensor.dtype for tensor in (*values(q), q.sample())} == {dtype}
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("name", ["poe", "mwb"])
@pytest.mark.parametrize("build", BUILDERS)
def test_aggregate_with_prior_of_numbers_keeps_float64(name: str, build: Any) -> None:
    q = build(cast(torch.float64).condition_on([]), name, prior=(0.1, 0.3))
    torch.testing.assert_close(q.mean, torch.full((3, 2), 0.1, dtype=torch.float64), rtol=1e-14, atol=0)
    torch.testing.assert_close(q.stddev, torch.full((3, 2), 0.3, dtype=torch.float64), rtol=1e-14, atol=0)


def test_aggregate_casts_weights_and_prior_to_the_experts() -> None:
    q: Any = aggregate(
        cast(torch.float64), "wb", expert_weights=torch.ones(4).bfloat16(), prior=(torch.zeros(2), torch.ones(2).half())
    )
    assert q.mean.dtype == torch.float64


def test_subset_weights_of_custom_rule_are_not_rounded() -> None:
    """Check that the logs of the weights are float32, as the components are, though the experts are bfloat16."""
    register_aggregation("mine", subsets="powerset")(wasserstein_rule)
    try:
        got, wanted = (aggregate(cast(torch.bfloat16), name) for name in ("mine", "mwb"))
        assert isinstance(got, SubsetMixture)
        torch.testing.assert_close(got.probs.sum(-1), torch.ones(3), check_dtype=False)
        torch.testing.assert_close(values(got), values(wanted), rtol=1e-5, atol=1e-5)
    finally:
        unregister_aggregation("mine")


@needs_fake_cuda
@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("build", BUILDERS)
def test_aggregate_stays_on_the_experts_device(name: str, build: Any) -> None:
    """Use a fake accelerator, which refuses tensors of another device and values read back from it."""
    with pyro.validation_enabled(False), FakeTensorMode():
        loc = torch.zeros(5, 3, 2, device="cuda", requires_grad=True)
        scale = torch.ones(5, 3, 1, device="cuda", requires_grad=True)
        present = torch.ones(5, 3, dtype=torch.bool, device="cuda")
        experts = Experts(loc, scale, present, validate_args=False)
        cases: list[tuple[Any, Any, Any]] = [
            ("uniform", None, (torch.zeros(2), torch.ones(5, 2))),
            ("by_size", torch.ones(3, device="cuda"), None),
            (lambda matrix: matrix.sum(-1).float(), torch.ones(5, 3, device="cuda"), (0.0, 2.0)),
        ]
        for kind, weights, prior in cases:
            q = build(experts, name, subset_weights=kind, expert_weights=weights, prior=prior, prior_expert="all")
            z = q.rsample((4,))
            assert {t.device.type for t in (*values(q, z), z, q.sample())} == {"cuda"}
            assert z.shape == (4, 5, 2)
            assert z.requires_grad


@needs_fake_cuda
def test_draw_component_of_fifty_modalities_stays_on_device() -> None:
    with pyro.validation_enabled(False), FakeTensorMode():
        loc = torch.zeros(5, 50, 2, device="cuda")
        experts = Experts(loc, loc.exp(), loc[..., 0] == 0, validate_args=False)
        for kind in ("uniform", "by_size"):
            assert draw_component(experts, "mwb", subset_weights=kind).rsample().device.type == "cuda"
        assert experts.condition_on([0, 3]).loc.device.type == "cuda"
