"""Models whose posterior and evidence are known exactly, in Pyro and as a MultimodalVAE."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_mmvae import Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.evaluation.likelihood import held_out_log_likelihood
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.inference.posteriors import encode_dataset
from pyro_mmvae.networks import NetworkOptions

SIZES, NOISE, LATENT = {"a": 4, "b": 6}, {"a": 0.5, "b": 0.8}, 2


class Linear:
    """A MultimodalVAE with linear networks set by hand, whose product of experts is the exact posterior."""

    def __init__(self, items: int = 7, seed: int = 0) -> None:
        torch.manual_seed(seed)
        modalities = [Modality(n, (s,), likelihood="normal", scale=NOISE[n]) for n, s in SIZES.items()]
        self.vae = MultimodalVAE(modalities, LATENT, "poe", network=NetworkOptions(depth=0)).eval()
        self.maps: dict[str, tuple[Tensor, Tensor]] = {}
        z = torch.randn(items, LATENT)
        values = {}
        for i, (name, size) in enumerate(SIZES.items()):
            a = torch.linalg.qr(torch.randn(size, LATENT))[0] * torch.tensor([1.5, 0.7])
            b = torch.randn(size)
            self.maps[name] = (a, b)
            self._set(i, name, a, b)
            values[name] = z @ a.T + b + NOISE[name] * torch.randn(items, size)
        self.data = MultimodalDataset(values, None, torch.ones(items, 2, dtype=torch.bool), "linear", "test")

    def _set(self, index: int, name: str, a: Tensor, b: Tensor) -> None:
        squares = a.square().sum(0)
        decoder: Any = self.vae.model.decoders.networks[index]
        head: Any = self.vae.guide.encode.networks[index].head.linear
        with torch.no_grad():
            decoder.body[0].weight.copy_(a.T)
            decoder.body[0].bias.copy_(b)
            head.weight.zero_()
            head.weight[0, :, :LATENT] = a / squares
            head.bias[0, 0, :LATENT] = -b @ a / squares
            head.bias[0, 0, LATENT:] = (NOISE[name] / squares.sqrt() - 1e-4).log()

    def evidence(self, item: int, names: tuple[str, ...]) -> float:
        """Return log p(x_names) of an item by dense linear algebra."""
        a = torch.cat([self.maps[n][0] for n in names]).double()
        b = torch.cat([self.maps[n][1] for n in names]).double()
        x = torch.cat([self.data.modalities[n][item] for n in names]).double()
        noise = torch.cat([torch.full((SIZES[n],), NOISE[n] ** 2, dtype=torch.float64) for n in names])
        return float(dist.MultivariateNormal(b, a @ a.T + torch.diag(noise)).log_prob(x))

    def rows(self, **options: Any) -> dict[tuple[str, tuple[str, ...], str], Metric]:
        subsets = options.pop("subsets", [(0,), (1,), (0, 1)])
        metrics = held_out_log_likelihood(
            self.vae, encode_dataset(self.vae, self.data), self.data, subsets=subsets, **options
        )
        assert len({(r.metric, r.given, r.target) for r in metrics}) == len(metrics)
        return {(r.metric, r.given, r.target): r for r in metrics}


class LinearByDonor(Linear):
    """The linear model with an offset of each donor in every modality, which encoders and decoders know."""

    donors = ("A", "B")

    def __init__(self, items: int = 7, seed: int = 0) -> None:
        super().__init__(items, seed)
        modalities = [Modality(n, (s,), likelihood="normal", scale=NOISE[n]) for n, s in SIZES.items()]
        self.vae = MultimodalVAE(
            modalities, LATENT, "poe", network=NetworkOptions(depth=0), covariates={"donor": self.donors}
        ).eval()
        self.codes = torch.arange(items) % 2
        self.offsets = {name: 5 * torch.randn(2, size) for name, size in SIZES.items()}
        values = {}
        for i, (name, (a, b)) in enumerate(self.maps.items()):
            self._set_donors(i, name, a, b)
            values[name] = self.data.tensors[name] + self.offsets[name][self.codes]
        self.data = replace(
            self.data, modalities=values, covariates={"donor": self.codes}, covariate_names={"donor": self.donors}
        )

    def _set_donors(self, index: int, name: str, a: Tensor, b: Tensor) -> None:
        offsets, gain = self.offsets[name], a / a.square().sum(0)
        decoder: Any = self.vae.model.decoders.networks[index]
        head: Any = self.vae.guide.encode.networks[index].head.linear
        with torch.no_grad():
            decoder.body[0].weight.copy_(torch.cat([a.T, offsets]))
            decoder.body[0].bias.copy_(b)
            head.weight.zero_()
            head.weight[0, :, :LATENT] = torch.cat([gain, -offsets @ gain])
            head.bias[0, 0, :LATENT] = -b @ gain
            head.bias[0, 0, LATENT:] = (NOISE[name] / a.square().sum(0).sqrt() - 1e-4).log()

    def evidence_by_donor(self, item: int, names: tuple[str, ...]) -> float:
        """Return log p(x_names | donor) of an item by dense linear algebra."""
        values = {n: self.data.tensors[n] - self.offsets[n][self.codes] for n in SIZES}
        without = Linear.__new__(Linear)
        without.maps, without.data = self.maps, replace(self.data, modalities=values)
        return without.evidence(item, names)


# A Pyro model and guide: z ~ N(0, 1) and x | z ~ N(z, 1), so that x ~ N(0, 2) and z | x ~ N(x / 2, 1 / 2).
X = torch.tensor([0.0, 1.0, -3.0, 40.0], dtype=torch.float64)


def model(x: Tensor, size: int | None = None) -> None:
    with pyro.plate("data", size or len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide_of(factor: float = 1.0, shift: float = 0.0) -> Callable[..., None]:
    def guide(x: Tensor, size: int | None = None) -> None:
        with pyro.plate("data", size or len(x)):
            pyro.sample("z", dist.Normal(x / 2 + shift, factor * math.sqrt(0.5)))

    return guide
