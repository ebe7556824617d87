"""Attributes as labels in probe, classifiers, coherence and agreement, against reference values."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, cohen_kappa_score
from torch import Tensor, nn

from pyro_mmvae import Experts, Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.data import Missing
from pyro_mmvae.evaluation import Evaluation, EvaluationOptions, Metric, evaluate
from pyro_mmvae.evaluation.attributes import agreement, average_precisions, mean_average_precision
from pyro_mmvae.evaluation.classifiers import Classifiers, train_classifiers
from pyro_mmvae.evaluation.coherence import conditional_coherence, joint_agreement
from pyro_mmvae.evaluation.probe import linear_probe
from pyro_mmvae.evaluation.statistics import StatisticContext, make_statistics
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.reports import draw_evaluation, table
from pyro_mmvae.runs import write_evaluation
from pyro_mmvae.runs.sampling import one_of_each_class

ATTRIBUTES = ("Left", "Right", "Never")


def marked(size: int, split: str, seed: int = 0) -> MultimodalDataset:
    """Return images whose halves are bright or not, independently, and a second modality that shows the same."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(size, 2, generator=generator) < torch.tensor([0.5, 0.2])
    images = torch.randint(0, 60, (size, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images[..., :4] += 150 * labels[:, 0].reshape(-1, 1, 1, 1)
    images[..., 4:] += 150 * labels[:, 1].reshape(-1, 1, 1, 1)
    labels = torch.cat([labels, torch.zeros(size, 1, dtype=torch.bool)], 1)
    present = torch.ones(size, 2, dtype=torch.bool)
    values = {"a": images, "b": images.flip(-2)}
    return MultimodalDataset(values, labels, present, "marked", split, {"seed": seed}, label_names=ATTRIBUTES)


TRAIN, TEST = marked(300, "train"), marked(100, "test", 1)


def test_average_precisions_attributes_without_items_are_left_out() -> None:
    generator = np.random.default_rng(0)
    truth, scores = generator.random((50, 3)) < 0.3, generator.random((50, 3))
    truth[:, 1] = False
    precisions = average_precisions(scores, truth)
    assert list(precisions) == [0, 2]
    order = np.argsort(-scores[:, 2])
    hits = truth[order, 2]
    by_hand = (np.cumsum(hits) / np.arange(1, 51))[hits].mean()
    assert precisions[2] == pytest.approx(by_hand)
    assert mean_average_precision(scores, truth) == pytest.approx((precisions[0] + by_hand) / 2)
    assert np.isnan(mean_average_precision(scores[:, :0], truth[:, :0]))
    constant = average_precisions(np.zeros((50, 3)), truth)
    assert constant[0] == pytest.approx(truth[:, 0].mean())


def test_agreement_matches_fleiss_and_cohen_kappa() -> None:
    generator = np.random.default_rng(0)
    ratings = generator.random((4, 60, 3)) < np.array([0.5, 0.1, 0.3])
    ratings[1:3, :, 0] = ratings[0, :, 0]
    kappas = agreement(torch.from_numpy(ratings))
    for k in range(3):
        pairs = [(ratings[i, n, k], ratings[j, n, k]) for i, j in combinations(range(4), 2) for n in range(60)]
        observed = np.mean([one == other for one, other in pairs])
        share = ratings[..., k].mean()
        chance = share**2 + (1 - share) ** 2
        assert kappas[k] == pytest.approx((observed - chance) / (1 - chance))
    # For two raters with equal shares of positive ratings it equals Cohen's kappa.
    two = np.stack([ratings[0, :, 0], np.roll(ratings[0, :, 0], 7)])
    assert agreement(torch.from_numpy(two[..., None]))[0] == pytest.approx(cohen_kappa_score(*two))


def test_agreement_is_one_for_equal_and_zero_for_independent_raters() -> None:
    ratings = torch.rand(2, 20_000, 2) < torch.tensor([0.5, 0.02])
    assert max(abs(value) for value in agreement(ratings).values()) < 0.05
    assert agreement(ratings[:1].expand(3, -1, -1)) == {0: 1.0, 1: 1.0}
    never = torch.zeros(2, 5, 1, dtype=torch.bool)
    assert agreement(never) == agreement(~never) == {}


# The probe -----------------------------------------------------------------------------------------------------------


def test_linear_probe_attributes_have_a_mean_and_one_row_each() -> None:
    vae = MultimodalVAE([Modality("a", (2,)), Modality("b", (3,))], 4, "wb").eval()
    loc = torch.randn(400, 2, 4)
    labels = loc[:, 0, :3] + 0.3 * torch.randn(400, 3) > torch.tensor([0.0, 1.0, 99.0])
    experts = Experts(loc, torch.ones_like(loc))
    train, test = Experts(loc[:300], torch.ones(300, 2, 4)), Experts(loc[300:], torch.ones(100, 2, 4))
    for protocol in ("per-subset", "joint"):
        rows = linear_probe(
            vae, train, labels[:300], test, labels[300:], subsets=[(0,), (1,)], label_names=ATTRIBUTES,
            protocol=protocol,
        )  # fmt: skip
        assert [(row.given, row.target) for row in rows] == [
            (given, target) for given in (("a",), ("b",)) for target in ("", "Left", "Right")
        ]
        assert {row.protocol for row in rows} == {f"{protocol}, 300 points, average precision"}
        assert rows[0].value == pytest.approx((rows[1].value + rows[2].value) / 2)
        assert rows[0].n == 100
    per_subset = linear_probe(
        vae, train, labels[:300], test, labels[300:], subsets=[(0,), (1,)], label_names=ATTRIBUTES
    )
    assert per_subset[1].value > 0.9
    assert per_subset[4].value == pytest.approx(float(labels[300:, 0].double().mean()), abs=0.2)
    unnamed = linear_probe(vae, train, labels[:300], test, labels[300:], subsets=[(0,)])
    assert [(row.target, row.value) for row in unnamed] == [("", per_subset[0].value)]
    assert len(experts.loc) == 400


# Classifiers ---------------------------------------------------------------------------------------------------------


def test_train_classifiers_attributes_are_learned_and_cached(tmp_path: Path) -> None:
    classifiers = train_classifiers(TRAIN, TEST, epochs=3, cache=tmp_path)
    assert classifiers.label_names == ATTRIBUTES
    assert classifiers.figure == "mean average precision"
    images = TEST.tensors["a"].float() / 255
    scores, predicted = classifiers.scores("a", images), classifiers.predict("a", images)
    assert predicted.dtype == torch.bool
    assert torch.equal(predicted, scores > 0)
    assert TEST.labels is not None
    assert (predicted[:, :2] == TEST.labels[:, :2]).double().mean() > 0.9
    expected = [average_precision_score(TEST.labels[:, k], scores[:, k]) for k in (0, 1)]
    assert classifiers.accuracy["a"] == pytest.approx(np.mean(expected))
    assert classifiers.accuracy["a"] > 0.99
    again = train_classifiers(TRAIN, TEST, epochs=3, cache=tmp_path)
    assert torch.equal(again.scores("a", images), scores)
    with pytest.raises(ValueError, match="the splits of data 'marked' must have the same label names"):
        train_classifiers(TRAIN, replace(TEST, label_names=("Left", "Right", "Other")))


# Coherence -----------------------------------------------------------------------------------------------------------


class Spelled(nn.Module):
    """A decoder whose images are the coordinates of the latent, with the opposite sign for the second modality."""

    def forward(self, z: Tensor, names: Any) -> dict[str, Tensor]:
        images = z.reshape(*z.shape[:-1], 1, 1, 3)
        return {name: -images if name == "b" else images for name in names}


def stub() -> MultimodalVAE:
    vae = MultimodalVAE([Modality(name, (1, 1, 3), network="mlp") for name in ("a", "b")], 3, "wb").eval()
    vae.model.decoders = Spelled()  # type: ignore[assignment]
    return vae


def readers() -> Classifiers:
    """Return classifiers whose scores are the pixels."""
    return Classifiers({name: nn.Sequential(nn.Flatten()) for name in ("a", "b")}, {"a": 1.0, "b": 1.0}, 0, ATTRIBUTES)


def test_conditional_coherence_attributes_match_average_precision() -> None:
    scores = torch.randn(200, 3)
    labels = scores + torch.randn(200, 3) > torch.tensor([0.0, 1.0, 99.0])
    experts = Experts(scores[:, None].expand(-1, 2, -1).clone(), torch.full((200, 2, 3), 1e-6))
    rows = conditional_coherence(stub(), experts, labels, readers(), subsets=[(0,), (1,), (0, 1)], batch_size=7)
    assert [(row.given, row.target) for row in rows] == [
        (("a",), "b.Left"), (("a",), "b.Right"), (("b",), "a.Left"), (("b",), "a.Right"),
    ]  # fmt: skip
    values = {row.target: row.value for row in rows}
    for k, name in enumerate(ATTRIBUTES[:2]):
        truth = labels[:, k].numpy()
        assert values[f"a.{name}"] == pytest.approx(average_precision_score(truth, scores[:, k]), abs=1e-3)
        assert values[f"b.{name}"] == pytest.approx(average_precision_score(truth, -scores[:, k]), abs=1e-3)
    assert {(row.metric, row.n) for row in rows} == {("coherence", 200)}
    assert rows[0].protocol.endswith("mean of the likelihood, average precision")


def test_joint_agreement_matching_and_opposite_modalities() -> None:
    rows = joint_agreement(stub(), readers(), draws=500, batch_size=64)
    assert [(row.metric, row.target, row.given, row.n) for row in rows] == [
        ("joint_coherence", name, (), 500) for name in ATTRIBUTES
    ]
    assert max(row.value for row in rows) < -0.95  # the two modalities have opposite signs
    vae = stub()
    vae.model.decoders.forward = lambda z, names: {n: z.reshape(-1, 1, 1, 3) for n in names}  # type: ignore[method-assign]
    assert {row.value for row in joint_agreement(vae, readers(), draws=100)} == {1.0}
    with pytest.raises(ValueError, match="at least two modalities, got 1"):
        joint_agreement(stub(), Classifiers({"a": nn.Flatten()}, {}, 0, ATTRIBUTES))


# The whole -----------------------------------------------------------------------------------------------------------


def test_evaluate_attributes_writes_figures_and_pictures(tmp_path: Path) -> None:
    modalities = [Modality(name, (1, 8, 8)) for name in ("a", "b")]
    vae = MultimodalVAE(modalities, 3, "mwb", network=NetworkOptions(width=4, hidden=8)).eval()
    options = EvaluationOptions(likelihood_items=0, khat_items=0, quality=False, diagnostics=False, draws=50)
    result = evaluate(vae, TRAIN, TEST, options=options, cache=tmp_path)
    assert TEST.labels is not None
    assert result.arrays["labels"].tolist() == TEST.labels[:, 0].long().tolist()  # the most evenly divided
    assert str(result.arrays["label_name"]) == "Left"
    shares = TEST.labels.double().mean(0).tolist()
    assert result.attribute_frequency == dict(zip(ATTRIBUTES, shares, strict=True))
    summary = json.loads(json.dumps(result.summary()))
    probe = summary["means_by_views"]["probe"]["per-subset, 300 points, average precision"]
    means = [
        row.value
        for row in result.rows
        if row.metric == "probe" and not row.target and row.protocol.startswith("per-subset")
    ]
    assert probe == {"1": pytest.approx((means[0] + means[1]) / 2), "2": pytest.approx(means[2])}
    joint = "one draw of the joint component"
    coherence = [row for row in result.rows if row.metric == "coherence" and row.protocol.startswith(joint)]
    assert {row.target for row in coherence} == {"a.Left", "a.Right", "b.Left", "b.Right"}
    (by_views,) = (v for k, v in summary["means_by_views"]["coherence"].items() if k.startswith(joint))
    assert by_views["1"] == pytest.approx(np.mean([row.value for row in coherence]))
    write_evaluation(tmp_path, [row.as_row() for row in result.rows], {**summary, "aggregation": "mwb"}, result.arrays)
    assert {file.name for file in draw_evaluation(tmp_path)} == {"views.png", "latent.png"}
    text = table(tmp_path)
    assert f"classifiers' test mean average precision: a {result.classifier_accuracy['a']:.3f}" in text
    assert "3 attributes, whose single rows are in metrics.csv; the mean average precision of an" in text
    assert f"uninformative score is {sum(shares) / 3:.3f}" in text


def test_summary_probe_averages_the_mean_rows_only() -> None:
    rows = [
        Metric("probe", "joint", given, target, value, 10, 0)
        for given, target, value in (
            (("a",), "", 0.5),
            (("a",), "Left", 0.4),
            (("a",), "Right", 0.6),
            (("b",), "", 0.9),
        )
    ]
    summary = Evaluation(tuple(rows), {}, {}, EvaluationOptions()).summary()
    assert summary["means_by_views"]["probe"] == {"joint": {"1": pytest.approx(0.7)}}


def test_parts_that_need_classes_handle_attributes() -> None:
    assert one_of_each_class(TRAIN, 4) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="data 'marked' must have one class per item, got attributes"):
        Missing(missing_by_label={0: 0.5}).apply(TRAIN)
    context = StatisticContext("a", classifiers=readers())
    made = make_statistics(["predicted_class", "attributes_seen"], "image", context)
    assert list(made) == ["attributes_seen"]
    images = torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]]).reshape(2, 1, 1, 3).expand(4, 2, 1, 1, 3)
    assert made["attributes_seen"](images, 3).tolist() == [[2.0, 0.0]] * 4
    context = replace(context, classifiers=replace(readers(), label_names=()))
    assert list(make_statistics(["predicted_class", "attributes_seen"], "image", context)) == ["predicted_class"]
