"""Drawing one subset per item: marginally uniform over its own live subsets, stratified over the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from pyro_mmvae import Experts
from pyro_mmvae.aggregation import make_aggregation, subsets
from tests.strategies import few

PRESENCE = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=9)
F64 = torch.float64
CHAIN = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]).bool()
FAMILIES = ["all", "singletons", "powerset", CHAIN, lambda count: torch.eye(count).bool()]


def code(drawn: torch.Tensor) -> torch.Tensor:
    """Return a subset as a number, modality 0 its lowest bit."""
    return (drawn * 2 ** torch.arange(drawn.shape[-1])).sum(-1)


def by_members(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.sum(-1).float()


def repeated(times: int, *arguments: Any, **keywords: Any) -> torch.Tensor:
    """Return codes of many draws of a batch, `(draw, item)`."""
    torch.manual_seed(0)
    return torch.stack([code(subsets.draw_subset(*arguments, **keywords)) for _ in range(times)])


def assert_frequencies(draws: torch.Tensor, wanted: dict[int, float]) -> None:
    """Run a chi-square test of each column, at a level of 1e-4."""
    for column in draws.T:
        counts = {k: int((column == k).sum()) for k in wanted}
        assert sum(counts.values()) == len(column), "something else was drawn"
        observed, expected = list(counts.values()), [len(column) * p for p in wanted.values()]
        assert len(wanted) == 1 or chisquare(observed, expected).pvalue > 1e-4, (counts, wanted)


def assert_shares(wanted: dict[int, float], *arguments: Any, **keywords: Any) -> None:
    """Compare the shares in a large complete batch, which stratification makes exact to a row per end of a stratum."""
    rows = 2520
    modalities = max(wanted).bit_length()
    family, *rest = arguments
    for seed in range(3):
        torch.manual_seed(seed)
        counts = code(subsets.draw_subset(family, torch.ones(rows, modalities).bool(), *rest, **keywords)).bincount()
        assert {k: n for k, n in enumerate(counts.tolist()) if n} == pytest.approx(
            {k: rows * p for k, p in wanted.items()}, abs=2, rel=0
        )


@few
@given(present=PRESENCE, family=st.sampled_from(FAMILIES), kind=st.sampled_from(["uniform", "by_size", by_members]))
def test_draw_subset_returns_live_subsets(present: list[list[bool]], family: Any, kind: Any) -> None:
    mask = torch.tensor(present)
    drawn = subsets.draw_subset(family, mask, kind)
    assert drawn.dtype == torch.bool
    assert drawn.shape == mask.shape
    assert not (drawn & ~mask).any()
    matrix, live = subsets.members_of(family, mask)
    assert torch.equal(drawn.any(-1), live.any(-1))
    for b in range(len(present)):
        if live[b].any():
            members = matrix[b] if matrix.dim() == 3 else matrix
            assert (drawn[b] == members[live[b]]).all(-1).any()


@few
@given(present=PRESENCE, positive=st.lists(st.booleans(), min_size=5, max_size=5), family=st.sampled_from(FAMILIES),
       kind=st.sampled_from(["uniform", "by_size", by_members]))  # fmt: skip
def test_draw_subset_never_returns_subsets_without_weight(
    present: list[list[bool]], positive: list[bool], family: Any, kind: Any
) -> None:
    mask, flags = torch.tensor(present), torch.tensor(positive)
    drawn = subsets.draw_subset(family, mask & flags, kind)
    assert not (drawn & ~(mask & flags)).any()
    matrix, live = subsets.members_of(family, mask)
    alive = (live & ~(matrix & ~flags).any(-1)).any(-1) if family != "all" else (mask & flags).any(-1)
    assert torch.equal(drawn.any(-1), alive)
    assert not drawn[~alive].any()


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3), (0,)])
@pytest.mark.parametrize("family", FAMILIES)
def test_draw_subset_takes_any_batch_shape(family: Any, shape: tuple[int, ...]) -> None:
    drawn = subsets.draw_subset(family, torch.ones(*shape, 5).bool())
    assert drawn.shape == (*shape, 5)
    assert drawn.any(-1).all()


def test_draw_subset_is_uniform_over_each_items_subsets() -> None:
    present = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    draws = repeated(1200, "powerset", present)
    for column, bits in zip(draws.T, present, strict=True):
        own = [k for k in range(1, 16) if k & int(code(bits)) == k] or [0]
        assert_frequencies(column.unsqueeze(-1), dict.fromkeys(own, 1 / len(own)))


@pytest.mark.parametrize("family", ["powerset", "singletons"])
def test_draw_subset_is_independent_of_position(family: str) -> None:
    """Test the marginal of each row, since draws that followed the row would pass any test of the whole batch."""
    draws = repeated(800, family, torch.ones(7, 3).bool())
    options = range(1, 8) if family == "powerset" else (1, 2, 4)
    assert_frequencies(draws, {k: 1 / len(options) for k in options})


def test_draw_subset_does_not_tie_neighbours() -> None:
    """Check that rows are independent but for the stratification, which makes equal subsets a little rarer."""
    draws = repeated(600, "powerset", torch.ones(70, 3).bool())
    tied = (draws[:, 1:] == draws[:, :-1]).double().mean(0)
    expected = 9 / 69  # the strata of the same subset among the others
    assert ((tied - expected).abs() < 5 * (expected / 600) ** 0.5).all()


@pytest.mark.parametrize("times", [1, 8])
def test_draw_subset_of_complete_batch_is_stratified(times: int) -> None:
    present = torch.ones(31 * times, 5).bool()
    for seed in range(5):
        torch.manual_seed(seed)
        counts = code(subsets.draw_subset("powerset", present)).bincount(minlength=32)
        assert counts[0] == 0
        assert (counts[1:] - times).abs().max() <= 1
        assert (subsets.draw_subset("singletons", torch.ones(5 * times, 5).bool()).sum(0) - times).abs().max() <= 1


def test_draw_subset_twice_differs() -> None:
    present = torch.ones(31, 5).bool()
    assert not torch.equal(subsets.draw_subset("powerset", present), subsets.draw_subset("powerset", present))


def test_draw_subset_follows_torchs_seed() -> None:
    present = torch.ones(31, 5).bool()
    first, second = repeated(2, "powerset", present), repeated(2, "powerset", present)
    assert torch.equal(first, second)


def test_draw_subset_by_size_has_expected_frequencies() -> None:
    assert_shares({1: 1 / 9, 2: 1 / 9, 4: 1 / 9, 3: 1 / 9, 5: 1 / 9, 6: 1 / 9, 7: 1 / 3}, "powerset", "by_size")
    draws = repeated(500, "powerset", torch.tensor([[1, 1, 1], [1, 0, 1]]).bool(), "by_size")
    assert_frequencies(draws[:, :1], {1: 1 / 9, 2: 1 / 9, 4: 1 / 9, 3: 1 / 9, 5: 1 / 9, 6: 1 / 9, 7: 1 / 3})
    assert_frequencies(draws[:, 1:], {1: 1 / 4, 4: 1 / 4, 5: 1 / 2})


def test_draw_subset_by_size_of_forty_modalities_has_uniform_sizes() -> None:
    """Count sizes and members of 40 modalities, half of them absent in every other item."""
    torch.manual_seed(0)
    present = torch.ones(4000, 40).bool()
    present[1::2, 20:] = False
    drawn = subsets.draw_subset("powerset", present, "by_size")
    assert not (drawn & ~present).any()
    for rows, count in ((slice(0, None, 2), 40), (slice(1, None, 2), 20)):
        sizes = drawn[rows].sum(-1).bincount(minlength=count + 1)[1:]
        assert chisquare(sizes).pvalue > 1e-4
        members = drawn[rows].sum(0)[:count].double()
        expected = 2000 * (count + 1) / (2 * count)
        assert ((members - expected).abs() < 5 * 500**0.5).all()


def test_draw_subset_by_function_and_factor_has_expected_frequencies() -> None:
    sizes = {1: 1 / 12, 2: 1 / 12, 4: 1 / 12, 3: 1 / 6, 5: 1 / 6, 6: 1 / 6, 7: 1 / 4}
    assert_shares(sizes, "powerset", by_members)
    factor = torch.tensor([1.0, 0.0, 3.0])
    assert_shares({1: 1 / 4, 4: 3 / 4}, "singletons", "uniform", factor)
    draws = repeated(500, "powerset", torch.ones(2, 3).bool(), by_members)
    assert_frequencies(draws, sizes)
    draws = repeated(100, "singletons", torch.tensor([[True, True, False]]), "uniform", factor)
    assert (draws == 1).all()


def test_draw_subset_from_membership_matrix_has_expected_frequencies() -> None:
    present = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 1], [1, 0, 1, 0, 1]]).bool()
    assert_shares({3: 1 / 3, 6: 1 / 3, 24: 1 / 3}, CHAIN)
    draws = repeated(500, CHAIN, present)
    assert_frequencies(draws[:, :1], {3: 1 / 3, 6: 1 / 3, 24: 1 / 3})
    assert_frequencies(draws[:, 1:2], {3: 1 / 2, 6: 1 / 2})
    assert (draws[:, 2] == 0).all()


@pytest.mark.parametrize("positive", [[True, False, False], [True, True, False]])
def test_draw_subset_with_zero_weights_has_expected_frequencies(positive: list[bool]) -> None:
    draws = repeated(600, "powerset", torch.tensor(positive).expand(2, 3), "uniform")
    alive = [k for k in range(1, 8) if all(positive[m] for m in range(3) if k >> m & 1)]
    assert_frequencies(draws, {k: 1 / len(alive) for k in alive})


@pytest.mark.parametrize("count", [24, 40, 41, 50, 70])
def test_draw_subset_of_many_modalities_has_fair_bits(count: int) -> None:
    """Check that each bit has frequency 2^(M-1) / (2^M - 1), and that bits are independent."""
    torch.manual_seed(0)
    rows = 20_000
    drawn = subsets.draw_subset("powerset", torch.ones(rows, count).bool()).double()
    bound = 5 * 0.5 / rows**0.5
    assert ((drawn.mean(0) - 2 ** (count - 1) / (2**count - 1)).abs() < bound).all()
    signs = 2 * drawn - 1
    products = (signs.T @ signs / rows).fill_diagonal_(0.0)
    assert products.abs().max() < 5.5 / rows**0.5
    assert len(drawn.unique(dim=0)) > rows * (0.99 if count > 30 else 0.9)


def test_draw_subset_of_small_powersets_has_exact_frequencies() -> None:
    for count in (1, 2, 3, 4):
        size = 2**count - 1
        drawn = subsets.draw_subset("powerset", torch.ones(60 * size, count).bool())
        assert (drawn.sum(0) - 60 * 2 ** (count - 1)).abs().max() <= size


def test_draw_subset_with_few_positive_weights_among_many() -> None:
    torch.manual_seed(0)
    positive = torch.zeros(50).bool()
    positive[[3, 47]] = True
    drawn = subsets.draw_subset("powerset", positive.expand(6000, 50), "uniform")
    assert drawn.any(-1).all()
    assert not drawn[:, ~positive].any()
    assert (drawn[:, positive].sum(0) - 4000).abs().max() <= 2  # 2 of the 3 heads, stratified


@pytest.mark.parametrize("kind", ["uniform", "by_size", by_members])
def test_draw_subset_at_ends_of_strata_returns_live_subsets(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fix the uniform number at the lower end of the first live subset's share, or next to 1."""
    present = torch.tensor([[False, True, True], [True, True, False]])
    for u in (0.0, 1.0 - torch.finfo(F64).eps):
        monkeypatch.setattr(subsets, "stratified_uniform", lambda shape, device, u=u: torch.full(shape, u, dtype=F64))
        for family in ("singletons", "powerset"):
            drawn = subsets.draw_subset(family, present, kind)
            assert drawn.any(-1).all()
            assert not (drawn & ~present).any()


