"""The tables and plots of a comparison, drawn from the evaluations of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pyro_mmvae.files import write_text
from pyro_mmvae.reports.comparison_plots import plot_comparison, plot_differences
from pyro_mmvae.reports.comparison_rows import (
    cell_settings,
    find_row,
    key_of,
    read_cells,
    summarise,
    values_by_seed,
)
from pyro_mmvae.reports.comparison_tables import as_csv, as_latex, as_markdown
from pyro_mmvae.reports.files import DPI, save_pictures
from pyro_mmvae.reports.paired import differences_from


def draw_comparison(
    out: Path,
    paths: Sequence[Path],
    command: str = "",
    *,
    baseline: str | None = None,
    missing: Mapping[str, str] | None = None,
    formats: Sequence[str] = ("png",),
    dpi: int = DPI,
) -> list[Path]:
    """Write means over seeds and their standard errors as tables and as a plot.

    The files are ``comparison.csv``, ``comparison.md``, ``comparison.tex`` (tables for LaTeX with the package booktabs)
    and ``comparison.png``; with a baseline also ``differences.png``, and the tables contain the differences from it.

    Args:
        out: The folder to write into.
        paths: The run directories of the comparison; those without an evaluation are left out.
        command: The command line that made the runs, quoted in the table; left out by default.
        baseline: The name of the row that the others are compared with, paired by seed, such as ``"mopoe"`` or
            ``"mopoe, warm"``, or ``"mopoe, model.beta=2"`` by the settings of a variant; by default there is no such
            comparison.
        missing: The reasons for which runs of the comparison are not in the tables, by the names of their run
            directories; by default none are missing.
        formats: The formats of the pictures, such as ``("pdf", "png")``; PNG by default.
        dpi: The number of pixels per inch, 150 by default.

    Returns:
        The files written.

    Raises:
        ValueError: If no run has an evaluation, or none of them is of the baseline.
    """
    cells = read_cells(paths)
    values = values_by_seed(cells)
    rows = summarise(values)
    labels = list(dict.fromkeys(key_of(row).label for row in rows))
    name = "" if baseline is None else find_row(baseline, labels, cell_settings(cells))
    differences = differences_from(values, name) if name else {}
    texts = {
        "csv": as_csv(rows, differences),
        "md": as_markdown(rows, cells, command=command, baseline=name, differences=differences, missing=missing),
        "tex": as_latex(rows, baseline=name, differences=differences, missing=missing),
    }
    files = [out / f"comparison.{suffix}" for suffix in texts]
    for file, text in zip(files, texts.values(), strict=True):
        write_text(file, text)
    files += save_pictures(plot_comparison(paths), out / "comparison", formats, dpi)
    if differences:
        files += save_pictures(plot_differences(paths, name), out / "differences", formats, dpi)
    return files
