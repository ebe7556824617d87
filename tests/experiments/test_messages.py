"""The messages to the processes of cells."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pyro_mmvae.evaluation import EvaluationOptions
from pyro_mmvae.experiments import Cell, Evaluating, FailureBook
from pyro_mmvae.experiments.messages import decode_message, encode_message
from pyro_mmvae.experiments.tasks import Reading
from pyro_mmvae.runs.config import make_config

OPTIONS = EvaluationOptions(subsets=7, likelihood_items=0, seed=3)
SETTINGS: list[dict[str, Any]] = [
    {},
    {"model.aggregation": "mwb", "recipe": "contrastive", "model.modalities": {"m\nö": {"scale": "learned"}}},
    {
        "model.aggregation": {"name": "renyi", "order": math.inf},
        "train.objective": {"name": "iwae", "gradient": "stl"},
        "train.betas": [0.8, 0.99],
        "data.name": "/a folder/with 'quotes' and \u2028",
        "plugins": ["string"],
    },
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("task", [Evaluating(OPTIONS), Reading(OPTIONS, ("poe", "mixture:w1"))])
def test_message_is_one_line_and_comes_back_the_same(task: Any, settings: dict[str, Any]) -> None:
    cell = Cell(Path("a folder") / "wb-warm-seed0", make_config(None, settings), "warm", ("model.beta=2", "x='a b'"))
    text = encode_message(task, cell, FailureBook(Path("a folder")))
    assert "\n" not in text
    found, there, book = decode_message(text)
    assert (found, there, book.folder) == (task, cell, Path("a folder"))
    assert found.settings(there) == task.settings(cell)


def test_message_that_was_cut_or_names_bad_settings_raises() -> None:
    text = encode_message(Evaluating(OPTIONS), Cell(Path("x"), make_config(None, {})), FailureBook(Path()))
    with pytest.raises(ValueError, match="Unterminated|Expecting"):
        decode_message(text[: len(text) // 2])
    message = json.loads(text)
    message["config"]["train"]["lr"] = "quick"
    with pytest.raises(ValueError, match="lr"):
        decode_message(json.dumps(message))
    del message["path"]
    with pytest.raises((KeyError, ValueError)):
        decode_message(json.dumps(message))
