"""Membership matrices, live subsets and subset weights; draws are tested in test_subsets_draws.py."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_mmvae.aggregation import subsets
from tests.strategies import few

PRESENCE = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=4)
CHAIN = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]).bool()


def rows(matrix: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(row.nonzero().flatten().tolist()) for row in matrix]


def test_membership_lists_subsets_in_order() -> None:
    assert rows(subsets.membership("all", 3)) == [(0, 1, 2)]
    assert rows(subsets.membership("singletons", 3)) == [(0,), (1,), (2,)]
    assert rows(subsets.membership("powerset", 3)) == [(0,), (1,), (0, 1), (2,), (0, 2), (1, 2), (0, 1, 2)]


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_membership_of_powerset_has_every_subset_once(count: int) -> None:
    matrix = subsets.membership("powerset", count)
    wanted = [s for size in range(1, count + 1) for s in combinations(range(count), size)]
    assert sorted(rows(matrix)) == sorted(wanted)
    assert matrix.dtype == torch.bool
    weight = 2 ** torch.arange(count)
    assert ((matrix * weight).sum(-1) == torch.arange(1, 2**count)).all()


@pytest.mark.parametrize("family", ["all", "singletons", "powerset", CHAIN, lambda count: CHAIN[:, :count]])
def test_count_components_equals_rows_of_membership(family: Any) -> None:
    assert subsets.count_components(family, 4) == len(subsets.membership(family, 4))


def test_count_components_of_large_powerset_makes_no_matrix() -> None:
    assert subsets.count_components("powerset", 60) == 2**60 - 1


def test_check_components_refuses_too_many() -> None:
    subsets.check_components("powerset", 12, "mwb")
    subsets.check_components("singletons", 4096, "moe")
    for family, count, said in (("powerset", 13, "8,191"), ("singletons", 4097, "4,097")):
        with pytest.raises(ValueError, match=rf"{said} components, more than 4,096: use the component bound"):
            subsets.check_components(family, count, "mine")


@pytest.mark.parametrize(
    ("family", "error", "match"),
    [
        (
            "trios",
            ValueError,
            "subsets must be 'all', 'singletons', 'pairs', 'powerset', a bool matrix or a function, got 'trios'",
        ),
        (torch.ones(2, 3), ValueError, r"bool matrix .* got torch\.float32 of shape \(2, 3\)"),
        (torch.ones(3).bool(), ValueError, r"bool matrix .* of shape \(3,\)"),
        (torch.tensor([[True, False], [False, False]]), ValueError, "no empty row"),
        (7, TypeError, "a name, a bool matrix or a function, got int"),
        ([[True]], TypeError, "got list"),
    ],
)
def test_check_subsets_refuses_invalid_families(family: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        subsets.check_subsets(family)


def test_membership_checks_the_result_of_a_function() -> None:
    with pytest.raises(ValueError, match="over the 3 modalities of the experts, got 2"):
        subsets.membership(lambda _: torch.ones(1, 2).bool(), 3)
    with pytest.raises(ValueError, match="bool matrix"):
        subsets.membership(lambda _: torch.ones(1, 3), 3)
    with pytest.raises(ValueError, match="over the 3 modalities of the experts, got 4"):
        subsets.membership(CHAIN, 3)


@few
@given(present=PRESENCE)
def test_members_of_marks_subsets_with_all_members_present(present: list[list[bool]]) -> None:
    mask = torch.tensor(present)
    for family in ("singletons", "powerset", CHAIN):
        matrix, live = subsets.members_of(family, mask)
        for b, flags in enumerate(present):
            assert live[b].tolist() == [all(flags[m] for m in subset) for subset in rows(matrix)]
    members, live = subsets.members_of("all", mask)
    assert torch.equal(members.squeeze(-2), mask)
    assert live.squeeze(-1).tolist() == [any(flags) for flags in present]


def test_members_of_without_batch_has_one_row_per_subset() -> None:
    members, live = subsets.members_of("powerset", torch.tensor([True, False]))
    assert rows(members) == [(0,), (1,), (0, 1)]
    assert live.tolist() == [True, False, False]


@few
@given(present=PRESENCE, kind=st.sampled_from(["uniform", "by_size", "function"]))
def test_subset_probabilities_match_a_count(present: list[list[bool]], kind: str) -> None:
    matrix, live = subsets.members_of("powerset", torch.tensor(present))
    names = rows(matrix)

    def function(members: torch.Tensor) -> torch.Tensor:
        return 1.0 + members.sum(-1)

    got = subsets.subset_probabilities(function if kind == "function" else kind, matrix, live)
    torch.testing.assert_close(got.sum(-1), torch.ones(len(present)))
    for b, flags in enumerate(present):
        alive = [s for s in names if all(flags[m] for m in s)]
        sizes = [len(s) for s in alive]
        weight = {
            "uniform": lambda _: 1.0, "function": lambda s: 1.0 + len(s),
            "by_size": lambda s, sizes=sizes: 1 / sizes.count(len(s)),
        }[kind]  # fmt: skip
        total = sum(weight(s) for s in alive)
        wanted = [weight(s) / total if s in alive else 0.0 for s in names] if alive else [1 / 15] * 15
        assert got[b].tolist() == pytest.approx(wanted, rel=1e-5)


def test_subset_probabilities_multiply_with_factor() -> None:
    matrix, live = subsets.members_of("singletons", torch.tensor([[True, True, False], [False, False, True]]))
    factor = torch.tensor([1.0, 3.0, 5.0]).double()
    got = subsets.subset_probabilities("uniform", matrix, live, factor)
    assert got.tolist() == [[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]
    assert got.dtype == torch.float64
    dead = subsets.subset_probabilities("uniform", matrix, live, torch.tensor([1.0, 1.0, 0.0]))
    assert dead[1].tolist() == pytest.approx([1 / 3] * 3)


def test_subset_probabilities_of_dead_subsets_have_finite_gradients() -> None:
    matrix, live = subsets.members_of("singletons", torch.tensor([[True, True], [False, False], [True, False]]))
    factor = torch.tensor([1.0, 0.0]).requires_grad_()
    got = subsets.subset_probabilities("uniform", matrix, live, factor)
    (gradient,) = torch.autograd.grad(got[:, 0].sum(), factor)
    assert gradient.tolist() == [0.0, -1.0]


def test_subset_probabilities_refuse_invalid_weights() -> None:
    matrix, live = subsets.members_of("powerset", torch.ones(2).bool())
    with pytest.raises(ValueError, match="must be 'uniform', .*, 'singles:SHARE' or a function, got 'equal'"):
        subsets.subset_probabilities("equal", matrix, live)
    with pytest.raises(ValueError, match=r"tensor \(…, 3\), got \(2,\)"):
        subsets.subset_probabilities(lambda _: torch.ones(2), matrix, live)
    with pytest.raises(ValueError, match=r"tensor \(…, 3\), got float"):
        subsets.subset_probabilities(lambda _: 1.0, matrix, live)  # type: ignore[arg-type,return-value]
