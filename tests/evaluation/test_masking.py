"""Imputations of held-out observations: against the exact conditional, chance, and every data type."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_mmvae.evaluation import MaskedEvaluation, MaskedMetric, MaskOptions, evaluate
from pyro_mmvae.evaluation.masking import _quantile_levels, evaluate_masked
from tests.evaluation.exact_models import Linear
from tests.inference.own_files import train_on, write_folder
from tests.inference.test_imputation import conditional

FAST = MaskOptions(draws=20, train_items=60, iterative_items=60, neighbors=3, rounds=2)


def figures(result: MaskedEvaluation) -> dict[tuple[str, str, str], MaskedMetric]:
    """Return the rows of leaving one out, by target, method and metric."""
    rows = {(r.target, r.method, r.metric): r for r in result.rows if r.pattern == "leave one out"}
    assert len({(r.pattern, r.target, r.views, r.method, r.metric) for r in result.rows}) == len(result.rows)
    return rows


def halves(linear: Linear, train_items: int) -> tuple:
    count = len(linear.data)
    return linear.data.subset(range(train_items)), linear.data.subset(range(train_items, count))


def test_evaluate_masked_linear_model_equals_the_exact_conditional() -> None:
    linear = Linear(items=1500)
    train, test = halves(linear, 1000)
    found = figures(evaluate_masked(linear.vae, train, test, options=MaskOptions(draws=200)))
    mean, sd = conditional(linear)
    truth = linear.data.tensors["b"].numpy()
    exact = float(np.sqrt(((mean - truth)[1000:] ** 2).mean()))
    assert found["b", "model", "rmse"].value == pytest.approx(exact, rel=0.01)
    assert exact == pytest.approx(float(np.sqrt((sd**2).mean())), rel=0.05)
    # The regression of b on a is of the right family, and scikit-learn estimates it from 1,000 items.
    assert found["b", "iterative imputation", "rmse"].value == pytest.approx(exact, rel=0.03)
    assert found["b", "k-nearest neighbours", "rmse"].value > exact
    assert found["b", "mean", "nrmse"].value == pytest.approx(1, abs=0.05)
    for level, z in ((50, 0.6745), (90, 1.6449)):
        row = found["b", "model", f"coverage_{level}"]
        assert abs(row.value - level / 100) < 4 * row.se
        assert 0 < row.se < 0.02
        width = found["b", "model", f"width_{level}"].value
        assert width == pytest.approx(2 * z * sd.mean(), rel=0.05)


def test_evaluate_masked_shuffled_pairs_make_the_model_no_better_than_the_mean() -> None:
    linear = Linear(items=600)
    shuffled = {**linear.data.modalities, "b": linear.data.tensors["b"].roll(1, 0)}
    linear.data = replace(linear.data, modalities=shuffled)
    found = figures(evaluate_masked(linear.vae, *halves(linear, 300), options=FAST))
    for target in "ab":
        assert found[target, "model", "rmse"].value > found[target, "mean", "rmse"].value
        assert found[target, "model", "coverage_90"].value < 0.87  # too narrow for the model's confidence


def test_evaluate_masked_absent_values_are_neither_used_nor_compared() -> None:
    linear = Linear(items=120)
    present = torch.ones(120, 2, dtype=torch.bool)
    present[::4, 1] = present[1::4, 0] = False
    holes = [replace(linear.data, present=present)]
    garbage = {n: torch.where(present[:, [m]], v, 1e6) for m, (n, v) in enumerate(linear.data.tensors.items())}
    holes.append(replace(holes[0], modalities=garbage))
    first, second = (
        evaluate_masked(linear.vae, d.subset(range(60)), d.subset(range(60, 120)), options=FAST) for d in holes
    )
    assert first.rows == second.rows
    assert {row.n for row in first.rows} == {30}


def test_evaluate_masked_at_random_holds_out_a_share_and_is_seeded() -> None:
    linear = Linear(items=400)
    train, test = halves(linear, 60)
    results = [evaluate_masked(linear.vae, train, test, options=replace(FAST, rate=0.3, seed=s)) for s in (1, 1, 2)]
    counts = [
        {r.target: r.n for r in result.rows if r.pattern == "at random, rate 0.3" and r.method == "mean"}
        for result in results
    ]
    assert results[0].rows == results[1].rows
    assert counts[0] != counts[2]
    # An item loses exactly one of two modalities with probability 0.42, or keeps one of two lost ones with 0.09.
    assert sum(counts[0].values()) == pytest.approx(340 * 0.51, abs=4 * np.sqrt(340 * 0.25))


def test_evaluate_masked_on_files_scores_every_data_type(tmp_path: Path) -> None:
    run = train_on(write_folder(tmp_path / "own", count=100), tmp_path / "run", **{"train.epochs": 1})
    result = evaluate_masked(run.vae, run.data("train"), run.data("test"), options=replace(FAST, rate=0.3))
    found = figures(replace(result, rows=tuple(r for r in result.rows if r.views == 3)))
    metrics = {t: {m for target, method, m in found if (target, method) == (t, "model")} for t in run.vae.names}
    intervals = {"coverage_50", "coverage_90", "width_50", "width_90"}
    assert metrics["photo"] == metrics["gauge"] == {"rmse", "nrmse"} | intervals
    assert metrics["genes"] == {"rmse", "nrmse", "rmse_log1p"} | intervals
    assert metrics["note"] == {"accuracy", "exact_match"}
    for target in run.vae.names:  # the items are separated by their classes, which other modalities give away
        name, better = ("exact_match", 1) if target == "note" else ("nrmse", -1)
        knn, mean = (found[target, method, name].value for method in ("k-nearest neighbours", "mean"))
        assert better * knn > better * mean
    assert {r.views for r in result.rows if r.pattern.startswith("at random")} <= {1, 2, 3}
    assert 500 < found["gauge", "mean", "rmse"].value < 1200  # in the units of the files, of s.d. about 660


def test_evaluate_masked_without_two_modalities_raises_in_one_line() -> None:
    linear = Linear(items=40)
    present = torch.zeros(40, 2, dtype=torch.bool)
    present[:, 0] = True
    lonely = replace(linear.data, present=present)
    message = "mask: test items must have at least two modalities that training items have"
    for train, test in ((linear.data, lonely), (lonely, linear.data)):
        with pytest.raises(ValueError, match=message):
            evaluate_masked(linear.vae, train, test, options=FAST)
        parts: list[str] = []
        with pytest.raises(ValueError, match=message):
            evaluate(linear.vae, train, test, mask=0.0, progress=parts.append)
        assert parts == []  # nothing was computed before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 1.0}, "rate .* must be at least 0 and less than 1, got 1.0"),
        ({"draws": 19}, "draws must be at least 20"),
        ({"neighbors": 0}, "neighbors must be positive, got 0"),
    ],
)
def test_mask_options_out_of_range_raise(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskOptions(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("draws", [20, 50])
def test_quantile_levels_cover_a_new_draw_with_the_nominal_probability(draws: int) -> None:
    rng = np.random.default_rng(0)
    for coverage in (50, 90):
        lower, upper = np.quantile(rng.random((20_000, draws)), _quantile_levels(coverage, draws), axis=1)
        assert (upper - lower).mean() == pytest.approx(coverage / 100, abs=0.003)  # of a uniform new draw
