"""Posteriors and means of a run whose model has covariates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyro_mmvae.runs import Run
from pyro_mmvae.runs.config import Config
from tests.evaluation.exact_models import LATENT, LinearByDonor


@pytest.fixture
def linear() -> LinearByDonor:
    return LinearByDonor()


@pytest.fixture
def run(linear: LinearByDonor, tmp_path: Path) -> Run:
    return Run(tmp_path, Config(), linear.vae, {"shapes": {"a": (4,), "b": (6,)}})


@pytest.mark.parametrize("given", [None, ("a",), ("b",)])
def test_posterior_sees_the_covariates_of_the_values(
    run: Run, linear: LinearByDonor, given: tuple[str, ...] | None
) -> None:
    codes = linear.codes
    values = {**linear.data.tensors, "covariates": torch.eye(2, dtype=torch.int64)[codes]}
    expected = linear.vae.posterior(
        {n: v for n, v in values.items() if n in (given or ("a", "b")) or n == "covariates"}
    )
    found = run.posterior(values, given)
    torch.testing.assert_close(found.mean, expected.mean)
    unknown = run.posterior(linear.data.tensors, given)
    assert not torch.allclose(found.mean, unknown.mean, atol=0.1)


def test_decode_categories_by_name_shift_the_means_by_their_offsets(run: Run, linear: LinearByDonor) -> None:
    z = torch.randn(3, 5, LATENT)
    means = [run.decode(z, covariates={"donor": donor})["b"] for donor in "AB"]
    offsets = linear.offsets["b"]
    torch.testing.assert_close(means[1] - means[0], (offsets[1] - offsets[0]).expand(3, 5, 6), rtol=1e-4, atol=1e-4)
    each = run.decode(z, covariates={"donor": list("ABABB")})["b"]
    torch.testing.assert_close(each[:, 1], means[1][:, 1])
    torch.testing.assert_close(run.decode(z)["b"], (means[0] + means[1]) / 2, rtol=1e-4, atol=1e-4)
