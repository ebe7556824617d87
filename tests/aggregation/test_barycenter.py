"""`barycenter` of experts, and divergences as aggregations and mixtures over subsets."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_mmvae import (
    BarycentricGuide,
    Experts,
    SubsetMixture,
    aggregate,
    barycenter,
    draw_component,
    register_aggregation,
)
from pyro_mmvae.aggregation import describe_aggregation
from pyro_mmvae.barycenters import ConvergenceWarning, solve
from pyro_mmvae.runs.config import make_config
from pyro_mmvae.testing import check_aggregation
from pyro_mmvae.training import start
from tests.strategies import joint_component, random_experts

NAMES = ("jeffreys", "hellinger", "renyi:0.3", "renyi:2", "alpha:-0.5", "w1", "fisher_rao", "entropic_w2:0.5")
MIXTURES = tuple(f"mixture:{name}" for name in ("hellinger", "renyi:0.5", "w1", "jeffreys"))


def close(got: Any, wanted: Any, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(
        (got.mean, got.stddev), (wanted.mean, wanted.stddev), rtol=tolerance, atol=tolerance, check_dtype=False
    )


@pytest.mark.parametrize("name", MIXTURES)
def test_check_aggregation_passes_mixtures_under_divergences(name: str) -> None:
    check_aggregation(name, samples=4000)


@pytest.mark.parametrize(("name", "same"), [("reverse_kl", "pool"), ("forward_kl", "moment"), ("w2", "wb")])
def test_barycenter_under_closed_form_divergences_equals_named_rules(name: str, same: str) -> None:
    experts, weights = random_experts(6, 3, 2), torch.tensor([1.0, 0.0, 2.0]).double()
    close(aggregate(experts, name, expert_weights=weights), aggregate(experts, same, expert_weights=weights), 1e-13)
    close(barycenter(experts, weights, name), aggregate(experts, same, expert_weights=weights), 1e-13)
    if same == "wb":
        close(aggregate(experts, "mixture:w2"), aggregate(experts, "mwb"), 1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_barycenter_uses_members_present_with_positive_weight(name: str) -> None:
    experts = random_experts(8, 3, 2)
    weights = torch.rand(8, 3).double() * torch.tensor([1.0, 0.0, 1.0])
    posterior, info = barycenter(experts, weights, name, prior=(0.5, torch.tensor([2.0, 3.0])), return_info=True)
    assert posterior.batch_shape == (8,)
    assert posterior.event_shape == (2,)
    assert info.converged.shape == info.residual.shape == info.iterations.shape == (8, 2)
    assert info.converged.all()
    close(aggregate(experts, name, expert_weights=weights, prior=(0.5, torch.tensor([2.0, 3.0]))), posterior)
    for item in range(8):
        members = [m for m in (0, 2) if experts.mask[item, m]]
        if not members:
            assert posterior.mean[item].tolist() == [0.5, 0.5]
            assert posterior.stddev[item].tolist() == pytest.approx([2.0, 3.0], rel=1e-14)
            continue
        loc, scale = solve(weights[item, members][None], experts.loc[item, members], experts.scale[item, members], name)
        torch.testing.assert_close((posterior.mean[item], posterior.stddev[item]), (loc[0], scale[0]))


def test_barycenter_defaults_to_wasserstein_and_standard_prior() -> None:
    experts = random_experts(5, 3, 2)
    close(barycenter(experts), aggregate(experts, "wb"), 1e-13)
    nothing = barycenter(experts.condition_on([]), divergence="hellinger")
    assert (nothing.mean == 0).all()
    assert (nothing.stddev == 1).all()


def test_barycenter_takes_a_callable_divergence() -> None:
    """Use a Huber-like pull in loc: the median for far experts, the mean for near ones."""
    experts = Experts(torch.tensor([[0.0], [1.0], [100.0]]), torch.ones(3, 1))
    posterior: Any = barycenter(
        experts, divergence=lambda q, p: (1 + (q.loc - p.loc) ** 2).sqrt() + (q.scale.log() - p.scale.log()) ** 2
    )
    assert 0.5 < posterior.mean.item() < 2.0
    assert posterior.mean.dtype == torch.float32


@pytest.mark.parametrize("name", MIXTURES)
def test_mixture_component_equals_barycenter_of_its_subset(name: str) -> None:
    experts, weights = random_experts(5, 3, 2, absent=False), torch.tensor([0.5, 2.0, 1.0]).double()
    mixture: Any = aggregate(experts, name, expert_weights=weights)
    assert isinstance(mixture, SubsetMixture)
    assert mixture.num_components == 7
    for size in (1, 2, 3):
        for subset in combinations(range(3), size):
            index = sum(1 << m for m in subset) - 1
            wanted = barycenter(experts.condition_on(subset), weights, name.removeprefix("mixture:"))
            got = mixture.component(torch.full((5,), index))
            close(got, wanted)
    close(
        joint_component(experts, name, expert_weights=weights),
        barycenter(experts, weights, name.removeprefix("mixture:")),
    )


@pytest.mark.parametrize("name", MIXTURES)
def test_mixture_of_divergence_weights_dead_subsets_as_mwb(name: str) -> None:
    experts, weights = random_experts(8, 3, 2, seed=2), torch.tensor([1.0, 0.0, 1.0]).double()
    for options in ({}, {"expert_weights": weights}, {"prior_expert": "joint_only"}, {"subset_weights": "by_size"}):
        got, wanted = (aggregate(experts, other, **options) for other in (name, "mwb"))
        torch.testing.assert_close(got.probs, wanted.probs)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["mixture:hellinger", "mixture:w1", "fisher_rao"])
def test_draw_component_under_divergence_is_a_subset_barycenter(name: str) -> None:
    experts = random_experts(30, 3, 2)
    drawn = draw_component(experts, name)
    subsets = [list(s) for size in (1, 2, 3) for s in combinations(range(3), size)]
    every = [barycenter(experts.condition_on(s), divergence=name.removeprefix("mixture:")) for s in subsets]
    distance = torch.stack([(one.mean - drawn.mean).abs().amax(-1) for one in every]).amin(0)
    assert distance.max() < 1e-8


def test_mixture_of_twelve_modalities_is_one_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyro_mmvae.barycenters import implicit

    calls = []
    newton = implicit.newton
    monkeypatch.setattr(implicit, "newton", lambda *a: calls.append(a[1].weights.shape) or newton(*a))
    monkeypatch.setattr(implicit, "_ENTRIES", 2**30)
    aggregate(random_experts(2, 12, 1, absent=False), "mixture:hellinger")
    assert calls == [(12, 2 * 4095)]  # the prior is in no subset of complete items
    assert draw_component(random_experts(9, 40, 2), "mixture:renyi:0.5").batch_shape == (9,)
    with pytest.raises(ValueError, match="'mixture:w1' over 40 modalities is a mixture of"):
        aggregate(random_experts(9, 40, 2), "mixture:w1")


def test_expert_weights_gradient_through_solver_has_the_right_sign() -> None:
    """Check that gradient ascent favours an expert at the target over one far away."""
    experts = Experts(torch.tensor([[0.0], [4.0]]).double(), torch.tensor([[1.0], [1.3]]).double())
    for name in NAMES:
        if name != "w1":  # the heavier expert wins whatever the weights
            weights = torch.ones(2).double().requires_grad_()
            aggregate(experts, name, expert_weights=weights).log_prob(torch.zeros(1).double()).backward()
            assert weights.grad is not None
            assert weights.grad[0] > 0 > weights.grad[1], name


def test_divergence_names_work_in_guides_and_are_taken() -> None:
    guide = BarycentricGuide(lambda: random_experts(4, 3, 2), "mixture:renyi:0.5", bound="component")
    assert guide().shape == (4, 2)
    with pytest.raises(ValueError, match="must be a number between 0 and inf"):
        BarycentricGuide(lambda: random_experts(4, 3, 2), "renyi:0")
    for name in ("hellinger", "renyi:0.5", "mixture:w1"):
        with pytest.raises(ValueError, match=f"'{name}' is registered already"):
            register_aggregation(name)


def test_barycenter_without_convergence_warns() -> None:
    with pytest.warns(ConvergenceWarning, match="'hellinger': .* of 8 coordinates have not converged"):
        barycenter(random_experts(4, 3, 2, absent=False), divergence="hellinger", max_iterations=1)


@pytest.mark.parametrize("name", ["renyi:0.5", "mixture:alpha:-0.5"])
def test_free_path_for_divergence_has_no_colon(name: str, elsewhere: Path) -> None:
    config = make_config(None, {"model.aggregation": name})
    assert describe_aggregation(name)
    assert config.model.aggregation == name
    path = start._free_path(config)
    assert path.name == f"polymnist-mini-{name.replace(':', '-')}-seed0"
    assert path.parent == Path("runs")
    path.mkdir(parents=True)
    assert start._free_path(config).name == f"{path.name}-2"
