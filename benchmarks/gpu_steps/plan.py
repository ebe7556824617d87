"""The arguments of a step of the GPU benchmark, and the file of its figures."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.settings import setting
from pyro_mmvae.files import write_text
from pyro_mmvae.runs.config import Config

ROOT = Path(__file__).parent.parent.parent
"""The checkout, in which all commands run."""

SMALL = {
    "train.batch_size": 8, "model.latent_size": 8, "model.network.width": 4, "model.network.hidden": 16,
}  # fmt: skip
"""Sizes of the trial on a CPU."""


@dataclass(frozen=True)
class Plan:
    """The arguments of one step.

    Attributes:
        out: The folder for results, which must exist.
        work: The folder for all other files, which must exist.
        device: The device type, ``cuda`` or ``cpu``.
        tiny: If True, run the trial with small sizes.
        seconds: The time limit of the step in seconds.
        mnist: A folder of MNIST's files or an ``.npz`` of its arrays; None to skip the step that needs it.
        photographs: A folder with one photograph per modality; None to skip the step that needs it.
    """

    out: Path
    work: Path
    device: str
    tiny: bool
    seconds: float
    mnist: Path | None = None
    photographs: Path | None = None
    started: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Return the number of seconds left before the time limit."""
        return self.seconds - (time.monotonic() - self.started)

    @property
    def torch_device(self) -> torch.device:
        """The torch device of the step."""
        return torch.device(self.device)

    @property
    def on_gpu(self) -> bool:
        """True if the device is a GPU."""
        return self.device != "cpu"

    def config(self, name: str, aggregation: str, bound: str, overrides: Mapping[str, Any] | None = None) -> Config:
        """Return a setting of the benchmarks, in small sizes for the trial.

        Args:
            name: The setting, ``recipe`` or ``mini``.
            aggregation: The name of the aggregation.
            bound: The training bound, ``mixture`` or ``component``.
            overrides: A mapping from dotted keys to values that replace the setting's; empty by default.
        """
        return setting(name, aggregation, bound, {**(SMALL if self.tiny else {}), **(overrides or {})})

    def synchronise(self) -> None:
        """Wait until the GPU has finished its queued work."""
        if self.on_gpu:
            torch.cuda.synchronize()


class Figures:
    """The figures of a step, written to its file at each change, so that a step that is stopped keeps them.

    Args:
        file: The path of a JSON file, in a folder that exists.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.values = file, dict[str, Any]()

    def put(self, **values: Any) -> None:
        """Set figures by name, with values that JSON can represent."""
        self.values.update(values)
        self._write()

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        """Append a row to the list of that name."""
        self.values.setdefault(name, []).append(dict(row))
        self._write()

    def _write(self) -> None:
        write_text(self.file, json.dumps(self.values, indent=1) + "\n")


def read_figures(file: Path) -> dict[str, Any]:
    """Return the figures that a step has written so far; empty if there are none."""
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def last_line(error: BaseException) -> str:
    """Return an exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
