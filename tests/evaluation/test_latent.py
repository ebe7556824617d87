"""Use of the latent for posteriors whose distances from the prior are known."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_mmvae._seeding import seeded
from pyro_mmvae.evaluation import latent as module
from pyro_mmvae.evaluation.latent import latent_usage
from pyro_mmvae.inference import posteriors
from tests.evaluation.toy_experts import LATENT, NAMES, alike, experts_of, figures, vae_of


@pytest.mark.parametrize("aggregation", ["wb", "mwb", "moe"])
@pytest.mark.parametrize("prior", [None, (1.0, 2.0)])
def test_latent_usage_posterior_equal_to_prior_is_zero(aggregation: str, prior: tuple[float, float] | None) -> None:
    loc, scale = prior or (0.0, 1.0)
    experts = experts_of(torch.full((50, 3, LATENT), loc), scale)
    rows = figures(latent_usage(vae_of(aggregation, prior), experts, subset=(0, 1, 2), draws=100))
    for name in ("kl", "aggregate_kl", "aggregate_kl_moments", "active_units", "active_share"):
        assert rows[name].value == pytest.approx(0, abs=1e-5), name
        assert rows[name].given == NAMES


def test_latent_usage_single_item_aggregate_equals_the_posterior() -> None:
    loc, scale = torch.tensor([1.0, -0.5, 0.0]), torch.tensor([0.5, 1.0, 2.0])
    expected = float(0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum())
    rows = figures(latent_usage(vae_of(), experts_of(loc.expand(1, 3, 3), scale), subset=(0,), draws=20_000))
    assert rows["kl"].value == pytest.approx(expected, rel=1e-6)
    assert rows["kl"].protocol == "closed form"
    assert rows["aggregate_kl_moments"].value == pytest.approx(expected, rel=1e-6)
    assert rows["aggregate_kl"].value == pytest.approx(expected, abs=0.06)
    assert (rows["aggregate_kl"].n, rows["kl"].n) == (20_000, 1)
    repeated = experts_of(loc.expand(40, 3, 3), scale)  # many equal items, by sampling since moe has no closed form
    rows = figures(latent_usage(vae_of("moe"), repeated, subset=(0, 1), draws=20_000))
    assert rows["kl"].value == pytest.approx(expected, abs=0.4)
    assert rows["kl"].protocol == "16 draws per item"
    assert rows["aggregate_kl"].value == pytest.approx(expected, abs=0.06)


def test_latent_usage_posteriors_that_fill_the_prior_have_no_aggregate_kl() -> None:
    torch.manual_seed(1)
    scale = 0.6
    loc = math.sqrt(1 - scale**2) * torch.randn(4000, 1, LATENT).expand(-1, 3, -1)
    rows = figures(latent_usage(vae_of(), experts_of(loc, scale), subset=(0, 1, 2)))
    assert rows["kl"].value == pytest.approx(-3 * math.log(scale), abs=0.1)
    assert rows["aggregate_kl"].value == pytest.approx(0, abs=0.1)
    assert 0 <= rows["aggregate_kl_moments"].value < 0.01


def test_latent_usage_distant_items_lose_log_n() -> None:
    experts = experts_of(torch.tensor([-3.0, 3.0])[:, None, None].expand(-1, 3, 3), 0.1)
    rows = figures(latent_usage(vae_of(), experts, subset=(0,), draws=4000))
    kl = 0.5 * 3 * (0.01 + 9 - 1 - 2 * math.log(0.1))
    assert rows["kl"].value == pytest.approx(kl, rel=1e-5)
    assert rows["aggregate_kl"].value == pytest.approx(
        kl - math.log(2), abs=0.05
    )  # z determines the item, which takes log N nats
    assert rows["aggregate_kl_moments"].value == pytest.approx(0.5 * 3 * (9.01 - 1 - math.log(9.01)), rel=1e-5)


def test_latent_usage_aggregate_kl_is_independent_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    experts, vae = alike(60, 0.3), vae_of("mwb")
    unchunked = figures(latent_usage(vae, experts, subset=(0, 1, 2), draws=50))["aggregate_kl"].value
    # Repeat the computation without chunks, from equal draws: every density at every item.
    with seeded(0, torch.device("cpu")):
        module._mean_kl(vae, experts, (0, 1, 2))
        rows = torch.randint(60, (50,))
        z = posteriors.posterior_draws(vae, posteriors.select(experts, rows), (0, 1, 2))
        density = posteriors.subset_posterior(vae, experts, (0, 1, 2)).log_prob(z[:, None].expand(-1, 60, -1))
        density = density.logsumexp(1)
    by_hand = (density - math.log(60) - vae.model.prior().log_prob(z)).mean().item()
    assert unchunked == pytest.approx(by_hand, rel=1e-5)
    monkeypatch.setattr(posteriors, "_ELEMENTS", 7 * LATENT * 50 * 8)
    assert posteriors.items_at_once(vae, experts, (0, 1, 2)) // 50 == 8
    in_chunks = figures(latent_usage(vae, experts, subset=(0, 1, 2), draws=50))["aggregate_kl"].value
    assert in_chunks == pytest.approx(unchunked, rel=1e-5)


def test_latent_usage_counts_active_units_of_complete_items() -> None:
    torch.manual_seed(3)
    loc = torch.randn(500, 3, LATENT)
    loc[..., 1] *= 0.05  # variance 0.0025
    loc[..., 2] *= 0.2  # variance 0.04
    present = torch.ones(500, 3, dtype=torch.bool)
    present[:100, 0] = False
    rows = figures(latent_usage(vae_of(), experts_of(loc, 1.0, present), subset=(0,), draws=10))
    assert (rows["active_units"].value, rows["active_share"].value) == (2, pytest.approx(2 / 3))
    assert rows["active_units"].n == rows["kl"].n == 400
    with pytest.raises(ValueError, match=r"no item has every modality of subset \(0, 1\)"):
        latent_usage(vae_of(), experts_of(loc, 1.0, present & torch.tensor([True, False, True])), subset=(0, 1))
