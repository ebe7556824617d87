"""The pictures of posterior predictive checks and calibration, drawn from their netCDF files alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyro_mmvae.reports.check_files import CheckFile, read_check
from pyro_mmvae.reports.check_table import modality_names
from pyro_mmvae.reports.densities import draw_densities, draw_mean_density
from pyro_mmvae.reports.ecdf import (
    CELL,
    COLUMNS,
    LEVEL,
    draw_ecdf_difference,
    independent_values,
    pit_p_value,
    sbc_figure,
)
from pyro_mmvae.reports.files import DPI, save_pictures
from pyro_mmvae.reports.panels import RunLike, run_path
from pyro_mmvae.reports.styles import OKABE_ITO, styled
from pyro_mmvae.reports.texts import break_lines
from pyro_mmvae.run_files import RunFiles, split_key

_MAX_STATISTICS = COLUMNS  # the largest number of statistics per modality in a picture
_MAX_TICKS = 25  # the largest number of classes that are named below a panel
_SIMULATED = ("sbc", "posterior_sbc")
_NAME_LETTERS = 20  # the number of letters of a class name in a line below a panel


@styled
def draw_ppc(
    path: Path, *, folder: Path | None = None, formats: Sequence[str] = ("png",), dpi: int = DPI
) -> list[Path]:
    """Draw the checks of a run, every ``evaluation/ppc*.nc``, into ``plots/``.

    Args:
        path: The run directory, or one netCDF file of a check.
        folder: The folder to draw into; by default ``plots`` of the run, or the folder of the file.
        formats: The formats of the pictures, such as ``("pdf", "png")``; PNG by default.
        dpi: The number of pixels per inch, 150 by default.

    Returns:
        The files drawn: for each check ``NAME.png``, the densities of replicates and observations, ``NAME-bpv.png``,
        the means over items, ``NAME-pit.png`` and, if there is calibration by simulation, ``NAME-sbc.png`` and
        ``NAME-posterior-sbc.png``. At most six statistics per modality are drawn; the title says if there are more.

    Raises:
        FileNotFoundError: If there is no check.
    """
    run = RunFiles(path)
    files = run.checks() if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"{path}: no posterior predictive check ({run.check().relative_to(path)})")
    where = folder or (run.plots if path.is_dir() else path.parent)
    where.mkdir(parents=True, exist_ok=True)
    drawn = list[Path]()
    for file in files:
        data = read_check(file)
        for suffix, (draw, title) in _GRIDS.items():
            drawn += save_pictures(_grid(data, draw, title), where / f"{file.stem}{suffix}", formats, dpi)
        for prefix in _SIMULATED:
            if f"{prefix}_rank" in data.constant_data:
                name = f"{file.stem}-{prefix.replace('_', '-')}"
                drawn += save_pictures(sbc_figure(data, prefix), where / name, formats, dpi)
    return drawn


@styled
def plot_ppc(
    run: RunLike, *, given: Sequence[str] | None = None, kind: Literal["density", "mean", "pit"] = "density"
) -> Figure:
    """Plot a posterior predictive check, one row of panels per modality and one panel per statistic.

    At most six statistics per modality are drawn; the title says if there are more.

    Args:
        run: The run or its directory, or the path of one netCDF file of a check.
        given: The names of the modalities that the guide saw in the check, empty for the check of the prior; by default
            the first check of the posterior.
        kind: The plot: ``"density"`` (default) has the densities of replicated and observed statistics, ``"mean"`` the
            replicated and the observed mean over items, and ``"pit"`` the ECDF of PIT values minus the diagonal, with
            its simultaneous band.

    Returns:
        The figure.

    Raises:
        FileNotFoundError: If the run has no check.
        ValueError: If no check has these modalities given, or the kind is unknown.
    """
    kinds = {"density": "", "mean": "-bpv", "pit": "-pit"}
    if kind not in kinds:
        raise ValueError(f"kind must be one of {', '.join(kinds)}, got {kind!r}")
    draw, title = _GRIDS[kinds[kind]]
    return _grid(_find_check(run_path(run), given), draw, title)


@styled
def plot_calibration(
    run: RunLike, *, given: Sequence[str] | None = None, kind: Literal["sbc", "posterior_sbc"] = "sbc"
) -> Figure:
    """Plot the ECDF of the ranks of a calibration by simulation minus the diagonal, one panel per quantity.

    Args:
        run: The run or its directory, or the path of one netCDF file of a check.
        given: The names of the modalities that the guide saw in the check; by default the first check of the posterior.
        kind: The calibration: ``"sbc"`` (default) simulates from the prior, ``"posterior_sbc"`` around observed items.

    Returns:
        The figure. Of more than 24 quantities the first ones are drawn, and ``log_p`` and ``tarp``.

    Raises:
        FileNotFoundError: If the run has no check.
        ValueError: If no check has these modalities given, or the check was made without this calibration.
    """
    if kind not in _SIMULATED:
        raise ValueError(f"kind must be one of {', '.join(_SIMULATED)}, got {kind!r}")
    data = _find_check(run_path(run), given)
    if f"{kind}_rank" not in data.constant_data:
        flag = f"--{kind.replace('_', '-')}"
        raise ValueError(f"{run_path(run)}: the check must have been made with {flag}, got one without: repeat 'ppc'")
    return sbc_figure(data, kind)


def _find_check(path: Path, given: Sequence[str] | None) -> CheckFile:
    """Return the check of a run with some modalities given, by default the first one of the posterior."""
    if isinstance(given, str):
        raise ValueError(f"given must be a sequence of names, as in [{given!r}], got the text {given!r}")
    files = RunFiles(path).checks() if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FileNotFoundError(f"{path}: a run must be checked, got no check: 'pyro-mmvae ppc' writes one")
    if given is None:  # the file without a label is that of the first check of the posterior
        return read_check(min(files, key=lambda file: len(file.stem)))
    found = {}
    for file in files:
        check = read_check(file)
        found[str(check.attrs["given"])] = check
        if sorted(given) == sorted(_given_names(check)):
            return check
    listed = "; ".join(names or "none" for names in found)
    raise ValueError(f"given must be the modalities of a check ({listed}), got {list(given)!r}")


def _given_names(check: CheckFile) -> list[str]:
    """Return the names of the modalities that the guide saw in a check."""
    mask = check.constant_data["given"]
    names = mask[mask.dims[0]].values
    return [str(name) for name, is_given in zip(names, mask.values, strict=True) if is_given]


def _grid(data: CheckFile, draw: Callable[[CheckFile, str, Axes], None], title: str) -> Figure:
    """Draw one row per modality and one column per statistic."""
    keys = [str(key) for key in data.constant_data["statistic"].values]
    rows: dict[str, list[str]] = {}
    for key in keys:
        rows.setdefault(split_key(key, modality_names(data))[0], []).append(key)
    columns = min(_MAX_STATISTICS, max(map(len, rows.values())))
    figure = Figure(figsize=(CELL[0] * columns, CELL[1] * len(rows) + 0.8), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, statistics in zip(axes, rows.values(), strict=True):
        for axis, key in zip(row, [*statistics, *[""] * columns][:columns], strict=True):
            if key:
                draw(data, key, axis)
                axis.set_title(_title(data, key), fontsize=7)
                axis.tick_params(labelsize=6)
            else:
                axis.axis("off")
    attributes = data.attrs
    more = (
        f"; the first {_MAX_STATISTICS} of each"
        if any(len(statistics) > _MAX_STATISTICS for statistics in rows.values())
        else ""
    )
    given = f"given {attributes['given']}" if attributes["given"] else "given nothing"
    what = f"{attributes['items']} items, seed {attributes['seed']}{more}"
    figure.suptitle(f"{title}; {given}\n{attributes['protocol']}, {what}", fontsize=8)
    return figure


def _title(data: CheckFile, key: str) -> str:
    """Return the title of a panel: the key of the statistic and its p-values."""
    row = data.constant_data.sel(statistic=key)
    value, smallest = float(row["p_value"]), 2 / int(data.attrs["samples"])
    p_value = f"p = {value:.2f}" if value > 0 else f"p < {smallest:.2g}"
    if bool(row["in_sample"]):
        return f"{key}\n{p_value}; in-sample: conservative, not judged"
    uniform = pit_p_value(data, key)
    if uniform is None:
        return f"{key}\n{p_value}; fixed by the conditioning, not judged"
    return f"{key}\n{p_value}, PIT p = {uniform:.2g}; not given"


def _pair(data: CheckFile, key: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the draws `(sample, item)` and observations `(item,)` of one statistic for the items that have it."""
    draws, observed = data.posterior_predictive[key].values[0], data.observed_data[key].values
    kept = np.isfinite(observed)
    return draws[:, kept], observed[kept]


