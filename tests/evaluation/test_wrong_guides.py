"""The script that measures which test of calibration finds which wrong guide."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner


@pytest.fixture
def script() -> Any:
    path = Path(__file__).parents[2] / "scripts" / "wrong_guides.py"
    spec = importlib.util.spec_from_file_location("wrong_guides", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def correlation_of(script: Any) -> torch.Tensor:
    _, covariance = script.posterior({name: torch.zeros(1, 2) for name in script.MAPS})
    scale = covariance.diagonal().sqrt()
    return covariance / scale.outer(scale)


def test_posterior_is_that_of_the_joint_gaussian(script: Any) -> None:
    maps = torch.cat(list(script.MAPS.values()))
    x = torch.randn(4, 6)
    gain = maps.T @ torch.linalg.inv(maps @ maps.T + torch.eye(6))
    loc, covariance = script.posterior(dict(zip(script.MAPS, x.split(2, 1), strict=True)))
    torch.testing.assert_close(loc, x @ gain.T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(covariance, torch.eye(3) - gain @ maps, atol=1e-5, rtol=1e-4)
    assert correlation_of(script)[0, 1] == pytest.approx(-0.71, abs=0.01)


def test_draw_standardised_guides_are_wrong_in_the_named_way_alone(script: Any) -> None:
    torch.manual_seed(0)
    correlation = correlation_of(script)
    draws = {kind: script.draw_standardised(kind, correlation, 100_000) for kind in script.GUIDES}
    moments = {kind: (z.mean(0), torch.cov(z.T)) for kind, z in draws.items()}
    expected = {
        "exact": (0.0, correlation),
        "shifted": (0.3, correlation),
        "too narrow": (0.0, 0.64 * correlation),
        "wrong correlation": (0.0, torch.eye(3)),
        "wrong joint": (0.0, correlation),
    }
    for kind, (loc, covariance) in expected.items():
        torch.testing.assert_close(moments[kind][0], torch.full((3,), loc), atol=0.015, rtol=0)
        torch.testing.assert_close(moments[kind][1], covariance, atol=0.02, rtol=0)
    # Marginals of the wrong joint are Gaussian, and squares of the changed pair are correlated more than they should.
    kurtosis = (draws["wrong joint"] ** 4).mean(0)
    torch.testing.assert_close(kurtosis, torch.full((3,), 3.0), atol=0.15, rtol=0)
    squares = {kind: torch.corrcoef(z[:, [0, 2]].T ** 2)[0, 1] for kind, z in draws.items()}
    assert squares["wrong joint"] > squares["exact"] + 0.2


FOUND = {
    "shifted": ({"SBC of z", "SBC, all", "L-C2ST"}, {"TARP"}),
    "too narrow": ({"SBC of log p", "TARP", "SBC, all", "posterior SBC, all"}, {"PIT of c given a, b"}),
    "wrong correlation": ({"SBC of log p", "SBC, all", "L-C2ST"}, {"SBC of z", "TARP"}),
    "wrong joint": ({"SBC of log p"}, {"PIT of c given a, b", "SBC of z", "TARP"}),
}
"""The tests that find each wrong guide, and those that do not, in two experiments."""


@pytest.mark.parametrize("kind", FOUND)
def test_p_values_of_a_wrong_guide_are_small_where_the_table_says(
    script: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(script, "DRAWS", 39)
    size = 800 if kind == "wrong joint" else 400
    p_values = {test: values for (test, _), values in script.p_values(kind, 2 * size, 0, (size,)).items()}
    found, missed = FOUND[kind]
    assert {test for test in found if max(p_values[test]) >= script.ALPHA} == set()
    assert {test for test in missed if max(p_values[test]) < script.ALPHA} == set()


def test_main_writes_tables_in_which_wrong_guides_are_found(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "GUIDES", ("exact", "too narrow", "wrong correlation"))
    monkeypatch.setattr(script, "DRAWS", 19)
    monkeypatch.setattr(script, "SIZES", (50, 100))
    result = CliRunner().invoke(script.main, [str(tmp_path), "--total", "200", "--trials", "30"])
    assert result.exit_code == 0, result.output
    with (tmp_path / "wrong_guides.csv").open(newline="") as file:
        rates = {(r["guide"], r["test"], int(r["simulations"])): float(r["rejected"]) for r in csv.DictReader(file)}
    assert len(rates) == 3 * 7 * 2
    assert rates["exact", "SBC, all", 100] <= 0.5
    assert rates["too narrow", "SBC of log p", 100] == 1
    assert rates["wrong correlation", "SBC of log p", 100] == 1
    assert rates["wrong correlation", "SBC of z", 100] <= 0.5
    guides = (tmp_path / "wrong_guides.md").read_text()
    assert "| wrong correlation |" in guides
    rows = [line.strip("|").split("|") for line in (tmp_path / "levels.md").read_text().splitlines()[2:]]
    levels = {row[0].strip(): float(row[-1]) for row in rows}
    assert levels["POT-C"] > 0.7
    assert levels["ECDF band, items that share nothing"] < 0.25
