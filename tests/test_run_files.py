"""Names of subsets in the files of a run."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.run_files import join_names, split_names

NAMES = st.lists(st.text(st.sampled_from("ab+\\\\ ,."), min_size=1, max_size=4), max_size=4).map(tuple)


@given(NAMES)
def test_split_names_of_joined_names_returns_them(names: tuple[str, ...]) -> None:
    assert split_names(join_names(names)) == names


def test_join_names_without_special_characters_only_adds_plus() -> None:
    assert join_names(["m0", "m1"]) == "m0+m1"
    assert (join_names([]), split_names("")) == ("", ())


def test_metric_row_of_names_with_plus_is_unambiguous() -> None:
    rows = [
        Metric("mse", "p", names, "", 0.0, 1, 0).as_row() for names in (("a+b", "c"), ("a", "b+c"), ("a", "b", "c"))
    ]
    assert [row["given"] for row in rows] == [r"a\+b+c", r"a+b\+c", "a+b+c"]
