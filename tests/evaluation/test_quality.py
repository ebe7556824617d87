"""Image quality against scikit-image and decoders whose output is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from pyro_mmvae import Experts, MultimodalDataset, MultimodalVAE
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.quality import reconstruction, ssim
from tests.evaluation.fixed_decoder import fixed


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


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 11, 17), (3, 12, 11)])
def test_ssim_matches_scikit_image(shape: tuple[int, ...]) -> None:
    images = torch.rand(4, *shape)
    others = (images + torch.tensor([0.0, 0.1, 0.5, 2.0]).reshape(4, 1, 1, 1) * torch.randn(4, *shape)).clamp(0, 1)
    expected = [
        structural_similarity(
            x.double().numpy(), y.double().numpy(), channel_axis=0, data_range=1, gaussian_weights=True,
            use_sample_covariance=False,
        )
        for x, y in zip(images, others, strict=True)
    ]  # fmt: skip
    similarity = ssim(images, others)
    torch.testing.assert_close(similarity, torch.tensor(expected, dtype=torch.float64), atol=1e-10, rtol=1e-10)
    assert similarity[0] == 1
    assert similarity[3] < 0.5


@pytest.mark.parametrize("side", [1, 2, 7, 8, 10])
def test_ssim_small_images_shrink_the_window(side: int) -> None:
    images = torch.rand(3, 2, side, 12)
    torch.testing.assert_close(ssim(images, images), torch.ones(3, dtype=torch.float64))
    assert (ssim(images, 1 - images) < 0.7).all()
    # The variances of constant images vanish for any window.
    dark, light = torch.full((1, 1, side, side), 0.2), torch.full((1, 1, side, side), 0.8)
    expected = (2 * 0.2 * 0.8 + 1e-4) / (0.2**2 + 0.8**2 + 1e-4)
    torch.testing.assert_close(ssim(dark, light), torch.tensor([expected], dtype=torch.float64), atol=1e-6, rtol=0)


def test_ssim_different_shapes_raise() -> None:
    with pytest.raises(ValueError, match="must have the same shape"):
        ssim(torch.rand(1, 1, 8, 8), torch.rand(2, 1, 8, 8))


def test_reconstruction_fixed_decoder_matches_hand_values() -> None:
    rows = reconstructed(fixed(), batch_size=4)
    assert len(rows) == 6
    for given in (("image",), ("image", "text")):
        assert rows["mse", given, "image"].value == pytest.approx(0.5 * 0.2**2, rel=1e-4)
        assert rows["ssim", given, "image"].value == pytest.approx(0.5 + 0.5 * (0.16 + 1e-4) / (0.2 + 1e-4), rel=1e-4)
        assert rows["exact_match", given, "text"].value == pytest.approx(4 / 6)
        assert {row.n for row in rows.values()} == {6}
    assert rows["mse", ("image",), "image"].protocol.startswith("reconstruction, one draw of the posterior")
    assert rows["exact_match", ("image",), "text"].protocol.startswith("translation, one draw of the posterior")
    assert rows["exact_match", ("image", "text"), "text"].protocol.startswith("reconstruction, ")


def test_reconstruction_absent_modalities_are_left_out() -> None:
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
