"""Diagnostics of posteriors whose distances are known, and each failure mode made on purpose."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_mmvae import Experts, Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.evaluation import posteriors as module
from pyro_mmvae.evaluation.diagnostics import KHat, diagnose, expert_geometry, khat
from pyro_mmvae.evaluation.likelihood import khat_threshold
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.posteriors import encode_dataset, latent_usage
from pyro_mmvae.networks import NetworkOptions

NAMES, LATENT, NOISE = ("a", "b", "c"), 3, 0.5


def vae_of(aggregation: str = "wb", prior: tuple[float, float] | None = None) -> MultimodalVAE:
    return MultimodalVAE([Modality(name, (2,)) for name in NAMES], LATENT, aggregation, prior=prior).eval()


def experts_of(loc: Tensor, scale: Tensor | float = 1.0, present: Tensor | None = None) -> Experts:
    return Experts(loc, torch.as_tensor(scale).expand(loc.shape), present)


def alike(items: int, scale: float, spread: float = 1.0) -> Experts:
    """Three experts who agree, means of the given spread, each a little off."""
    z = spread * torch.randn(items, 1, LATENT)
    return experts_of(z + scale * torch.randn(items, 3, LATENT), scale)


def figures(rows: list[Metric]) -> dict[str, Metric]:
    assert all(row.target == "z" for row in rows)
    return {row.metric: row for row in rows}


@pytest.mark.parametrize("aggregation", ["wb", "mwb", "moe"])
@pytest.mark.parametrize("prior", [None, (1.0, 2.0)])
def test_posteriors_that_are_the_prior(aggregation: str, prior: tuple[float, float] | None) -> None:
    loc, scale = prior or (0.0, 1.0)
    experts = experts_of(torch.full((50, 3, LATENT), loc), scale)
    rows = figures(latent_usage(vae_of(aggregation, prior), experts, subset=(0, 1, 2), draws=100))
    for name in ("kl", "aggregate_kl", "aggregate_kl_moments", "active_units", "active_share"):
        assert rows[name].value == pytest.approx(0, abs=1e-5), name
        assert rows[name].given == NAMES


def test_one_item_is_its_own_aggregate() -> None:
    loc, scale = torch.tensor([1.0, -0.5, 0.0]), torch.tensor([0.5, 1.0, 2.0])
    known = float(0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum())
    rows = figures(latent_usage(vae_of(), experts_of(loc.expand(1, 3, 3), scale), subset=(0,), draws=20_000))
    assert rows["kl"].value == pytest.approx(known, rel=1e-6)
    assert rows["kl"].protocol == "closed form"
    assert rows["aggregate_kl_moments"].value == pytest.approx(known, rel=1e-6)
    assert rows["aggregate_kl"].value == pytest.approx(known, abs=0.06)
    assert (rows["aggregate_kl"].n, rows["kl"].n) == (20_000, 1)
    same = experts_of(loc.expand(40, 3, 3), scale)  # as are many equal items, by sampling where there is no formula
    rows = figures(latent_usage(vae_of("moe"), same, subset=(0, 1), draws=20_000))
    assert rows["kl"].value == pytest.approx(known, abs=0.4)
    assert rows["kl"].protocol == "16 draws an item"
    assert rows["aggregate_kl"].value == pytest.approx(known, abs=0.06)


def test_posteriors_that_fill_the_prior_together() -> None:
    torch.manual_seed(1)
    scale = 0.6
    loc = math.sqrt(1 - scale**2) * torch.randn(4000, 1, LATENT).expand(-1, 3, -1)
    rows = figures(latent_usage(vae_of(), experts_of(loc, scale), subset=(0, 1, 2)))
    assert rows["kl"].value == pytest.approx(-3 * math.log(scale), abs=0.1)
    assert rows["aggregate_kl"].value == pytest.approx(0, abs=0.1)
    assert 0 <= rows["aggregate_kl_moments"].value < 0.01


def test_items_far_apart_are_told_apart() -> None:
    experts = experts_of(torch.tensor([-3.0, 3.0])[:, None, None].expand(-1, 3, 3), 0.1)
    rows = figures(latent_usage(vae_of(), experts, subset=(0,), draws=4000))
    kl = 0.5 * 3 * (0.01 + 9 - 1 - 2 * math.log(0.1))
    assert rows["kl"].value == pytest.approx(kl, rel=1e-5)
    assert rows["aggregate_kl"].value == pytest.approx(kl - math.log(2), abs=0.05)  # z tells which, all of log N
    assert rows["aggregate_kl_moments"].value == pytest.approx(0.5 * 3 * (9.01 - 1 - math.log(9.01)), rel=1e-5)


def test_the_sampled_kl_does_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    experts, vae = alike(60, 0.3), vae_of("mwb")
    whole = figures(latent_usage(vae, experts, subset=(0, 1, 2), draws=50))["aggregate_kl"].value
    # By hand, all at once, from the same draws: every density over every item.
    with module.seeded(0, torch.device("cpu")):
        module._mean_kl(vae, experts, (0, 1, 2))
        rows = torch.randint(60, (50,))
        z = module.posterior_draws(vae, module.take(experts, rows), (0, 1, 2))
        density = module.subset_posterior(vae, experts, (0, 1, 2)).log_prob(z[:, None].expand(-1, 60, -1))
        density = density.logsumexp(1)
    by_hand = (density - math.log(60) - vae.model.prior().log_prob(z)).mean().item()
    assert whole == pytest.approx(by_hand, rel=1e-5)
    monkeypatch.setattr(module, "_ELEMENTS", 7 * LATENT * 50 * 8)
    assert module.items_at_once(vae, experts, (0, 1, 2)) // 50 == 8
    in_chunks = figures(latent_usage(vae, experts, subset=(0, 1, 2), draws=50))["aggregate_kl"].value
    assert in_chunks == pytest.approx(whole, rel=1e-5)


def test_active_units_and_missing_items() -> None:
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


def test_wasserstein_distances_are_known() -> None:
    loc = torch.zeros(10, 3, LATENT)
    loc[:, 1, 0], loc[:, 2, 1] = 3.0, 5.0
    scale = torch.ones(10, 3, LATENT)
    scale[:, 1, 2] = 5.0
    present = torch.ones(10, 3, dtype=torch.bool)
    present[:4, 2] = False
    loc[:2, 2] = torch.nan
    rows = {(r.metric, r.given, r.target): r for r in expert_geometry(vae_of(), Experts(loc, scale, present))}
    assert rows["w2_experts", ("a",), "b"].value == pytest.approx(5)  # 3 in loc, 4 in scale
    assert rows["w2_experts", ("a",), "b"].n == 10
    assert rows["w2_experts", ("a",), "c"].value == pytest.approx(5)
    assert rows["w2_experts", ("a",), "c"].n == 6
    assert rows["w2_experts", ("b",), "c"].value == pytest.approx(math.sqrt(9 + 25 + 16))
    # The barycenter of a and b has loc 1.5 and scale 3; of all, loc 1 and 5/3, scale 7/3.
    two, three = 2.5, math.sqrt(1 + (5 / 3) ** 2 + (4 / 3) ** 2)
    assert rows["w2_to_barycenter", ("a",), ""].value == pytest.approx((4 * two + 6 * three) / 10)
    assert rows["expert_kl", ("a",), ""].value == pytest.approx(0)
    assert rows["expert_kl", ("c",), ""].value == pytest.approx(12.5)
    assert rows["expert_kl", ("c",), ""].n == 6
    assert rows["expert_scale", ("b",), ""].value == pytest.approx(math.sqrt(27))
    assert rows["expert_spread", ("b",), ""].value == 0


def test_distance_to_a_mixture_is_to_its_moments() -> None:
    loc = torch.tensor([-1.0, 1.0, 0.0])[:, None].expand(4, 3, 3)
    present = torch.tensor([True, True, False]).expand(4, 3)
    rows = {(r.metric, r.given): r.value for r in expert_geometry(vae_of("moe"), experts_of(loc, 1.0, present))}
    assert rows["w2_to_barycenter", ("a",)] == pytest.approx(math.sqrt(3 * (1 + (math.sqrt(2) - 1) ** 2)), rel=1e-6)
    assert ("w2_to_barycenter", ("c",)) not in rows
    alone = experts_of(loc, 1.0, torch.tensor([True, False, False]).expand(4, 3))
    assert {r.metric for r in expert_geometry(vae_of(), alone)} == {"expert_kl", "expert_scale", "expert_spread"}


def linear(shift: float = 0.0, factor: float = 1.0, items: int = 40) -> tuple[MultimodalVAE, MultimodalDataset]:
    """A model x = z + noise in each of two modalities, with the exact posterior as guide, or one that is off."""
    modalities = [Modality(n, (LATENT,), likelihood="normal", scale=NOISE) for n in "ab"]
    vae = MultimodalVAE(modalities, LATENT, "poe", network=NetworkOptions(depth=0)).eval()
    networks: Any = vae.guide.encode.networks
    decoders: Any = vae.model.decoders.networks
    with torch.no_grad():
        decoders[0].body[0].weight.copy_(torch.eye(LATENT).expand(2, -1, -1))
        decoders[0].body[0].bias.zero_()
        head = networks[0].head.linear
        head.weight.copy_(torch.cat([torch.eye(LATENT), torch.zeros(LATENT, LATENT)], 1).expand(2, -1, -1))
        head.bias[:, 0, :LATENT] = shift
        head.bias[:, 0, LATENT:] = math.log(factor * NOISE)
    z = torch.randn(items, 1, LATENT)
    x = z + NOISE * torch.randn(items, 2, LATENT)
    present = torch.ones(items, 2, dtype=torch.bool)
    return vae, MultimodalDataset({"a": x[:, 0], "b": x[:, 1]}, None, present, "linear", "test")


def khat_of(vae: MultimodalVAE, data: MultimodalDataset, **options: Any) -> KHat:
    return khat(vae, encode_dataset(vae, data), data, **{"subset": (0, 1), **options})


def test_khat_of_the_exact_posterior() -> None:
    found = khat_of(*linear(), items=25)
    assert found.values.shape == found.items.shape == (25,)
    assert (found.values < 0.5).all()
    median, share = found.rows
    assert (median.metric, median.given, median.target, median.n) == ("khat", ("a", "b"), "", 25)
    assert (share.metric, share.value) == ("khat_share", 0.0)
    assert found.threshold == khat_threshold(1000)
    assert "S=1000" in median.protocol
    assert "25 of 40 items" in median.protocol
    assert not [w for w in diagnose(found.rows, ("a", "b")) if "does not fit" in w.what]


def test_khat_of_a_guide_made_wrong() -> None:
    found = khat_of(*linear(shift=0.6, factor=0.4), items=25)
    assert np.median(found.values) == found.rows[0].value > found.threshold
    assert found.rows[1].value == np.mean(found.values > found.threshold) > 0.5
    (warning,) = diagnose(found.rows, ("a", "b"))
    assert warning.what.startswith("the guide given a, b does not fit")
    assert "aggregation" in warning.advice


def test_khat_judges_the_guide_by_what_it_saw() -> None:
    """The exact posterior given one of two modalities fits, however little it knows of the other one."""
    vae, data = linear()
    found = khat_of(vae, data, subset=(0,), items=25)
    assert (found.values < 0.5).all()
    assert found.rows[0].given == ("a",)
    wrong, data = linear(shift=0.6, factor=0.4)
    assert khat_of(wrong, data, subset=(0,), items=25).rows[1].value > 0.5


def test_khat_items_are_those_that_have_the_subset() -> None:
    vae, data = linear(items=30)
    present = torch.ones(30, 2, dtype=torch.bool)
    present[::3, 1] = False
    data = MultimodalDataset(data.modalities, None, present, "linear", "test")
    found = khat_of(vae, data, items=100)
    assert found.items.tolist() == [i for i in range(30) if i % 3]
    some = khat_of(vae, data, items=5, seed=1)
    assert set(some.items) < set(found.items)
    assert some.items.tolist() != khat_of(vae, data, items=5, seed=2).items.tolist()
    assert (khat_of(vae, data, items=5, seed=1).values == some.values).all()


def test_khat_wants_draws_and_items() -> None:
    vae, data = linear(items=3)
    with pytest.raises(ValueError, match="at least 1000 for a Pareto fit, not 999"):
        khat_of(vae, data, samples=999)
    nothing = MultimodalDataset(data.modalities, None, torch.tensor([[True, False]] * 3), "linear", "test")
    with pytest.raises(ValueError, match="no item has"):
        khat_of(vae, nothing)


def warnings_of(experts: Experts, aggregation: str = "wb") -> list[str]:
    vae = vae_of(aggregation)
    rows = [*expert_geometry(vae, experts), *latent_usage(vae, experts, subset=(0, 1, 2), draws=200)]
    found = diagnose(rows, NAMES)
    assert all(warning.advice for warning in found)
    return [warning.what for warning in found]


@pytest.mark.parametrize("aggregation", ["wb", "mwb", "moe", "poe"])
@pytest.mark.parametrize("scale", [0.3, 0.7])
def test_a_healthy_model_has_no_warnings(aggregation: str, scale: float) -> None:
    assert warnings_of(alike(300, scale, math.sqrt(1 - scale**2)), aggregation) == []


def test_experts_too_far_apart() -> None:
    experts = alike(300, 0.2, 0.8)
    loc = experts.loc.clone()
    loc[:, 2] = 0.2 * torch.randn(300, LATENT) + torch.tensor([2.0, -2.0, 2.0])
    far = [w for w in warnings_of(experts_of(loc, 0.2)) if "apart" in w]
    assert sorted(w.split(" are ")[0] for w in far) == ["experts a and c", "experts b and c"]
    assert "times what their scales" in far[0]


def test_the_gravest_comes_first_and_nobody_is_told_to_do_what_they_do() -> None:
    rows = [Metric("expert_scale", "", (n,), "", 1.0, 9, 0) for n in NAMES]
    rows += [Metric("w2_experts", "", (a,), b, d, 9, 0) for a, b, d in (("a", "b", 9.0), ("a", "c", 20.0))]
    rows += [Metric("khat_share", "", NAMES, "", 0.9, 9, 0)]
    single, mixture = diagnose(rows, NAMES), diagnose(rows, NAMES, mixture=True, bound="component")
    assert [w.what.split(" are")[0] for w in single[:2]] == ["experts a and c", "experts a and b"]
    assert [w.mode for w in single] == ["experts far apart", "experts far apart", "unfit guide"]
    assert "mwb" in single[0].advice
    assert "mixture" in single[2].advice
    for warning in mixture:
        assert "mixture" not in warning.advice
        assert "component" not in warning.advice
        assert "train longer" in warning.advice


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (0.3, 0.6)])
def test_a_collapsed_modality(loc: float, scale: float) -> None:
    experts = alike(300, 0.5, 0.9)
    locs, scales = experts.loc.clone(), experts.scale.clone()
    locs[:, 1], scales[:, 1] = loc, scale  # the prior, or something else that is the same for all items
    collapsed = [w for w in warnings_of(Experts(locs, scales)) if "collapsed" in w]
    assert [w.split(" has ")[0] for w in collapsed] == ["modality b"]


def test_a_modality_that_dominates() -> None:
    experts = alike(300, 0.9, 0.5)
    scale = experts.scale.clone()
    scale[:, 0] = 0.02
    wide = Experts(experts.loc, scale)
    assert [w.split(":")[0] for w in warnings_of(wide, "poe") if "dominates" in w] == ["modality a dominates"]
    assert not [w for w in warnings_of(wide, "wb") if "dominates" in w]


def test_experts_that_agree_do_not_dominate() -> None:
    rows = [Metric("w2_to_barycenter", "", (n,), "", v, 9, 0) for n, v in (("a", 1e-6), ("b", 0.1), ("c", 0.2))]
    assert diagnose([*rows, *(Metric("expert_scale", "", (n,), "", 1.0, 9, 0) for n in NAMES)], NAMES) == []


def test_few_active_units() -> None:
    row = Metric("active_share", "", NAMES, "z", 1 / 32, 100, 0)
    (warning,) = diagnose([row], NAMES)
    assert warning.what.startswith("only 3% of the latent dimensions")
    assert diagnose([Metric("active_share", "", ("a",), "z", 1 / 32, 100, 0)], NAMES) == []


def test_aggregated_posterior_far_from_the_prior() -> None:
    experts = alike(300, 0.3, 0.3)
    moved = experts_of(experts.loc + 3, 0.3)
    assert [w for w in warnings_of(moved) if "aggregated" in w]
    # Spread like the prior, but so sharp that 300 items leave gaps: of that the number of items is to blame.
    gaps = alike(300, 0.01, 1.0)
    rows = latent_usage(vae_of(), gaps, subset=(0, 1, 2), draws=200)
    assert figures(rows)["aggregate_kl"].value > 3
    assert diagnose(rows, NAMES) == []


def test_a_hole_that_moments_do_not_see() -> None:
    def rows(kl: float) -> list[Metric]:
        values = {"kl": kl, "aggregate_kl": 4.0, "aggregate_kl_moments": 0.1}
        return [Metric(name, "", NAMES, "z", value, 1000, 0) for name, value in values.items()]

    assert len(diagnose(rows(5.0), NAMES)) == 1  # z says 1 nat of which item it is, of 6.9 it could
    assert diagnose(rows(10.5), NAMES) == []


def test_no_figures_no_warnings_and_seeds_are_averaged() -> None:
    assert diagnose([], NAMES) == []
    rows = [Metric("khat_share", "", NAMES, "", value, 100, seed) for seed, value in enumerate((0.0, 0.3))]
    assert diagnose(rows, NAMES) == []
    assert len(diagnose(rows[1:], NAMES)) == 1
