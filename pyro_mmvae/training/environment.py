"""The description of the environment of a training, which a run directory keeps."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from typing import Any

import torch

from pyro_mmvae._version import __version__
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.runs.config import Config


def describe_environment(
    config: Config, device: torch.device, precision: str, data: MultimodalDataset
) -> dict[str, Any]:
    """Return the versions, device and data of a training, as JSON can hold them.

    Args:
        config: The configuration of the run.
        device: The device of the training.
        precision: The precision of the networks' arithmetic, ``"fp32"`` or ``"bf16"``.
        data: The training data, of which the provenance is kept.
    """
    packages = {name: version(name) for name in ("torch", "pyro-ppl", "numpy")}
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "versions": {"python": platform.python_version(), "pyro_mmvae": __version__, **packages},
        "platform": platform.platform(),
        "device": str(device),
        "gpu": gpu,
        "precision": precision,
        "seed": config.train.seed,
        "data": data.provenance,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
