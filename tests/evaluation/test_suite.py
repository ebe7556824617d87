"""The map of the latent in an evaluation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pyro_mmvae import MultimodalDataset
from pyro_mmvae._typing import Tensor
from pyro_mmvae.evaluation import suite


def latent_map(means: Tensor, monkeypatch: pytest.MonkeyPatch, **data: Any) -> dict[str, Any]:
    """Return the map of these posterior means."""
    monkeypatch.setattr(suite, "posterior_means", lambda *_: means)
    modalities, present = {"m": torch.zeros(len(means), 2)}, torch.ones(len(means), 1, dtype=torch.bool)
    labelled = MultimodalDataset(modalities, data.pop("labels", None), present, "toy", "test", **data)
    return suite._latent_map(SimpleNamespace(), SimpleNamespace(num_modalities=1), labelled)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(50, 5), (3, 8), (40, 2)])
def test_latent_map_equals_the_singular_value_decomposition(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    means = torch.from_numpy(np.random.default_rng(0).normal(3, np.arange(1, shape[1] + 1), shape))
    arrays = latent_map(means, monkeypatch)
    centred = (means - means.mean(0)).numpy()
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(arrays["latent"]), np.abs(centred @ axes[:2].T), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(arrays["explained"], (values**2 / (values**2).sum())[:2], rtol=1e-6)


def test_latent_map_missing_components_are_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    one = latent_map(torch.tensor([[1.0, 2.0, 3.0]]), monkeypatch)
    assert (one["latent"].tolist(), one["explained"].tolist()) == ([[0, 0]], [0, 0])
    equal = latent_map(torch.ones(4, 3), monkeypatch)
    assert not equal["latent"].any()
    line = latent_map(torch.tensor([[1.0], [2.0], [3.0]]), monkeypatch)
    assert np.abs(line["latent"]).tolist() == [[1, 0], [0, 0], [1, 0]]
    assert line["explained"].tolist() == [1, 0]


def test_latent_map_keeps_the_names_of_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = latent_map(torch.eye(3), monkeypatch, labels=torch.tensor([0, 1, -1]), class_names=("a", "b"))
    assert (arrays["labels"].tolist(), arrays["class_names"].tolist()) == ([0, 1, -1], ["a", "b"])
