"""Evaluation of data some of whose items have no label."""

from __future__ import annotations

import numpy as np
import torch

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.data import MultimodalDataset, from_arrays
from pyro_mmvae.evaluation import EvaluationOptions, evaluate

ITEMS = 60
OPTIONS = EvaluationOptions(likelihood_items=0, khat_items=0, quality=False, diagnostics=False, draws=10)


def make(seed: int) -> MultimodalDataset:
    generator = np.random.default_rng(seed)
    labels = np.array(["x", "y", ""])[generator.integers(0, 3, ITEMS)]
    values = generator.normal(size=(ITEMS, 2)) + (labels == "x")[:, None]
    return from_arrays({"a": values, "b": values + 1}, labels, split=f"split {seed}")


def test_evaluate_leaves_unlabelled_items_out_of_probe_and_coherence() -> None:
    torch.manual_seed(0)
    vae = MultimodalVAE([Modality("a", (2,)), Modality("b", (2,))], 2, "poe").eval()
    train, test = make(0), make(1)
    result = evaluate(vae, train, test, options=OPTIONS)
    labelled = evaluate(vae, train.subset(train.labelled), test.subset(test.labelled), options=OPTIONS)
    probes, expected = ([row for row in r.rows if row.metric == "probe"] for r in (result, labelled))
    assert probes
    assert probes == expected
    assert {row.n for row in result.rows if row.metric == "coherence"} == {int(test.labelled.sum())}
    assert result.arrays["class_names"].tolist() == ["x", "y"]
