"""The importance-weighted bound with several draws per item, and its gradient estimators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.experts import Experts
from pyro_mmvae.training.elbo import Terms
from pyro_mmvae.training.objectives.latent import LatentObjective, check_number
from pyro_mmvae.training.objectives.subset_posteriors import (
    draw_reparameterised,
    learns_mixture_weights,
    with_score,
)
from pyro_mmvae.vae.vae import MultimodalVAE

GRADIENTS = ("dreg", "stl", "plain")

_SHARED = ""  # the key of the shared latents; modalities have names that are not empty


class IWAEObjective(LatentObjective):
    r"""The importance-weighted bound with K draws per item.

    .. math::
        E \log \frac1K \sum_{k=1}^K e^{\ell_k}, \qquad
        \ell_k = \sum_m w_m \log p(x_m \mid z_k, u_{mk}) - \beta \log \frac{q(z_k, u_k \mid x)}{p(z_k, u_k)}

    With β = w = 1 it lies between the ELBO and the evidence, and tends to the evidence as K grows. The proposal q is
    that of the model's bound: the whole mixture, or the component of one drawn subset per item, from which all K draws
    of the item come. Private latents follow the guide: in the component bound those of the modalities outside of the
    subset are drawn from their auxiliary priors, without a term in the ratio; if these are learned, it is not a bound.

    With the normalised weights :math:`\hat w_k` of the draws, the gradient of the encoders is

    - ``"dreg"``: :math:`\sum_k \hat w_k (1 - \beta + \beta \hat w_k) \, \partial \ell_k / \partial z_k \,
      \partial z_k / \partial \phi`, the doubly reparameterised gradient, unbiased and without the noise of the score
      function, which grows with K; for β = 1 the factor is :math:`\hat w_k^2`;
    - ``"stl"``: with the factor :math:`\hat w_k`, which drops the score function: unbiased for K = 1 only, else biased;
    - ``"plain"``: that of automatic differentiation, unbiased.

    The gradient of the decoders is :math:`\sum_k \hat w_k \, \partial \ell_k / \partial \theta` with all three. The
    recorded terms are means over the K draws; their sum is below the objective, which gains from weighting the draws.

    Args:
        vae: The model and guide to train.
        samples: The number K of draws per item, 8 by default; memory and time grow with it.
        gradient: The estimator of the gradient: ``"dreg"``, the default, ``"stl"`` or ``"plain"``.

    Raises:
        ValueError: If K is not a positive integer, the gradient is unknown, or it is not ``"plain"`` with mixture
            weights that are learned or depend on the experts, as those of ``holder``, which reparameterised gradients
            do not reach, or with private latents whose posterior depends on z.

    References:
        Burda, Grosse and Salakhutdinov, 2016. Importance weighted autoencoders. ICLR.
        Roeder, Wu and Duvenaud, 2017. Sticking the landing. NeurIPS.
        Tucker, Lawson, Gu and Maddison, 2019. Doubly reparameterized gradient estimators for Monte Carlo objectives.
        ICLR.
    """

    name = "iwae"
    min_modalities = 1
    not_routed_since = "its estimators weight the gradient that reaches the draws, which routed gradients do not pass"

    def __init__(self, vae: MultimodalVAE, samples: int = 8, gradient: str = "dreg") -> None:
        super().__init__(vae)
        self.samples = int(check_number("iwae", "samples", samples, 1))
        if self.samples != samples:
            raise ValueError(f"option 'samples' of objective 'iwae' must be an integer, got {samples!r}")
        if gradient not in GRADIENTS:
            raise ValueError(
                f"option 'gradient' of objective 'iwae' must be one of {', '.join(GRADIENTS)}, got {gradient!r}"
            )
        if gradient != "plain" and vae.guide.private_latents.with_z and vae.model.private_sizes:
            raise ValueError(
                f"objective 'iwae' with gradient={gradient!r} must have model.private_encoder=own, since the gradient "
                "of private latents that depend on z would be weighed twice, got 'with_z': use gradient='plain'"
            )
        self.gradient = gradient
        trial = self.posteriors.trial
        if gradient != "plain" and learns_mixture_weights(self._proposal(trial, self._members(trial))):
            raise ValueError(
                f"objective 'iwae' with gradient={gradient!r} must have mixture weights without a gradient, since "
                "reparameterised gradients reach neither learned weights nor those of holder, which depend on the "
                "experts: use gradient='plain'"
            )

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Compute the negative bound of a batch, see :meth:`Objective.forward`."""
        experts, private = self.encode(batch)
        members = self._members(experts)
        proposal = self._proposal(experts, members)
        z = draw_reparameterised(proposal, torch.Size([self.samples]))
        seen = None if members is None else members.expand(*z.shape[:2], -1)
        q_private = self.private_posteriors(experts, private, z, seen)
        u = {name: q.rsample() for name, q in q_private.items()}
        reconstruction = self.reconstruct(batch, z, u)
        if self.gradient != "plain":  # the density at the draw has no gradient in its parameters, only in the draw
            with torch.no_grad():
                proposal = self._proposal(experts, members)
                q_private = self.private_posteriors(experts, private, z, seen)
        ratio = self._log_ratio(proposal, z, q_private, u)
        log_weights = reconstruction.total() - self.beta * ratio
        if self.gradient == "dreg":
            inferred = {} if seen is None else {name: seen[..., self.vae.names.index(name)] for name in u}
            self._reweigh_gradients(log_weights, {**u, _SHARED: z}, inferred)
        value = log_weights.logsumexp(0) - math.log(self.samples)
        value = with_score(value, (proposal, z))
        mean = {name: term.mean(0) for name, term in reconstruction.log_likelihood.items()}
        return self.loss_and_terms(value, mean, ratio.mean(0), self.penalties(experts, members))

    def _members(self, experts: Experts) -> Bool[Tensor, "item modality"] | None:
        """Return the subset of each item; None if the bound does not draw subsets."""
        return self.vae.guide.draw_members(experts)

    def _proposal(self, experts: Experts, members: Bool[Tensor, "item modality"] | None) -> TorchDistribution:
        return self.vae.guide.posterior(experts, members=members)

    def _log_ratio(
        self,
        proposal: TorchDistribution,
        z: Tensor,
        q_private: Mapping[str, TorchDistribution],
        u: Mapping[str, Tensor],
    ) -> Float[Tensor, "draw item"]:
        """Return log q(z, u) - log p(z, u) of each draw."""
        model = self.vae.model
        ratio = proposal.log_prob(z) - model.prior().log_prob(z)
        for name, value in u.items():
            ratio = ratio + q_private[name].log_prob(value) - model.private_prior(name).log_prob(value)
        return ratio

    def _reweigh_gradients(
        self, log_weights: Float[Tensor, "draw item"], draws: Mapping[str, Tensor], inferred: Mapping[str, Tensor]
    ) -> None:
        """Multiply the gradients that reach the draws by the factor of the doubly reparameterised estimator.

        Args:
            log_weights: The logarithms of the weights of all draws.
            draws: The private latents by modality name, and the shared ones.
            inferred: Modality name to a mask of the items whose private latent follows q(u_m | x_m). The density of
                the others is left out of the weights, so that their gradient has no score function to replace.
        """
        factor = 1 - self.beta + self.beta * log_weights.detach().softmax(0)
        for name, draw in draws.items():
            if draw.requires_grad:
                own = torch.where(inferred[name], factor, 1.0) if name in inferred else factor
                draw.register_hook(partial(_scale_gradient, own.unsqueeze(-1)))


def _scale_gradient(factor: Tensor, gradient: Tensor) -> Tensor:
    return factor.to(gradient) * gradient
