"""Tests that the programs of the benchmarks run and write their files; none of them checks a time."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from benchmarks import aggregations, curves, memory, profile, settings
from pyro_mmvae import aggregate


@pytest.mark.parametrize("name", ["mwb", "mopoe"])
def test_contestants_compute_equal_sums_and_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    grad = torch.autograd.grad

    def keep(total: torch.Tensor, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        gradients = grad(total, inputs)
        results.append((total.detach(), *gradients))
        return gradients

    monkeypatch.setattr(torch.autograd, "grad", keep)
    for run in aggregations.contestants(name, 3).values():
        run()
    loop, ours = results
    torch.testing.assert_close(loop, ours, rtol=1e-4, atol=1e-2)
    assert aggregate(aggregations.random_experts(3), name).num_components == 7


def test_peak_bytes_counts_live_tensors() -> None:
    x = torch.zeros(1000)  # 4,000 bytes that are not counted
    assert memory.peak_bytes(lambda: (x + 1).mul_(2)) == 4000
    assert memory.peak_bytes(lambda: (x + 1) * 2) == 8000
    assert memory.peak_bytes(lambda: (x + 1).sum() + (x + 1).sum()) < 8000
    w = x.clone().requires_grad_()
    assert memory.peak_bytes(lambda: torch.autograd.grad((w.exp().exp()).sum(), w)) >= 8000


def test_curves_writes_rows_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "BASE", {"batch": 4, "latent": 8, "modalities": 2, "width": 4})
    values = {"batch": (2, 3), "modalities": (2, 3)}
    points = [*curves.step_curves(values, 2), *curves.aggregation_curves((2, 3), 1)]
    assert {(p.curve, p.over, p.contestant, p.value) for p in points} >= {
        ("training step", "batch", "component bound", 3),
        ("training step", "modalities", "mixture bound", 2),
        ("aggregation alone, ratio", "modalities", "mopoe", 3),
    }
    assert all(0 < p.least <= p.median <= p.greatest for p in points)
    curves.save(points, tmp_path)
    with (tmp_path / "curves.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(points)
    assert list(rows[0]) == [
        "curve", "over", "contestant", "value", "median", "least", "greatest", "unit", "machine",
    ]  # fmt: skip
    assert float(rows[0]["median"]) == pytest.approx(points[0].median, rel=1e-4)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_profile_finds_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    config = settings.make_config(
        None, {"recipe": "plain", "train.batch_size": 4, "model.latent_size": 3, "model.network.width": 4}
    )
    profile.show(config, "fp32", steps=1, top=0)
    lines = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()[1:]]
    spent = {part: float(milliseconds) for milliseconds, _, _, part in lines}
    assert set(spent) == set(profile.PARTS)
    assert all(spent[part] > 0 for part in ("batch", "encoder", "aggregation", "decoder", "likelihoods", "checks"))
