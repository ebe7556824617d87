"""Pictures of checks, drawn from their files alone, and the script that writes such files."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from matplotlib.figure import Figure

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.evaluation.inference_data import read_inference_data, to_inference_data, write_inference_data
from pyro_mmvae.evaluation.ppc import posterior_predictive
from pyro_mmvae.evaluation.sbc import simulation_calibration
from pyro_mmvae.reports import ppc as pictures
from pyro_mmvae.reports.check_files import read_check
from pyro_mmvae.reports.check_table import _blocks, ppc_table
from pyro_mmvae.reports.densities import draw_densities, draw_mean_density
from pyro_mmvae.reports.files import save_pictures
from pyro_mmvae.reports.ppc import draw_ppc, plot_calibration, plot_ppc
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import train

TOP = Path(__file__).parents[2]


def load_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.parent.name + path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Return the figures that are drawn, by file name."""
    drawn: dict[str, Figure] = {}

    def keep(figure: Figure, file: Path, *options: Any) -> list[Path]:
        drawn[f"{file.name}.png"] = figure
        return save_pictures(figure, file, *options)

    monkeypatch.setattr(pictures, "save_pictures", keep)
    return drawn


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a folder with a check: given images, text of many tokens, a constant statistic, an absent observation."""
    modalities = [
        Modality("m0", (1, 4, 4)),
        Modality("t", (5,), likelihood="categorical", classes=7),
        Modality("one", (1,)),
    ]
    vae = MultimodalVAE(modalities, 2).eval()
    present = torch.ones(40, 3, dtype=torch.bool)
    present[3] = torch.tensor([False, True, False])
    batch = {"m0": torch.rand(40, 1, 4, 4), "t": torch.randint(0, 7, (40, 5)), "one": torch.randn(40, 1)}
    check = posterior_predictive(vae, batch | {"present": present}, ["m0"], samples=30)
    sbc = simulation_calibration(vae, ["m0"], simulations=100, draws=19)
    write_inference_data(to_inference_data(check, sbc), tmp_path / "evaluation" / "ppc.nc")
    return tmp_path


def test_draw_ppc_titles_name_the_protocol_and_bars_match_the_data(run: Path, figures: dict[str, Figure]) -> None:
    plt.close("all")
    drawn = draw_ppc(run)
    assert [file.name for file in drawn] == ["ppc.png", "ppc-bpv.png", "ppc-pit.png", "ppc-sbc.png"]
    assert all(file.parent == run / "plots" and file.stat().st_size > 5000 for file in drawn)
    assert {file.name for file in (run / "plots").iterdir()} == set(figures)  # no temporary file remains
    assert not plt.get_fignums()  # and no figure of pyplot is open
    for name in ("ppc.png", "ppc-bpv.png", "ppc-pit.png"):
        text = figures[name]._suptitle.get_text()  # type: ignore[attr-defined]
        for word in ("given m0", "mixture density", "30 samples", "40 items", "seed 0", "the first 6 of each"):
            assert word in text
        titles = {axis.get_title().split("\n")[0]: axis.get_title() for axis in figures[name].axes}
        assert "in-sample: conservative, not judged" in titles["m0.mean"]
        assert "PIT p" not in titles["m0.mean"]
        assert "PIT p" in titles["one.mean"]
        assert "not given" in titles["one.mean"]
        assert "t.token_frequency.5" in titles
        assert "t.token_frequency.6" not in titles
    sbc = figures["ppc-sbc.png"]
    for word in ("the encoder never saw", "19 draws", "100 simulations", "seed 0", "given m0"):
        assert word in sbc._suptitle.get_text()  # type: ignore[attr-defined]
    assert [axis.get_title().split(":")[0] for axis in sbc.axes] == ["z[0]", "z[1]", "log_p", "tarp"]
    axes = {axis.get_title().split("\n")[0]: axis for axis in figures["ppc-pit.png"].axes}
    data = read_inference_data(run / "evaluation" / "ppc.nc")
    pit = data.constant_data["pit"].sel(statistic="one.mean").values
    curve = axes["one.mean"].lines[1].get_xydata()  # type: ignore[attr-defined]
    assert np.isfinite(pit).sum() == 39
    assert curve[50].tolist() == pytest.approx([0.5, (pit <= 0.5).sum() / 39 - 0.5])
    ranks = data.constant_data["sbc_rank"].sel(quantity="z[0]").values
    curve = sbc.axes[0].lines[1].get_xydata()
    assert curve[:, 0].tolist() == pytest.approx((np.arange(21) / 20).tolist())
    assert curve[5, 1] == pytest.approx((ranks < 5).mean() - 0.25)
    constant = {axis.get_title().split("\n")[0]: axis for axis in figures["ppc.png"].axes}["one.contrast"]
    assert [text.get_text() for text in constant.texts] == ["constant"]


def test_plot_ppc_returns_the_figures_that_draw_ppc_writes(run: Path, figures: dict[str, Figure]) -> None:
    draw_ppc(run)
    for name, figure in (
        ("ppc.png", plot_ppc(run)),
        ("ppc-bpv.png", plot_ppc(run, kind="mean")),
        ("ppc-pit.png", plot_ppc(run, given=["m0"], kind="pit")),
        ("ppc-sbc.png", plot_calibration(run / "evaluation" / "ppc.nc")),
    ):
        drawn = figures[name]
        assert figure.get_suptitle() == drawn.get_suptitle()
        for axis, other in zip(figure.axes, drawn.axes, strict=True):
            assert axis.get_title() == other.get_title()
            assert [line.get_xydata().tolist() for line in axis.lines] == [  # type: ignore[attr-defined]
                line.get_xydata().tolist()
                for line in other.lines  # type: ignore[attr-defined]
            ]


def test_plot_ppc_bad_choices_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"given must be the modalities of a check \(m0\), got \['t'\]"):
        plot_ppc(run, given=["t"])
    with pytest.raises(ValueError, match="given must be a sequence of names"):
        plot_ppc(run, given="m0")
    with pytest.raises(ValueError, match="kind must be one of density, mean, pit, got 'sbc'"):
        plot_ppc(run, kind="sbc")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="made with --posterior-sbc"):
        plot_calibration(run, kind="posterior_sbc")
    with pytest.raises(FileNotFoundError, match="must be checked"):
        plot_ppc(tmp_path / "plots")


def test_draw_ppc_draws_every_check_and_raises_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_GRIDS", {"-pit": pictures._GRIDS["-pit"]})
    run, file = tmp_path, tmp_path / "evaluation" / "ppc.nc"
    vae = MultimodalVAE([Modality("one", (1,))], 1).eval()
    check = posterior_predictive(vae, {"one": torch.randn(40, 1)}, samples=9, statistics=["mean"])
    sbc = simulation_calibration(vae, simulations=100, draws=19)
    write_inference_data(to_inference_data(check, sbc), file)
    (run / "evaluation" / "ppc-prior.nc").write_bytes(file.read_bytes())
    assert {f.name for f in draw_ppc(run)} == {f"{n}-{k}.png" for n in ("ppc", "ppc-prior") for k in ("pit", "sbc")}
    assert [f.parent for f in draw_ppc(file)] == [run / "evaluation"] * 2
    with pytest.raises(FileNotFoundError, match="no posterior predictive check"):
        draw_ppc(tmp_path / "nothing.nc")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no posterior predictive check"):
        draw_ppc(tmp_path / "empty")


def test_ppc_table_corrects_the_least_p_value(run: Path) -> None:
    text = " ".join(ppc_table(run / "evaluation" / "ppc.nc").split())
    assert "Kolmogorov" not in text
    assert "share observations" not in text
    data = read_inference_data(run / "evaluation" / "ppc.nc")
    p_values = data.constant_data["sbc_p_value"]
    least = float(p_values.min())
    name = str(data.constant_data["quantity"].values[int(p_values.values.argmin())])
    assert f"p = {min(1.0, 4 * least):.2g} for 4 quantities together (Holm), least for {name}" in text


def test_ppc_table_of_shared_observations_counts_the_items_of_the_test(tmp_path: Path) -> None:
    vae = MultimodalVAE([Modality("one", (1,)), Modality("two", (1,))], 1).eval()
    shared = {"one": np.arange(40) // 4}
    batch = {"one": torch.randn(40, 1), "two": torch.randn(40, 1)}
    check = posterior_predictive(vae, batch, ["two"], samples=9, statistics=["mean"], shared=shared)
    file = write_inference_data(to_inference_data(check), tmp_path / "ppc.nc")
    assert "the test of PIT values takes 10 of 40 that share none" in ppc_table(file)


def test_ppc_table_shows_two_statistics_of_each_modality_first(run: Path) -> None:
    file = run / "evaluation" / "ppc.nc"
    header, *rows = ppc_table(file).splitlines()[2:6]
    assert header.split() == ["mean", "contrast", "token_frequency.0", "token_frequency.1"]
    cells = {row.split("  ")[0]: row.split()[-2:] for row in rows}
    assert set(cells) == {"m0 (given)", "t", "one"}
    assert all(float(cell.rstrip("*°")) <= 1 for row in cells.values() for cell in row)
    assert "4 of 11 statistics, --all shows the others" in ppc_table(file)
    every = ppc_table(file, every_statistic=True)
    assert "--all" not in every
    keys = {str(key).split(".", 1)[1] for key in read_inference_data(file).constant_data["statistic"].values}
    assert keys <= set(every.split())


def test_ppc_table_headers_do_not_collide(run: Path) -> None:
    for line in ppc_table(run / "evaluation" / "ppc.nc", every_statistic=True).splitlines():
        assert len(line) <= 140 or line.startswith(("simulation", "given", "share"))
    longest = {"a": {"token_frequency.1234567890": "0.50*", "another.statistic.of.some.length": "1.00"}}
    header, row = _blocks(longest, list(longest["a"]))
    assert header.split() == list(longest["a"])
    assert [header.index(label) + len(label) for label in longest["a"]] == [
        row.index("0.50*") + 5,
        row.index("1.00") + 4,
    ]


def test_class_shares_match_hand_values() -> None:
    draws = np.array([[3.0, 0.0], [3.0, 1.0], [7.0, 1.0]])
    shares, observed = pictures._class_shares(draws, np.array([7.0, 2.0]))
    np.testing.assert_allclose(shares, [[0.5, 0.25], [0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(observed, [0.5, 0.25])


def test_draw_classes_draws_shares_and_names() -> None:
    draws = np.array([[0.0, 0, 2, 2], [0, 2, 2, 2], [0, 2, 2, 5]])
    axis = Figure().subplots()
    pictures._draw_classes(axis, draws, np.array([0.0, 0, 0, 2]), ["_zero", "one", "$two_{2}$"])
    assert [text.get_text() for text in axis.get_xticklabels()] == ["_zero", "$two_{2}$", "5"]
    assert [bar.get_height() for bar in axis.patches] == [0.75, 0.25, 0.0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.asarray(axis.lines[0].get_ydata()), [4 / 12, 7 / 12, 1 / 12])
    low, high = axis.collections[0].get_segments()[0][:, 1]  # type: ignore[attr-defined]
    assert (low, high) == pytest.approx((0.25, 0.4875))


def test_draw_ppc_names_predicted_classes(
    run: Path, figures: dict[str, Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Parity:
        networks: ClassVar[dict[str, Any]] = {"one": None}

        def predict(self, name: str, values: torch.Tensor) -> torch.Tensor:
            return (values[:, 0] > 0).long()

    monkeypatch.setattr(pictures, "_GRIDS", {"": pictures._GRIDS[""]})
    vae = MultimodalVAE([Modality("one", (1,))], 1).eval()
    check = posterior_predictive(
        vae, {"one": torch.randn(40, 1)}, samples=9, statistics=["predicted_class"], classifiers=Parity()
    )
    file = run / "named.nc"
    write_inference_data(to_inference_data(check, class_names=["negative", "positive"]), file)
    draw_ppc(file)
    assert [text.get_text() for text in figures["named.png"].axes[0].get_xticklabels()] == ["negative", "positive"]


def test_read_check_of_a_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing.nc: no such file"):
        read_check(tmp_path / "nothing.nc")


@pytest.mark.parametrize("unit", [1.0, 1e-200, 1e200])
def test_draw_densities_integrate_to_one_in_any_unit(unit: float) -> None:
    draws, observed = np.random.default_rng(0).normal(size=(30, 40)) * unit, np.linspace(-1, 1, 40) * unit
    axis = Figure().subplots()
    draw_densities(axis, draws, observed)
    assert len(axis.lines) == 25 + 2
    for line, mass in ((axis.lines[-2], 1.0), (axis.lines[-1], 1.0)):
        x, y = np.asarray(line.get_xdata()) / unit, np.asarray(line.get_ydata()) * unit
        assert ((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() == pytest.approx(mass, abs=0.02)


def test_draw_mean_density_marks_the_observed_mean() -> None:
    axis = Figure().subplots()
    draw_mean_density(axis, np.arange(60.0).reshape(6, 10), np.full(10, 7.0))
    density, dot = axis.lines
    assert dot.get_xdata()[0] == 7.0
    peak = np.asarray(density.get_xdata())[np.asarray(density.get_ydata()).argmax()]
    assert peak == pytest.approx(29.5, abs=5)


def test_reports_ppc_does_not_import_torch_or_pyro() -> None:
    assert not {"pyro", "torch"} & set(dir(pictures))


def test_posterior_predictive_script_writes_check_and_pictures(
    toy_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_GRIDS", {"-pit": pictures._GRIDS["-pit"]})
    run = train(toy_config(), tmp_path / "run", progress=False).path
    script = load_file(TOP / "scripts" / "posterior_predictive.py").main
    result = CliRunner().invoke(script, [str(run), "--given", "m0", "--num-samples", "10", "--items", "20"])
    assert result.exit_code == 0, result.output
    assert "mixture density, 10 samples; given m0; 20 items; seed 0" in result.output
    assert "in-sample" in result.output
    assert (run / "evaluation" / "ppc.nc").is_file()
    assert (run / "plots" / "ppc-pit.png").is_file()
    assert CliRunner().invoke(script, [str(run), "--given", "m7"]).exit_code != 0
