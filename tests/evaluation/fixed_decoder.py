"""A model of images and texts whose decoder is set by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyro_mmvae import Modality, MultimodalVAE


class Brightness(nn.Module):
    """A decoder of images as bright as the first coordinate of z, and of letters that encode the second one."""

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
