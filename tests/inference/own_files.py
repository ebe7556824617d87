"""A folder with vectors, counts, captions and images of one item each, of which a small model is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from pyro_mmvae import Run, train
from pyro_mmvae.runs import make_config

KINDS = ("cold", "mild", "warm")
WORDS = ("icy wind", "soft rain", "hot sun")


def write_folder(path: Path, count: int = 60, seed: int = 0, missing: bool = True) -> Path:
    """Write a folder whose modalities all show one of three classes, with absent modalities and unlabelled items."""
    rng = np.random.default_rng(seed)
    path.mkdir()
    kind = np.arange(count) % 3
    np.save(path / "ids.npy", np.array([f"s{seed}-{number:03d}" for number in range(count)]))
    np.save(path / "gauge.npy", 101_000 + 800 * kind[:, None] + 90 * rng.normal(size=(count, 3)))
    np.save(path / "features_gauge.npy", np.array(["north", "south", "west"]))
    np.save(path / "genes.npy", rng.poisson(3 + 9 * np.eye(3)[kind].repeat(2, 1)))
    np.save(path / "note.npy", np.array([WORDS[k] for k in kind]))
    images = rng.integers(0, 60, (count, 1, 8, 8)) + 60 * kind[:, None, None, None]
    np.save(path / "photo.npy", images.astype(np.uint8))
    labels = np.array([KINDS[k] for k in kind])
    labels[: 2 if missing else 0] = ""
    np.save(path / "labels.npy", labels)
    present = np.ones((count, 4), dtype=bool)
    if missing:
        present[np.arange(count), rng.integers(0, 4, count)] = rng.random(count) < 0.5
    np.save(path / "present.npy", present)
    np.save(path / "split.npy", np.array(["train", "train", "val", "train", "test"])[np.arange(count) % 5])
    meta = {"modalities": {"genes": {"data_type": "counts"}}}
    (path / "meta.yaml").write_text(yaml.safe_dump(meta))
    return path


def train_on(folder: Path, out: Path, **settings: object) -> Run:
    """Train a small model on a folder."""
    small: dict[str, object] = {
        "data.name": str(folder), "model.aggregation": "mwb", "model.latent_size": 3, "model.network.width": 4,
        "model.network.hidden": 8, "train.epochs": 2, "train.batch_size": 16, "train.threads": 1,
        "train.device": "cpu",
    }  # fmt: skip
    return train(make_config(None, small | settings), out, progress=False)


TrainOn = Callable[..., Run]