def test_draw_subset_refuses_to_enumerate_beyond_the_limit() -> None:
    present = torch.ones(2, 13).bool()
    with pytest.raises(ValueError, match="8,191 subsets needs subset_weights='uniform', 'by_size' or 'singles:SHARE'"):
        subsets.draw_subset("powerset", present, by_members)
    subsets.draw_subset("powerset", present[:, :12], by_members)
    subsets.draw_subset("powerset", present, "by_size")


@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 5)])
def test_stratified_uniform_has_one_number_per_stratum(shape: tuple[int, ...]) -> None:
    count = torch.Size(shape).numel()
    draws = torch.stack([subsets.stratified_uniform(torch.Size(shape), torch.device("cpu")) for _ in range(2000)])
    assert draws.dtype == torch.float64
    assert draws.shape == (2000, *shape)
    assert (draws >= 0).all()
    assert (draws < 1).all()
    cells = (draws.reshape(2000, -1) * count).long().sort(-1).values
    assert (cells == torch.arange(count)).all()
    error = (1 / 12 / 2000) ** 0.5
    assert ((draws.mean(0) - 0.5).abs() < 5 * error).all()


@pytest.mark.parametrize(
    ("modalities", "options"),
    [(1, {}), (2, {}), (5, {}), (12, {}), (40, {}), (41, {}), (5, {"subset_weights": "by_size"})],
)
def test_draw_of_complete_experts_equals_draw_with_full_mask(modalities: int, options: dict[str, Any]) -> None:
    loc = torch.zeros(30, modalities, 2)
    drawn = []
    for present in (None, torch.ones(30, modalities).bool()):
        torch.manual_seed(0)
        members = make_aggregation("mwb", **options).draw(Experts(loc, loc.exp(), present))
        drawn.append((members, torch.rand(3)))  # what is drawn next is equal too
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
