"""Residuals of decoders whose output is known, and the kernel alignment against its definition by sums over items."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from pyro_mmvae import Experts, Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.evaluation.diagnostics import diagnose
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.residuals import kernel_alignment, residuals


def vae_with(decoders: dict[str, nn.Module], latent: int = 1) -> MultimodalVAE:
    modalities = [Modality(name, (2,), decoder=decoder) for name, decoder in decoders.items()]
    return MultimodalVAE(modalities, latent, "wb").eval()


def constant(value: float) -> nn.Module:
    layer = nn.Linear(1, 2)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, value)
    return layer


def rows_of(values: dict[str, Tensor], decoders: dict[str, nn.Module], present: Tensor | None = None) -> list[Metric]:
    count = len(next(iter(values.values())))
    present = torch.ones(count, len(values), dtype=torch.bool) if present is None else present
    experts = Experts(torch.zeros(count, len(values), 1), torch.ones(count, len(values), 1), present)
    data = MultimodalDataset(values, None, present, "known", "test")
    return residuals(vae_with(decoders), experts, data)


def figures(rows: list[Metric], metric: str) -> dict[str, float]:
    return {row.target: row.value for row in rows if row.metric == metric}


def test_kernel_alignment_equals_sums_over_different_items() -> None:
    x, y = torch.randn(6, 2, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)

    def hsic(k: Tensor, m: Tensor) -> float:
        # The definition by U-statistics: means over tuples of different items.
        pairs, triples, quads = (list(permutations(range(6), size)) for size in (2, 3, 4))
        first = sum(float(k[i, j] * m[i, j]) for i, j in pairs) / len(pairs)
        second = sum(float(k[i, j] * m[i, q]) for i, j, q in triples) / len(triples)
        third = sum(float(k[i, j] * m[q, r]) for i, j, q, r in quads) / len(quads)
        return first - 2 * second + third

    k, m = x @ x.T, y @ y.T
    square = hsic(k, k) * hsic(m, m)
    expected = hsic(k, m) / math.sqrt(square) if square > 0 else math.nan
    assert kernel_alignment(x, y) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_kernel_alignment_of_rotated_features_is_one_and_of_constants_is_nan() -> None:
    x = torch.randn(40, 3, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    assert kernel_alignment(x, 2 * x @ rotation) == pytest.approx(1)
    assert math.isnan(kernel_alignment(x, torch.zeros(40, 2, dtype=torch.float64)))
    wide = [kernel_alignment(torch.randn(60, 500), torch.randn(60, 500)) for _ in range(20)]
    assert abs(sum(wide) / 20) < 0.02  # without the correction it would be near 0.9


def test_residuals_of_the_mean_and_of_a_worse_constant_have_known_shares() -> None:
    values = torch.randn(80, 2)
    values = (values - values.mean(0)) / values.std(0, correction=0)
    rows = rows_of({"a": values, "b": values}, {"a": constant(0.0), "b": constant(2.0)})
    shares = figures(rows, "residual_share")
    assert shares == pytest.approx({"a": 1.0, "b": 5.0}, rel=1e-4)  # 1 + 2²
    (finding,) = diagnose(rows, ("a", "b"))
    assert finding.mode == "diverged training"
    assert "b is reconstructed worse" in finding.what
    assert "train.lr" in finding.advice


def test_residuals_in_other_units_have_equal_figures() -> None:
    values = torch.randn(80, 2)
    decoders = {"a": constant(0.0), "b": constant(0.0)}
    plain = rows_of({"a": values, "b": values.clone()}, decoders)
    scale = torch.tensor([1.0, 1000.0])  # a feature in a smaller unit
    scaled = rows_of({"a": values * scale, "b": values.clone()}, decoders)
    for metric in ("residual_share", "residual_alignment"):
        assert figures(plain, metric) == pytest.approx(figures(scaled, metric), rel=1e-4)
    assert figures(plain, "residual_alignment") == pytest.approx({"a+b": 1.0}, rel=1e-4)


def test_residuals_that_two_modalities_share_are_found_and_independent_ones_not() -> None:
    shared = torch.randn(300, 2)
    decoders = {name: constant(0.0) for name in "abc"}
    rows = rows_of({"a": shared, "b": shared + 0.3 * torch.randn(300, 2), "c": torch.randn(300, 2)}, decoders)
    assert set(figures(rows, "residual_alignment")) == {"a+b", "a+c", "b+c"}
    (finding,) = diagnose(rows, ("a", "b", "c"))
    assert finding.mode == "latent too small"
    assert finding.what.startswith("a and b share what the latent does not hold")
    assert "other pair" not in finding.what
    assert "model.latent_size" in finding.advice


def test_residuals_of_absent_modalities_are_left_out() -> None:
    present = torch.ones(60, 2, dtype=torch.bool)
    present[:20, 1] = False
    values = torch.randn(60, 2)
    broken = values.clone()
    broken[:20] = 1e6  # in absent slots
    rows = rows_of({"a": values, "b": broken}, {"a": constant(0.0), "b": constant(0.0)}, present)
    assert {row.target: row.n for row in rows} == {"a": 60, "b": 40}  # 40 pairs are too few for an alignment
    assert figures(rows, "residual_share")["b"] < 1.2


def test_residuals_of_counts_and_tokens_use_their_totals_and_classes() -> None:
    counts = torch.tensor([[1.0, 3.0], [10.0, 30.0]]).repeat(30, 1)
    tokens = torch.tensor([[0, 1], [1, 0]]).repeat(30, 1)
    present = torch.ones(60, 2, dtype=torch.bool)
    data = MultimodalDataset({"x": counts, "y": tokens}, None, present, "known", "test")
    vae = MultimodalVAE(
        [
            Modality("x", (2,), likelihood="poisson", data_type="counts", reference_total=4.0),
            Modality("y", (2,), likelihood="categorical", data_type="tokens", classes=2),
        ],
        1,
        "wb",
    ).eval()
    for parameter in vae.model.parameters():
        nn.init.zeros_(parameter)
    experts = Experts(torch.zeros(60, 2, 1), torch.ones(60, 2, 1), present)
    shares = figures(residuals(vae, experts, data), "residual_share")
    # Expected counts are halves of the total of the item; probabilities are 1/2, which is the share of each class.
    expected = [(torch.log1p(counts[:, i]) - torch.log1p(counts.sum(-1) / 2)) for i in range(2)]
    deviations = [torch.log1p(counts[:, i]).std(correction=0) for i in range(2)]
    share = sum(float((e / d).square().mean()) for e, d in zip(expected, deviations, strict=True)) / 2
    assert shares == pytest.approx({"x": share, "y": 1.0}, rel=1e-4)


def test_residuals_use_private_posteriors_and_leave_the_random_state() -> None:
    vae = MultimodalVAE([Modality(name, (2,), private_size=2) for name in "ab"], 1, "mwb").eval()
    present = torch.ones(60, 2, dtype=torch.bool)
    present[::3, 0] = False
    data = MultimodalDataset({name: torch.randn(60, 2) for name in "ab"}, None, present, "known", "test")
    experts = Experts(torch.randn(60, 2, 1), torch.ones(60, 2, 1), present)
    torch.manual_seed(3)
    first, state = residuals(vae, experts, data), torch.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert residuals(vae, experts, data) == first
    assert {row.target: row.n for row in first} == {"a": 40, "b": 60}
