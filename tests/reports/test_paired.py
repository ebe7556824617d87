"""Paired differences and Holm's correction."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from pyro_mmvae.reports.comparison_rows import Key
from pyro_mmvae.reports.paired import differences_from, holm, paired_difference, pairs_phrase


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 · 0.01, 2 · 0.03, and 0.04 is raised to the one before it
        ([0.5, 0.02, 0.02, 0.9], [1.0, 0.08, 0.08, 1.0]),
        ([0.01, math.nan, 0.04], [0.03, math.nan, 0.08]),  # a test that could not be made counts
    ],
)
def test_holm_matches_hand_values(p_values: list[float], expected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(expected, nan_ok=True)


def test_paired_difference_matches_hand_values_and_scipy() -> None:
    row, baseline = {0: 1.0, 1: 3.0, 2: 5.5, 9: 100.0}, {2: 2.5, 1: 1.0, 0: 0.0, 7: -100.0}
    found = paired_difference(row, baseline)
    assert found is not None
    assert (found.pairs, found.mean) == (3, 2.0)  # 1, 2, 3
    assert found.se == pytest.approx(1 / math.sqrt(3))
    reference = stats.ttest_rel([1.0, 3.0, 5.5], [0.0, 1.0, 2.5])
    assert (found.t, found.p) == pytest.approx((reference.statistic, reference.pvalue))
    interval = reference.confidence_interval(0.95)
    assert found.mean - found.half_width == pytest.approx(interval.low)


def test_paired_difference_of_one_pair_has_no_error_and_no_test() -> None:
    found = paired_difference({0: 1.0}, {0: 0.25})
    assert found is not None
    assert (found.pairs, found.mean) == (1, 0.75)
    assert all(math.isnan(figure) for figure in (found.se, found.t, found.p, found.half_width))
    assert not found.is_significant


def test_paired_difference_without_common_seeds_is_none() -> None:
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_paired_difference_that_varies_by_rounding_alone_has_no_test() -> None:
    baseline = {0: 0.1, 1: 0.2, 2: 0.7}
    found = paired_difference({seed: value + 0.1 for seed, value in baseline.items()}, baseline)
    assert found is not None
    assert found.mean == pytest.approx(0.1)
    assert math.isnan(found.p)


def test_differences_from_leaves_out_bounds_that_do_not_stand_and_what_depends_on_samples() -> None:
    metrics = ("log_likelihood", "log_likelihood_samples", "ess", "train_seconds", "probe")
    values = {Key(name, "", m, "K", 1): {0: 1.0, 1: 2.0} for name in ("wb", "mwb", "moe") for m in metrics}
    shares = {"wb": 1.0, "mwb": 1.0, "moe": 0.5}
    values |= {Key(name, "", "log_likelihood_stands", "K", 1): {0: 1.0, 1: s} for name, s in shares.items()}

    def found(baseline: str) -> set[tuple[str, str]]:
        return {(key.aggregation, key.metric) for key in differences_from(values, baseline)}

    assert found("wb") == {("mwb", "log_likelihood"), ("mwb", "probe"), ("moe", "probe")}
    assert found("moe") == {("wb", "probe"), ("mwb", "probe")}


def test_differences_from_corrects_the_views_of_one_row_and_table_together() -> None:
    noise = (0.0, 0.01, -0.02, 0.005)
    values = {}
    for name, shift in (("a", 0.0), ("b", 0.02), ("c", 0.5)):
        for protocol, views in (("p", 1), ("p", 2), ("q", 1)):
            values[Key(name, "", "probe", protocol, views)] = {
                seed: shift * views + noise[seed] * (name != "a") for seed in range(4)
            }
    found = differences_from(values, "a")
    assert {key.label for key in found} == {"b", "c"}
    family = [found[Key("b", "", "probe", "p", views)] for views in (1, 2)]
    assert [one.p_holm for one in family] == pytest.approx(holm([one.p for one in family]))
    alone = found[Key("b", "", "probe", "q", 1)]
    assert alone.p_holm == alone.p


def test_differences_from_leaves_training_times_out() -> None:
    values = {Key(name, "", "train_seconds", "", 0): {0: 1.0, 1: 2.0} for name in "ab"}
    assert differences_from(values, "a") == {}


@pytest.mark.parametrize(
    ("seeds", "phrase"),
    [((1, 1), "one pair of seeds"), ((3, 3), "3 pairs of seeds"), ((2, 5), "2 to 5 pairs of seeds")],
)
def test_pairs_phrase_counts_seeds(seeds: tuple[int, int], phrase: str) -> None:
    found = [paired_difference(dict.fromkeys(range(n), 1.0), dict.fromkeys(range(n), 0.0)) for n in seeds]
    keys = [Key(name, "", "probe", "", 1) for name in "ab"]
    assert pairs_phrase({key: one for key, one in zip(keys, found, strict=True) if one is not None}) == phrase
