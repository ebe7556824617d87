"""The tables of a comparison as CSV, Markdown and LaTeX."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd

from pyro_mmvae.reports.comparison_rows import Cell, Key, describe_recipes, key_of, table_keys
from pyro_mmvae.reports.latex import latex_table
from pyro_mmvae.reports.paired import LEVEL, Difference, other_data, pairs_phrase
from pyro_mmvae.reports.texts import STANDING_NOTE, protocol_label

Rows: TypeAlias = Sequence[Mapping[str, Any]]
Tables: TypeAlias = dict[tuple[str, str], pd.DataFrame]

_DIGITS = {"log_likelihood": 1, "ess": 1, "train_seconds": 1, "frechet_classifier": 2, "frechet_conditional": 2}
_MANY_DIGITS = 3  # the number of digits of all other metrics after the point
_STAR = "*"
_MAX_DIGITS = 6  # the largest number of digits of a difference after the point


def as_csv(rows: Rows, differences: Mapping[Key, Difference]) -> str:
    """Return the rows as CSV, with the differences from the baseline in further columns if there is one.

    Args:
        rows: The rows of the comparison.
        differences: The differences from the baseline by position; empty without a baseline.
    """
    if differences:
        missing = Difference(0, *[math.nan] * 5)
        rows = [{**row, **_columns(differences.get(key_of(row), missing))} for row in rows]
    return pd.DataFrame(rows).to_csv(index=False, na_rep="nan", lineterminator="\r\n")


def _columns(difference: Difference) -> dict[str, Any]:
    """Return the columns of a difference."""
    figures = difference._asdict()
    return {{"mean": "difference", "se": "difference_se"}.get(name, name): value for name, value in figures.items()}


def mean_tables(rows: Rows) -> Tables:
    """Return a table of texts per metric and protocol: one row per label, one column per number of modalities.

    Args:
        rows: The rows of the comparison.
    """
    return _pivot(rows, {key_of(row): _mean(row) for row in rows})


def difference_tables(rows: Rows, differences: Mapping[Key, Difference]) -> Tables:
    """Return a table of differences from the baseline per metric and protocol, with a star at significant ones.

    Args:
        rows: The rows of the comparison.
        differences: The differences from the baseline by position.
    """
    texts = {key: _difference(key.metric, difference) for key, difference in differences.items()}
    return _pivot([row for row in rows if key_of(row) in texts], texts)


def _pivot(rows: Rows, texts: Mapping[Key, str]) -> Tables:
    """Return the texts of the rows as one table per metric and protocol."""
    names = list(dict.fromkeys(key_of(row).label for row in rows))
    tables = {}
    for metric, protocol in table_keys(rows):
        keys = [key for key in map(key_of, rows) if (key.metric, key.protocol) == (metric, protocol)]
        cells = [{"label": key.label, "views": key.views, "text": texts[key]} for key in keys]
        table = pd.DataFrame(cells).pivot(index="label", columns="views", values="text")
        table = table.reindex(names).fillna("").rename_axis(index=None, columns=None)
        tables[metric, protocol] = (
            table.rename(columns={0: "mean"}) if list(table) == [0] else table.rename(columns=str)
        )
    return tables


def _digits(metric: str) -> int:
    """Return the number of digits after the point."""
    return _DIGITS.get(metric, _MANY_DIGITS)


def _mean(row: Mapping[str, Any]) -> str:
    """Return a mean with its standard errors over seeds and, in brackets, over items, and a mark at bounds."""
    digits = _digits(row["metric"])
    error = "" if math.isnan(row["se"]) else f" ± {row['se']:.{digits}f}"
    items = "" if math.isnan(row["se_items"]) else f" (± {row['se_items']:.{digits}f})"
    return f"{'≥ ' if row['stands'] < 1 else ''}{row['mean']:.{digits}f}{error}{items}"


def _difference(metric: str, difference: Difference) -> str:
    """Return a difference with its sign and standard error, and a star if it is significant."""
    digits, error = _digits(metric), ""
    if not math.isnan(difference.se):
        if difference.se > 0:  # enough digits for the first one of the error that is not zero
            digits = min(max(digits, math.ceil(-math.log10(difference.se))), _MAX_DIGITS)
        error = f" ± {difference.se:.{digits}f}"
    rounded = round(difference.mean, digits) + 0.0  # which makes a negative zero positive
    return f"{rounded:+.{digits}f}{error}{_STAR if difference.is_significant else ''}"


def as_markdown(
    rows: Rows, cells: Sequence[Cell], *, command: str = "", baseline: str = "",
    differences: Mapping[Key, Difference] | None = None, missing: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """Return the tables and the notes below them as Markdown.

    Args:
        rows: The rows of the comparison.
        cells: The evaluations of the runs.
        command: The command line that made the runs; left out by default.
        baseline: The name of the row that the others are compared with; no comparison by default.
        differences: The differences from the baseline by position; none by default.
        missing: The reasons for which runs are not in the tables, by their names; by default none are missing.
    """
    lines = ["Mean ± standard error over seeds, by number of modalities given.", ""]
    if command:
        lines += [f"`{command}`", ""]
    if missing:
        lines += ["Missing, hence means over the other seeds:", ""]
        lines += [*(f"- {name}: {reason}" for name, reason in missing.items()), ""]
    for name, table in mean_tables(rows).items():
        lines += _markdown_table(name, table)
    if any(not math.isnan(row["se_items"]) for row in rows):
        lines += ["In brackets: standard error over the test items, which are the same for all seeds.", ""]
    if any(row["stands"] < 1 for row in rows):
        lines += [STANDING_NOTE, ""]
    if baseline:
        lines += _difference_section(rows, cells, baseline, differences or {})
    return "\n".join([*lines, *_notes(cells)]) + "\n"


def _markdown_table(name: tuple[str, str], table: pd.DataFrame) -> list[str]:
    """Return the lines of a table with its title."""
    metric, protocol = name[0], protocol_label(*name)
    lines = [f"**{metric}**" + (f" ({protocol})" if protocol else ""), ""]
    lines += ["| | " + " | ".join(table.columns) + " |", "|---" * (len(table.columns) + 1) + "|"]
    return [*lines, *(f"| {label} | " + " | ".join(texts) + " |" for label, *texts in table.itertuples()), ""]


def _difference_section(
    rows: Rows, cells: Sequence[Cell], baseline: str, differences: Mapping[Key, Difference]
) -> list[str]:
    """Return the section with the differences from the baseline."""
    lines = [f"## Differences from {baseline}", ""]
    if not differences:
        return [*lines, f"No other row has a seed and a figure in common with {baseline}.", ""]
    lines += [_describe_differences(baseline, differences), ""]
    for name, table in difference_tables(rows, differences).items():
        lines += _markdown_table(name, table)
    compared = [row for row in rows if row["metric"] == "log_likelihood" and key_of(row) in differences]
    if any(math.isnan(row["stands"]) for row in compared):  # of an evaluation by an earlier version
        lines += ["Log likelihoods may be bounds of different tightness: then differences do not rank the rows.", ""]
    if others := other_data(cells, baseline):
        lines += [f"Trained with other settings of the data than {baseline}: {'; '.join(others)}.", ""]
    return lines


def _describe_differences(baseline: str, differences: Mapping[Key, Difference]) -> str:
    """Return the sentences that say how differences were computed and what a star means."""
    pairs = pairs_phrase(differences)
    if all(difference.pairs == 1 for difference in differences.values()):
        return (
            f"Row minus {baseline} of one seed: there is neither a standard error nor a test, which need at least two "
            "seeds."
        )
    single = " One pair has neither a standard error nor a test." if pairs.startswith("1 ") else ""
    return (
        f"Row minus {baseline}, paired by seed: mean ± standard error over {pairs}.{single} A star: p < {LEVEL:g} in a "
        "paired t-test after Holm's correction for the columns of the row, one family per row and table; p-values are "
        "not corrected for the number of rows and tables. comparison.csv has t and p."
    )


def _notes(cells: Sequence[Cell]) -> list[str]:
    """Return the lines on recipes, variants, seeds, options and classifiers."""
    lines = []
    recipes = {c["aggregation"]: c["recipe"] for c in cells if c.get("recipe") and not c.get("variant")}
    if text := describe_recipes(recipes):
        lines.append(f"Recipes differ, {text}.  ")
    for name, words in {c["variant"]: c["variant_settings"] for c in cells if "variant_settings" in c}.items():
        lines.append(f"Variant {name}: {'`' + shlex.join(words) + '`' if words else 'no further settings'}.  ")
    seeds = sorted({cell["train_seed"] for cell in cells})
    epochs = sorted({cell["epochs"] for cell in cells})
    lines.append(f"Seeds {seeds}, epochs {epochs}, evaluation {json.dumps(cells[0]['options'])}.")
    accuracy = cells[0]["classifier_accuracy"]
    if accuracy:
        lines.append("Classifiers' test accuracy: " + ", ".join(f"{n} {a:.3f}" for n, a in accuracy.items()) + ".")
    return lines


def as_latex(
    rows: Rows, *, baseline: str = "", differences: Mapping[Key, Difference] | None = None,
    missing: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """Return the tables as LaTeX for the package booktabs, one ``table`` each, those of the differences last.

    Runs that are missing are named in comments above the tables.

    Args:
        rows: The rows of the comparison.
        baseline: The name of the row that the others are compared with; no comparison by default.
        differences: The differences from the baseline by position; none by default.
        missing: The reasons for which runs are not in the tables, by their names; by default none are missing.
    """
    comments = [f"% missing: {name}: {reason}" for name, reason in (missing or {}).items()]
    texts = [_latex_table(name, table, "") for name, table in mean_tables(rows).items()]
    if differences:
        only_one = all(difference.pairs == 1 for difference in differences.values())
        how = "one seed" if only_one else f"mean ± standard error over {pairs_phrase(differences)}"
        star = "" if only_one else f"; {_STAR} p < {LEVEL:g}, paired t-test with Holm's correction for the columns"
        caption = f": row minus {baseline}, {how}{star}"
        tables = difference_tables(rows, differences)
        texts += [_latex_table(name, table, caption) for name, table in tables.items()]
    return "\n".join([*comments, *texts])


def _latex_table(name: tuple[str, str], table: pd.DataFrame, more: str) -> str:
    """Return one table as LaTeX."""
    metric, protocol = name[0], protocol_label(*name)
    return latex_table(table.reset_index(names=""), metric + (f" ({protocol})" if protocol else "") + more)
