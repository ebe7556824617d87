"""Answers of a model with covariates, against a linear-Gaussian model whose donors have offsets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_mmvae import Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.data import make_batch
from pyro_mmvae.inference import encode, impute, read_imputation, score
from pyro_mmvae.inference.importance import sample_importance
from pyro_mmvae.inference.items import select_items
from pyro_mmvae.inference.posteriors import decode_in_batches, encode_dataset
from pyro_mmvae.networks import NetworkOptions
from tests.evaluation.exact_models import LATENT, Linear, LinearByDonor


@pytest.fixture(scope="module")
def linear() -> LinearByDonor:
    return LinearByDonor()


def as_donor(linear: LinearByDonor, name: str, code: int) -> Tensor:
    """Return the observations of a modality as if all items were of one donor."""
    offsets = linear.offsets[name]
    return linear.data.tensors[name] - offsets[linear.codes] + offsets[code]


def test_items_read_covariates_follow_the_selected_rows(linear: LinearByDonor) -> None:
    items = select_items(linear.data, [4, 1, 3])
    assert items.read(slice(1, 3), ("a",)).covariates.argmax(-1).tolist() == [1, 1]
    assert items.read(slice(0, 2), ()).covariates.tolist() == [[1, 0], [0, 1]]
    assert select_items(Linear().data).read(slice(None), ("a",)).covariates is None


def test_encode_latents_do_not_depend_on_the_donors_offset(linear: LinearByDonor) -> None:
    found = encode(linear.vae, linear.data, batch_size=2)["z"]
    np.testing.assert_allclose(found, encode(Linear().vae, Linear().data)["z"], atol=1e-5)
    swapped = replace(linear.data, covariates={"donor": 1 - linear.codes})
    assert np.abs(found - encode(linear.vae, swapped)["z"]).max() > 0.5


def test_sample_importance_exact_posterior_has_the_evidence_given_the_donor(linear: LinearByDonor) -> None:
    batch = make_batch(linear.data, slice(None))
    drawn = sample_importance(linear.vae, encode_dataset(linear.vae, linear.data), batch, [0, 1], 5, at_once=10)
    exact = torch.tensor([linear.evidence_by_donor(i, ("a", "b")) for i in range(7)], dtype=torch.float64)
    torch.testing.assert_close(drawn.log_weights(("a", "b")), exact.expand(5, 7), atol=1e-3, rtol=0)


def test_score_log_likelihood_is_the_evidence_given_the_donor(linear: LinearByDonor) -> None:
    data = linear.data.subset([2, 5, 0, 3])
    table = score(linear.vae, data, draws=4, batch_size=1)
    exact = [linear.evidence_by_donor(i, ("a", "b")) for i in (2, 5, 0, 3)]
    np.testing.assert_allclose(table["log_likelihood"], exact, atol=1e-3)
    without = Linear().data.subset([2, 5, 0, 3])
    plain = score(Linear().vae, without, draws=4)
    np.testing.assert_allclose(table["nll"], plain["nll"], atol=1e-3)
    for m, name in enumerate("ab"):
        sizes = [of.tensors[name].std(0, correction=0).square().mean().sqrt() for of in (data, without)]
        relative = [found["error"][:, m] for found in (table, plain)]
        np.testing.assert_allclose(relative[0] * float(sizes[0]), relative[1] * float(sizes[1]), rtol=1e-3)


def test_decode_in_batches_covariates_are_cut_as_the_latents_are(linear: LinearByDonor) -> None:
    z, covariates = torch.randn(7, LATENT), linear.vae.covariate_vector({"donor": list("AABBABA")})
    parts = list(decode_in_batches(linear.vae, z, ["a"], 3, covariates))
    assert [len(part["a"]) for part in parts] == [3, 3, 1]
    torch.testing.assert_close(
        torch.cat([p["a"] for p in parts]), linear.vae.decode(z, ["a"], covariates=covariates)["a"]
    )


# ----- imputation ----------------------------------------------------------------------------------------------------


def test_impute_absent_modality_has_the_offset_of_the_items_own_donor(linear: LinearByDonor) -> None:
    draws, plain = 400, Linear()
    found = impute(linear.vae, linear.data, given=["a"], draws=draws)
    expected = impute(plain.vae, plain.data, given=["a"], draws=draws)
    offsets = linear.offsets["b"][linear.codes].numpy()
    np.testing.assert_allclose(found.mean["b"], expected.mean["b"] + offsets, atol=1e-3)
    np.testing.assert_allclose(found.sd["b"], expected.sd["b"], rtol=1e-3)
    assert "covariates" not in found.summary


@pytest.mark.parametrize("batch_size", [2, 1000])
def test_impute_requested_donor_replaces_the_offset_also_where_observed(linear: LinearByDonor, batch_size: int) -> None:
    present = torch.ones(7, 2, dtype=torch.bool)
    present[2, 1] = present[4, 0] = False
    data = replace(linear.data, present=present)
    results = [
        impute(linear.vae, data, covariates={"donor": donor}, draws=400, batch_size=batch_size) for donor in "AB"
    ]
    for name in "ab":
        difference = results[1].mean[name] - results[0].mean[name]
        expected = linear.offsets[name][1] - linear.offsets[name][0]
        np.testing.assert_allclose(difference, np.broadcast_to(expected, difference.shape), atol=1e-3)
        m = "ab".index(name)
        kept = present[:, m].numpy()
        # Reconstructions are within a few standard deviations of the noise of what was observed.
        assert np.abs(results[0].mean[name] - as_donor(linear, name, 0).numpy())[kept].max() < 3
        assert results[0].imputed[:, m].all()
        assert (results[0].sd[name] > 0.1).all()
    assert results[0].summary["covariates"] == {"donor": "A"}
    assert "decoded anew" in results[0].summary["method"]


def test_impute_requested_donor_encoders_see_the_items_own(linear: LinearByDonor) -> None:
    found = impute(linear.vae, linear.data, covariates={"donor": "A"}, draws=100)
    moved = {name: as_donor(linear, name, 0) for name in "ab"}
    of_a = replace(linear.data, modalities=moved, covariates={"donor": torch.zeros_like(linear.codes)})
    expected = impute(linear.vae, of_a, covariates={"donor": "A"}, draws=100)
    for name in "ab":
        np.testing.assert_allclose(found.mean[name], expected.mean[name], atol=1e-3)


def test_impute_unknown_donor_is_decoded_by_the_frequencies() -> None:
    linear = LinearByDonor()
    linear.vae.set_covariate_frequencies(torch.tensor([3.0, 1.0]))
    unknown = replace(linear.data, covariates={"donor": torch.full((7,), -1)})
    without = replace(linear.data, covariates={}, covariate_names={})
    means = [impute(linear.vae, data, given=[], targets=["b"], draws=4).mean["b"] for data in (unknown, without)]
    known = impute(linear.vae, linear.data, given=[], targets=["b"], draws=4).mean["b"]
    np.testing.assert_allclose(means[0], means[1])
    offsets = linear.offsets["b"]
    expected = known - offsets[linear.codes].numpy() + (0.75 * offsets[0] + 0.25 * offsets[1]).numpy()
    np.testing.assert_allclose(means[0], expected, atol=1e-4)


def test_impute_covariates_left_out_are_the_items_own() -> None:
    torch.manual_seed(0)
    categories = {"donor": ("A", "B"), "plate": ("1", "2")}
    network = NetworkOptions(depth=0)
    vae = MultimodalVAE([Modality("a", (3,), scale=1.0)], 2, network=network, covariates=categories).eval()
    codes = {"donor": torch.tensor([0, 1, 0, 1]), "plate": torch.tensor([0, 0, 1, -1])}
    present = torch.ones(4, 1, dtype=torch.bool)
    data = MultimodalDataset(
        {"a": torch.randn(4, 3)}, None, present, "plates", "test", covariates=codes, covariate_names=categories
    )
    vae.set_covariate_frequencies(torch.tensor([1.0, 1.0, 1.0, 3.0]))
    weight = vae.model.decoders.networks[0].body[0].weight[0, 2:].detach()
    own = impute(vae, data, given=[], draws=2).mean["a"]
    as_b = impute(vae, data, given=[], covariates={"donor": "B"}, draws=2).mean["a"]
    shift = (weight[1] - weight[0]).numpy()
    np.testing.assert_allclose(as_b - own, np.outer([1, 0, 1, 0], shift), atol=1e-5)


def test_impute_requested_donor_private_latents_follow_the_observation() -> None:
    torch.manual_seed(0)
    modality = Modality("a", (4,), likelihood="normal", scale=0.1, private_size=2)
    vae = MultimodalVAE([modality], 2, network=NetworkOptions(depth=0), covariates={"donor": ("A", "B")}).eval()
    data = MultimodalDataset(
        {"a": torch.randn(3, 4)}, None, torch.ones(3, 1, dtype=torch.bool), "private", "test",
        covariates={"donor": torch.tensor([0, 1, 1])}, covariate_names={"donor": ("A", "B")},
    )  # fmt: skip
    batch = make_batch(data, slice(None))
    z, u = vae.posterior(batch).mean, vae.private_posterior(batch)["a"].mean
    expected = vae.decode(z, private={"a": u}, covariates={"donor": "A"})["a"].detach().numpy()
    found = impute(vae, data, covariates={"donor": "A"}, draws=4000).mean["a"]
    np.testing.assert_allclose(found, expected, atol=0.02)
    absent = impute(vae, data, given=[], covariates={"donor": "A"}, draws=4000).mean["a"]
    at_prior = vae.decode(torch.zeros(3, 2), private={"a": torch.zeros(3, 2)}, covariates={"donor": "A"})["a"]
    np.testing.assert_allclose(absent, at_prior.detach().numpy(), atol=0.1)


def test_impute_complete_sets_and_folders_hold_the_requested_donor(linear: LinearByDonor, tmp_path: Path) -> None:
    memory = impute(linear.vae, linear.data, covariates={"donor": "B"}, draws=3, multiple=True)
    impute(linear.vae, linear.data, covariates={"donor": "B"}, draws=3, multiple=True, folder=tmp_path / "found")
    stored = read_imputation(tmp_path / "found")
    assert stored.summary["covariates"] == {"donor": "B"}
    assert memory.arrays.keys() == stored.arrays.keys()
    assert "draw-002/b" in memory.arrays
    for key, value in memory.arrays.items():
        np.testing.assert_array_equal(value, stored.arrays[key])
        assert np.abs(value - as_donor(linear, key[-1], 1).numpy()).max() < 6 or key.startswith("sd")


def test_impute_unknown_category_is_refused_with_the_list(linear: LinearByDonor) -> None:
    with pytest.raises(ValueError, match="covariate 'donor' must be one of A, B, got 'C'"):
        impute(linear.vae, linear.data, covariates={"donor": "C"})
    with pytest.raises(ValueError, match=r"covariates must be covariates of the model \(donor\), got 'plate'"):
        impute(linear.vae, linear.data, covariates={"plate": "A"})
    with pytest.raises(ValueError, match=r"covariates must be covariates of the model \(none\), got 'donor'"):
        impute(Linear().vae, Linear().data, covariates={"donor": "A"})
