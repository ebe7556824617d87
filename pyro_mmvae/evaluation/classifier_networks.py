"""Networks that classify a single modality: images, tokens or numbers."""

from __future__ import annotations

import math

import torch
from torch import nn

from pyro_mmvae._typing import Float, Tensor

_WIDTH = 32
_FEATURES = 128
_POSITIONS = 16  # a long text is pooled to this many positions, so that the linear layer stays small


def image_classifier(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Build a classifier of images: three strided convolutions with group normalisation, then two linear layers.

    Args:
        shape: The shape `(channel, height, width)` of one image.
        classes: The number of logits.

    Returns:
        A module from images `(item, channel, height, width)` to logits `(item, class)`.
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
    """Build a classifier of tokens: two convolutions along the positions of one-hot tokens, then two linear layers.

    The network takes tokens `(item, *shape)` or the mean of a categorical likelihood, that is probabilities
    `(item, *shape, token)`. Of probabilities it sees the most probable token at each position only, so that it judges a
    generated text as a reader would.

    Args:
        shape: The shape of one item; several axes are flattened into one axis of positions.
        tokens: The size of the vocabulary. A token outside it is encoded as a vector of zeros.
        classes: The number of logits.

    Returns:
        A module from tokens or their probabilities to logits `(item, class)`.
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
    """Build a classifier of standardised numbers with hidden layers of 256 and 128 units.

    The first module is a :class:`Standardise`, whose moments must be fitted before training.

    Args:
        shape: The shape of one item, which is flattened.
        classes: The number of logits.
        counts: If True, log(1 + x) is taken before standardising; False by default.

    Returns:
        A module from items `(item, *shape)` to logits `(item, class)`.
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
    """A layer that turns tokens, or probabilities of tokens, into one-hot vectors; ties go to the smallest token.

    Args:
        positions: The number of positions in one item.
        tokens: The size of the vocabulary.
    """

    def __init__(self, positions: int, tokens: int) -> None:
        super().__init__()
        self.positions, self.tokens = positions, tokens

    def forward(self, values: Tensor) -> Float[Tensor, "item token position"]:
        """Return one-hot vectors, with zeros at every position whose token is outside the vocabulary."""
        flat = values.reshape(len(values), self.positions, -1)
        chosen = flat.argmax(-1) if flat.shape[-1] > 1 else flat[..., 0].long()
        one_hot = nn.functional.one_hot(chosen.clamp(max=self.tokens), self.tokens + 1)[..., : self.tokens]
        return one_hot.mT.to(torch.get_default_dtype())


class Standardise(nn.Module):
    """A layer that subtracts the mean and divides by the standard deviation; features that never vary become 0.

    Args:
        size: The number of features in one item.
        counts: If True, log(1 + x) is taken first; False by default.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, size: int, *, counts: bool = False) -> None:
        super().__init__()
        self.counts = counts
        self.register_buffer("loc", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def flat(self, values: Tensor) -> Float[Tensor, "item feature"]:
        """Return the items as floats of shape `(item, feature)`."""
        flat = values.reshape(len(values), -1).to(self.loc.dtype)
        return flat.log1p() if self.counts else flat

    def fit(self, values: Tensor) -> None:
        """Set the mean and standard deviation to those of some items `(item, …)`."""
        flat = self.flat(values)
        self.loc.copy_(flat.mean(0))
        scale = flat.std(0, correction=0)
        self.scale.copy_(torch.where(scale > 0, scale, 1.0))

    def forward(self, values: Tensor) -> Float[Tensor, "item feature"]:
        """Return the standardised items."""
        return (self.flat(values) - self.loc) / self.scale
