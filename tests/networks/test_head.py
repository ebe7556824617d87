"""Heads of encoders, and models whose experts have correlated dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pyro_mmvae import Modality, MultimodalVAE, load, train
from pyro_mmvae.evaluation import expert_geometry, latent_usage
from pyro_mmvae.inference.posteriors import encode_dataset, posterior_means
from pyro_mmvae.networks import GaussianHead, NetworkOptions, make_networks
from pyro_mmvae.networks.head import INITIAL_SCALE, SCALE_FLOOR
from pyro_mmvae.runs.config import Config

MODALITIES = [Modality("a", (4,)), Modality("b", (4,)), Modality("c", (3, 8, 8))]
CORRELATED = ("full", "low_rank")


@pytest.mark.parametrize("covariance", CORRELATED)
def test_head_returns_a_cholesky_factor_per_group(covariance: str) -> None:
    head = GaussianHead(3, 7, 5, NetworkOptions(covariance=covariance, rank=2))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    features = torch.randn(6, 3, 7, requires_grad=True)
    loc, tril = head(features)
    assert loc.shape == (6, 3, 5)
    assert tril.shape == (6, 3, 5, 5)
    assert (tril == tril.tril()).all()
    assert (tril.diagonal(dim1=-2, dim2=-1) >= SCALE_FLOOR).all()
    (gradient,) = torch.autograd.grad(tril[:, 1].sum(), features)
    assert (gradient[:, [0, 2]] == 0).all()
    assert (gradient[:, 1] != 0).any()


def test_head_low_rank_covariance_is_a_diagonal_and_a_matrix_of_that_rank() -> None:
    head = GaussianHead(3, 7, 5, NetworkOptions(covariance="low_rank", rank=2))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    features = torch.randn(6, 3, 7)
    _, tril = head(features)
    scale = head.linear(features)[..., 5:10].clamp(max=10).exp() + SCALE_FLOOR
    # The covariance is diag(s) (I + F Fᵀ) diag(s), so that all but two eigenvalues of F Fᵀ are 0.
    excess = (tril @ tril.mT) / (scale.unsqueeze(-1) * scale.unsqueeze(-2)) - torch.eye(5)
    tolerance = 1e-2 * (1 + excess.abs().amax((-2, -1)))
    assert (torch.linalg.eigvalsh(excess)[..., :3].abs() < tolerance[..., None]).all()
    assert (tril.square().sum(-1) >= scale.square() * 0.999).all()


def test_head_full_covariance_starts_diagonal_with_gradients_below_the_diagonal() -> None:
    head = GaussianHead(1, 7, 4, NetworkOptions(covariance="full"))
    features = torch.randn(5, 1, 7)
    _, tril = head(features)
    assert (tril == torch.diag_embed(tril.diagonal(dim1=-2, dim2=-1))).all()
    assert tril.diagonal(dim1=-2, dim2=-1).log().mean().item() == pytest.approx(math.log(INITIAL_SCALE), abs=0.5)
    gradient = torch.autograd.grad(tril.tril(-1).sum(), head.linear.weight)[0][..., 8:]
    assert (gradient != 0).all()


def test_head_low_rank_covariance_starts_near_the_initial_scale() -> None:
    _, tril = GaussianHead(1, 7, 4, NetworkOptions(covariance="low_rank"))(torch.randn(5, 1, 7))
    marginal_scales = torch.linalg.vector_norm(tril, dim=-1)
    assert marginal_scales.log().mean().item() == pytest.approx(math.log(INITIAL_SCALE), abs=0.7)


def test_head_scale_is_floor_plus_exponential_and_stays_finite() -> None:
    head = GaussianHead(1, 1, 2)
    nn.init.zeros_(head.linear.bias)
    nn.init.ones_(head.linear.weight)
    for value, expected in ((0.0, 1 + SCALE_FLOOR), (-1000.0, SCALE_FLOOR), (1.0, math.e + SCALE_FLOOR)):
        _, scale = head(torch.full((1, 1, 1), value))
        torch.testing.assert_close(scale, torch.full((1, 1, 2), expected))
    _, scale = head(torch.full((1, 1, 1), 1e6))
    assert scale.isfinite().all()


def test_head_returns_float32_of_bfloat16_and_float64_of_float64() -> None:
    head = GaussianHead(1, 1, 2)
    loc, scale = head.bfloat16()(torch.zeros(1, 1, 1, dtype=torch.bfloat16))
    assert loc.dtype == scale.dtype == torch.float32
    assert GaussianHead(1, 1, 2).double()(torch.zeros(1, 1, 1, dtype=torch.float64))[1].dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mlp", (4,)), ("conv", (3, 8, 8)), ("conv4", (3, 32, 32)), ("text", (8, 5)), ("residual", (3, 16, 16))],
)
@pytest.mark.parametrize("covariance", CORRELATED)
def test_encoder_with_correlated_experts_keeps_leading_dimensions(
    name: str, shape: tuple[int, ...], covariance: str
) -> None:
    options = NetworkOptions(width=4, hidden=16, covariance=covariance, rank=2)
    encoder, _ = make_networks(name, shape, shape, 5, options, groups=2)
    loc, tril = encoder(torch.rand(2, 3, 2, *shape))
    assert loc.shape == (2, 3, 2, 5)
    assert tril.shape == (2, 3, 2, 5, 5)


@pytest.mark.parametrize("shape", [(3, 8, 8), (7,)])
@pytest.mark.parametrize(
    ("options", "is_isotropic"), [({"isotropic": True}, True), ({"covariance": "isotropic"}, True), ({}, False)]
)
def test_encoder_isotropic_gives_one_scale_for_all_dimensions(
    shape: tuple[int, ...], options: dict[str, Any], is_isotropic: bool
) -> None:
    encoder, _ = make_networks("auto", shape, shape, 5, NetworkOptions(width=4, hidden=16, **options), 2)
    loc, scale = encoder(torch.rand(6, 2, *shape))
    assert scale.shape == loc.shape == (6, 2, 5)
    assert bool((scale.amax(-1) == scale.amin(-1)).all()) is is_isotropic
    assert (loc.amax(-1) - loc.amin(-1)).amin() > 0
    assert len(scale[..., 0].unique()) == 12


@pytest.mark.parametrize("covariance", CORRELATED)
def test_vae_with_correlated_experts_handles_absent_modalities_and_items(covariance: str) -> None:
    vae = MultimodalVAE(MODALITIES, 3, "mwb", network=NetworkOptions(width=4, hidden=8, covariance=covariance))
    present = torch.tensor([[True, True], [False, True], [False, False]])
    batch = {"a": torch.rand(3, 4), "b": torch.rand(3, 4)}
    experts = vae.guide.experts({**batch, "present": torch.cat([present, torch.zeros(3, 1).bool()], 1)})
    assert experts.kind == "full"
    assert experts.mask.tolist() == [[True, True, False], [False, True, False], [False, False, False]]
    posterior: Any = vae.posterior({**batch, "present": torch.cat([present, torch.zeros(3, 1).bool()], 1)})
    assert torch.equal(posterior.mean[2], torch.zeros(3))
    torch.testing.assert_close(posterior.variance[2], torch.ones(3))
    assert vae.guide(num_items=4).shape == (4, 3)
    assert vae.guide.experts(None, 4).kind == "full"


MakeConfig = Callable[..., Config]


@pytest.mark.parametrize("aggregation", ["wb", "mopoe"])
@pytest.mark.parametrize("covariance", CORRELATED)
def test_run_with_correlated_experts_trains_and_is_evaluated(
    toy_config: MakeConfig, tmp_path: Path, aggregation: str, covariance: str
) -> None:
    config = toy_config(
        model__aggregation=aggregation, model__network__covariance=covariance, model__network__rank=2,
        data__train_size=64, train__epochs=1,
    )  # fmt: skip
    assert math.isfinite(train(config, tmp_path / "run", progress=False).state["best"])
    run = load(tmp_path / "run")
    data = run.data("test")
    experts = encode_dataset(run.vae, data, batch_size=10)
    assert experts.kind == "full"
    assert len(experts.loc) == len(data)
    assert posterior_means(run.vae, experts, (0, 2)).isfinite().all()
    rows = latent_usage(run.vae, experts, subset=(0, 1, 2), draws=20)
    protocol = "closed form" if aggregation == "wb" else "16 draws per item"
    assert {row.metric: row.protocol for row in rows}["kl"] == protocol
    geometry = expert_geometry(run.vae, experts)
    assert all(math.isfinite(row.value) for row in (*rows, *geometry))
