"""The conditions under which the package's own functions replace torch's."""

from __future__ import annotations

import torch
from torch.overrides import has_torch_function

from pyro_mmvae._typing import Tensor
from pyro_mmvae.networks.onednn._private import has_onednn_matmul, is_forward_ad_active, is_functorch_tensor


def is_untraced(*tensors: Tensor) -> bool:
    """Return True unless ``torch.compile``, ``torch.func``, forward-mode AD or a tensor subclass traces them.

    The autograd functions of this package define reverse mode only, and do not see tensor subclasses. Where this is
    False, torch's own operators, which have rules for all of these, are used.
    """
    return (
        not torch.compiler.is_compiling()
        and not is_forward_ad_active()
        and not has_torch_function(tensors)  # such as the tensors by which Pyro's TraceGraph_ELBO tracks draws
        and not any(is_functorch_tensor(tensor) for tensor in tensors)
    )


def has_fast_matmul(*tensors: Tensor) -> bool:
    """Return True if oneDNN can multiply these tensors in float32 and nothing but reverse mode is tracing them."""
    return bool(
        all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")  # autocast lowers the type, and torch then calls oneDNN by itself
        and is_untraced(*tensors)
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        # Measured on x86 only; on other CPUs torch may come with a BLAS of the vendor, or oneDNN without kernels.
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
        and has_onednn_matmul()
    )


def autocast_dtype(values: Tensor) -> torch.dtype:
    """Return the type in which a convolution of these values computes on a CPU, as torch's own would."""
    is_cast = torch.is_autocast_enabled("cpu") and values.dtype != torch.float64  # autocast leaves float64 alone
    return torch.get_autocast_dtype("cpu") if is_cast else values.dtype
