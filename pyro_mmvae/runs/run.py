"""The run directory: what training leaves, and what everything else starts from."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.data import MultimodalDataset, Traits
from pyro_mmvae.data.modality_spec import PIXEL_SCALE
from pyro_mmvae.data.text import decode_texts
from pyro_mmvae.device import resolve_device
from pyro_mmvae.files import METRICS, write_atomically, write_text
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.runs.checkpoint import CheckpointError, load_checkpoint, read_state
from pyro_mmvae.runs.config import Config, dump_config, make_config
from pyro_mmvae.runs.resolution import load_split, read_traits, settle_traits, sizes_of
from pyro_mmvae.vae.generative import GenerativeModel
from pyro_mmvae.vae.guide import MultimodalGuide
from pyro_mmvae.vae.modalities import Modality
from pyro_mmvae.vae.vae import MultimodalVAE

CONFIG, ENVIRONMENT, SAMPLES = "config.yaml", "environment.json", "samples.npz"
CHECKPOINTS = {"best": "best.safetensors", "last": "checkpoint.safetensors"}


class RunError(ValueError):
    """A run directory that cannot be used; the message is one line and names it."""


def import_plugins(names: Sequence[str]) -> None:
    """Import modules that register somebody's own aggregations.

    Raises:
        RunError: if one cannot be imported.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise RunError(f"plugin {name!r} cannot be imported: {error}") from None


def build_vae(
    config: Config, shapes: Mapping[str, Sequence[int]], traits: Mapping[str, Traits] | None = None
) -> MultimodalVAE:
    """The model and guide of a configuration, with fresh weights from torch's generator.

    Args:
        config: of the run.
        shapes: modality name to the shape of one item.
        traits: modality name to what :func:`settle_traits` gave; by default all are uint8 images or the like.

    Raises:
        ValueError: if the configuration does not fit the modalities.
    """
    model, network = config.model, config.model.network
    if traits is None:
        traits = settle_traits(config, dict.fromkeys(shapes, Traits("image", pixels=True)))
    modalities = [
        Modality(
            name,
            tuple(shape),
            network=traits[name].network or "auto",
            likelihood=traits[name].likelihood or "laplace",
            scale=traits[name].scale or PIXEL_SCALE,
            classes=traits[name].classes,
            size=traits[name].size or 1.0,
            output=traits[name].output or "identity",
            weight=1.0 if (weight := traits[name].weight) is None else weight,
            **sizes_of(model, name),
        )
        for name, shape in shapes.items()
    ]
    return MultimodalVAE(
        modalities,
        model.latent_size,
        model.aggregation_options,
        bound=model.bound,
        beta=model.beta,
        network=NetworkOptions(**network.model_dump(exclude={"name"})),
        prior_expert=model.prior_expert,
        expert_weights=model.expert_weights,
        subset_weights=model.subset_weights,
        expert_weights_entropy=model.expert_weights_entropy,
    )


