"""Networks that classify one modality: images, tokens, or numbers."""

from __future__ import annotations

import math

import torch
from torch import nn

from pyro_mmvae._typing import Float, Tensor

_WIDTH = 32
_FEATURES = 128
_POSITIONS = 16  # that a long text is pooled to


def image_classifier(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Three strided convolutions with group normalisation and two linear layers.

    Args:
        shape: `(channel, height, width)` of one image.
        classes: how many.
    """
    layers: list[nn.Module] = []
    channels = shape[0]
    for i in range(3):
        width = _WIDTH * 2**i
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
        channels = width
    side = [-(-s // 8) for s in shape[1:]]
    flat = channels * side[0] * side[1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, _FEATURES), nn.SiLU(), nn.Linear(_FEATURES, classes))


def token_classifier(shape: tuple[int, ...], tokens: int, classes: int) -> nn.Sequential:
    """Two convolutions along the positions of one-hot tokens and two linear layers.

    It takes tokens `(item, *shape)` or what a categorical likelihood's mean is, probabilities `(item, *shape, token)`,
    of which it sees the most probable token at each position: it judges a text as one reads it.

    Args:
        shape: of one item; more than one axis is flattened.
        tokens: how many there are. Others are no token.
        classes: how many.
    """
    positions = math.prod(shape)
    width = 2 * _WIDTH
    return nn.Sequential(
        MostProbable(positions, tokens),
        nn.Conv1d(tokens, width, 3, padding=1),
        nn.SiLU(),
        nn.Conv1d(width, width, 3, padding=1),
        nn.SiLU(),
        nn.AdaptiveMaxPool1d(min(positions, _POSITIONS)),
        nn.Flatten(),
        nn.Linear(width * min(positions, _POSITIONS), _FEATURES),
        nn.SiLU(),
        nn.Linear(_FEATURES, classes),
    )


def vector_classifier(shape: tuple[int, ...], classes: int, *, counts: bool = False) -> nn.Sequential:
    """Standardised numbers through a hidden layer of 256 and one of 128.

    The moments of the first module are to be fitted.

    Args:
        shape: of one item, which is flattened.
        classes: how many.
        counts: take log(1 + x) first.
    """
    hidden = 2 * _FEATURES
    return nn.Sequential(
        Standardise(math.prod(shape), counts=counts),
        nn.Linear(math.prod(shape), hidden),
        nn.SiLU(),
        nn.Linear(hidden, _FEATURES),
        nn.SiLU(),
        nn.Linear(_FEATURES, classes),
    )


class MostProbable(nn.Module):
    """Tokens, or probabilities of tokens, to one-hot vectors; the least token where several are most probable.

    Args:
        positions: of one item.
        tokens: how many there are.
    """

    def __init__(self, positions: int, tokens: int) -> None:
        super().__init__()
        self.positions, self.tokens = positions, tokens

    def forward(self, values: Tensor) -> Float[Tensor, "item token position"]:
        """One-hot vectors, 0 everywhere at a position whose token is none of them."""
        flat = values.reshape(len(values), self.positions, -1)
        chosen = flat.argmax(-1) if flat.shape[-1] > 1 else flat[..., 0].long()
        one_hot = nn.functional.one_hot(chosen.clamp(max=self.tokens), self.tokens + 1)[..., : self.tokens]
        return one_hot.mT.to(torch.get_default_dtype())


class Standardise(nn.Module):
    """Numbers with their mean taken off, divided by their standard deviation; those that never vary are left at 0.

    Args:
        size: how many numbers an item has.
        counts: take log(1 + x) first.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, size: int, *, counts: bool = False) -> None:
        super().__init__()
        self.counts = counts
        self.register_buffer("loc", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def flat(self, values: Tensor) -> Float[Tensor, "item feature"]:
        """Items in one axis, as floats."""
        flat = values.reshape(len(values), -1).to(self.loc.dtype)
        return flat.log1p() if self.counts else flat

    def fit(self, values: Tensor) -> None:
        """Take mean and standard deviation from items `(item, …)`."""
        flat = self.flat(values)
        self.loc.copy_(flat.mean(0))
        scale = flat.std(0, correction=0)
        self.scale.copy_(torch.where(scale > 0, scale, 1.0))

    def forward(self, values: Tensor) -> Float[Tensor, "item feature"]:
        """Standardise."""
        return (self.flat(values) - self.loc) / self.scale
