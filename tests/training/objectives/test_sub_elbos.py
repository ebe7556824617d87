"""The sum of the ELBOs of subsets: MVAE's objective by hand, random subsets, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_mmvae.training import local_pyro, make_objective
from tests.training.objectives.linear_models import (
    LATENT,
    NAMES,
    PRIVATE,
    WEIGHTS,
    Linear,
    assert_equal_to_hand,
    kl_normal,
    make,
    noise,
)

PAIRS = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 0], [0, 1, 1], [0, 0, 0]]).bool()


def sub_elbos_by_hand(model: Linear, rule: str, random: list[Tensor], *, singles: bool) -> Tensor:
    """Return the sum over everything present, the single modalities and some given subsets, item by item."""
    count = len(model.present)
    subsets = [model.present, *(torch.eye(3).bool()[m] & model.present for m in range(3 if singles else 0)), *random]
    eps = torch.cat([noise(1, count, LATENT), *([noise(len(subsets) - 1, count, LATENT)] if len(subsets) > 1 else [])])
    with_m = [[0, *([1 + m] if singles else []), *range(len(subsets) - len(random), len(subsets))] for m in range(3)]
    eps_private = {n: noise(len(with_m[m]), count, PRIVATE) for m, n in enumerate(NAMES)} if model.private else {}
    total: Any = 0.0
    for t, members in enumerate(subsets):
        for b in range(count):
            inside = [m for m in range(3) if members[b, m]]
            loc, scale = model.aggregate(rule, inside, b)
            z = loc + scale * eps[t, b]
            total = total - 0.6 * kl_normal(loc, scale)
            for m in inside:
                u = None
                if model.private:
                    u_loc, u_scale = model.expert(m, b)[2:]
                    u = u_loc + u_scale * eps_private[NAMES[m]][with_m[m].index(t), b]
                    total = total - 0.6 * kl_normal(u_loc, u_scale)
                total = total + WEIGHTS[NAMES[m]] * model.log_likelihood(m, b, z, u)
    return total


def test_sub_elbos_of_poe_equals_the_sum_of_mvae() -> None:
    model = make("poe")
    objective = make_objective({"name": "sub_elbos", "subsets": 0}, model.vae)
    assert_equal_to_hand(model, objective, lambda: sub_elbos_by_hand(model, "poe", [], singles=True))


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize(("aggregation", "rule"), [("wb", "wb"), ("mwb", "wb"), ("poe", "poe")])
def test_sub_elbos_with_random_subsets_equals_the_sum_written_out(
    aggregation: str, rule: str, private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(aggregation, private=private)
    objective: Any = make_objective({"name": "sub_elbos", "subsets": 2, "singles": False}, model.vae)
    drawn = [PAIRS, model.present & ~PAIRS]
    calls = iter(drawn)

    def draw(experts: Any) -> Tensor:
        nonlocal calls
        value = next(calls, None)
        if value is None:
            calls = iter(drawn)
            value = next(calls)
        return value

    monkeypatch.setattr(objective.posteriors, "draw", draw)
    assert_equal_to_hand(model, objective, lambda: sub_elbos_by_hand(model, rule, drawn, singles=False))


def test_sub_elbos_without_subsets_and_singles_is_the_elbo_of_everything_present() -> None:
    model = make("wb")
    objective = make_objective({"name": "sub_elbos", "subsets": 0, "singles": False}, model.vae)
    assert_equal_to_hand(model, objective, lambda: sub_elbos_by_hand(model, "wb", [], singles=False))


@pytest.mark.parametrize("aggregation", ["moe", "mopoe", "poe"])
def test_sub_elbos_terms_add_up_to_the_objective(aggregation: str) -> None:
    model = make(aggregation)
    with local_pyro():
        loss, terms = make_objective({"name": "sub_elbos", "subsets": 2}, model.vae)(model.batch)
    weighted = sum(WEIGHTS[name] * value for name, value in terms.log_likelihood.items())
    torch.testing.assert_close(-loss.detach(), weighted - 0.6 * terms.kl)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"subsets": -1}, "option 'subsets' of objective 'sub_elbos' must be a number at least 0, got -1"),
        ({"subsets": 1.5}, "option 'subsets' of objective 'sub_elbos' must be an integer, got 1.5"),
        ({"singles": 1}, "option 'singles' of objective 'sub_elbos' must be true or false, got 1"),
    ],
)
def test_make_objective_of_sub_elbos_with_invalid_options_raises(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make_objective({"name": "sub_elbos", **options}, make().vae)
