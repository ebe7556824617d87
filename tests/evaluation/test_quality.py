"""Image quality against scikit-image, closed forms, and decoders whose output is known."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from pyro_mmvae import Experts, Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.quality import (
    fid,
    fid_of_prior_draws,
    frechet_classifier,
    frechet_distance,
    reconstruction,
    ssim,
)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 11, 17), (3, 12, 11)])
def test_ssim_is_that_of_scikit_image(shape: tuple[int, ...]) -> None:
    images = torch.rand(4, *shape)
    others = (images + torch.tensor([0.0, 0.1, 0.5, 2.0]).reshape(4, 1, 1, 1) * torch.randn(4, *shape)).clamp(0, 1)
    expected = [
        structural_similarity(
            x.double().numpy(), y.double().numpy(), channel_axis=0, data_range=1, gaussian_weights=True,
            use_sample_covariance=False,
        )
        for x, y in zip(images, others, strict=True)
    ]  # fmt: skip
    found = ssim(images, others)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-10, rtol=1e-10)
    assert found[0] == 1
    assert found[3] < 0.5


@pytest.mark.parametrize("side", [1, 2, 7, 8, 10])
def test_ssim_of_small_images(side: int) -> None:
    images = torch.rand(3, 2, side, 12)
    torch.testing.assert_close(ssim(images, images), torch.ones(3, dtype=torch.float64))
    assert (ssim(images, 1 - images) < 0.7).all()
    # Of constant images the variances vanish, whatever the window.
    dark, light = torch.full((1, 1, side, side), 0.2), torch.full((1, 1, side, side), 0.8)
    known = (2 * 0.2 * 0.8 + 1e-4) / (0.2**2 + 0.8**2 + 1e-4)
    torch.testing.assert_close(ssim(dark, light), torch.tensor([known], dtype=torch.float64), atol=1e-6, rtol=0)


def test_ssim_wants_pairs() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        ssim(torch.rand(1, 1, 8, 8), torch.rand(2, 1, 8, 8))


def gaussian_sample(loc: Tensor, covariance: Tensor, count: int = 500) -> Tensor:
    """Rows whose moments are those, not just in the mean."""
    x = torch.randn(count, len(loc), dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.mT.cov())).mT
    return x @ torch.linalg.cholesky(covariance).mT + loc


def test_frechet_distance_of_gaussians() -> None:
    loc, scales = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64), torch.tensor([1.0, 2.0, 0.5])
    first = gaussian_sample(torch.zeros(3, dtype=torch.float64), torch.diag(scales.double() ** 2))
    second = gaussian_sample(loc, torch.eye(3, dtype=torch.float64) * 9)
    assert frechet_distance(first, second) == pytest.approx(5 + float((scales - 3).square().sum()), rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(frechet_distance(first, second), rel=1e-9)
    assert frechet_distance(first, first + loc) == pytest.approx(5, rel=1e-9)
    assert frechet_distance(first, first.flip(0)) == pytest.approx(0, abs=1e-12)


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    a, b = (x @ x.mT + 0.1 * torch.eye(4) for x in torch.randn(2, 4, 4, dtype=torch.float64))
    zero = torch.zeros(4, dtype=torch.float64)
    trace = torch.linalg.eigvals(a @ b).real.sqrt().sum()  # of the root of the product, by another way
    expected = float(a.trace() + b.trace() - 2 * trace)
    assert frechet_distance(gaussian_sample(zero, a), gaussian_sample(zero, b)) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_singular_covariances() -> None:
    few = torch.randn(5, 40)  # float32, fewer rows than features
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(few, few + 1) == pytest.approx(40, rel=1e-5)
    line = torch.arange(4.0)[:, None]
    assert frechet_distance(line, 3 * line) == pytest.approx(3**2 + (line.std() * 2).item() ** 2, rel=1e-6)


def test_frechet_distance_wants_rows() -> None:
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(torch.randn(1, 3), torch.randn(5, 3))
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(torch.randn(5, 2), torch.randn(5, 3))


class Brightness(nn.Module):
    """A decoder: an image as bright as the first coordinate, and letters, the first of which is the second one."""

    def forward(self, z: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        image = z[..., :1, None, None].expand(*z.shape[:-1], 1, 8, 8)
        letters = nn.functional.one_hot(z[..., 1].round().long().clamp(0, 2), 3).to(z)
        other = torch.tensor([0.0, 0.0, 1.0]).expand(letters.shape)
        return {n: image if n == "image" else 9 * torch.stack([letters, other], -2) for n in names}


def fixed() -> MultimodalVAE:
    modalities = [
        Modality("image", (1, 8, 8), network="mlp"),
        Modality("text", (2,), likelihood="categorical", classes=3),
    ]
    vae = MultimodalVAE(modalities, 2, "wb").eval()
    vae.model.decoders = cast("Any", Brightness())
    return vae


def reconstructed(vae: MultimodalVAE, present: Tensor | None = None, **options: Any) -> dict[Any, Metric]:
    loc = torch.tensor([0.2, 1.0]).expand(6, 2, 2)
    images = torch.full((6, 1, 8, 8), 51, dtype=torch.uint8)  # 0.2
    images[3:] = 102  # 0.4
    text = torch.tensor([[1, 2]] * 4 + [[1, 0], [0, 2]])
    present = torch.ones(6, 2, dtype=torch.bool) if present is None else present
    data = MultimodalDataset({"image": images, "text": text}, None, present, "fixed", "test")
    experts = Experts(loc, torch.full(loc.shape, 1e-7), present)
    rows = reconstruction(vae, experts, data, subsets=[(0,), (0, 1)], **options)
    return {(row.metric, row.given, row.target): row for row in rows}


def test_reconstruction() -> None:
    rows = reconstructed(fixed(), batch_size=4)
    assert len(rows) == 6
    for given in (("image",), ("image", "text")):
        assert rows["mse", given, "image"].value == pytest.approx(0.5 * 0.2**2, rel=1e-4)
        assert rows["ssim", given, "image"].value == pytest.approx(0.5 + 0.5 * (0.16 + 1e-4) / (0.2 + 1e-4), rel=1e-4)
        assert rows["exact_match", given, "text"].value == pytest.approx(4 / 6)
        assert {row.n for row in rows.values()} == {6}
    assert "one draw of the posterior" in rows["mse", ("image",), "image"].protocol


def test_reconstruction_of_what_is_missing_is_not_judged() -> None:
    present = torch.tensor([[1, 1], [0, 1], [1, 0], [1, 1], [1, 0], [0, 0]], dtype=torch.bool)
    before = torch.get_rng_state()
    vae = fixed()
    torch.set_rng_state(before)
    rows = reconstructed(vae, present, batch_size=3)
    assert torch.equal(before, torch.get_rng_state())
    assert rows["exact_match", ("image",), "text"].n == 2
    assert rows["exact_match", ("image",), "text"].value == 1
    assert rows["mse", ("image",), "image"].n == 4
    assert rows["mse", ("image",), "image"].value == pytest.approx(0.5 * 0.2**2, rel=1e-4)
    assert rows["mse", ("image", "text"), "image"].n == 2


def judged(vae: MultimodalVAE, images: Tensor, experts: Experts, **options: Any) -> list[Metric]:
    """By a classifier whose feature is the mean of an image."""
    pool = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(1, 2))
    data = MultimodalDataset(
        {"image": images, "text": torch.zeros(len(images), 2).long()},
        None, torch.ones(len(images), 2, dtype=torch.bool), "fixed", "test",
    )  # fmt: skip
    return frechet_classifier(vae, experts, data, Classifiers({"image": pool}, {"image": 1.0}, 0), **options)


def test_frechet_classifier_of_prior_draws_and_of_translations() -> None:
    bright = 2 + 3 * torch.randn(4000)
    images = bright[:, None, None, None].expand(-1, 1, 8, 8)
    loc = bright[:, None, None].expand(-1, 2, 2)
    experts = Experts(loc, torch.full(loc.shape, 1e-6))
    (row,) = judged(fixed(), images, experts, batch_size=999)
    assert (row.metric, row.given, row.target, row.n) == ("frechet_classifier", (), "image", 4000)
    assert row.value == pytest.approx(2**2 + (3 - 1) ** 2, rel=0.1)  # the prior is N(0, 1)
    assert row.protocol.startswith("prior draws")
    (row,) = judged(fixed(), images, experts, subsets=[(1,), (0,), (0, 1)])
    assert row.given == ("text",)
    assert row.value == pytest.approx(0, abs=1e-6)
    assert judged(fixed(), images[:1], Experts(loc[:1], torch.ones(1, 2, 2))) == []


def test_fid_without_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(ImportError, match=r"pip install 'pyro-mmvae\[fid\]'"):
        fid(torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8))


def test_fid_feeds_torchmetrics_all_images_once(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_fid_of_prior_draws_is_of_rgb_images_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr("pyro_mmvae.evaluation.quality.fid", lambda real, drawn: seen.append((real, drawn)) or 2.5)
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
        wanted = vae.decode(vae.model.prior().sample(torch.Size((4,))))["rgb"]
    torch.testing.assert_close(drawn, wanted)
