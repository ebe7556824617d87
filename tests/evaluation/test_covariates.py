"""Evaluation of a model with covariates, against a linear-Gaussian model whose donors have offsets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pyro_mmvae import Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.data import make_batch
from pyro_mmvae.data.covariates import one_hot
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.coherence import conditional_coherence
from pyro_mmvae.evaluation.frechet import fid_of_prior_draws, frechet_classifier
from pyro_mmvae.evaluation.ppc import posterior_predictive
from pyro_mmvae.evaluation.quality import reconstruction
from pyro_mmvae.evaluation.sbc import simulation_calibration
from pyro_mmvae.inference.posteriors import encode_dataset
from tests.evaluation.exact_models import LATENT, Linear, LinearByDonor

ITEMS = 40


@pytest.fixture(scope="module")
def linear() -> LinearByDonor:
    return LinearByDonor(ITEMS)


class _Donor(nn.Module):
    """A classifier of donors by the nearer offset."""

    def __init__(self, linear: LinearByDonor, name: str) -> None:
        super().__init__()
        self.centers = linear.maps[name][1] + linear.offsets[name]

    def forward(self, values: Tensor) -> Tensor:
        return -torch.cdist(values, self.centers)


def donor_classifiers(linear: LinearByDonor) -> Classifiers:
    networks = {name: nn.Sequential(_Donor(linear, name), nn.Identity()) for name in "ab"}
    return Classifiers(networks, dict.fromkeys("ab", 1.0), 0)


@pytest.mark.parametrize("given", [("a", "b"), ("b",), ()])
def test_simulation_calibration_exact_posterior_given_the_donor_has_uniform_ranks(
    linear: LinearByDonor, given: tuple[str, ...]
) -> None:
    result = simulation_calibration(linear.vae, given, simulations=300, draws=59)
    assert result.p_value() > 0.01


def test_simulation_calibration_encoder_blind_to_the_donor_is_detected() -> None:
    linear = LinearByDonor()
    with torch.no_grad():
        for network in linear.vae.guide.encode.networks:
            network.head.linear.weight[0, -2:] = 0  # type: ignore[union-attr,index]
    result = simulation_calibration(linear.vae, simulations=300, draws=59)
    assert (result.p_values()[:LATENT] < 1e-6).all()


def test_reconstruction_has_the_error_of_a_model_without_offsets(linear: LinearByDonor) -> None:
    plain, subsets = Linear(ITEMS), [(0,), (0, 1)]
    rows = [
        reconstruction(of.vae, encode_dataset(of.vae, of.data), of.data, subsets=subsets, batch_size=7)
        for of in (linear, plain)
    ]
    assert len(rows[0]) == 4
    for ours, expected in zip(*rows, strict=True):
        assert (ours.given, ours.target, ours.n) == (expected.given, expected.target, ITEMS)
        assert ours.value == pytest.approx(expected.value, rel=1e-3)


def test_conditional_coherence_donor_is_that_of_the_items(linear: LinearByDonor) -> None:
    present = torch.ones(ITEMS, 2, dtype=torch.bool)
    present[3, 0] = present[8, 0] = False
    data = replace(linear.data, present=present)
    covariates = one_hot(data.covariates, data.covariate_names, slice(None))
    experts = encode_dataset(linear.vae, data)
    values = {}
    for known in (covariates, None):
        (row,) = conditional_coherence(
            linear.vae, experts, linear.codes, donor_classifiers(linear), subsets=[(0,)], covariates=known, batch_size=9
        )
        assert (row.target, row.n) == ("b", ITEMS - 2)
        values[known is None] = row.value
    assert values[False] == 1.0
    assert values[True] < 0.9


def test_frechet_classifier_known_donors_are_closer_to_the_data(linear: LinearByDonor) -> None:
    without = replace(linear.data, covariates={}, covariate_names={})
    experts, figures = encode_dataset(linear.vae, linear.data), []
    for data in (linear.data, without):
        rows = frechet_classifier(
            linear.vae, experts, data, donor_classifiers(linear), subsets=[(), (0,)], batch_size=9
        )
        figures.append([row.value for row in rows])
    assert len(figures[0]) == 3
    for known, unknown in zip(*figures, strict=True):
        assert known < 0.1 * unknown


def test_fid_of_prior_draws_decodes_the_categories_of_the_real_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr("pyro_mmvae.evaluation.frechet.fid", lambda real, drawn: seen.append(drawn) or 2.5)
    torch.manual_seed(0)
    vae = MultimodalVAE([Modality("rgb", (3, 8, 8), network="mlp")], 2, covariates={"donor": ("A", "B")}).eval()
    present = torch.tensor([[True], [False], [True], [True]])
    data = MultimodalDataset(
        {"rgb": torch.rand(4, 3, 8, 8)}, None, present, "some", "test",
        covariates={"donor": torch.tensor([1, 0, 0, 1])}, covariate_names={"donor": ("A", "B")},
    )  # fmt: skip
    fid_of_prior_draws(vae, data, seed=3, batch_size=2)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        z = vae.model.prior().sample(torch.Size((3,)))
        expected = vae.decode(z, covariates={"donor": ["B", "A", "B"]})["rgb"]
    torch.testing.assert_close(seen[0], expected)


def test_posterior_predictive_replicates_have_the_donors_of_the_items(linear: LinearByDonor) -> None:
    batch = make_batch(linear.data, slice(None))
    for given in ((), ("a",)):
        check = posterior_predictive(linear.vae, batch, given, samples=20, keep_raw=True, statistics=["mean"])
        means = torch.as_tensor(check.raw["b"]).mean(0)
        nearest = torch.cdist(means, linear.maps["b"][1] + linear.offsets["b"]).argmin(-1)
        assert torch.equal(nearest, linear.codes)
