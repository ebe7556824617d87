"""Tests of SelectedFeatures: chosen and filled columns, laziness and devices."""

from __future__ import annotations

import numpy as np
import torch

from pyro_mmvae.data import MappedTensor, SelectedFeatures
from pyro_mmvae.data.storage.mapped import Column


def make() -> SelectedFeatures:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    column = Column("file", array, "vector", np.ones(4, dtype=bool))
    base = MappedTensor(column, np.array([3, 1, 0]))
    return SelectedFeatures(base, torch.tensor([2, -1, 0, 1]), torch.tensor([0.0, 7.0, 0.0, 0.0]))


def test_selected_features_index_returns_columns_of_chosen_items() -> None:
    view = make()
    assert (len(view), view.shape, view.dim(), view.dtype) == (3, torch.Size((3, 4)), 2, torch.float32)
    assert view[:].tolist() == [[11, 7, 9, 10], [5, 7, 3, 4], [2, 7, 0, 1]]
    assert view[torch.tensor([2, 0])].tolist() == [[2, 7, 0, 1], [11, 7, 9, 10]]
    assert repr(view).startswith("SelectedFeatures((3, 4), torch.float32, of MappedTensor(file")


def test_selected_features_to_returns_view_on_device() -> None:
    moved = make().to("meta")
    assert moved.device == torch.device("meta")
    assert moved[:].device.type == "meta"