@dataclass(frozen=True)
class Run:
    """A trained run, in eval mode.

    Attributes:
        path: the run directory.
        config: how it was trained.
        vae: model and guide.
        state: what the checkpoint says of itself: epoch, step, shapes, validation ELBO.
    """

    path: Path
    config: Config
    vae: MultimodalVAE
    state: dict[str, Any]

    @property
    def model(self) -> GenerativeModel:
        """The Pyro model."""
        return self.vae.model

    @property
    def guide(self) -> MultimodalGuide:
        """The Pyro guide."""
        return self.vae.guide

    @property
    def names(self) -> tuple[str, ...]:
        """Of the modalities, in order."""
        return self.vae.names

    @property
    def traits(self) -> dict[str, Traits]:
        """Modality name to what was known of it; empty for a run of before it was kept."""
        return read_traits(self.state) or {}

    def alphabet(self, name: str) -> str | None:
        """The characters that the tokens of a modality stand for, where they are text, one a position."""
        known = self.traits.get(name)
        return known.alphabet if known is not None and len(self.state["shapes"][name]) == 1 else None

    def texts(self, name: str, tokens: Tensor) -> NDArray[np.str_]:
        """The texts that tokens `(item, position)` of a modality with an alphabet stand for, without their padding.

        Raises:
            ValueError: if it has no alphabet.
        """
        alphabet = self.alphabet(name)
        if alphabet is None:
            raise ValueError(f"modality {name!r} has no alphabet")
        return np.array(decode_texts(tokens, self.traits[name].padding, alphabet), dtype=np.str_)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return cast("Tensor", self.model.prior_loc).device

    def data(self, split: str) -> MultimodalDataset:
        """A split of the data it was trained on."""
        return load_split(self.config, split)

    def posterior(
        self,
        values: Mapping[str, Tensor],
        given: Sequence[str] | None = None,
        *,
        density: str = "mixture",
    ) -> TorchDistribution:
        """The distribution of the latent given some modalities.

        Args:
            values: modality name to observations `(item, …)`: images float in [0, 1], `(item, channel, height, width)`
                (uint8 is divided by 255).
            given: which of them to condition on; all by default, the prior if empty.
            density: ``"mixture"`` for the whole posterior, or ``"joint"`` for the component of everything given.

        Returns:
            Batch shape `(item,)`, event shape `(latent,)`, float32, on the run's device, without gradients.

        Raises:
            ValueError: for an unknown modality, one that is given but has no values, or a mixture of more than 4,096
                components.
        """
        batch = self._given(values, given)
        if density == "mixture":
            self._check_mixture()
        with torch.no_grad():
            experts = self.guide.experts(batch, size=len(Batch.of(dict(values), self.names)))
            return self.guide.posterior(experts, density)

    def private_posterior(
        self, values: Mapping[str, Tensor], given: Sequence[str] | None = None
    ) -> dict[str, TorchDistribution]:
        """The distributions of the private latents of given modalities.

        Args:
            values: as for :meth:`posterior`.
            given: likewise.

        Returns:
            Modality name to a distribution of batch shape `(item,)` and event shape `(private,)`, of those that have a
            private latent; without gradients.

        Raises:
            ValueError: for an unknown modality, or one that is given but has no values.
        """
        batch = self._given(values, given)
        with torch.no_grad():
            return self.vae.private_posterior(batch) if batch.values else {}

    def _given(self, values: Mapping[str, Tensor], given: Sequence[str] | None) -> Batch:
        batch = Batch.of(dict(values), self.names)
        names = self.names if given is None else tuple(given)
        for name in names if given is not None else ():
            if name not in batch.values:
                known = "has no values" if name in self.names else f"is unknown, the run has {', '.join(self.names)}"
                raise ValueError(f"given modality {name!r} {known}")
        chosen = {n: v.to(self.device, torch.float32) for n, v in batch.values.items() if n in names}
        return Batch(chosen, {n: m.to(self.device) for n, m in batch.present.items()})

    def _check_mixture(self) -> None:
        try:
            self.guide.aggregation.check_bound("mixture", len(self.names))
        except ValueError as error:
            what = str(error).split(":")[0]
            raise ValueError(f"{what}: use density='joint' for the component of everything given") from None

    def decode(
        self, z: Float[Tensor, "*batch latent"], private: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The mean of each modality given the latents.

        Args:
            z: latents with any leading dimensions.
            private: modality name to private latents `(*batch, private)`; by default they are drawn from their priors,
                from torch's global generator.

        Returns:
            Modality name to `(*batch, *shape)`, float32, on the run's device, without gradients.
        """
        with torch.no_grad():
            own = {name: u.to(self.device, torch.float32) for name, u in (private or {}).items()}
            return self.vae.decode(z.to(self.device, torch.float32), private=own)


def load(path: str | Path, *, checkpoint: str = "best", device: str = "auto") -> Run:
    """Open a run directory.

    Args:
        path: of the directory.
        checkpoint: ``"best"``, by the validation ELBO, or ``"last"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ….

    Returns:
        The run, in eval mode, float32.

    Raises:
        RunError: if it is no run directory.
        CheckpointError: if the checkpoint is missing or damaged.
        ValueError: for another checkpoint name or device.
    """
    path = Path(path)
    if checkpoint not in CHECKPOINTS:
        raise ValueError(f"checkpoint must be 'best' or 'last', not {checkpoint!r}")
    config = read_config(path)
    import_plugins(config.plugins)
    file = path / CHECKPOINTS[checkpoint]
    if checkpoint == "best" and not file.exists():
        file = path / CHECKPOINTS["last"]
    state = read_state(file)
    if "shapes" not in state:
        raise CheckpointError(f"{file}: says nothing of the modalities' shapes")
    with torch.random.fork_rng(devices=[]):
        vae = build_vae(config, state["shapes"], read_traits(state))
    load_checkpoint(file, vae)
    return Run(path, config, vae.to(resolve_device(device)).eval(), state)


def read_config(path: Path) -> Config:
    """The configuration of a run directory.

    Raises:
        RunError: if it is no run directory.
    """
    if not (path / CONFIG).is_file():
        raise RunError(f"{path}: no run directory (no {CONFIG} in it)")
    return make_config(path / CONFIG)


def create(path: Path, config: Config, environment: dict[str, Any]) -> None:
    """Start a run directory.

    Raises:
        RunError: if there is something of that name already.
    """
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        if not path.is_dir() or any(path.iterdir()):
            raise RunError(f"{path} exists already: give another --out, or go on with --resume {path}") from None
    write_text(path / ENVIRONMENT, json.dumps(environment, indent=1) + "\n")
    write_text(path / CONFIG, dump_config(config))


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an ``.npz`` at once or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Add one epoch to ``metrics.jsonl``."""
    with (path / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as CSV, whole or not at all."""
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, table.getvalue())


def write_evaluation(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
) -> Path:
    """Write ``evaluation/``: ``metrics.csv``, ``arrays.npz`` and, last, ``summary.json``.

    Args:
        path: the run directory.
        rows: of the table, with the same keys each.
        summary: anything JSON can hold.
        arrays: for pictures.

    Returns:
        The folder.
    """
    folder = path / "evaluation"
    folder.mkdir(exist_ok=True)
    write_table(folder / "metrics.csv", rows)
    write_arrays(folder / "arrays.npz", arrays)
    write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    return folder
