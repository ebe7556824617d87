"""Frozen pretrained encoders: only small heads and the expert weights λ are trained.

Two backbones are pretrained here on a separate task, as vision or text encoders usually are. In the guide they are
frozen and in evaluation mode; each has a linear head, and each modality a weight. One modality is mostly noise.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_mmvae import BarycentricGuide, Experts
from pyro_mmvae.aggregation.weights import LearnedWeights

SIZE, FEATURES, LATENT = 12, 16, 2
NOISE = (0.3, 3.0)  # standard deviation of each modality; the second is hardly informative


def pretrain(seed: int, steps: int = 100) -> nn.Module:
    """Return the encoder of a trained autoencoder of vectors, with batch normalisation and dropout."""
    generator = torch.Generator().manual_seed(seed)
    backbone = nn.Sequential(nn.Linear(SIZE, FEATURES), nn.BatchNorm1d(FEATURES), nn.Tanh(), nn.Dropout(0.1))
    decoder = nn.Linear(FEATURES, SIZE)
    optimizer = torch.optim.Adam([*backbone.parameters(), *decoder.parameters()], 1e-2)
    for _ in range(steps):
        x = 2 * torch.randn(64, SIZE, generator=generator)
        optimizer.zero_grad()
        (decoder(backbone(x)) - x).square().mean().backward()
        optimizer.step()
    return backbone


class Encode(PyroModule):
    """An encoder of frozen backbones and trained heads.

    It is a ``PyroModule``, since Pyro warns about parameters without a gradient in an ``nn.Module``.
    """

    def __init__(self, backbones: list[nn.Module]) -> None:
        super().__init__()
        self.backbones = nn.ModuleList(backbones).requires_grad_(False)
        self.heads = nn.ModuleList(nn.Linear(FEATURES, 2 * LATENT) for _ in backbones)
        self.train()

    def train(self, mode: bool = True) -> Encode:
        """Set the mode; the backbones stay in evaluation mode, because their batch statistics would drift."""
        super().train(mode)
        self.backbones.eval()
        return self

    def forward(self, x: Tensor) -> Experts:
        """Return experts `(item, modality, 2)` of x `(item, modality, 12)`."""
        with torch.no_grad():
            features = [backbone(x[:, m]) for m, backbone in enumerate(self.backbones)]
        out = torch.stack([head(f) for head, f in zip(self.heads, features, strict=True)], 1)
        loc, log_scale = out.chunk(2, -1)
        return Experts(loc, log_scale.exp())


def main(steps: int = 400, aggregation: str = "wb") -> dict[str, object]:
    """Train heads and weights; print which parameters changed, the loss, and the learned λ."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    loadings = torch.randn(len(NOISE), LATENT, SIZE) / SIZE**0.5

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            for m, noise in enumerate(NOISE):
                pyro.sample(f"x_{m}", dist.Normal(z @ loadings[m], noise).to_event(1), obs=x[:, m])

    z = torch.randn(200, LATENT)
    noise = torch.tensor(NOISE)[:, None] * torch.randn(200, len(NOISE), SIZE)
    x = torch.einsum("bd,mdx->bmx", z, loadings) + noise

    encode = Encode([pretrain(seed) for seed in range(len(NOISE))])
    guide = BarycentricGuide(encode, aggregation, expert_weights=LearnedWeights(len(NOISE)))
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    optimizer = pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.1 ** (1 / steps)})
    svi = SVI(model, guide, optimizer, Trace_ELBO())
    losses = [svi.step(x) / len(x) for _ in range(steps)]

    changed = sorted(name for name, value in guide.state_dict().items() if not torch.equal(value, before[name]))
    optimised = sorted(name.replace("$$$", ".") for name in optimizer.get_state())
    with torch.no_grad():
        experts = encode(x)
        share = guide.expert_weights(experts)[0] / len(NOISE)
        error = float((guide.posterior(experts).mean - z).square().mean().sqrt())
    total = sum(value.numel() for value in guide.parameters())
    trained = sum(value.numel() for value in guide.parameters() if value.requires_grad)
    print(f"trained: {trained} of {total} parameters; {', '.join(changed)}")
    print(f"loss {sum(losses[:10]) / 10:.2f} → {sum(losses[-10:]) / 10:.2f} nats per item; RMSE of z {error:.3f}")
    print(f"share of λ: {share[0]:.2f} the clear modality, {share[1]:.2f} the noisy one")
    return {
        "changed": changed,
        "optimised": optimised,
        "first": sum(losses[:10]) / 10,
        "last": sum(losses[-10:]) / 10,
        "rmse": error,
        "share": share.tolist(),
    }


if __name__ == "__main__":
    main()
