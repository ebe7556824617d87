"""Proposals for the posterior of single items: the guide's own, and Gaussians refined from them item by item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.posteriors import (
    draws_at_once,
    private_posteriors,
    subset_family,
    subset_names,
    subset_posterior,
)
from pyro_mmvae.vae.vae import MultimodalVAE

_START_DRAWS = 8
"""The number of draws per component by which the best component of a mixture without a joint one is found."""


class Proposal(Protocol):
    """A distribution of the latents of each item that can be drawn from and evaluated."""

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw latents without gradients.

        Args:
            count: The number of draws per item.

        Returns:
            The latents `(sample, item, size)` and their log densities `(sample, item)`.
        """


class LatentTarget:
    r"""The density :math:`p(x_S, z, u_S)` of some items as a function of one vector of latents per item.

    The vector holds z and then the private latents u of those modalities of S that have one, in data order. Those of
    other modalities integrate out. β and all w_m are 1.

    Args:
        vae: The model, in eval mode.
        batch: Items that have every modality of the subset, on the model's device.
        subset: The indices of the modalities S.
    """

    def __init__(self, vae: MultimodalVAE, batch: Batch, subset: Sequence[int]) -> None:
        self.vae, self.batch, self.subset = vae, batch, tuple(subset)
        self.names = subset_names(subset, vae.names)
        self.private = [name for name in self.names if name in vae.model.private_sizes]
        prior = vae.model.prior()
        self.sizes = [prior.event_shape[0], *(vae.model.private_sizes[name] for name in self.private)]

    @property
    def size(self) -> int:
        """The length of the vector of latents."""
        return sum(self.sizes)

    def __call__(self, latents: Float[Tensor, "*sample item size"]) -> Float[Tensor, "*sample item"]:
        """Return the log density, in nats, with a gradient with respect to the latents."""
        z, *rest = latents.split(self.sizes, -1)
        private, model = dict(zip(self.private, rest, strict=True)), self.vae.model
        total = model.prior().log_prob(z)
        for name, u in private.items():
            total = total + model.private_prior(name).log_prob(u)
        for name, parameter in model.parameters_given(z, self.names, private, self.batch.covariates).items():
            value = self.batch.values[name]
            likelihood: Any = model.likelihoods[name](parameter, value)
            total = total + likelihood.log_prob(value)
        return total

    def log_weights(self, proposal: Proposal, samples: int) -> Float[Tensor, "sample item"]:
        """Return log importance weights of draws from a proposal, in float64.

        Args:
            proposal: The distribution to draw from.
            samples: The number of draws per item.
        """
        items = len(self.batch)
        chunk = max(draws_at_once(next(self.vae.parameters()).device) // items, 1)
        parts = []
        with torch.no_grad():
            for start in range(0, samples, chunk):
                latents, log_prob = proposal.draw(min(chunk, samples - start))
                parts.append(self(latents).double() - log_prob.double())
        return torch.cat(parts)


class GuideProposal:
    """The answer of the guide given a subset, with the private latents of the modalities given.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items.
        batch: The items, on the model's device.
        subset: The indices of the modalities to condition on.
        density: ``mixture`` for the whole posterior, or ``joint`` for its component of all modalities given.
    """

    def __init__(self, vae: MultimodalVAE, experts: Experts, batch: Batch, subset: Sequence[int], density: str) -> None:
        self.posterior = subset_posterior(vae, experts, subset, density)
        self._names = [name for name in subset_names(subset, vae.names) if name in vae.model.private_sizes]
        self._private = private_posteriors(vae, batch, subset)

    def private(self, z: Float[Tensor, "*sample item latent"]) -> list[TorchDistribution]:
        """Return the posteriors of the private latents of the subset given shared ones, in data order."""
        posteriors = self._private(z)
        return [posteriors[name] for name in self._names]

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw latents without gradients, see :class:`Proposal`."""
        z = self.posterior.sample(torch.Size([count]))
        return self.complete(z, self.posterior)

    def complete(self, z: Tensor, posterior: TorchDistribution) -> tuple[Tensor, Tensor]:
        """Draw private latents to go with shared ones that were drawn from a posterior.

        Args:
            z: The shared latents, `(sample, item, latent)`.
            posterior: The distribution that they come from.

        Returns:
            The latents `(sample, item, size)` and their log densities `(sample, item)`.
        """
        latents, log_prob = [z], posterior.log_prob(z)
        for expert in self.private(z):
            u = expert.sample()
            latents.append(u)
            log_prob = log_prob + expert.log_prob(u)
        return torch.cat(latents, -1), log_prob


class GaussianProposal:
    """The Gaussian with full covariance of each item.

    Args:
        loc: The means, `(item, size)`.
        scale_tril: The lower Cholesky factors of the covariances, `(item, size, size)`.
    """

    def __init__(self, loc: Float[Tensor, "item size"], scale_tril: Float[Tensor, "item size size"]) -> None:
        self.loc, self.scale_tril = loc, scale_tril

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw latents without gradients, see :class:`Proposal`."""
        noise = torch.randn(count, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        diagonal = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * self.loc.shape[-1] * math.log(2 * math.pi)
        log_prob = -0.5 * noise.square().sum(-1) - diagonal - constant
        return self.loc + torch.einsum("kij,nkj->nki", self.scale_tril, noise), log_prob


@torch.no_grad()
def starting_gaussian(target: LatentTarget, experts: Experts, subset: Sequence[int]) -> GaussianProposal:
    """Return the Gaussian from which the posteriors of some items are refined.

    It has location and scale of the component of all modalities given. A mixture without that component, such as the
    mixture of experts, starts from the component with the largest ELBO of the item, estimated from eight draws.

    Args:
        target: The density of the items given the subset.
        experts: Experts of the items.
        subset: The indices of the modalities to condition on.
    """
    vae, batch = target.vae, target.batch
    has_joint = subset_family(vae) in {"all", "powerset"} or not vae.guide.has_mixture(len(vae.names))
    guide = GuideProposal(vae, experts, batch, subset, "joint" if has_joint else "mixture")
    chosen: Any = guide.posterior
    if hasattr(chosen, "num_components"):
        chosen = chosen.component(_best_component(target, guide))
    loc, tril = _location_and_scale(chosen)
    locs, blocks = [loc], [tril]
    for expert in guide.private(loc):
        u_loc, u_tril = _location_and_scale(expert)
        locs.append(u_loc)
        blocks.append(u_tril)
    scale_tril = torch.stack([torch.block_diag(*(block[item] for block in blocks)) for item in range(len(loc))])
    return GaussianProposal(torch.cat(locs, -1), scale_tril)


def _best_component(target: LatentTarget, guide: GuideProposal) -> Tensor:
    """Return the index of the component with the largest ELBO of each item, among those of positive weight."""
    mixture: Any = guide.posterior
    elbos = []
    for number in range(mixture.num_components):
        component = mixture.component(torch.full(mixture.batch_shape, number, device=mixture.logits.device))
        latents, log_prob = guide.complete(component.sample(torch.Size([_START_DRAWS])), component)
        elbos.append((target(latents) - log_prob).mean(0))
    return torch.where(mixture.logits > -math.inf, torch.stack(elbos, -1), -math.inf).argmax(-1)


def _location_and_scale(distribution: Any) -> tuple[Tensor, Tensor]:
    """Return the location and the Cholesky factor of the scale; families with heavy tails may lack moments."""
    if hasattr(distribution, "scale_tril"):
        return distribution.loc, distribution.scale_tril
    base = getattr(distribution, "base_dist", distribution)
    has_scale = hasattr(base, "loc") and hasattr(base, "scale")
    loc, scale = (base.loc, base.scale) if has_scale else (distribution.mean, distribution.variance.sqrt())
    return loc, torch.diag_embed(scale)
