"""A small trained run with an image, a text and a vector, some of which are absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pyro_mmvae
from pyro_mmvae.explore import Explorer

MARKUP = "<script>x"


@pytest.fixture(scope="session")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Explorer:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    texts = np.array([["one", "two words", MARKUP][k] for k in labels])
    photos = (rng.random((60, 1, 8, 8)) * 60 + 60 * labels[:, None, None, None]).astype(np.uint8)
    sensors = (labels[:, None] + rng.normal(size=(60, 4))).astype(np.float32)
    present = np.ones((60, 3), dtype=bool)
    present[::5, 1] = False
    out: Path = tmp_path_factory.mktemp("explore") / "run"
    run = pyro_mmvae.fit(
        {"photo": photos, "sensors": sensors, "caption": list(texts)},
        labels=labels, present=present, aggregation="mwb", epochs=1, latent_size=12, out=out, progress=False,
        settings={
            "recipe": "plain", "model.network.width": 4, "model.network.hidden": 8, "model.private_size": 2,
            "train.device": "cpu", "train.threads": 1,
        },
    )  # fmt: skip
    return Explorer(run, run.data("train"), 20)
