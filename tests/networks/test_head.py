"""Heads with a covariance, and models whose encoders have them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_mmvae import Modality, MultimodalVAE, load, train
from pyro_mmvae.evaluation import expert_geometry, latent_usage
from pyro_mmvae.evaluation.posteriors import encode_dataset, posterior_means
from pyro_mmvae.networks import GaussianHead, NetworkOptions, make_networks
from pyro_mmvae.networks.head import INITIAL_SCALE, SCALE_FLOOR
from pyro_mmvae.runs.config import Config

MODALITIES = [Modality("a", (4,)), Modality("b", (4,)), Modality("c", (3, 8, 8))]
CORRELATED = ("full", "low_rank")


@pytest.mark.parametrize("covariance", CORRELATED)
def test_a_factor_of_every_group(covariance: str) -> None:
    head = GaussianHead(3, 7, 5, covariance=covariance, rank=2)
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
    if covariance == "low_rank":
        scale = tril.square().sum(-1)  # diag(s) (I + F Fᵀ) diag(s): two eigenvalues above those of the diagonal
        raw = head.linear(features)[..., 5:10].clamp(max=10).exp() + SCALE_FLOOR
        excess = (tril @ tril.mT) / (raw.unsqueeze(-1) * raw.unsqueeze(-2)) - torch.eye(5)
        assert (
            torch.linalg.eigvalsh(excess)[..., :3].abs() < 1e-2 * (1 + excess.abs().amax((-2, -1)))[..., None]
        ).all()
        assert (scale >= raw.square() * 0.999).all()


def test_training_starts_from_a_diagonal() -> None:
    """And every entry below it can leave 0."""
    head = GaussianHead(1, 7, 4, covariance="full")
    features = torch.randn(5, 1, 7)
    _, tril = head(features)
    assert (tril == torch.diag_embed(tril.diagonal(dim1=-2, dim2=-1))).all()
    assert tril.diagonal(dim1=-2, dim2=-1).log().mean().item() == pytest.approx(math.log(INITIAL_SCALE), abs=0.5)
    gradient = torch.autograd.grad(tril.tril(-1).sum(), head.linear.weight)[0][..., 8:]
    assert (gradient != 0).all()
    low = GaussianHead(1, 7, 4, covariance="low_rank")(features)[1]
    spread = torch.linalg.vector_norm(low, dim=-1)
    assert spread.log().mean().item() == pytest.approx(math.log(INITIAL_SCALE), abs=0.7)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mlp", (4,)), ("conv", (3, 8, 8)), ("conv4", (3, 32, 32)), ("text", (8, 5)), ("residual", (3, 16, 16))],
)
@pytest.mark.parametrize("covariance", CORRELATED)
def test_networks_keep_leading_dimensions(name: str, shape: tuple[int, ...], covariance: str) -> None:
    options = NetworkOptions(width=4, hidden=16, covariance=covariance, rank=2)
    encoder, _ = make_networks(name, shape, shape, 5, options, groups=2)
    loc, tril = encoder(torch.rand(2, 3, 2, *shape))
    assert loc.shape == (2, 3, 2, 5)
    assert tril.shape == (2, 3, 2, 5, 5)


def test_isotropic_has_two_names() -> None:
    for options in (NetworkOptions(isotropic=True), NetworkOptions(covariance="isotropic")):
        encoder, _ = make_networks("mlp", (4,), (4,), 3, options)
        _, scale = encoder(torch.rand(5, 1, 4))
        assert (scale.amax(-1) == scale.amin(-1)).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"covariance": "round"}, "covariance must be one of diagonal, isotropic, full, low_rank, not 'round'"),
        ({"covariance": "full", "isotropic": True}, "isotropic experts have no covariance='full'"),
        ({"rank": 0}, "rank must be positive, not 0"),
        ({"family": "cauchy"}, "family must be one of normal, laplace, student_t, logistic, not 'cauchy'"),
        ({"family": "student_t", "df": 2.0}, "df must be above 2"),
        ({"family": "laplace", "covariance": "full"}, "family 'laplace' has independent dimensions"),
    ],
)
def test_wrong_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        NetworkOptions(**options)


@pytest.mark.parametrize("covariance", CORRELATED)
def test_experts_of_a_model(covariance: str) -> None:
    """A group of which nothing is there, an item of which nothing is there, and the whole batch of nothing."""
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
def test_a_run_trains_and_is_evaluated(
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
    protocol = "closed form" if aggregation == "wb" else "16 draws an item"
    assert {row.metric: row.protocol for row in rows}["kl"] == protocol
    geometry = expert_geometry(run.vae, experts)
    assert all(math.isfinite(row.value) for row in (*rows, *geometry))
