"""Coherence of generated images that keep the label, or do not, by construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyro_mmvae import Experts, Modality, MultimodalVAE
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.coherence import conditional_coherence, joint_coherence
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.inference import FittedPrior

CLASSES, NAMES = 4, ("a", "b", "c")


class Spelled(nn.Module):
    """A decoder whose images hold in their first pixels the class nearest to the latent."""

    def __init__(self, shifts: Sequence[int]) -> None:
        super().__init__()
        self.shifts = shifts

    def forward(self, z: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        images = {}
        for name, shift in zip(NAMES, self.shifts, strict=True):
            classes = (z[..., 0].round().long() + shift) % CLASSES
            flat = nn.functional.one_hot(classes, 16).to(z)
            images[name] = flat.reshape(*z.shape[:-1], 1, 4, 4)
        return {name: images[name] for name in names}


def stub(shifts: Sequence[int] = (0, 0, 0), aggregation: str = "wb") -> MultimodalVAE:
    vae = MultimodalVAE([Modality(name, (1, 4, 4), network="mlp") for name in NAMES], 2, aggregation).eval()
    vae.model.decoders = cast("Any", Spelled(shifts))
    return vae


def readers(names: Sequence[str] = NAMES) -> Classifiers:
    """Return classifiers that read the first pixels."""
    linear = nn.Linear(16, CLASSES, bias=False)
    nn.init.eye_(linear.weight)
    return Classifiers({n: nn.Sequential(nn.Flatten(), linear) for n in names}, dict.fromkeys(names, 1.0), 0)


def telling(labels: Tensor, present: Tensor | None = None) -> Experts:
    """Return experts that know the class."""
    loc = labels.float()[:, None, None].expand(-1, 3, 2)
    return Experts(loc, torch.full(loc.shape, 1e-3), present)


LABELS = torch.arange(40) % CLASSES
SUBSETS = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


def by_pair(rows: list[Metric]) -> dict[tuple[tuple[str, ...], str], Metric]:
    return {(row.given, row.target): row for row in rows}


def test_conditional_coherence_perfect_generation_is_one() -> None:
    rows = by_pair(conditional_coherence(stub(), telling(LABELS), LABELS, readers(), subsets=SUBSETS, batch_size=7))
    assert len(rows) == 3 * 2 + 3 * 1  # every subset is judged on the modalities outside it
    assert {row.value for row in rows.values()} == {1.0}
    assert {row.n for row in rows.values()} == {40}
    assert rows[("a", "c"), "b"].metric == "coherence"
    assert "one draw of the posterior" in rows[("a",), "b"].protocol


def test_conditional_coherence_wrong_class_is_zero() -> None:
    rows = by_pair(conditional_coherence(stub((0, 1, 0)), telling(LABELS), LABELS, readers(), subsets=SUBSETS))
    assert {target: row.value for (_, target), row in rows.items()} == {"a": 1.0, "b": 0.0, "c": 1.0}


def test_conditional_coherence_shuffled_labels_are_at_chance() -> None:
    labels = torch.arange(4000) % CLASSES
    shuffled = labels[torch.randperm(4000)]
    rows = conditional_coherence(stub(), telling(labels), shuffled, readers(), subsets=[(0,)])
    assert [row.value for row in rows] == pytest.approx([0.25, 0.25], abs=0.04)


def test_conditional_coherence_default_draws_from_the_whole_posterior() -> None:
    labels = torch.zeros(4000, dtype=torch.long)
    experts = telling(labels)
    loc = experts.loc.clone()
    loc[:, 1] = 2.0  # b is certain of another class
    mixed = Experts(loc, experts.scale)
    (moe,) = conditional_coherence(stub(aggregation="moe"), mixed, labels, readers(), subsets=[(0, 1)])
    assert moe.value == pytest.approx(0.5, abs=0.04)
    (wb,) = conditional_coherence(stub(), mixed, labels, readers(), subsets=[(0, 1)])
    assert wb.value == 0.0  # the barycenter is halfway, at neither class


def test_conditional_coherence_joint_density_draws_from_the_component_of_the_subset() -> None:
    """Only the component of both experts, at classes 0 and 2, lies at class 1; the posterior of mwb has all three."""
    labels = torch.ones(6000, dtype=torch.long)
    loc = torch.zeros(6000, 3, 2)
    loc[:, 1] = 2.0
    shared: dict[str, Any] = {"labels": labels, "classifiers": readers(), "subsets": [(0, 1)]}
    vae, experts = stub(aggregation="mwb"), Experts(loc, torch.full_like(loc, 1e-3))
    (joint,) = conditional_coherence(vae, experts, density="joint", **shared)
    (mixture,) = conditional_coherence(vae, experts, **shared)
    assert joint.value == 1.0
    assert "one draw of the joint component" in joint.protocol
    assert mixture.value == pytest.approx(1 / 3, abs=0.03)
    assert "one draw of the posterior" in mixture.protocol


def test_conditional_coherence_items_without_the_subset_are_left_out() -> None:
    present = torch.ones(40, 3, dtype=torch.bool)
    present[:10, 0] = present[5:20, 1] = False
    experts = telling(LABELS, present)
    rows = by_pair(conditional_coherence(stub(), experts, LABELS, readers(), subsets=SUBSETS))
    assert {row.value for row in rows.values()} == {1.0}
    assert [rows[g, "c"].n for g in (("a",), ("b",), ("a", "b"))] == [30, 25, 20]
    none = telling(LABELS, torch.tensor([True, True, False]).expand(40, 3))
    rows = by_pair(conditional_coherence(stub(), none, LABELS, readers(), subsets=SUBSETS))
    assert {given for given, _ in rows} == {("a",), ("b",), ("a", "b")}  # no item has c


def test_conditional_coherence_modalities_without_classifier_are_left_out() -> None:
    rows = conditional_coherence(stub(), telling(LABELS), LABELS, readers("ab"), subsets=SUBSETS)
    assert {row.target for row in rows} == {"a", "b"}


def test_joint_coherence_agreeing_modalities_is_one() -> None:
    row = joint_coherence(stub((1, 1, 1)), readers(), draws=100, batch_size=7)
    assert (row.metric, row.value, row.n, row.given) == ("joint_coherence", 1.0, 100, ())


def test_joint_coherence_one_deviating_is_zero_and_random_is_chance() -> None:
    assert joint_coherence(stub((0, 0, 1)), readers(), draws=100).value == 0.0

    class Random(Classifiers):
        def predict(self, name: str, images: Tensor, *, batch_size: int = 1000) -> Tensor:
            return torch.randint(CLASSES, (len(images),))

    row = joint_coherence(stub(), Random(readers().networks, {}, 0), draws=8000)
    assert row.value == pytest.approx(1 / 16, abs=0.012)


def test_joint_coherence_of_a_fitted_prior_judges_its_draws() -> None:
    """The decoder of this model writes another class for b where the first coordinate of z is above 10."""
    vae = stub()

    class Divided(Spelled):
        def forward(self, z: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
            images, others = super().forward(z, names), Spelled((1, 0, 0))(z, names)
            far = (z[..., 0] > 10)[..., None, None, None]
            return {name: torch.where(far, others[name], images[name]) for name in names}

    vae.model.decoders = cast("Any", Divided((0, 0, 0)))
    halves = {"weights": [0.25, 0.75], "means": [[0.0, 0.0], [20.0, 0.0]], "scales": [[0.1, 0.1], [0.1, 0.1]]}
    arrays = {name: np.array(value) for name, value in halves.items()}
    prior = FittedPrior(arrays, {"kind": "mixture", "components": 2})
    row = joint_coherence(vae, readers(), draws=4000, prior=prior)
    assert row.value == pytest.approx(0.25, abs=0.03)
    assert row.protocol == "4000 draws of the fitted prior (2 Gaussians), mean of the likelihood"
    assert joint_coherence(vae, readers(), draws=100).value == 1.0


def test_joint_coherence_one_classifier_raises() -> None:
    with pytest.raises(ValueError, match="at least two modalities, got 1"):
        joint_coherence(stub(), readers("a"))


def test_conditional_coherence_seed_is_local_and_independent_of_other_subsets() -> None:
    labels = LABELS.repeat(20)
    experts, vae, classifiers = telling(labels), stub(), readers()
    wide = Experts(experts.loc, experts.scale + 0.5)
    before = torch.get_rng_state()
    rows = by_pair(conditional_coherence(vae, wide, labels, classifiers, subsets=SUBSETS, seed=5))
    joint_coherence(vae, classifiers)
    assert torch.equal(before, torch.get_rng_state())
    again = by_pair(conditional_coherence(vae, wide, labels, classifiers, subsets=[(1,)], seed=5, batch_size=3))
    assert again[("b",), "a"] == rows[("b",), "a"]
    assert 0.3 < rows[("b",), "a"].value < 1
    other = by_pair(conditional_coherence(vae, wide, labels, classifiers, subsets=[(1,)], seed=6))
    assert other[("b",), "a"].value != rows[("b",), "a"].value
