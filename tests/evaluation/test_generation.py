"""Modalities generated from a subset: one draw for all metrics, agreement and quality by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_mmvae import Experts, Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.evaluation import EvaluationOptions, fid_given
from pyro_mmvae.evaluation.coherence import conditional_coherence
from pyro_mmvae.evaluation.conditional_frechet import frechet_conditional
from pyro_mmvae.evaluation.frechet import frechet_distance
from pyro_mmvae.evaluation.generated_quality import generated_agreement, generated_quality
from pyro_mmvae.evaluation.generation import Generated, Generation, RealItems
from pyro_mmvae.evaluation.judging import judge_generated
from pyro_mmvae.evaluation.nearest_neighbours import fidelity
from tests.evaluation.fixed_decoder import fixed
from tests.evaluation.test_coherence import LABELS, readers, stub, telling
from tests.evaluation.test_variety import POOL, experts_at, make_data


class Told(Generation):
    """A generator whose modalities have scores given by hand."""

    def from_subset(self, subset: Sequence[int], density: str | None = None) -> dict[str, Generated]:
        return {f"m{m}": Generated(one, one) for m, one in enumerate(self.told)}

    told: Tensor


def test_generation_metrics_of_one_subset_share_one_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, experts, calls = stub(), telling(LABELS), []
    decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda z, *rest: calls.append(len(z)) or decode(z, *rest))
    generation = Generation(vae, experts, readers(), seed=5, batch_size=25)
    shared = conditional_coherence(vae, experts, LABELS, readers(), subsets=[(0,)], generation=generation)
    generated_agreement(generation, LABELS, (0,))
    assert calls == [25, 15]
    generation.from_subset((1,))
    assert calls == [25, 15, 25, 15]
    alone = conditional_coherence(vae, experts, LABELS, readers(), subsets=[(0,)], seed=5, batch_size=25)
    assert shared == alone


@pytest.mark.parametrize(("aggregation", "decodings"), [("wb", 1), ("mwb", 2)])
def test_generation_equal_densities_are_decoded_once(
    aggregation: str, decodings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, calls = stub(aggregation=aggregation), []
    decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda z, *rest: calls.append(len(z)) or decode(z, *rest))
    generation = Generation(vae, telling(LABELS), readers(), batch_size=40)
    for density in ("joint", "mixture"):
        generation.from_subset((0, 1), density)
    assert len(calls) == decodings


def test_generated_agreement_one_uncertain_draw_agrees_with_itself() -> None:
    labels = torch.arange(800) % 4
    loc = labels.float()[:, None, None].expand(-1, 3, 2)
    generation = Generation(stub(), Experts(loc, torch.ones_like(loc)), readers())
    found = {row.metric: row for row in generated_agreement(generation, labels, (0,))}
    assert found["agreement"].value == found["agreement_pairs"].value == 1  # both come from one draw
    assert found["agreement_label"].value == pytest.approx(0.38, abs=0.06)  # P(|z| < 1/2), and the classes are cyclic
    assert (found["agreement"].given, found["agreement"].target, found["agreement"].n) == (("a",), "", 800)
    apart = Generation(stub((0, 0, 1)), telling(labels), readers())
    assert [row.value for row in generated_agreement(apart, labels, (0,))] == [0, 0, 0]
    assert [row.value for row in generated_agreement(apart, labels, (2,))] == [1, 1, 1]
    assert generated_agreement(apart, labels, (0, 1)) == []


def test_generated_agreement_four_modalities_matches_hand_values() -> None:
    generation = Told(stub(), telling(torch.tensor([1, 0, 0])), readers())
    classes = torch.tensor([[1, 0, 2], [1, 0, 2], [1, 1, 2], [1, 1, 2]])  # two pairs of six agree on the second item
    generation.told = nn.functional.one_hot(classes, 4).float()
    rows = generated_agreement(generation, torch.tensor([1, 0, 0]), (0,))
    assert {row.metric: row.value for row in rows} == pytest.approx(
        {"agreement": 2 / 3, "agreement_pairs": 7 / 9, "agreement_label": 1 / 3}
    )


def test_real_items_distinct_keeps_the_first_of_equal_images() -> None:
    brightness = torch.tensor([0.0, 7.0, 0.0, 2.0, 7.0, 5.0])
    present = torch.ones(6, 2, dtype=torch.bool)
    present[1, 0] = False
    real = RealItems(make_data(brightness, None, present), POOL)
    torch.testing.assert_close(real.features("image")[:, 0], torch.tensor([0.0, 0.0, 2.0, 7.0, 5.0]))
    torch.testing.assert_close(real.distinct("image")[:, 0], torch.tensor([0.0, 2.0, 7.0, 5.0]))
    torch.testing.assert_close(real.radii("image", 1), torch.tensor([2.0, 2.0, 2.0, 2.0], dtype=torch.float64))


def test_generated_quality_fixed_decoder_matches_its_parts() -> None:
    brightness = torch.randn(300)
    data, experts = make_data(brightness, None), experts_at(1 + brightness, 1e-6)
    generation, real = Generation(fixed(), experts, POOL, seed=3), RealItems(data, POOL)
    rows = generated_quality(generation, real, (1,), neighbours=4)
    assert {(row.given, row.target, row.n, row.seed) for row in rows} == {(("text",), "image", 300, 3)}
    found = {row.metric: row.value for row in rows}
    one, other = brightness[:, None], 1 + brightness[:, None]
    assert found.pop("frechet_classifier") == pytest.approx(frechet_distance(one, other), rel=1e-3)
    assert found == pytest.approx(fidelity(one, other, neighbours=4), abs=0.02)
    assert all("4 nearest neighbours, one draw" in row.protocol for row in rows if row.metric in found)
    few = Generation(fixed(), experts_at(brightness[:4], 1.0), POOL)
    assert [row.metric for row in generated_quality(few, real, (1,), neighbours=4)] == ["frechet_classifier"]


@pytest.mark.parametrize("items", [90, 2000])
def test_judge_generated_equals_the_metrics_one_by_one(items: int) -> None:
    labels = torch.arange(200) % 2
    labels[:20] = -1
    brightness = labels + 0.3 * torch.randn(200)
    data, experts, vae = make_data(brightness, labels), experts_at(brightness, 0.2), fixed()
    shared: dict[str, Any] = {"subsets": [(0,), (1,), (0, 1)]}
    options = EvaluationOptions(frechet_items=items, seed=4)
    rows = judge_generated(vae, experts, data, POOL, densities=["mixture"], options=options, **shared)
    known = Experts(experts.loc[20:], experts.scale[20:])
    assert [row for row in rows if row.metric == "coherence"] == conditional_coherence(
        vae, known, labels[20:], POOL, seed=4, **shared
    )
    frechet = [row for row in rows if row.metric == "frechet_conditional"]
    assert frechet == frechet_conditional(vae, experts, data, POOL, items=items, seed=4, **shared)
    assert {row.n for row in rows if row.metric == "precision"} == {min(items, 180)}
    without = EvaluationOptions(quality=False, coherence_items=50)
    few = judge_generated(vae, experts, data, POOL, densities=["mixture"], options=without, **shared)
    assert {(row.metric, row.n) for row in few} == {("coherence", 50)}


def test_fid_given_compares_images_outside_the_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr("pyro_mmvae.evaluation.conditional_fid.fid", lambda *pair: seen.append(pair) or 2.5)
    names = {"rgb": (3, 8, 8), "grey": (1, 8, 8), "vector": (3,)}
    vae = MultimodalVAE([Modality(name, shape) for name, shape in names.items()], 2).eval()
    values = {name: torch.rand(6, *shape) for name, shape in names.items()}
    present = torch.ones(6, 3, dtype=torch.bool)
    present[4:, 0] = False
    data = MultimodalDataset(values, None, present, "some", "test")
    experts = Experts(torch.zeros(6, 3, 2), torch.ones(6, 3, 2), present)
    rows = fid_given(vae, experts, data, subsets=[(0,), (1,), (1, 2)], seed=3)
    assert [(row.metric, row.given, row.target, row.value, row.n) for row in rows] == [
        ("fid", ("grey",), "rgb", 2.5, 6), ("fid", ("grey", "vector"), "rgb", 2.5, 6),
    ]  # fmt: skip
    assert torch.equal(seen[0][0], values["rgb"][:4])
    assert seen[0][1].shape == (6, 3, 8, 8)
    assert fid_given(vae, experts, data, subsets=[(1,)], items=0) == []
