"""Penalties by name, mapping and object, their sites, and their parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_mmvae import BarycentricGuide, Experts, FrechetVariance, Modality, MultimodalVAE, Penalty
from pyro_mmvae.guides import (
    describe_penalty,
    make_penalty,
    penalty_names,
    penalty_options,
    register_penalty,
    unregister_penalty,
)


class Shift(Penalty):
    """A penalty with a parameter."""

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, experts: Experts, members: Tensor | None, guide: BarycentricGuide) -> Tensor:
        return self.weight * (experts.loc.square().sum(-1) * experts.mask).sum(-1)


class Scalar(Penalty):
    """A penalty that forgets that it is one number per item."""

    def forward(self, experts: Experts, members: Tensor | None, guide: BarycentricGuide) -> Tensor:
        return experts.loc.square().sum()


def make_experts() -> Experts:
    return Experts(torch.ones(4, 2, 3), torch.ones(4, 2, 3))


def make_guide(*penalties: Any, **options: Any) -> BarycentricGuide:
    return BarycentricGuide(make_experts, "wb", penalties=penalties, **options)


def test_make_penalty_unknown_name_lists_the_names() -> None:
    with pytest.raises(ValueError, match="unknown penalty 'frechett', did you mean 'frechet'\\? Available: frechet"):
        make_guide("frechett")


def test_make_penalty_unknown_option_lists_the_options() -> None:
    with pytest.raises(ValueError, match="option of penalty 'frechet' must be one of gamma, scale_free, divergence"):
        make_penalty({"name": "frechet", "gama": 2.0})


def test_make_penalty_without_a_required_option_names_it(registered: None) -> None:
    def make(weight: float) -> Penalty:
        return Shift(weight)

    register_penalty("shift", make)
    with pytest.raises(ValueError, match="option 'weight' of penalty 'shift' must be given"):
        make_penalty("shift")


@pytest.mark.parametrize("wrong", [3, FrechetVariance, None])
def test_make_penalty_of_something_else_raises(wrong: Any) -> None:
    with pytest.raises(TypeError, match="must be a name, a mapping with a name, or an instance of Penalty"):
        make_penalty(wrong)


def test_make_penalty_of_a_factory_that_returns_something_else_raises(registered: None) -> None:
    register_penalty("wrong", nn.Identity)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="instance of Penalty, got Identity"):
        make_penalty("wrong")


@pytest.mark.parametrize("wrong", ["frechet", FrechetVariance(), {"name": "frechet"}])
def test_guide_with_penalties_that_are_not_a_list_raises(wrong: Any) -> None:
    with pytest.raises(TypeError, match="penalties must be a list"):
        BarycentricGuide(make_experts, "wb", penalties=wrong)


def test_guide_with_one_penalty_twice_raises() -> None:
    penalty = FrechetVariance()
    with pytest.raises(ValueError, match="different objects"):
        make_guide(penalty, penalty)


def test_register_penalty_makes_a_name_until_it_is_unregistered() -> None:
    register_penalty("shift", Shift)
    try:
        assert penalty_names() == ("frechet", "infonce", "shift")
        assert describe_penalty("shift") == "A penalty with a parameter."
        assert [(option.name, option.default) for option in penalty_options("shift")] == [("weight", 0.5)]
        assert list(make_guide({"name": "shift", "weight": 2.0}).penalty_terms(make_experts())) == ["z_shift"]
    finally:
        unregister_penalty("shift")
    with pytest.raises(ValueError, match="built in"):
        unregister_penalty("frechet")


def test_penalty_terms_numbers_penalties_of_one_name() -> None:
    guide = make_guide("frechet", {"name": "frechet", "scale_free": True}, Shift(), "frechet", site="u")
    assert list(guide.penalty_terms(make_experts())) == ["u_frechet", "u_frechet_2", "u_Shift", "u_frechet_3"]


def test_penalty_terms_in_eval_mode_are_empty() -> None:
    guide = make_guide("frechet")
    assert guide.eval().penalty_terms(make_experts()) == {}
    assert list(guide.train().penalty_terms(make_experts())) == ["z_frechet"]


def test_penalty_terms_hold_the_entropy_of_expert_weights() -> None:
    weights = torch.tensor([0.5, 0.5])
    guide = BarycentricGuide(
        make_experts, "wb", expert_weights=weights, expert_weights_entropy=0.3, penalties=["frechet"]
    )
    terms = guide.penalty_terms(make_experts())
    torch.testing.assert_close(terms["z_weights_entropy"], -0.3 * torch.full((4,), 2.0).log())


def test_penalty_of_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"penalty 'z_Scalar' must return one number per item.*\(4,\), got \(\)"):
        make_guide(Scalar())()


def test_penalty_with_a_parameter_is_trained_and_saved_with_the_guide() -> None:
    guide = make_guide(Shift(2.0))
    assert guide.state_dict() == {"penalties.0.weight": torch.tensor(2.0)}
    guide.penalty_terms(make_experts())["z_Shift"].sum().backward()
    assert guide.penalties[0].weight.grad == 4 * 2 * 3


@pytest.mark.parametrize("penalty", ["frechet", "infonce"])
def test_vae_of_one_modality_refuses_a_penalty_between_modalities(penalty: str) -> None:
    with pytest.raises(ValueError, match=f"penalty '{penalty}' must have at least two modalities"):
        MultimodalVAE([Modality("a", (4,))], 2, penalties=[penalty])
