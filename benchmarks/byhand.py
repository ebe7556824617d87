"""The training loops without Pyro: model, loss and optimiser of the package written in PyTorch.

:class:`ByHand` uses all the optimisations of the package: one grouped network for all modalities, images in
channels-last order, all subsets in one product, and one fused Adam. :class:`Plain` is the simplest code, with one
network per modality and a loop over modalities. Both start from the weights of a model of the package, so that losses
can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from pyro_mmvae import MultimodalVAE
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.device import autocast
from pyro_mmvae.networks import GroupedNetwork
from pyro_mmvae.networks.grouped import GroupedLinear
from pyro_mmvae.networks.head import SCALE_FLOOR
from pyro_mmvae.runs.config import Config

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
SCALE = 0.75  # the scale of the Laplace likelihood


def adam(parameters: Iterator[nn.Parameter], config: Config, *, capturable: bool = False) -> torch.optim.Adam:
    """Return the optimiser of all loops.

    Args:
        parameters: The parameters to optimise.
        config: The configuration with learning rate and betas.
        capturable: If True, its steps can be recorded in a CUDA graph; False by default.
    """
    return torch.optim.Adam(parameters, lr=config.train.lr, betas=config.train.betas, fused=True, capturable=capturable)


class ByHand:
    """A training loop with one grouped network, one fused Adam and closed forms.

    Args:
        vae: The model whose networks and weights are copied.
        config: The configuration of the model; the aggregation is ``wb``, or ``mopoe`` or ``mwb`` with the mixture
            bound.
        precision: The precision of the networks, ``fp32`` (the default) or ``bf16``.
        capturable: If True, steps can be recorded in a CUDA graph; False by default.
    """

    def __init__(
        self, vae: MultimodalVAE, config: Config, precision: str = "fp32", *, capturable: bool = False
    ) -> None:
        self.precision, device = precision, next(vae.parameters()).device
        self.encoder, self.decoder = deepcopy(networks_of(vae))
        self.parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.beta, self.aggregation = config.model.beta, config.model.aggregation
        self.optimizer = adam(iter(self.parameters), config, capturable=capturable)
        count = len(vae.names)
        index = torch.arange(1, 2**count).unsqueeze(-1)
        members = ((index >> torch.arange(count)) & 1).float().to(device)
        self.uniform = torch.full((1, len(members)), 1 / len(members), device=device)
        if self.aggregation == "mwb":
            self.rows = members / members.sum(-1, keepdim=True)
            self.prior = torch.zeros(len(members), 1, device=device)
        else:
            self.rows = members
            self.prior = members.all(
                -1, keepdim=True
            ).float()  # the prior expert belongs to the subset of all modalities only

    def loss(self, images: Tensor) -> Tensor:
        """Return the negative objective of a batch `(item, modality, channel, height, width)`, in nats."""
        with autocast(self.precision, images.device):
            loc, scale = self.encoder(images)
        z, log_q = self.barycenter(loc, scale) if self.aggregation == "wb" else self.mixture(loc, scale)
        log_p = -0.5 * z.square().sum() - z.numel() * HALF_LOG_2PI
        with autocast(self.precision, images.device):
            decoded = self.decoder(z)
        residual = (images - decoded).abs().sum()
        return residual / SCALE + images.numel() * math.log(2 * SCALE) + self.beta * (log_q - log_p)

    def barycenter(self, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Draw from the Wasserstein barycenter, and return the draw and its log density, summed."""
        loc, scale = loc.mean(1), scale.mean(1)
        noise = torch.randn_like(loc)
        log_q = -0.5 * noise.square().sum() - scale.log().sum() - noise.numel() * HALF_LOG_2PI
        return loc + scale * noise, log_q

    def mixture(self, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Draw from the mixture over all subsets, and return the draw and its log density, summed."""
        if self.aggregation == "mwb":
            loc, scale = self.rows @ loc, self.rows @ scale
        else:
            precision = scale.square().reciprocal()
            total = self.rows @ precision + self.prior
            loc, scale = (self.rows @ (precision * loc)) / total, total.rsqrt()
        # The draw of torch.multinomial, without its checks, which may wait for a GPU.
        race = self.uniform / self.uniform.new_empty(len(loc), self.uniform.shape[-1]).exponential_()
        chosen = race.argmax(-1, keepdim=True)
        where = chosen.unsqueeze(-1).expand(-1, 1, loc.shape[-1])
        mean, deviation = loc.gather(1, where).squeeze(1), scale.gather(1, where).squeeze(1)
        z = mean + deviation * torch.randn_like(mean)
        terms = (-0.5 * ((z.unsqueeze(1) - loc) / scale).square() - scale.log()).sum(-1)
        constant = z.numel() * HALF_LOG_2PI + len(z) * math.log(len(self.rows))
        return z, terms.logsumexp(-1).sum() - constant

    def step(self, images: Tensor) -> Tensor:
        """Take one step on a batch, and return its loss."""
        loss = self.loss(images)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class Plain:
    """A training loop with one network per modality and the Wasserstein barycenter.

    Args:
        vae: The model whose weights are copied.
        config: The configuration of the model.
    """

    def __init__(self, vae: MultimodalVAE, config: Config) -> None:
        pairs = [single_modality_networks(vae, number) for number in range(len(vae.names))]
        self.encoders = nn.ModuleList(encoder for encoder, _ in pairs)
        self.decoders = nn.ModuleList(decoder for _, decoder in pairs)
        self.parameters = [*self.encoders.parameters(), *self.decoders.parameters()]
        self.beta = config.model.beta
        self.optimizer = adam(iter(self.parameters), config)

    def loss(self, images: dict[str, Tensor]) -> Tensor:
        """Return the negative objective of a batch, in nats."""
        outputs = [encoder(image).chunk(2, -1) for encoder, image in zip(self.encoders, images.values(), strict=True)]
        loc = torch.stack([loc for loc, _ in outputs]).mean(0)
        scale = torch.stack([SCALE_FLOOR + log_scale.exp() for _, log_scale in outputs]).mean(0)
        posterior = torch.distributions.Normal(loc, scale, validate_args=False)
        prior = torch.distributions.Normal(0.0, 1.0, validate_args=False)
        z = posterior.rsample()
        loss = self.beta * (posterior.log_prob(z) - prior.log_prob(z)).sum()
        for decoder, image in zip(self.decoders, images.values(), strict=True):
            loss = loss - torch.distributions.Laplace(decoder(z), SCALE, validate_args=False).log_prob(image).sum()
        return loss

    step = ByHand.step


def networks_of(vae: MultimodalVAE) -> tuple[GroupedNetwork, GroupedNetwork]:
    """Return the encoder and the decoder of all modalities."""
    (encoder,), (decoder,) = vae.guide.encode.networks, vae.model.decoders.networks
    return cast("GroupedNetwork", encoder), cast("GroupedNetwork", decoder)


def stacked(data: MultimodalDataset, index: Tensor) -> Tensor:
    """Return a batch as one tensor `(item, modality, channel, height, width)`, in [0, 1]."""
    return torch.stack([value[index] for value in data.tensors.values()], 1).float() / 255


def split_by_modality(data: MultimodalDataset, index: Tensor) -> dict[str, Tensor]:
    """Return a batch as one tensor per modality, in [0, 1]."""
    return {name: value[index].float() / 255 for name, value in data.tensors.items()}


def single_modality_networks(vae: MultimodalVAE, number: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Return the encoder and the decoder of one modality as plain layers of torch, with weights copied from a model.

    The encoder returns loc and log-scale in one vector, without the floor of the scale.

    Args:
        vae: The model whose weights are copied.
        number: The index of the modality.
    """
    encoder, decoder = networks_of(vae)
    flat = [nn.Flatten(), *(layer for layer in cast("nn.Sequential", encoder.hidden) if not _is_reshape(layer))]
    layers = [*cast("nn.Sequential", encoder.convolutions), *flat, cast("nn.Module", encoder.head).linear]
    first = [*cast("nn.Sequential", decoder.linear)][:-1]
    image = nn.Unflatten(1, _first_image(decoder))
    return (
        nn.Sequential(*(_copy_layer(layer, number, encoder.groups) for layer in layers)),
        nn.Sequential(
            *(_copy_layer(layer, number, decoder.groups) for layer in first if not _is_reshape(layer)),
            image,
            *(_copy_layer(layer, number, decoder.groups) for layer in cast("nn.Sequential", decoder.convolutions)),
        ),
    )


def _is_reshape(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Flatten, nn.Unflatten))


