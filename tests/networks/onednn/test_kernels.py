"""Autograd functions of convolutions against torch's own convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pyro_mmvae.networks.onednn import ConvBiasReLU, SubpixelConvTranspose, kernels


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Draw from a generator of this test's own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def weighted_gradients(value: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Return the gradients of a sum that weights every entry differently."""
    weights = torch.linspace(-1, 1, value.numel()).reshape(value.shape)
    return list(torch.autograd.grad((value.float() * weights).sum(), inputs))


@pytest.mark.parametrize("output_padding", [(0, 0), (1, 1), (0, 1)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("with_bias", [False, True])
def test_subpixel_conv_transpose_matches_torch(output_padding: tuple[int, int], groups: int, with_bias: bool) -> None:
    values = torch.randn(2, groups * 5, 4, 3, dtype=torch.float64).requires_grad_()
    weight = torch.randn(groups * 5, 3, 3, 3, dtype=torch.float64).requires_grad_()
    bias = torch.randn(groups * 3, dtype=torch.float64).requires_grad_() if with_bias else None
    expected = functional.conv_transpose2d(values, weight, bias, 2, 1, output_padding, groups)
    result = SubpixelConvTranspose.apply(values, weight, bias, output_padding, groups)
    torch.testing.assert_close(result, expected)
    inputs = [values, weight] + ([bias] if bias is not None else [])
    torch.testing.assert_close(weighted_gradients(result, inputs), weighted_gradients(expected, inputs))
    short = (values[:1, :, :2, :2].detach().requires_grad_(), weight, bias)
    assert torch.autograd.gradgradcheck(
        lambda v, w, b: SubpixelConvTranspose.apply(v, w, b, output_padding, groups), short
    )


SHAPES = [  # kernel, stride, padding, output padding
    (3, (2, 2), (1, 1), None), (3, (2, 2), (1, 1), (1, 0)), (4, (2, 2), (1, 1), None), (4, (2, 1), (0, 2), (0, 0)),
    (1, (1, 1), (0, 0), None),
]  # fmt: skip


@pytest.mark.parametrize("by_im2col", [False, True])
@pytest.mark.parametrize("is_rectified", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding", "output_padding"), SHAPES)
def test_conv_bias_relu_matches_torch(
    kernel: int, stride: Any, padding: Any, output_padding: Any, is_rectified: bool, by_im2col: bool
) -> None:
    values = torch.randn(2, 3, 6, 5, dtype=torch.float64).requires_grad_()
    shape = (4, 3) if output_padding is None else (3, 4)
    weight = torch.randn(*shape, kernel, kernel, dtype=torch.float64).requires_grad_()
    bias = torch.randn(4, dtype=torch.float64).requires_grad_()
    options = (stride, padding, output_padding, is_rectified)
    if output_padding is None:
        expected = functional.conv2d(values, weight, bias, stride, padding)
    else:
        expected = functional.conv_transpose2d(values, weight, bias, stride, padding, output_padding)
    expected = expected.relu() if is_rectified else expected
    inputs = [values, weight, bias]
    with patch.object(kernels, "_uses_im2col", return_value=by_im2col):
        result = ConvBiasReLU.apply(*inputs, *options)
        torch.testing.assert_close(result, expected)
        torch.testing.assert_close(weighted_gradients(result, inputs), weighted_gradients(expected, inputs))
        assert torch.autograd.gradgradcheck(
            lambda v, w, b: ConvBiasReLU.apply(v, w, b, *options), (values[:1], weight, bias)
        )
        without_bias = ConvBiasReLU.apply(values, weight, None, *options)
        expected = torch.convolution(
            values, weight, None, stride, padding, [1, 1], output_padding is not None, output_padding or (0, 0), 1
        )
        torch.testing.assert_close(without_bias, expected.relu() if is_rectified else expected)
        assert weighted_gradients(without_bias, [weight])[0].shape == weight.shape


@pytest.mark.parametrize("max_bytes", [1, 1500, 1 << 30])
def test_weight_gradient_by_im2col_in_chunks_matches_torch(max_bytes: int) -> None:
    values, weight = torch.randn(5, 3, 6, 5, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    weight.requires_grad_()
    with (
        patch.object(kernels, "_uses_im2col", return_value=True),
        patch.object(kernels, "_MAX_PATCH_BYTES", max_bytes),
    ):
        result = ConvBiasReLU.apply(values, weight, None, (2, 2), (1, 1), None, False)
        gradient = weighted_gradients(result, [weight])
    expected = weighted_gradients(functional.conv2d(values, weight, None, 2, 1), [weight])
    torch.testing.assert_close(gradient, expected)


def test_im2col_rows_are_the_patches_of_unfold() -> None:
    images = torch.randn(2, 3, 6, 5)
    rows = kernels.im2col(images, (3, 2), (2, 1), (1, 0), (3, 4))
    unfolded = functional.unfold(images, (3, 2), padding=(1, 0), stride=(2, 1))  # channel, kernel height, kernel width
    expected = unfolded.mT.reshape(2 * 12, 3, 6).mT.reshape(2 * 12, -1)
    assert torch.equal(rows, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 12, 3, 4), (1, 4, 1, 1), (3, 8, 1, 5)])
def test_pixel_shuffle_matches_torch_and_is_contiguous(
    shape: tuple[int, ...], memory_format: Any, dtype: torch.dtype
) -> None:
    parities = torch.randn(shape).to(dtype).contiguous(memory_format=memory_format)
    result = kernels._pixel_shuffle(parities)
    assert result.is_contiguous()
    assert torch.equal(result, functional.pixel_shuffle(parities, 2))


@pytest.mark.parametrize(
    ("dtype", "channels", "expected"),
    [(torch.float32, 32, False), (torch.bfloat16, 32, True), (torch.bfloat16, 16, True), (torch.bfloat16, 8, False)],
)
def test_uses_im2col_in_bfloat16_with_many_channels(dtype: torch.dtype, channels: int, expected: bool) -> None:
    values, weight = torch.randn(2, 32, 4, 4, dtype=dtype), torch.randn(16, channels, 3, 3, dtype=dtype)
    assert kernels._uses_im2col(values, weight) is expected
