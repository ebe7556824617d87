"""A mark for tests that compute on a fake CUDA device, which some installations of torch cannot make."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

_PROBE = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    weight = torch.zeros(2, device="cuda", requires_grad=True)
    (2 * weight.expand(3, 2)).sum()
"""


def has_fake_cuda() -> bool:
    """Return True if tensors of a fake CUDA device take part in automatic differentiation.

    Builds of torch 2.9 for CUDA ask the driver and abort the process on a machine without one, so a process of its own
    tries it. Torch 2.14 and later do not ask.
    """
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if torch.cuda.is_available() or version >= (2, 14):
        return True
    return subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, check=False).returncode == 0


needs_fake_cuda = pytest.mark.skipif(not has_fake_cuda(), reason="this build of torch needs a driver for fake CUDA")