def _class_shares(draws: NDArray[Any], observed: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Replace classes by their shares among the draws and the observation of an item, since a mean of codes is void.

    The p-values of the check are those of these shares, too.
    """
    pool = np.concatenate([draws, observed[None]])
    shares = np.stack([(pool == row).mean(0) for row in pool])
    return shares[:-1], shares[-1]


def _constant(axis: Axes, *arrays: NDArray[Any]) -> bool:
    """Return True if arrays are constant, so that they do not have a density, and write so into the panel."""
    if all(np.ptp(array) > 0 for array in arrays):
        return False
    axis.text(0.5, 0.5, "constant", ha="center", va="center", transform=axis.transAxes, fontsize=8, color="0.5")
    axis.set(xticks=[], yticks=[])
    return True


def _draw_ppc(data: CheckFile, key: str, axis: Axes) -> None:
    """Draw the densities of replicated and observed statistics, of classes their shares."""
    draws, observed = _pair(data, key)
    if bool(data.constant_data["nominal"].sel(statistic=key)):
        names = json.loads(data.attrs.get("class_names", "[]")) if key.endswith(".predicted_class") else []
        _draw_classes(axis, draws, observed, names)
    elif not _constant(axis, observed, *draws):
        draw_densities(axis, draws, observed)


def _draw_classes(axis: Axes, draws: NDArray[Any], observed: NDArray[Any], names: Sequence[str]) -> None:
    """Draw the share of items of each class that occurs: of the observations, of 95 % of the draws and of all draws.

    Args:
        axis: The panel to draw into.
        draws: The replicated classes, of shape `(sample, item)`.
        observed: The observed classes, of shape `(item,)`.
        names: The names of the classes, from class 0; a class without a name is shown by its number.
    """
    classes = np.unique(np.concatenate([draws.ravel(), observed]))
    shares = np.stack([(draws == code).mean(-1) for code in classes], -1)
    low, high = np.quantile(shares, [0.025, 0.975], axis=0)
    places = np.arange(len(classes))
    axis.bar(
        places, [(observed == code).mean() for code in classes], fill=False, edgecolor="black", lw=0.8, label="observed"
    )
    axis.vlines(places, low, high, color=OKABE_ITO[0], lw=2, label="95 % of the draws")
    axis.plot(places, shares.mean(0), "_", color=OKABE_ITO[1], label="all draws")
    labels = [names[int(code)] if 0 <= code < len(names) else f"{code:g}" for code in classes]
    ticks = slice(None, None, -(-len(labels) // _MAX_TICKS))
    axis.set_xticks(places[ticks], ["\n".join(break_lines(k, _NAME_LETTERS)) for k in labels[ticks]], fontsize=5)
    axis.tick_params(axis="x", rotation=90 if max(map(len, labels)) > 2 else 0)
    axis.set(yticks=[], ylabel="share of items")
    axis.yaxis.label.set_fontsize(6)


def _draw_bpv(data: CheckFile, key: str, axis: Axes) -> None:
    """Draw the density of the replicated mean over items beside the observed mean, of classes that of their shares."""
    draws, observed = _pair(data, key)
    if bool(data.constant_data["nominal"].sel(statistic=key)):
        draws, observed = _class_shares(draws, observed)
        axis.set_xlabel("share of its class among draws and observation", fontsize=6)
    if not _constant(axis, draws.mean(-1)):
        draw_mean_density(axis, draws, observed)


def _draw_pit(data: CheckFile, key: str, axis: Axes) -> None:
    """Draw the ECDF of the PIT values of items that do not share observations, minus the diagonal."""
    in_sample = bool(data.constant_data["in_sample"].sel(statistic=key))
    draw_ecdf_difference(axis, independent_values(data, key), color="0.5" if in_sample else OKABE_ITO[0])


_GRIDS = {
    "": (
        _draw_ppc,
        "Statistics of observed items (black) and of replicated ones (blue: a draw, orange: all);\n"
        "of classes their shares (blue: 95 % of the draws)",
    ),
    "-bpv": (_draw_bpv, "Mean over items of each statistic, replicated (line) and observed (dot)"),
    "-pit": (
        _draw_pit,
        f"ECDF of PIT values minus the diagonal;\na uniform one lies in the grey band with {LEVEL:.0%}",
    ),
}
