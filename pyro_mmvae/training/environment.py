"""The description of the environment of a training, which a run directory keeps."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from pyro_mmvae._version import __version__
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training.installation import git_revision, installed_versions

_INSTRUCTION_SETS = ("sse4_1", "sse4_2", "avx", "avx2", "fma", "avx512", "avx_vnni", "amx", "asimd", "neon", "sve")


def describe_environment(
    config: Config,
    device: torch.device,
    precision: str,
    data: MultimodalDataset,
    threads: int,
    processes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the versions, machine, command and data of a training, as JSON can hold them.

    Args:
        config: The configuration of the run.
        device: The device of the training.
        precision: The precision of the networks' arithmetic, ``"fp32"`` or ``"bf16"``.
        data: The training data, of which the provenance is kept.
        threads: The number of CPU threads of each process of the training.
        processes: The number of processes and further facts about them; one process by default.
    """
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "versions": {"python": platform.python_version(), "pyro_mmvae": __version__, **installed_versions()},
        "git": git_revision(),
        "command": list(sys.argv),
        "platform": platform.platform(),
        "cpu": {
            "model": _cpu_model(),
            "cores": os.cpu_count(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "instruction_sets": _instruction_sets(),
        },
        "threads": threads,
        "processes": {"count": 1, **(processes or {})},
        "device": str(device),
        "gpu": gpu,
        "precision": precision,
        "deterministic": config.train.deterministic,
        "seed": config.train.seed,
        "data": data.provenance,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def describe_arithmetic(device: torch.device, precision: str, threads: int | str, processes: int = 1) -> dict[str, Any]:
    """Return everything that the rounding of a training depends on, apart from its configuration.

    Args:
        device: The device of the training.
        precision: The precision of the networks' arithmetic, ``"fp32"`` or ``"bf16"``.
        threads: The number of CPU threads of each process, or ``"auto"`` where it changes by itself.
        processes: The number of processes that train together, 1 by default.
    """
    return {
        "threads": threads,
        "processes": processes,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": precision,
        "cpu": _cpu_model(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
    }


def _cpu_model() -> str:
    """Return the name of the processor's model."""
    return _cpu_information().get("model name") or platform.processor() or platform.machine()


def _instruction_sets() -> list[str]:
    """Return the instruction sets of the processor that arithmetic depends on; none where the system names none."""
    information = _cpu_information()
    flags = (information.get("flags") or information.get("Features") or "").split()
    return sorted({flag for flag in flags if flag.startswith(_INSTRUCTION_SETS)})


def _cpu_information() -> dict[str, str]:
    """Return what Linux says of the first processor; empty on other systems."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            first = file.read().split("\n\n")[0]
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
