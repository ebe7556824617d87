"""Refined posteriors and their reference, on models whose posterior is known exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_mmvae import Experts, Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.data import make_batch
from pyro_mmvae.evaluation import EvaluationOptions, reference
from pyro_mmvae.evaluation.proposals import (
    GaussianProposal,
    GuideProposal,
    LatentTarget,
    _location_and_scale,
    starting_gaussian,
)
from pyro_mmvae.evaluation.reference import gaussian_kl, sample_reference
from pyro_mmvae.evaluation.refinement import Refinement, refine, refined_figures
from pyro_mmvae.inference.importance import effective_sample_size, log_mean_exp
from pyro_mmvae.inference.posteriors import encode_dataset
from tests.evaluation.exact_models import LATENT, Linear

BOTH = (0, 1)


def wrong_guide(items: int = 6) -> Linear:
    """Return the linear model with a shifted guide that is half as wide as the posterior."""
    linear = Linear(items)
    encoders: Any = linear.vae.guide.encode.networks
    with torch.no_grad():
        for network in encoders:
            network.head.linear.bias[0, 0, :LATENT] += 0.4
            network.head.linear.bias[0, 0, LATENT:] -= math.log(2)
    return linear


def target_of(linear: Linear, subset: tuple[int, ...] = BOTH) -> tuple[LatentTarget, Experts]:
    batch = make_batch(linear.data, slice(None))
    return LatentTarget(linear.vae, batch, subset), encode_dataset(linear.vae, linear.data)


def values_of(result: Refinement, metric: str) -> dict[str, float]:
    return {row.protocol.split(",")[0]: row.value for row in result.rows if row.metric == metric}


def test_refined_figures_wrong_guide_becomes_the_exact_posterior() -> None:
    linear = wrong_guide()
    experts = encode_dataset(linear.vae, linear.data)
    result = refined_figures(linear.vae, experts, linear.data, subset=BOTH, steps=120)
    evidence = np.mean([linear.evidence(i, ("a", "b")) for i in range(6)])
    guide, refined = "mixture density of the guide", "Gaussian refined by 120 steps"
    assert set(values_of(result, "proposal_khat")) == {guide, refined}
    assert values_of(result, "proposal_log_likelihood")[refined] == pytest.approx(evidence, abs=0.01)
    assert values_of(result, "proposal_elbo")[refined] == pytest.approx(evidence, abs=0.05)
    assert values_of(result, "proposal_elbo")[guide] < evidence - 1
    assert values_of(result, "proposal_ess")[refined] > 900
    assert values_of(result, "proposal_ess")[guide] < 500
    assert values_of(result, "proposal_khat")[refined] < 0.5 < values_of(result, "proposal_khat")[guide]
    assert values_of(result, "proposal_khat_share") == {guide: pytest.approx(1, abs=0.5), refined: 0.0}
    assert all(row.given == ("a", "b") and row.n == 6 for row in result.rows)


def test_refined_figures_repeat_with_the_seed_and_restore_the_generator() -> None:
    linear = wrong_guide(4)
    experts = encode_dataset(linear.vae, linear.data)
    torch.manual_seed(5)
    first = refined_figures(linear.vae, experts, linear.data, subset=(0,), steps=3, items=2)
    drawn = torch.rand(1)
    second = refined_figures(linear.vae, experts, linear.data, subset=(0,), steps=3, items=2)
    assert [row.value for row in first.rows] == [row.value for row in second.rows]
    torch.manual_seed(5)
    assert torch.rand(1) == drawn


def test_refined_figures_of_a_powerset_mixture_have_three_proposals() -> None:
    vae = MultimodalVAE([Modality(n, (2,)) for n in "ab"], 2, "mwb").eval()
    present = torch.ones(3, 2, dtype=torch.bool)
    data = MultimodalDataset({n: torch.randn(3, 2) for n in "ab"}, None, present, "toy", "test")
    result = refined_figures(vae, encode_dataset(vae, data), data, subset=BOTH, steps=1)
    assert set(values_of(result, "proposal_khat")) == {
        "mixture density of the guide", "joint component of the guide", "Gaussian refined by 1 step",
    }  # fmt: skip


def test_refined_figures_without_steps_or_draws_raise() -> None:
    linear = Linear(2)
    experts = encode_dataset(linear.vae, linear.data)
    for options in ({"steps": 0}, {"steps": 1, "samples": 999}):
        with pytest.raises(ValueError, match="steps must be at least 1 and samples at least 1000, got"):
            refined_figures(linear.vae, experts, linear.data, subset=BOTH, **options)


def test_evaluation_options_reference_without_refinement_raises() -> None:
    with pytest.raises(ValueError, match="refine must be at least 1 for reference_items"):
        EvaluationOptions(reference_items=2)
    assert EvaluationOptions(refine=5).count_parts(False) == EvaluationOptions().count_parts(False) + 1


def test_refine_ignores_items_without_a_finite_density() -> None:
    target, experts = target_of(wrong_guide(3))
    target.batch.values["a"][1] = torch.nan
    refined = refine(target, starting_gaussian(target, experts, BOTH), 60)
    assert refined.loc.isfinite().all()
    weights = target.log_weights(refined, 200)
    assert (effective_sample_size(weights)[[0, 2]] > 150).all()


@pytest.mark.parametrize("subset", [BOTH, (1,)])
def test_latent_target_with_private_latents_equals_the_trace_of_the_model(subset: tuple[int, ...]) -> None:
    modalities = [Modality("a", (3,), private_size=2), Modality("b", (4,), private_size=1)]
    vae = MultimodalVAE(modalities, 2, "poe").eval()
    values = {"a": torch.randn(5, 3), "b": torch.randn(5, 4)}
    data = MultimodalDataset(values, None, torch.ones(5, 2, dtype=torch.bool), "toy", "test")
    batch = make_batch(data, slice(None))
    target = LatentTarget(vae, batch, subset)
    proposal = GuideProposal(vae, encode_dataset(vae, data), batch, subset, "joint")
    latents, log_prob = proposal.draw(1)
    assert latents.shape == (1, 5, target.size)
    names, parts = target.names, latents[0].split(target.sizes, -1)
    sites = {"z": parts[0]} | {f"{name}_private": u for name, u in zip(target.private, parts[1:], strict=True)}
    trace = poutine.trace(poutine.condition(vae.model, sites)).get_trace(batch.select(names), weighted=False)
    assert float(target(latents)[0].detach().sum()) == pytest.approx(float(trace.log_prob_sum().detach()), rel=1e-5)
    replayed = poutine.trace(poutine.condition(vae.guide, sites)).get_trace(batch.select(names), weighted=False)
    assert float(log_prob.detach().sum()) == pytest.approx(float(replayed.log_prob_sum().detach()), rel=1e-4)


def test_starting_gaussian_of_the_mixture_of_experts_is_the_best_expert() -> None:
    linear = Linear(4)
    target, exact = target_of(linear)
    vae = MultimodalVAE(linear.vae.modalities, LATENT, "moe").eval()
    vae.model = linear.vae.model
    loc = torch.stack([exact.loc[:, 0], exact.loc[:, 1]], 1)
    loc[:2, 0] += 9
    loc[2:, 1] -= 9
    experts = Experts(loc, exact.scale)
    start = starting_gaussian(LatentTarget(vae, target.batch, BOTH), experts, BOTH)
    torch.testing.assert_close(start.loc, torch.cat([exact.loc[:2, 1], exact.loc[2:, 0]]))


def test_location_and_scale_of_families_without_moments() -> None:
    loc, scale = torch.randn(3, 2), torch.rand(3, 2) + 0.1
    for distribution in (dist.StudentT(1.0, loc, scale).to_event(1), dist.Normal(loc, scale).to_event(1)):
        found, tril = _location_and_scale(distribution)
        torch.testing.assert_close(found, loc)
        torch.testing.assert_close(tril, torch.diag_embed(scale))
    full = dist.MultivariateNormal(loc, scale_tril=torch.diag_embed(scale))
    torch.testing.assert_close(_location_and_scale(full)[1], full.scale_tril)


def test_gaussian_proposal_log_density_equals_that_of_torch() -> None:
    tril = torch.randn(4, 3, 3).tril(-1) + torch.eye(3)
    proposal = GaussianProposal(torch.randn(4, 3), tril)
    latents, log_prob = proposal.draw(6)
    expected = dist.MultivariateNormal(proposal.loc, scale_tril=tril).log_prob(latents)
    torch.testing.assert_close(log_prob, expected, atol=1e-4, rtol=1e-4)


def test_log_weights_of_the_exact_posterior_are_the_evidence() -> None:
    linear = Linear(3)
    target, experts = target_of(linear)
    weights = target.log_weights(GuideProposal(linear.vae, experts, target.batch, BOTH, "joint"), 40)
    assert weights.shape == (40, 3)
    expected = [linear.evidence(i, ("a", "b")) for i in range(3)]
    assert log_mean_exp(weights).tolist() == pytest.approx(expected, abs=1e-2)


def test_sample_reference_has_the_moments_of_the_exact_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_DRAWS", 300)
    monkeypatch.setattr(reference, "_WARMUP", 60)
    linear = Linear(2)
    target, experts = target_of(linear)
    exact = starting_gaussian(target, experts, BOTH)
    start = GaussianProposal(exact.loc + 0.3, 2 * exact.scale_tril)
    torch.manual_seed(0)
    found = sample_reference(target, start, 1)
    assert found.draws.shape == (300, LATENT)
    assert found.rhat < 1.1
    scale = exact.scale_tril[1].diagonal().double()
    assert ((found.draws.mean(0) - exact.loc[1]).abs() < 0.3 * scale).all()
    assert ((found.draws.std(0) / scale - 1).abs() < 0.25).all()
    assert gaussian_kl(exact.draw(2000)[0][:, 1], found.draws) < 0.15
    assert gaussian_kl(start.draw(2000)[0][:, 1], found.draws) > 0.5


def test_gaussian_kl_of_draws_approaches_the_closed_form() -> None:
    torch.manual_seed(1)
    q = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 2.0]]))
    p = dist.MultivariateNormal(torch.tensor([1.0, -0.5]), torch.tensor([[2.0, -0.3], [-0.3, 1.0]]))
    expected = float(torch.distributions.kl_divergence(q, p))
    assert gaussian_kl(q.sample((40_000,)), p.sample((40_000,))) == pytest.approx(expected, rel=0.03)


def test_refined_figures_with_a_reference_rank_the_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_DRAWS", 150)
    monkeypatch.setattr(reference, "_WARMUP", 40)
    linear = wrong_guide(3)
    experts = encode_dataset(linear.vae, linear.data)
    result = refined_figures(linear.vae, experts, linear.data, subset=BOTH, steps=100, items=2, reference_items=1)
    kl = values_of(result, "proposal_kl")
    assert kl["Gaussian refined by 100 steps"] < 0.3
    assert kl["mixture density of the guide"] > 1
    (rhat,) = (row for row in result.rows if row.metric == "reference_rhat")
    assert (rhat.protocol, rhat.n) == ("NUTS, 150 draws, items: 1", 1)
    assert rhat.value < 1.2
    assert result.arrays["reference_mean"].shape == result.arrays["reference_sd"].shape == (1, LATENT)
