"""Tables in LaTeX."""

from __future__ import annotations

import pandas as pd

from pyro_mmvae.reports.latex import latex_table


def test_latex_table_escapes_words_and_sets_the_signs_of_figures() -> None:
    table = pd.DataFrame({"": ["a_b & 50 %", "k-means"], "x_1 ↑": ["-0.5 ± 0.1*", "≥ +2"]})
    lines = latex_table(table, "10 < x_1 ± 2").splitlines()
    assert lines[1] == r"\caption{10 $<$ x\_1 $\pm$ 2}"
    assert lines[2] == r"\begin{tabular}{lr}"
    assert r" & x\_1 $\uparrow$ \\" in lines
    assert r"a\_b \& 50 \% & $-$0.5 $\pm$ 0.1$^{*}$ \\" in lines
    assert r"k-means & $\geq$ $+$2 \\" in lines


def test_latex_table_words_of_other_columns_are_aligned_to_the_left() -> None:
    table = pd.DataFrame({"given": ["1"], "method": ["a-b {c}"], "items": ["40"]})
    lines = latex_table(table, "", ("method",)).splitlines()
    assert r"\begin{tabular}{rlr}" in lines
    assert r"1 & a-b \{c\} & 40 \\" in lines
