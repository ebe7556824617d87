"""Fréchet distances against closed forms and decoders whose output is known."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyro_mmvae import Experts, Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.evaluation import EvaluationOptions, evaluate, evaluate_readings
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.frechet import check_fid, fid, fid_of_prior_draws, frechet_classifier, frechet_distance
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.inference import FittedPrior
from tests.evaluation.fixed_decoder import fixed


def gaussian_sample(loc: Tensor, covariance: Tensor, count: int = 500) -> Tensor:
    """Return rows with exactly these sample moments."""
    x = torch.randn(count, len(loc), dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.mT.cov())).mT
    return x @ torch.linalg.cholesky(covariance).mT + loc


def judged(vae: MultimodalVAE, images: Tensor, experts: Experts, **options: Any) -> list[Metric]:
    """Return the rows of a classifier whose feature is the mean of an image."""
    pool = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(1, 2))
    data = MultimodalDataset(
        {"image": images, "text": torch.zeros(len(images), 2).long()},
        None, torch.ones(len(images), 2, dtype=torch.bool), "fixed", "test",
    )  # fmt: skip
    return frechet_classifier(vae, experts, data, Classifiers({"image": pool}, {"image": 1.0}, 0), **options)


def test_frechet_distance_gaussians_matches_the_closed_form() -> None:
    loc, scales = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64), torch.tensor([1.0, 2.0, 0.5])
    first = gaussian_sample(torch.zeros(3, dtype=torch.float64), torch.diag(scales.double() ** 2))
    second = gaussian_sample(loc, torch.eye(3, dtype=torch.float64) * 9)
    assert frechet_distance(first, second) == pytest.approx(5 + float((scales - 3).square().sum()), rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(frechet_distance(first, second), rel=1e-9)
    assert frechet_distance(first, first + loc) == pytest.approx(5, rel=1e-9)
    assert frechet_distance(first, first.flip(0)) == pytest.approx(0, abs=1e-12)


def test_frechet_distance_non_commuting_covariances_matches_eigenvalues() -> None:
    a, b = (x @ x.mT + 0.1 * torch.eye(4) for x in torch.randn(2, 4, 4, dtype=torch.float64))
    zero = torch.zeros(4, dtype=torch.float64)
    trace = torch.linalg.eigvals(a @ b).real.sqrt().sum()  # the trace of the root of the product, from its eigenvalues
    expected = float(a.trace() + b.trace() - 2 * trace)
    assert frechet_distance(gaussian_sample(zero, a), gaussian_sample(zero, b)) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_singular_covariances_is_finite_and_exact() -> None:
    features = torch.randn(5, 40)  # float32, fewer rows than features
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(features, features + 1) == pytest.approx(40, rel=1e-5)
    line = torch.arange(4.0)[:, None]
    assert frechet_distance(line, 3 * line) == pytest.approx(3**2 + (line.std() * 2).item() ** 2, rel=1e-6)


def test_frechet_distance_too_few_rows_or_different_features_raise() -> None:
    with pytest.raises(ValueError, match="at least two rows"):
        frechet_distance(torch.randn(1, 3), torch.randn(5, 3))
    with pytest.raises(ValueError, match="at least two rows"):
        frechet_distance(torch.randn(5, 2), torch.randn(5, 3))


def test_frechet_classifier_prior_draws_and_translations_match_hand_values() -> None:
    bright = 2 + 3 * torch.randn(4000)
    images = bright[:, None, None, None].expand(-1, 1, 8, 8)
    loc = bright[:, None, None].expand(-1, 2, 2)
    experts = Experts(loc, torch.full(loc.shape, 1e-6))
    (row,) = judged(fixed(), images, experts, batch_size=999)
    assert (row.metric, row.given, row.target, row.n) == ("frechet_classifier", (), "image", 4000)
    assert row.value == pytest.approx(2**2 + (3 - 1) ** 2, rel=0.1)  # the prior is N(0, 1)
    assert row.protocol.startswith("prior draws")
    arrays = {"weights": np.ones(1), "means": np.array([[2.0, 0.0]]), "scales": np.array([[3.0, 1.0]])}
    fitted = FittedPrior(arrays, {"kind": "mixture", "components": 1})
    (row,) = judged(fixed(), images, experts, prior=fitted)
    assert row.value == pytest.approx(0, abs=0.15)
    assert row.protocol == "draws of the fitted prior (1 Gaussian), mean of the likelihood, of tokens the most probable"
    (row,) = judged(fixed(), images, experts, subsets=[(1,), (0,), (0, 1)], prior=fitted)
    assert row.given == ("text",)
    assert row.value == pytest.approx(0, abs=1e-6)
    assert judged(fixed(), images[:1], Experts(loc[:1], torch.ones(1, 2, 2))) == []


def test_fid_without_torchmetrics_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(ImportError, match=r"pip install 'pyro-mmvae\[fid\]'"):
        fid(torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8))


def make_data(**shapes: tuple[int, ...]) -> MultimodalDataset:
    values = {name: torch.rand(2, *shape) for name, shape in shapes.items()}
    return MultimodalDataset(values, None, torch.ones(2, len(shapes), dtype=torch.bool), "some", "test")


def test_check_fid_without_rgb_images_names_the_modalities() -> None:
    with pytest.raises(
        ValueError, match=r"RGB images \(3, height, width\), got grey \(1, 8, 8\), vector \(3,\): leave"
    ):
        check_fid(make_data(grey=(1, 8, 8), vector=(3,)))


@pytest.mark.parametrize("missing", ["torchmetrics", "torch_fidelity"])
def test_check_fid_without_the_extra_names_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else object())
    with pytest.raises(ImportError, match=rf"pip install 'pyro-mmvae\[fid\]' \(no module {missing}\)"):
        check_fid(make_data(rgb=(3, 8, 8)))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    check_fid(make_data(rgb=(3, 8, 8)))


def test_evaluate_fid_without_rgb_images_is_refused_before_any_part() -> None:
    vae = MultimodalVAE([Modality("grey", (1, 8, 8))], 2).eval()
    data, parts = make_data(grey=(1, 8, 8)), list[str]()
    options = EvaluationOptions(fid=True)
    with pytest.raises(ValueError, match="fid must have a modality of RGB images"):
        evaluate(vae, data, data, options=options, progress=parts.append)
    with pytest.raises(ValueError, match="fid must have a modality of RGB images"):
        evaluate_readings(vae, data, data, ["poe"], options=options, progress=parts.append)
    assert parts == []


def test_options_fid_without_quality_is_refused() -> None:
    with pytest.raises(ValueError, match="quality must be True for fid"):
        EvaluationOptions(fid=True, quality=False)


def test_fid_passes_all_images_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Metric(nn.Module):
        def __init__(self, feature: int, normalize: bool) -> None:
            super().__init__()
            assert (feature, normalize) == (64, True)
            self.seen: dict[bool, list[Tensor]] = {True: [], False: []}

        def update(self, images: Tensor, real: bool) -> None:
            self.seen[real].append(images)

        def compute(self) -> Tensor:
            assert len(self.seen[True]) == 3
            assert torch.equal(torch.cat(self.seen[True]), real)
            assert torch.equal(torch.cat(self.seen[False]), generated.clamp(0, 1))
            return torch.tensor(1.5)

    module = types.ModuleType("torchmetrics.image.fid")
    module.FrechetInceptionDistance = Metric  # type: ignore[attr-defined]
    for name in ("torchmetrics", "torchmetrics.image"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", module)
    real, generated = torch.rand(5, 3, 8, 8), 2 * torch.rand(4, 3, 8, 8)
    assert fid(real, generated, feature=64, batch_size=2) == 1.5


def test_fid_of_prior_draws_uses_present_rgb_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr("pyro_mmvae.evaluation.frechet.fid", lambda real, drawn: seen.append((real, drawn)) or 2.5)
    names = {"rgb": (3, 8, 8), "grey": (1, 8, 8), "vector": (3,)}
    vae = MultimodalVAE([Modality(name, shape) for name, shape in names.items()], 2).eval()
    values = {name: torch.rand(6, *shape) for name, shape in names.items()}
    values["rgb"] = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    present = torch.ones(6, 3, dtype=torch.bool)
    present[4:, 0] = False
    data = MultimodalDataset(values, None, present, "some", "test")
    (row,) = fid_of_prior_draws(vae, data, seed=3, batch_size=3)
    assert (row.metric, row.given, row.target, row.value, row.n, row.seed) == ("fid", (), "rgb", 2.5, 4, 3)
    ((real, drawn),) = seen
    assert torch.equal(real, values["rgb"][:4].float() / 255)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        expected = vae.decode(vae.model.prior().sample(torch.Size((4,))))["rgb"]
    torch.testing.assert_close(drawn, expected)
