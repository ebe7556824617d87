"""Small models with linear encoders and decoders in float64, and plain formulas to compare objectives with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pyro_mmvae import Batch, Modality, MultimodalVAE
from pyro_mmvae.training import Objective, local_pyro

LATENT, PRIVATE, NOISE = 2, 1, 0.7
NAMES = ("a", "b", "c")
SIZES = {"a": 3, "b": 3, "c": 4}
WEIGHTS = {"a": 1.0, "b": 2.0, "c": 0.5}


class LinearEncoder(nn.Module):
    def __init__(self, size: int, private: int) -> None:
        super().__init__()
        self.linear, self.private = nn.Linear(size, 2 * (LATENT + private)), private

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        loc, log_scale = self.linear(x).chunk(2, -1)
        scale = (0.5 * log_scale).exp()
        if not self.private:
            return loc, scale
        return loc[..., :LATENT], scale[..., :LATENT], loc[..., LATENT:], scale[..., LATENT:]


@dataclass
class Linear:
    """A model, its encoders and decoders by modality, and a batch of five items, two of which lack modalities."""

    vae: MultimodalVAE
    encoders: dict[str, LinearEncoder]
    decoders: dict[str, nn.Linear]
    values: dict[str, Tensor]
    present: Tensor
    private: bool = False
    batch: Batch = field(init=False)

    def __post_init__(self) -> None:
        self.batch = Batch(self.values, dict(zip(NAMES, self.present.unbind(-1), strict=True)))

    def expert(self, m: int, item: int) -> tuple[Tensor, ...]:
        return self.encoders[NAMES[m]](self.values[NAMES[m]][item])

    def aggregate(self, rule: str, members: list[int], item: int) -> tuple[Tensor, Tensor]:
        """Return loc and scale of the posterior of some modalities of an item, N(0, I) if there are none."""
        pairs = [self.expert(m, item)[:2] for m in members]
        zeros = torch.zeros(LATENT, dtype=torch.float64)
        if not pairs:
            return zeros, zeros + 1
        if rule == "poe":
            precision = 1 + sum(1 / scale**2 for _, scale in pairs)
            return sum(loc / scale**2 for loc, scale in pairs) / precision, precision**-0.5  # type: ignore[operator,return-value]
        if rule == "product":
            precision = sum(1 / scale**2 for _, scale in pairs)
            return sum(loc / scale**2 for loc, scale in pairs) / precision, precision**-0.5  # type: ignore[operator,return-value]
        return sum(loc for loc, _ in pairs) / len(pairs), sum(scale for _, scale in pairs) / len(pairs)  # type: ignore[return-value]

    def log_likelihood(self, m: int, item: int, z: Tensor, u: Tensor | None = None) -> Tensor:
        latent = z if u is None else torch.cat([z, u], -1)
        return log_normal(
            self.values[NAMES[m]][item], self.decoders[NAMES[m]](latent), torch.tensor(NOISE, dtype=torch.float64)
        )


def make(
    aggregation: Any = "wb", *, private: bool = False, present: list[list[bool]] | None = None, **options: Any
) -> Linear:
    """Return a model of three modalities and its batch."""
    torch.manual_seed(0)
    size = PRIVATE if private else 0
    encoders = {name: LinearEncoder(SIZES[name], size) for name in NAMES}
    decoders = {name: nn.Linear(LATENT + size, SIZES[name]) for name in NAMES}
    modalities = [
        Modality(
            name, (SIZES[name],), likelihood="normal", scale=NOISE, encoder=encoders[name], decoder=decoders[name],
            private_size=size, reconstruction_weight=WEIGHTS[name],
        )
        for name in NAMES
    ]  # fmt: skip
    options = {"beta": 0.6, "private_auxiliary": "prior", **options}
    vae = MultimodalVAE(modalities, LATENT, aggregation, **options).double()
    mask = torch.tensor(present or [[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 0]]).bool()
    values = {name: torch.randn(len(mask), SIZES[name], dtype=torch.float64) for name in NAMES}
    return Linear(vae, encoders, decoders, values, mask, private)


def log_normal(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return (-0.5 * ((x - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def kl_normal(loc: Tensor, scale: Tensor, other_loc: Any = 0.0, other_scale: Any = 1.0) -> Tensor:
    other_loc, other_scale = torch.as_tensor(other_loc).double(), torch.as_tensor(other_scale).double()
    square = (scale**2 + (loc - other_loc) ** 2) / other_scale**2
    return 0.5 * (square - 1 - 2 * (scale / other_scale).log()).sum(-1)


def noise(*shape: int) -> Tensor:
    """Draw standard normal numbers as torch's distributions do, so that they are equal under one seed."""
    return torch.normal(torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64))


def assert_equal_to_hand(model: Linear, objective: Objective, by_hand: Callable[[], Tensor]) -> None:
    """Compare the loss of a batch and its gradient in every parameter with those of another implementation."""
    results = []
    for compute in (lambda: objective(model.batch)[0], lambda: -by_hand()):
        torch.manual_seed(3)
        with local_pyro():
            loss = compute()
        parameters = list(model.vae.parameters())
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        results.append([loss.detach(), *(torch.zeros(()) if g is None else g for g in gradients)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs.to(ours), rtol=1e-9, atol=1e-9)
    assert sum(float(g.abs().sum()) > 0 for g in results[0][1:]) >= len(results[0]) - 2