def _first_image(decoder: GroupedNetwork) -> tuple[int, ...]:
    _, *shape = cast("nn.Unflatten", cast("nn.Sequential", decoder.linear)[-1]).unflattened_size
    return tuple(int(size) for size in shape)


def _copy_layer(layer: nn.Module, number: int, groups: int) -> nn.Module:
    """Return the part of a grouped layer that belongs to one of its networks."""
    if isinstance(layer, GroupedLinear):
        weight, bias = layer.weight[number].mT, layer.bias[number, 0]
        one: nn.Module = nn.Linear(weight.shape[1], weight.shape[0])
    elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.GroupNorm)):
        weight, bias = (parameter.chunk(groups)[number] for parameter in (layer.weight, layer.bias))
        one = _empty_layer(layer, groups)
    else:
        return deepcopy(layer)
    with torch.no_grad():
        one.weight.copy_(weight)
        one.bias.copy_(bias)
    return one


def _empty_layer(layer: nn.Module, groups: int) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features // groups)
    if isinstance(layer, nn.GroupNorm):
        return nn.GroupNorm(layer.num_groups // groups, layer.num_channels // groups)
    convolution = cast("nn.Conv2d", layer)
    sizes = {"stride": convolution.stride, "padding": convolution.padding}
    if isinstance(layer, nn.ConvTranspose2d):
        sizes["output_padding"] = layer.output_padding
    inputs, outputs = convolution.in_channels // groups, convolution.out_channels // groups
    plain = nn.ConvTranspose2d if isinstance(layer, nn.ConvTranspose2d) else nn.Conv2d
    return plain(inputs, outputs, convolution.kernel_size, **sizes)
