"""Priors that are learned with the model: their density, their gradients, absent items, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pyro_mmvae import Experts, MixturePrior, Modality, MultimodalVAE, ProductOfExperts, WassersteinBarycenter
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.training.elbo import RecordingELBO
from pyro_mmvae.vae.priors import _mixture, make_prior

SMALL = NetworkOptions(width=4, hidden=8)


def make(aggregation: Any = "wb", latent_size: int = 2, components: int = 5, **options: Any) -> MultimodalVAE:
    modalities = [Modality("a", (4,)), Modality("b", (6,))]
    prior = options.pop("prior", None) or MixturePrior(components)
    return MultimodalVAE(modalities, latent_size, aggregation, prior=prior, network=SMALL, **options)


def batch_of(count: int, present: Tensor | None = None) -> dict[str, Tensor]:
    batch = {"a": torch.randn(count, 4), "b": torch.randn(count, 6)}
    return batch if present is None else {**batch, "present": present}


def spread(vae: MultimodalVAE) -> MixturePrior:
    """Return the prior of a model after setting its parameters at random."""
    prior = vae.model.learned_prior
    assert prior is not None
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter)
    return prior


def test_prior_log_prob_and_moments_equal_those_of_torch() -> None:
    prior = spread(make())
    normals = torch.distributions.Normal(prior.loc, prior.log_scale.exp())
    components = torch.distributions.Independent(normals, 1)
    expected = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=prior.logits), components)
    z = 2 * torch.randn(7, 3, 2)
    torch.testing.assert_close(prior().log_prob(z), expected.log_prob(z))
    torch.testing.assert_close(prior().mean, expected.mean)
    torch.testing.assert_close(prior().variance, expected.variance)


def test_prior_draws_have_the_shares_of_the_components() -> None:
    prior = spread(make(components=2))
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[-50.0, 0.0], [50.0, 0.0]]))
    drawn = prior().sample(torch.Size((4000,)))
    assert float((drawn[:, 0] > 0).float().mean()) == pytest.approx(prior().probs[1].item(), abs=0.03)


def test_new_prior_has_mean_zero_and_variance_one() -> None:
    prior = make(latent_size=4, components=4000).model.prior()
    torch.testing.assert_close(prior.mean, torch.zeros(4), atol=0.05, rtol=0)
    torch.testing.assert_close(prior.variance, torch.ones(4), atol=0.05, rtol=0)


def test_prior_gradients_equal_finite_differences() -> None:
    logits, loc, log_scale = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((3,), (3, 2), (3, 2)))
    z = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *p: _mixture(*p[:3]).log_prob(p[3]), (logits, loc, log_scale, z))


def test_kl_term_of_elbo_equals_quadrature(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, count = make(latent_size=1, components=3), 40_000
    prior = spread(vae)
    experts = Experts(torch.full((count, 2, 1), 0.4), torch.full((count, 2, 1), 0.7))
    monkeypatch.setattr(vae.guide, "_encode", lambda *_: (experts, {}))
    estimator = RecordingELBO(max_plate_nesting=1)
    with torch.no_grad():
        estimator.differentiable_loss(vae.model, vae.guide, {"a": torch.zeros(count, 4)})
        z = torch.linspace(-8, 8, 20_001, dtype=torch.float64).unsqueeze(-1)
        q = torch.distributions.Normal(0.4, 0.7).log_prob(z).squeeze(-1)
        p = _mixture(*(parameter.double() for parameter in (prior.logits, prior.loc, prior.log_scale))).log_prob(z)
        expected = torch.trapezoid(q.exp() * (q - p), z.squeeze(-1))
    assert float(estimator.terms.kl) / count == pytest.approx(float(expected), abs=0.02)


def test_training_moves_the_prior_to_the_latents() -> None:
    vae = make(components=3)
    guide_parameters = {id(p) for p in vae.guide.parameters()}
    prior = vae.model.learned_prior
    assert prior is not None
    assert not guide_parameters & {id(p) for p in prior.parameters()}  # no parameter twice in an optimizer
    elbo, optimizer = Trace_ELBO()(vae.model, vae.guide), torch.optim.Adam(prior.parameters(), lr=0.05)
    data, losses = batch_of(50), []
    before = {name: p.detach().clone() for name, p in prior.named_parameters()}
    for _ in range(60):
        optimizer.zero_grad()
        loss = elbo(data)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < sum(losses[:10])
    assert all(not torch.equal(before[name], p) for name, p in prior.named_parameters())


def test_svi_trains_the_prior() -> None:
    vae = make()
    prior = vae.model.learned_prior
    assert prior is not None
    before = prior.loc.detach().clone()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    svi.step(batch_of(8))
    assert not torch.equal(before, prior.loc)


def test_trace_mean_field_elbo_estimates_the_kl_by_draws() -> None:
    vae, data, losses = make(), batch_of(20), []
    spread(vae)
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        torch.manual_seed(1)
        losses.append(elbo.loss(vae.model, vae.guide, data))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("aggregation", ["wb", "mwb", "moe", "moment"])
@pytest.mark.parametrize("density", ["mixture", "component"])
def test_posterior_of_items_without_observations_is_the_prior(aggregation: str, density: str) -> None:
    vae = make(aggregation)
    prior = spread(vae)
    present = torch.tensor([[True, True], [False, False], [False, True], [False, False]])
    data = batch_of(4, present)
    experts = vae.guide.experts(data)
    members = vae.guide.draw_members(experts) if density == "component" else None
    posterior = vae.guide.posterior(experts, density, members)
    z = torch.randn(4, 2)
    absent = ~present.any(-1)
    torch.testing.assert_close(posterior.log_prob(z)[absent], prior().log_prob(z)[absent])
    torch.testing.assert_close(posterior.mean[absent], prior().mean.expand(2, -1))
    complete = {name: value[:1] for name, value in data.items() if name != "present"}
    first = None if members is None else members[:1]
    alone = vae.guide.posterior(vae.guide.experts(complete), density, first)
    torch.testing.assert_close(posterior.log_prob(z)[:1], alone.log_prob(z[:1]))
    nothing = vae.guide.posterior(vae.guide.experts(None, num_items=3), density)
    torch.testing.assert_close(nothing.log_prob(z[:3]), prior().log_prob(z[:3]))


def test_elbo_of_items_without_observations_is_zero() -> None:
    vae = make("mwb")
    spread(vae)
    assert Trace_ELBO().loss(vae.model, vae.guide, batch_of(3, torch.zeros(3, 2, dtype=torch.bool))) == 0
    mixed = torch.tensor([[True, True], [False, False]])
    assert torch.isfinite(torch.tensor(Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
                                       .loss(vae.model, vae.guide, batch_of(2, mixed))))  # fmt: skip


def test_private_latents_with_a_learned_prior_train() -> None:
    modalities = [Modality("a", (4,), private_size=2), Modality("b", (6,))]
    vae = MultimodalVAE(modalities, 2, "mwb", prior=MixturePrior(3), network=SMALL)
    loss = Trace_ELBO()(vae.model, vae.guide)(batch_of(3, torch.tensor([[True, True], [False, False], [True, False]])))
    loss.backward()
    prior = vae.model.learned_prior
    assert prior is not None
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in prior.parameters())


@pytest.mark.parametrize(
    ("aggregation", "options", "message"),
    [
        ("poe", {}, "cannot be an expert of aggregation 'poe', whose prior_expert='all'"),
        ("mopoe", {}, "whose prior_expert='complete'"),
        ("wb", {"prior_expert": "joint_only"}, "whose prior_expert='joint_only'"),
        (ProductOfExperts(prior=(0.0, 2.0), prior_expert="none"), {}, "a learned prior must be the only one"),
        (WassersteinBarycenter(prior=(0.0, 1.0)), {}, "a learned prior must be the only one"),
    ],
)
def test_model_with_a_learned_prior_and_one_of_loc_and_scale_raises(
    aggregation: Any, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make(aggregation, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("aggregation", ["poe", "mopoe"])
def test_products_without_a_prior_expert_take_a_learned_prior(aggregation: str) -> None:
    vae = make(aggregation, prior_expert="none")
    assert Trace_ELBO().loss(vae.model, vae.guide, batch_of(4)) > 0


def test_prior_of_another_model_raises() -> None:
    prior = MixturePrior(3)
    make(prior=prior)
    with pytest.raises(ValueError, match="prior must be a new MixturePrior for each model"):
        make(prior=prior)


def test_start_prior_from_moves_components_to_experts() -> None:
    vae, data = make(components=6), batch_of(20)
    vae.train().start_prior_from(data)
    assert vae.training
    prior, experts = vae.model.learned_prior, vae.eval().guide.experts(data)
    assert prior is not None
    distance = (prior.loc.unsqueeze(1) - experts.loc.flatten(0, 1)).norm(dim=-1)
    assert distance.amin(-1).max().item() < 1e-5
    assert len(set(distance.argmin(-1).tolist())) == 6
    torch.testing.assert_close(prior.log_scale.exp(), experts.scale.flatten(0, 1)[distance.argmin(-1)])


def test_start_prior_from_few_items_makes_different_components() -> None:
    vae = make(components=30)
    vae.start_prior_from(batch_of(4, torch.tensor([[True, False]] * 4)))
    prior = vae.model.learned_prior
    assert prior is not None
    assert len(prior.loc.unique(dim=0)) == 30
    with pytest.raises(ValueError, match="experts must have a modality that is present to start a prior from"):
        vae.start_prior_from(batch_of(2, torch.zeros(2, 2, dtype=torch.bool)))
    with pytest.raises(ValueError, match="prior must be learned"):
        MultimodalVAE([Modality("a", (4,))], 2, network=SMALL).start_prior_from({"a": torch.zeros(2, 4)})


def test_copy_of_a_model_has_a_prior_of_its_own() -> None:
    vae = make()
    other = copy.deepcopy(vae)
    spread(vae)
    nothing = other.guide.experts(None, num_items=1)
    z = torch.randn(1, 2)
    torch.testing.assert_close(other.guide.posterior(nothing).log_prob(z), other.model.prior().log_prob(z))
    assert not torch.equal(other.model.prior().log_prob(z), vae.model.prior().log_prob(z))


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("flow", "prior must be one of standard, mixture, got 'flow'"),
        ({"components": 3}, "prior must be one of standard, mixture, got None"),
        ({"name": "mixture", "component": 3}, "did you mean 'components'"),
        ({"name": "standard", "components": 3}, "option 'components' of prior 'standard' must be left out"),
        ({"name": "mixture", "components": 0}, "components must be a positive integer, got 0"),
        ({"name": "mixture", "init": "zeros"}, "init must be one of spread, experts, got 'zeros'"),
    ],
)
def test_make_prior_of_a_wrong_name_or_option_raises(prior: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_prior(prior)


def test_make_prior_takes_names_and_mappings() -> None:
    assert make_prior(None) is None
    assert make_prior("standard") is None
    default, other = make_prior("mixture"), make_prior({"name": "mixture", "components": 7, "init": "experts"})
    assert default is not None
    assert other is not None
    assert (default.components, default.init, other.components, other.init) == (40, "spread", 7, "experts")
