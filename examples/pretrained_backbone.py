"""A torchvision backbone as the encoder of one modality of a MultimodalVAE, with a custom decoder and likelihood.

An image shows one of two shapes in the colour that a second modality, a vector of sensors, measures with noise. The
backbone is the first stage of a ResNet-18. Its weights are random here, so that nothing is downloaded; they stay
frozen, and only a head on its features is trained. For real images pass pretrained weights, keep all four stages, and
train them with the rest, if there are enough data::

    resnet = torchvision.models.resnet18(weights=torchvision.models.ResNet18_Weights.DEFAULT)
    main(resnet, stages=4, freeze=False)
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
import torchvision
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_mmvae import Likelihood, Modality, MultimodalVAE

SIDE, SENSORS, LATENT, LR = 32, 6, 4, 5e-3
IMAGE, SENSOR = (3, SIDE, SIDE), (SENSORS,)


class BackboneEncoder(nn.Module):
    """Stages of a ResNet with a trained head that returns loc and scale of an expert.

    Args:
        resnet: A ResNet of torchvision.
        stages: Number of its stages to keep, 1 to 4.
        latent_size: Number of latent dimensions.
        freeze: If True, the stages are not trained, and stay in evaluation mode.
    """

    def __init__(self, resnet: nn.Module, stages: int, latent_size: int, freeze: bool) -> None:
        super().__init__()
        layers = list(resnet.children())[: 4 + stages]  # a convolution with norm, ReLU and pooling, then the stages
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).requires_grad_(not freeze)
        self.freeze, features = freeze, 64 * 2 ** (stages - 1)
        self.head = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, 2 * latent_size))
        self.train()

    def train(self, mode: bool = True) -> BackboneEncoder:
        """Set the mode; a frozen backbone stays in evaluation mode, because its batch statistics would drift."""
        super().train(mode)
        self.backbone.train(mode and not self.freeze)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return loc and scale, each `(item, latent)`, for images with values in [0, 1]."""
        mean, std = images.new_tensor([0.485, 0.456, 0.406]), images.new_tensor([0.229, 0.224, 0.225])
        images = (images - mean[:, None, None]) / std[:, None, None]  # the scaling of ImageNet
        loc, log_scale = self.head(self.backbone(images)).chunk(2, -1)
        return loc, (log_scale - 2).exp()


class ImageDecoder(nn.Sequential):
    """A perceptron from `(item, latent)` to `(item, 3, 32, 32)`, the logits of the mean."""

    def __init__(self, latent_size: int) -> None:
        pixels = math.prod(IMAGE)
        super().__init__(nn.Linear(latent_size, 64), nn.SiLU(), nn.Linear(64, pixels), nn.Unflatten(1, IMAGE))


class StudentTLikelihood(Likelihood):
    """A likelihood with heavy tails and a learned scale, for sensors that fail now and then."""

    def __init__(self, shape: tuple[int, ...], df: float = 3.0) -> None:
        super().__init__(shape)
        self.df, self.log_scale = df, nn.Parameter(torch.zeros(shape))

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of `(*batch, *shape)`."""
        return dist.StudentT(self.df, parameters, self.log_scale.exp()).to_event(len(self.shape))


def make_data(items: int, seed: int) -> dict[str, Tensor]:
    """Return images of a square or a bar, and the readings of sensors, of which one in twenty fails."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.rand(items, 3, generator=generator)
    is_bar = torch.rand(items, generator=generator) < 0.5
    shape = torch.zeros(2, SIDE, SIDE)
    shape[0, 8:24, 8:24] = shape[1, 12:20, 2:30] = 1.0
    image = colour[:, :, None, None] * shape[is_bar.long()].unsqueeze(1)
    readings = torch.cat([colour, 1 - colour], -1) + 0.05 * torch.randn(items, SENSORS, generator=generator)
    failed = torch.rand(items, SENSORS, generator=generator) < 0.05
    return {"image": image, "sensor": torch.where(failed, 5.0, readings), "colour": colour}


def colour_of(images: Tensor) -> Tensor:
    """Return the colour of the central pixels, `(item, 3)`."""
    return images[:, :, 14:18, 14:18].mean((2, 3))


def main(
    resnet: nn.Module | None = None, *, stages: int = 1, freeze: bool = True, steps: int = 200
) -> dict[str, float]:
    """Train on 512 items; print the error of the colour that is generated from the image and from the sensors."""
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18(weights=None) if resnet is None else resnet
    encoder = BackboneEncoder(resnet, stages, LATENT, freeze)
    vae = MultimodalVAE(
        [
            Modality("image", IMAGE, encoder=encoder, decoder=ImageDecoder(LATENT), output="sigmoid"),
            Modality("sensor", SENSOR, likelihood=StudentTLikelihood(SENSOR), reconstruction_weight=20.0),
        ],
        LATENT,
        "mopoe",
    )
    frozen = {name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    train, test = make_data(512, seed=1), make_data(128, seed=2)
    colours = {name: data.pop("colour") for name, data in (("train", train), ("test", test))}
    elbo = Trace_ELBO()(vae.model, vae.guide)
    optimizer = torch.optim.Adam([p for p in vae.parameters() if p.requires_grad], LR)
    losses = []
    # Parameters stay in their modules: Pyro's global store, the default, warns of each one that is frozen.
    with pyro.settings.context(module_local_params=True):
        for _ in range(steps):
            rows = torch.randint(0, 512, (32,))
            loss = elbo({name: value[rows] for name, value in train.items()})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item() / 32)
    vae.eval()
    errors = {"none": float((colours["test"] - colours["train"].mean(0)).abs().mean())}
    with torch.no_grad():
        for name in ("image", "sensor"):
            z = vae.posterior({name: test[name]}, "mixture").mean
            errors[name] = float((colour_of(vae.decode(z)["image"]) - colours["test"]).abs().mean())
    changed = sum(not torch.equal(value, frozen[name]) for name, value in encoder.backbone.state_dict().items())
    trained = sum(p.numel() for p in vae.parameters() if p.requires_grad)
    print(f"{trained:,} of {sum(p.numel() for p in vae.parameters()):,} parameters trained")
    print(f"loss {sum(losses[:10]) / 10:.0f} → {sum(losses[-10:]) / 10:.0f} nats per item")
    print("mean absolute error of the generated colour, given " + ", ".join(f"{n}: {e:.3f}" for n, e in errors.items()))
    return {**errors, "first": losses[0], "last": losses[-1], "changed": changed, "total": len(frozen)}


if __name__ == "__main__":
    main()
