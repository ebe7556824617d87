"""The conditions under which the package's own functions replace torch's."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

import pyro_mmvae
from pyro_mmvae.networks.onednn.conditions import autocast_dtype, has_fast_matmul, is_untraced


def test_is_untraced_in_eager_and_reverse_mode_is_true() -> None:
    assert is_untraced(torch.ones(2), torch.ones(2, requires_grad=True) * 2)


def test_is_untraced_under_functional_transforms_is_false() -> None:
    answers: list[bool] = []

    def record(values: torch.Tensor) -> torch.Tensor:
        answers.append(is_untraced(torch.ones(1), values))
        return values.sum()

    torch.func.grad(record)(torch.ones(2))
    torch.func.vmap(record)(torch.ones(2, 2))
    assert answers == [False, False]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own, in forward mode
def test_is_untraced_in_forward_mode_is_false() -> None:
    with forward_ad.dual_level():
        assert not is_untraced(torch.ones(1))
    assert is_untraced(torch.ones(1))


@pytest.mark.parametrize("values", [torch.ones(1, dtype=torch.float64), torch.ones(1, device="meta")])
def test_has_fast_matmul_of_another_type_or_device_is_false(values: torch.Tensor) -> None:
    assert not has_fast_matmul(values)


@pytest.mark.parametrize(
    ("dtype", "enabled", "expected"),
    [
        (torch.float32, False, torch.float32),
        (torch.float32, True, torch.bfloat16),
        (torch.float64, True, torch.float64),
    ],
)
def test_autocast_dtype_lowers_all_but_float64(dtype: torch.dtype, enabled: bool, expected: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        assert autocast_dtype(torch.ones(1, dtype=dtype)) is expected


def test_onednn_modules_are_imported_through_the_package_only() -> None:
    package = Path(pyro_mmvae.__file__).parent
    room = package / "networks" / "onednn"
    offenders = [
        file.name
        for file in package.rglob("*.py")
        if room not in file.parents
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyro_mmvae.networks.onednn.")
    ]
    assert offenders == []
