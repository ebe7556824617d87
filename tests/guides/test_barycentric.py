"""BarycentricGuide in a user's model: training, aggregations, bounds, and errors."""

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

from pyro_mmvae import (
    Aggregation,
    BarycentricGuide,
    Experts,
    MixtureOverSubsets,
    SubsetMixture,
    WassersteinBarycenter,
    register_aggregation,
)

ITEMS, LATENT = 12, 3


class Encode(nn.Module):
    """An encoder with linear experts of vectors of 4."""

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
    """Return one expert at -100 and one at 100, both sharp."""
    loc = torch.tensor([-100.0, 100.0]).reshape(1, 2, 1).expand(len(x), 2, LATENT)
    return Experts(loc, torch.full_like(loc, 0.01))


def test_svi_trains_only_the_encoder() -> None:
    encode, x = Encode(), torch.randn(ITEMS, 4)
    guide = BarycentricGuide(encode, "mwb")
    before = {name: value.detach().clone() for name, value in encode.named_parameters()}
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(40)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    after = dict(encode.named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in before.items())
    assert set(pyro.get_param_store().keys()) == {f"encode$$${name}" for name in before}


def test_encode_function_registers_its_own_parameters() -> None:
    def encode(x: Tensor) -> Experts:
        loc = pyro.param("loc", lambda: torch.zeros(1, LATENT))
        return Experts(loc.unsqueeze(0).expand(len(x), 1, LATENT), torch.ones(len(x), 1, LATENT))

    svi = SVI(model, BarycentricGuide(encode), pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    svi.step(torch.ones(ITEMS, 4))
    assert set(pyro.get_param_store().keys()) == {"loc"}
    assert (pyro.param("loc") != 0).all()


def test_encode_gets_the_arguments_of_the_model() -> None:
    seen: list[Any] = []

    def encode(x: Tensor, *, flag: str) -> Experts:
        seen.append(flag)
        return opposed(x)

    z = BarycentricGuide(encode)(torch.zeros(ITEMS, 4), flag="here")
    assert z.shape == (ITEMS, LATENT)
    assert seen == ["here"]


@pytest.mark.parametrize("aggregation", ["wb", "moe"])
def test_expert_weights_parameter_is_trained(aggregation: str) -> None:
    weights = nn.Parameter(torch.ones(2))
    guide = BarycentricGuide(Encode(), aggregation, expert_weights=weights)
    svi = SVI(model, guide, pyro.optim.SGD({"lr": 1e-4}), Trace_ELBO())
    svi.step(torch.randn(ITEMS, 4))
    assert set(pyro.get_param_store()) > {"aggregation$$$expert_weights"}
    assert not torch.equal(guide.aggregation.expert_weights.detach(), torch.ones(2))


def test_expert_weights_tensor_is_a_buffer() -> None:
    guide = BarycentricGuide(opposed, "wb", expert_weights=torch.tensor([3.0, 1.0]))
    posterior = guide.posterior(opposed(torch.zeros(ITEMS, 4)))
    torch.testing.assert_close(posterior.mean, torch.full((ITEMS, LATENT), -50.0))
    assert not list(guide.parameters())
    assert set(guide.state_dict()) == {"aggregation.expert_weights"}


def test_guide_options_reach_the_aggregation() -> None:
    x = torch.zeros(ITEMS, 4)
    absent = Experts(torch.zeros(1, 2, LATENT), torch.ones(1, 2, LATENT), torch.zeros(1, 2, dtype=torch.bool))
    given = BarycentricGuide(opposed, prior=(5.0, 2.0)).posterior(absent)
    assert (given.mean == 5).all()
    assert (given.stddev == 2).all()
    narrow = BarycentricGuide(opposed, "poe", prior_expert="none").posterior(opposed(x))
    torch.testing.assert_close(narrow.stddev, torch.full((ITEMS, LATENT), 0.01 / 2**0.5))
    first = BarycentricGuide(opposed, "moe", subset_weights=lambda members: members[:, 0].float())
    assert (first.posterior(opposed(x)).mean == -100).all()


class Tempered(Aggregation):
    """The Wasserstein barycenter with a learned factor of its scale."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.log_tau = nn.Parameter(torch.zeros(()))
        self.barycenter = WassersteinBarycenter()

    def forward(self, experts: Experts) -> Any:
        q: Any = self.barycenter(experts).base_dist  # type: ignore[attr-defined]
        present = experts.mask.any(-1, keepdim=True)
        loc, scale = self.prior_for(experts)
        return dist.Normal(
            torch.where(present, q.loc, loc), torch.where(present, self.log_tau.exp() * q.scale, scale)
        ).to_event(1)


@pytest.mark.parametrize("bound", ["mixture", "component"])
def test_aggregation_object_with_a_parameter_is_trained_by_svi(bound: str) -> None:
    rule = MixtureOverSubsets(Tempered())
    guide, x = BarycentricGuide(Encode(), rule, bound=bound), torch.randn(ITEMS, 4)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    svi.step(x)
    assert "aggregation$$$rule.log_tau" in pyro.get_param_store()
    assert rule.rule.log_tau.item() != 0
    assert "aggregation.rule.log_tau" in guide.state_dict()


def test_aggregation_object_with_a_parameter_is_trained_by_a_torch_optimiser_and_saved() -> None:
    guide, x = BarycentricGuide(Encode(), Tempered()), torch.randn(ITEMS, 4)
    elbo = Trace_ELBO()(model, guide)
    optimiser = torch.optim.Adam(elbo.parameters(), lr=0.05)
    for _ in range(3):
        optimiser.zero_grad()
        elbo(x).backward()
        optimiser.step()
    assert guide.aggregation.log_tau.item() != 0
    twin = BarycentricGuide(Encode(), Tempered())
    twin.load_state_dict(guide.state_dict())
    torch.testing.assert_close(twin.posterior(twin.encode(x)).stddev, guide.posterior(guide.encode(x)).stddev)


def test_aggregation_object_gets_the_prior_of_the_guide_once() -> None:
    absent = Experts(torch.zeros(1, 2, LATENT), torch.ones(1, 2, LATENT), torch.zeros(1, 2, dtype=torch.bool))
    posterior = BarycentricGuide(opposed, MixtureOverSubsets(Tempered()), prior=(5.0, 2.0)).posterior(absent)
    assert posterior.mean.flatten().tolist() == pytest.approx([5.0] * LATENT)
    assert posterior.stddev.flatten().tolist() == pytest.approx([2.0] * LATENT)
    own = BarycentricGuide(opposed, WassersteinBarycenter(prior=(5.0, 2.0))).posterior(absent)
    assert (own.mean == 5).all()
    with pytest.raises(ValueError, match="has another prior than its guide"):
        BarycentricGuide(opposed, WassersteinBarycenter(prior=(5.0, 2.0)), prior=(0.0, 1.0))


def test_aggregation_object_refuses_options_of_the_guide() -> None:
    with pytest.raises(
        ValueError, match=r"expert_weights must be given to the aggregation.*Tempered\(expert_weights=…"
    ):
        BarycentricGuide(opposed, Tempered(), expert_weights=torch.ones(2))


def test_guide_takes_callables_and_modules_without_registration() -> None:
    def first(experts: Experts) -> Any:
        return dist.Normal(experts.loc[..., 0, :], experts.scale[..., 0, :]).to_event(1)

    class First(nn.Module):
        def forward(self, experts: Experts) -> Any:
            return first(experts)

    for aggregation in (first, First()):
        assert (BarycentricGuide(opposed, aggregation)(torch.zeros(ITEMS, 4)) < 0).all()
        with pytest.raises(ValueError, match="has no component bound"):
            BarycentricGuide(opposed, aggregation, bound="component")
    with pytest.raises(TypeError, match="got 3"):
        MixtureOverSubsets(3)  # type: ignore[arg-type]


def test_posterior_returns_each_density() -> None:
    x = torch.zeros(ITEMS, 4)
    guide = BarycentricGuide(opposed, "mwb")
    assert isinstance(poutine.trace(guide).get_trace(x).nodes["z"]["fn"], SubsetMixture)
    assert isinstance(guide.posterior(opposed(x), "component").base_dist, dist.Normal)
    assert (guide.posterior(opposed(x), "joint").mean == 0).all()
    with pytest.raises(ValueError, match="density must be one of mixture, component, subsets, joint, got 'best'"):
        guide.posterior(opposed(x), "best")


def test_component_bound_stratifies_subsets_at_each_call() -> None:
    guide = BarycentricGuide(opposed, "moe", bound="component")
    draws = torch.stack([guide(torch.zeros(ITEMS, 4))[:, 0] > 0 for _ in range(20)])
    assert (draws.sum(1) == ITEMS // 2).all()
    assert len({tuple(row.tolist()) for row in draws}) > 10
    assert draws.any(0).all()
    assert not draws.all(0).any()


def test_component_bound_uses_the_density_of_the_subset() -> None:
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


def test_mixture_bound_refuses_too_many_components_at_the_call() -> None:
    x = torch.zeros(ITEMS, 4)
    with pytest.raises(ValueError, match="8,191 components.*bound='component'"):
        BarycentricGuide(Encode(13), "mwb")(x)
    assert BarycentricGuide(Encode(13), "mwb", bound="component")(x).shape == (ITEMS, LATENT)


@pytest.mark.usefixtures("registered")
def test_component_bound_without_subsets_is_refused() -> None:
    @register_aggregation("first")
    def first(experts: Experts) -> dist.TorchDistribution:
        return dist.Normal(experts.loc[..., 0, :], experts.scale[..., 0, :]).to_event(1)

    assert (BarycentricGuide(opposed, "first")(torch.zeros(ITEMS, 4)) < 0).all()
    with pytest.raises(ValueError, match="'first' has no component bound"):
        BarycentricGuide(opposed, "first", bound="component")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation": "web"}, "unknown aggregation 'web', did you mean 'wb'. Available: poe, moe"),
        ({"bound": "joint"}, "bound must be one of mixture, component, subsets, got 'joint'"),
        ({"prior_expert": "some"}, "prior_expert must be one of none, complete, joint_only, all, got 'some'"),
        (
            {"subset_weights": "large"},
            "subset_weights must be 'uniform', 'by_size', 'learned', 'singles:SHARE' or a function",
        ),
        ({"expert_weights": "heavy"}, "expert_weights must be 'learned', 'precision', 'gate', or one number per"),
        ({"tau": 0.5}, "option of aggregation 'wb' must be one of .*, got 'tau'"),
        ({"dim": 0}, "dim must be negative"),
        ({"subsample_size": 3}, "subsample_size 3 needs a plate_size"),
        ({"subsample_size": 5, "plate_size": 4}, "subsample_size 5 needs a plate_size of at least that, got 4"),
        ({"subsample_size": 0, "plate_size": 4}, "subsample_size 0 needs"),
    ],
)
def test_guide_refuses_bad_arguments_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        BarycentricGuide(opposed, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expert_weights": torch.ones(3)}, r"weights must have shape \(2,\)"),
        ({"expert_weights": torch.tensor([1.0, -1.0])}, "weights must be finite and not negative"),
        ({"prior": (torch.zeros(2), 1.0)}, r"prior loc must broadcast .* got shape \(2,\)"),
        ({"expert_weights": "gate"}, "expert_weights='gate' must be built for a number of modalities"),
        ({"aggregation": "mwb", "subset_weights": "learned"}, "subset_weights='learned' must be built for a number"),
        ({"plate_size": ITEMS - 1}, "12 items in a plate 'data' of plate_size=11"),
        ({"dim": -2}, "without the dimension -2 of plate 'data'"),
    ],
)
def test_guide_refuses_options_that_do_not_fit_at_the_call(options: dict[str, Any], message: str) -> None:
    guide = BarycentricGuide(opposed, **options)
    with pytest.raises(ValueError, match=message):
        guide(torch.zeros(ITEMS, 4))


def test_guide_refuses_invalid_experts() -> None:
    x = torch.zeros(ITEMS, 4)
    with pytest.raises(TypeError, match="encode must return Experts, got Tensor"):
        BarycentricGuide(lambda x: x)(x)
    for scale in (torch.nan, torch.inf, 0.0, -1.0):
        with pytest.raises(ValueError, match="scale must be finite and positive where the modality is present"):
            BarycentricGuide(lambda x, s=scale: Experts(torch.zeros(2, 1, 3), torch.full((2, 1, 3), s)))(x)
    loc = torch.zeros(2, 1, 3)
    loc[1, 0, 2] = torch.nan
    with pytest.raises(ValueError, match=r"got nan at loc\[1, 0, 2\] \(modality 0\)"):
        BarycentricGuide(lambda x: Experts(loc, torch.ones(2, 1, 3)))(x)


def test_state_dict_round_trip_restores_the_posterior() -> None:
    first = BarycentricGuide(Encode(), expert_weights=nn.Parameter(torch.rand(2)))
    second = BarycentricGuide(Encode(), expert_weights=nn.Parameter(torch.rand(2)))
    second.load_state_dict(first.state_dict())
    x = torch.randn(ITEMS, 4)
    torch.testing.assert_close(second.posterior(second.encode(x)).mean, first.posterior(first.encode(x)).mean)


def test_used_guide_can_be_copied_and_pickled() -> None:
    guide, x = BarycentricGuide(Encode(), "mwb"), torch.randn(ITEMS, 4)
    SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    kept = poutine.trace(guide).get_trace(x)  # in the middle of an inference
    for twin in (copy.deepcopy(guide), pickle.loads(pickle.dumps(guide))):
        torch.testing.assert_close(twin.posterior(twin.encode(x)).mean, guide.posterior(guide.encode(x)).mean)
        Trace_ELBO().loss(model, twin, x)
    assert kept.nodes["z"]["value"].shape == (ITEMS, LATENT)


def test_guide_with_an_encoder_that_is_not_callable_raises() -> None:
    with pytest.raises(TypeError, match="encode must be a module or function that returns Experts, got NoneType"):
        BarycentricGuide(None, "wb")  # type: ignore[arg-type]


def test_guide_with_a_negative_entropy_coefficient_raises() -> None:
    with pytest.raises(ValueError, match="expert_weights_entropy must be finite and not negative, got -1.0"):
        BarycentricGuide(lambda x: x, "wb", expert_weights_entropy=-1.0)
