"""Evaluations of one model that is read with several aggregations."""

from __future__ import annotations

from typing import Any

import pytest

from pyro_mmvae import evaluate
from pyro_mmvae.evaluation import EvaluationOptions, evaluate_readings, reading_rows
from pyro_mmvae.evaluation import suite as suite_module
from tests.evaluation.exact_models import Linear

OPTIONS = EvaluationOptions(
    likelihood_items=7, samples=8, max_samples=8, khat_items=0, quality=False, diagnostics=False
)


def test_evaluate_readings_own_aggregation_has_the_figures_of_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = Linear()
    expected = evaluate(linear.vae, linear.data, linear.data, options=OPTIONS)
    encoded: list[Any] = []
    encode = suite_module.encode_dataset
    monkeypatch.setattr(suite_module, "encode_dataset", lambda *args: encoded.append(args) or encode(*args))
    parts: list[str] = []
    found = evaluate_readings(
        linear.vae, linear.data, linear.data, ["poe", "wb"], options=OPTIONS, progress=parts.append
    )
    assert list(found) == ["poe", "wb"]
    assert found["poe"].rows == expected.rows
    # The product of experts is exact here; the barycenter is not, so that its importance weights vary.
    ess = {
        name: [row.value for row in result.rows if row.metric == "ess" and row.views == 2]
        for name, result in found.items()
    }
    assert ess["poe"] == pytest.approx([8, 8], abs=1e-3)
    assert max(ess["wb"]) < 7.5
    assert len(encoded) == 1
    assert parts == ["poe: encoding", "poe: log likelihood", "wb: encoding", "wb: log likelihood"]
    rows = reading_rows(found)
    assert [row["aggregation"] for row in rows] == ["poe"] * len(expected.rows) + ["wb"] * len(found["wb"].rows)
    assert rows[0] == {"aggregation": "poe", **expected.rows[0].as_row()}


def test_evaluate_readings_takes_labels_of_aggregations_with_options() -> None:
    linear = Linear()
    weighted = {"first": {"name": "wb", "expert_weights": [1.0, 0.0]}, "plain": "wb"}
    found = evaluate_readings(linear.vae, linear.data, linear.data, weighted, options=OPTIONS)
    values = {name: [row.value for row in result.rows] for name, result in found.items()}
    assert list(values) == ["first", "plain"]
    assert values["first"] != values["plain"]


def test_evaluate_readings_refuses_before_it_evaluates() -> None:
    linear = Linear()
    parts: list[str] = []
    with pytest.raises(ValueError, match="the model cannot be read with 'mwbb': unknown aggregation 'mwbb'"):
        evaluate_readings(linear.vae, linear.data, linear.data, ["wb", "mwbb"], options=OPTIONS, progress=parts.append)
    assert not parts
