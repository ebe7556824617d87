"""Latents of items, and the selection of items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pyro_mmvae import Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.inference import encode, select_items
from tests.evaluation.exact_models import Linear


def private_vae() -> MultimodalVAE:
    torch.manual_seed(0)
    modalities = [Modality("a", (4,), private_size=2, likelihood="normal"), Modality("b", (6,), likelihood="normal")]
    return MultimodalVAE(modalities, 3, "mopoe").eval()


def test_encode_means_and_scales_equal_those_of_the_posterior() -> None:
    vae, data = private_vae(), Linear(items=60).data
    table = encode(vae, data, statistic="loc_scale", private=True, batch_size=7)
    with torch.no_grad():
        posterior, private = vae.posterior(data.tensors, "mixture"), vae.private_posterior(data.tensors)["a"]
    for name, expected in (
        ("z", posterior.mean), ("z_scale", posterior.variance.sqrt()),
        ("a_private", private.mean), ("a_private_scale", private.variance.sqrt()),
    ):  # fmt: skip
        np.testing.assert_allclose(table[name], expected.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(encode(vae, data)["z"], table["z"], rtol=1e-4, atol=1e-5)
    assert list(table.flat())[:4] == ["z_0", "z_1", "z_2", "z_scale_0"]
    assert table.ids.tolist() == [str(row) for row in range(60)]


def test_encode_given_some_modalities_ignores_the_others() -> None:
    linear = Linear()
    table = encode(linear.vae, linear.data, given=["b"])
    with torch.no_grad():
        expected = linear.vae.posterior({"b": linear.data.tensors["b"]}).mean
    np.testing.assert_allclose(table["z"], expected.numpy(), rtol=1e-5)
    assert table.summary["unobserved"] == 0


def test_encode_items_without_observations_are_counted_and_follow_the_prior() -> None:
    linear = Linear()
    present = torch.ones(7, 2, dtype=torch.bool)
    present[[1, 4], 1] = False
    table = encode(linear.vae, replace(linear.data, present=present), given=["b"], statistic="loc_scale")
    assert table.summary["unobserved"] == 2
    np.testing.assert_allclose(table["z"][[1, 4]], 0, atol=1e-6)
    np.testing.assert_allclose(table["z_scale"][[1, 4]], 1, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 60, 1000])
def test_encode_draws_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    vae, data = private_vae(), Linear(items=120).data
    first = encode(vae, data, statistic="draw", private=True)
    other = encode(vae, data, statistic="draw", private=True, batch_size=batch_size)
    for name in ("z", "a_private"):
        np.testing.assert_allclose(other[name], first[name], rtol=1e-4, atol=1e-5)
    assert not np.allclose(encode(vae, data, statistic="draw", seed=1)["z"], first["z"])


def test_encode_draws_have_the_moments_of_the_posterior() -> None:
    linear = Linear(items=1)
    data = linear.data.subset([0] * 4000)
    moments, draws = encode(linear.vae, data, statistic="loc_scale"), encode(linear.vae, data, statistic="draw")["z"]
    np.testing.assert_allclose(draws.std(0), moments["z_scale"][0], rtol=0.06)
    assert (np.abs(draws.mean(0) - moments["z"][0]) < 4 * moments["z_scale"][0] / np.sqrt(4000)).all()


@pytest.mark.parametrize(
    ("items", "expected"),
    [(None, range(7)), (3, range(3)), (99, range(7)), (slice(2, 4), [2, 3]), ([5, 1], [5, 1]), (["g", "a"], [6, 0])],
)
def test_select_items_selection_has_its_rows_and_identifiers(items: object, expected: object) -> None:
    data = replace(Linear().data, item_ids=np.array(list("abcdefg")))
    chosen = select_items(data, items)  # type: ignore[arg-type]
    assert chosen.rows.tolist() == list(expected)  # type: ignore[call-overload]
    assert "".join(chosen.ids) == "".join("abcdefg"[row] for row in chosen.rows)


def test_encode_with_wrong_arguments_raises_in_one_line() -> None:
    linear = Linear()
    small: dict[str, torch.Tensor] = {"a": torch.zeros(3, 5)}
    present = torch.ones(3, 1, dtype=torch.bool)
    for data, options, message in (
        (linear.data, {"items": 0}, "items must be a positive number, got 0"),
        (linear.data, {"items": [7]}, "items must be row numbers from 0 to 6, got 7"),
        (linear.data, {"items": slice(7, 9)}, "items must select at least one of the 7 items, got rows 7:9"),
        (linear.data, {"statistic": "median"}, "statistic must be one of mean, loc_scale, draw, got 'median'"),
        (linear.data, {"batch_size": 0}, "batch_size must be positive, got 0"),
        (MultimodalDataset(small, None, present, "small", "test"), {},
         r"data 'small': modality 'a' must have items of shape \(4,\), got \(5,\)"),
        (MultimodalDataset({"c": small["a"]}, None, present, "other", "test"), {},
         r"data 'other' must have a modality of the model \(a, b\), got c"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            encode(linear.vae, data, **options)  # type: ignore[arg-type]
