"""BarycentricGuide in anyone's model: training, bounds, and what it refuses."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_mmvae import BarycentricGuide, Experts, SubsetMixture, register_aggregation

ITEMS, LATENT = 12, 3


class Encode(nn.Module):
    """Linear experts of vectors of 4."""

    def __init__(self, modalities: int = 2) -> None:
        super().__init__()
        self.modalities = modalities
        self.linear = nn.Linear(4, modalities * 2 * LATENT)

    def forward(self, x: Tensor) -> Experts:
        loc, log_scale = self.linear(x).reshape(*x.shape[:-1], self.modalities, 2, LATENT).unbind(-2)
        return Experts(loc, log_scale.exp())


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ torch.ones(LATENT, 4), 1.0).to_event(1), obs=x)


def opposed(x: Tensor) -> Experts:
    """One expert at -100 and one at 100, both sharp."""
    loc = torch.tensor([-100.0, 100.0]).reshape(1, 2, 1).expand(len(x), 2, LATENT)
    return Experts(loc, torch.full_like(loc, 0.01))


def test_svi_trains_the_encoder_and_nothing_else() -> None:
    encode, x = Encode(), torch.randn(ITEMS, 4)
    guide = BarycentricGuide(encode, "mwb")
    before = {name: value.detach().clone() for name, value in encode.named_parameters()}
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(40)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    after = dict(encode.named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in before.items())
    assert set(pyro.get_param_store().keys()) == {f"encode$$${name}" for name in before}


def test_a_plain_function_registers_its_own_parameters() -> None:
    def encode(x: Tensor) -> Experts:
        loc = pyro.param("loc", lambda: torch.zeros(1, LATENT))
        return Experts(loc.unsqueeze(0).expand(len(x), 1, LATENT), torch.ones(len(x), 1, LATENT))

    svi = SVI(model, BarycentricGuide(encode), pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    svi.step(torch.ones(ITEMS, 4))
    assert set(pyro.get_param_store().keys()) == {"loc"}
    assert (pyro.param("loc") != 0).all()


def test_arguments_of_the_model_reach_encode_as_they_are() -> None:
    seen: list[Any] = []

    def encode(x: Tensor, *, flag: str) -> Experts:
        seen.append(flag)
        return opposed(x)

    z = BarycentricGuide(encode)(torch.zeros(ITEMS, 4), flag="here")
    assert z.shape == (ITEMS, LATENT)
    assert seen == ["here"]


@pytest.mark.parametrize("aggregation", ["wb", "moe"])
def test_weights_that_are_a_parameter_are_trained(aggregation: str) -> None:
    weights = nn.Parameter(torch.ones(2))
    guide = BarycentricGuide(Encode(), aggregation, weights=weights)
    svi = SVI(model, guide, pyro.optim.SGD({"lr": 1e-4}), Trace_ELBO())
    svi.step(torch.randn(ITEMS, 4))
    assert "weights" in pyro.get_param_store()
    assert not torch.equal(guide.weights.detach(), torch.ones(2))


def test_weights_that_are_a_tensor_are_used_and_stay() -> None:
    guide = BarycentricGuide(opposed, "wb", weights=torch.tensor([3.0, 1.0]))
    posterior = guide.posterior(opposed(torch.zeros(ITEMS, 4)))
    torch.testing.assert_close(posterior.mean, torch.full((ITEMS, LATENT), -50.0))
    assert not list(guide.parameters())
    assert "weights" in guide.state_dict()


def test_prior_prior_expert_and_mixture_weights_reach_the_aggregation() -> None:
    x = torch.zeros(ITEMS, 4)
    absent = Experts(torch.zeros(1, 2, LATENT), torch.ones(1, 2, LATENT), torch.zeros(1, 2, dtype=torch.bool))
    given = BarycentricGuide(opposed, prior=(5.0, 2.0)).posterior(absent)
    assert (given.mean == 5).all()
    assert (given.stddev == 2).all()
    narrow = BarycentricGuide(opposed, "poe", prior_expert="none").posterior(opposed(x))
    torch.testing.assert_close(narrow.stddev, torch.full((ITEMS, LATENT), 0.01 / 2**0.5))
    first = BarycentricGuide(opposed, "moe", mixture_weights=lambda members: members[:, 0].float())
    assert (first.posterior(opposed(x)).mean == -100).all()


def test_bounds() -> None:
    x = torch.zeros(ITEMS, 4)
    guide = BarycentricGuide(opposed, "mwb")
    assert isinstance(poutine.trace(guide).get_trace(x).nodes["z"]["fn"], SubsetMixture)
    assert isinstance(guide.posterior(opposed(x), "component").base_dist, dist.Normal)
    assert (guide.posterior(opposed(x), "full").mean == 0).all()
    with pytest.raises(ValueError, match="bound must be one of mixture, component, full, not 'best'"):
        guide.posterior(opposed(x), "best")


def test_the_component_bound_shares_the_subsets_out_over_the_batch_and_draws_them_anew() -> None:
    guide = BarycentricGuide(opposed, "moe", bound="component")
    draws = torch.stack([guide(torch.zeros(ITEMS, 4))[:, 0] > 0 for _ in range(20)])
    assert (draws.sum(1) == ITEMS // 2).all()
    assert len({tuple(row.tolist()) for row in draws}) > 10
    assert draws.any(0).all()
    assert not draws.all(0).any()


def test_the_component_bound_has_the_subsets_own_density() -> None:
    def sharp_model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(LATENT, dtype=x.dtype), 1.0).to_event(1))

    def encode(x: Tensor) -> Experts:
        return Experts(x.new_zeros(len(x), 2, LATENT), x.new_ones(len(x), 2, LATENT) * x.new_tensor([[1.0], [0.5]]))

    x = torch.zeros(4000, 1, dtype=torch.float64)
    guide = BarycentricGuide(encode, "moe", bound="component")
    half = dist.Normal(torch.zeros(LATENT, dtype=x.dtype), 0.5).to_event(1)
    kl = torch.distributions.kl_divergence(half, dist.Normal(torch.zeros_like(half.mean), 1.0).to_event(1))
    loss = Trace_ELBO(num_particles=5).loss(sharp_model, guide, x) / len(x)
    assert loss == pytest.approx(0.5 * kl.item(), abs=0.03)
    mixture = Trace_ELBO(num_particles=5).loss(sharp_model, BarycentricGuide(encode, "moe"), x) / len(x)
    assert mixture < loss - 0.1


def test_too_many_components_are_refused_at_the_first_call_and_drawn_under_the_component_bound() -> None:
    x = torch.zeros(ITEMS, 4)
    with pytest.raises(ValueError, match="8,191 components.*bound='component'"):
        BarycentricGuide(Encode(13), "mwb")(x)
    assert BarycentricGuide(Encode(13), "mwb", bound="component")(x).shape == (ITEMS, LATENT)


@pytest.mark.usefixtures("registered")
def test_an_aggregation_without_subsets_has_no_component_bound() -> None:
    @register_aggregation("first")
    def first(experts: Experts) -> dist.TorchDistribution:
        return dist.Normal(experts.loc[..., 0, :], experts.scale[..., 0, :]).to_event(1)

    assert (BarycentricGuide(opposed, "first")(torch.zeros(ITEMS, 4)) < 0).all()
    with pytest.raises(ValueError, match="'first' has no component bound"):
        BarycentricGuide(opposed, "first", bound="component")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation": "web"}, "unknown aggregation 'web'; there are poe, moe"),
        ({"bound": "full"}, "bound must be one of mixture, component, not 'full'"),
        ({"dim": 0}, "dim must be negative"),
        ({"subsample_size": 3}, "subsample_size 3 needs a plate_size"),
        ({"subsample_size": 5, "plate_size": 4}, "subsample_size 5 needs a plate_size of at least that, got 4"),
        ({"subsample_size": 0, "plate_size": 4}, "subsample_size 0 needs"),
    ],
)
def test_bad_arguments_are_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        BarycentricGuide(opposed, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": torch.ones(3)}, r"weights must have shape \(2,\)"),
        ({"weights": torch.tensor([1.0, -1.0])}, "weights must be finite and not negative"),
        ({"prior": (torch.zeros(2), 1.0)}, r"prior loc of shape \(2,\)"),
        ({"prior_expert": "some"}, "prior_expert must be one of none, full, all"),
        ({"aggregation": "mwb", "mixture_weights": "large"}, "mixture_weights must be 'uniform', 'size' or a function"),
        ({"plate_size": ITEMS - 1}, "12 items in a plate 'data' of plate_size=11"),
        ({"dim": -2}, "without the dimension -2 of plate 'data'"),
    ],
)
def test_what_does_not_fit_the_experts_is_refused_at_the_call(options: dict[str, Any], message: str) -> None:
    guide = BarycentricGuide(opposed, **options)
    with pytest.raises(ValueError, match=message):
        guide(torch.zeros(ITEMS, 4))


def test_encode_must_give_sound_experts() -> None:
    x = torch.zeros(ITEMS, 4)
    with pytest.raises(TypeError, match="encode must give Experts, not Tensor"):
        BarycentricGuide(lambda x: x)(x)
    for scale in (torch.nan, torch.inf, 0.0, -1.0):
        with pytest.raises(ValueError, match="scale must be finite and positive where the modality is present"):
            BarycentricGuide(lambda x, s=scale: Experts(torch.zeros(2, 1, 3), torch.full((2, 1, 3), s)))(x)
    loc = torch.zeros(2, 1, 3)
    loc[1, 0, 2] = torch.nan
    with pytest.raises(ValueError, match=r"got nan at loc\[1, 0, 2\] \(modality 0\)"):
        BarycentricGuide(lambda x: Experts(loc, torch.ones(2, 1, 3)))(x)


def test_state_dict_round_trip() -> None:
    first = BarycentricGuide(Encode(), weights=nn.Parameter(torch.rand(2)))
    second = BarycentricGuide(Encode(), weights=nn.Parameter(torch.rand(2)))
    second.load_state_dict(first.state_dict())
    x = torch.randn(ITEMS, 4)
    torch.testing.assert_close(second.posterior(second.encode(x)).mean, first.posterior(first.encode(x)).mean)


def test_a_guide_that_was_used_can_be_copied_and_pickled() -> None:
    guide, x = BarycentricGuide(Encode(), "mwb"), torch.randn(ITEMS, 4)
    SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    kept = poutine.trace(guide).get_trace(x)  # in the middle of an inference
    for twin in (copy.deepcopy(guide), pickle.loads(pickle.dumps(guide))):
        torch.testing.assert_close(twin.posterior(twin.encode(x)).mean, guide.posterior(guide.encode(x)).mean)
        Trace_ELBO().loss(model, twin, x)
    assert kept.nodes["z"]["value"].shape == (ITEMS, LATENT)
