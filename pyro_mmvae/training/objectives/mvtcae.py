"""The objective of the multi-view total correlation autoencoder."""

from __future__ import annotations

import torch

from pyro_mmvae._typing import Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.training.elbo import Terms
from pyro_mmvae.training.objectives.latent import LatentObjective, check_number, total
from pyro_mmvae.training.objectives.subset_posteriors import (
    divergence,
    draw_reparameterised,
    expert_distributions,
    with_score,
)
from pyro_mmvae.vae.vae import MultimodalVAE


class MVTCAEObjective(LatentObjective):
    r"""The objective of MVTCAE, which holds the posterior of everything present to that of every single modality.

    .. math::
        \frac{M - \alpha}{M} E_{q_P} \sum_m w_m \log p(x_m \mid z)
        - \beta \Big[ (1 - \alpha) KL(q_P \,\|\, p) + \frac{\alpha}{M} \sum_m KL(q_P \,\|\, q_m) \Big]

    M is the number of modalities that an item has, and the sums are over them. With the product of experts without a
    prior expert (``--agg poe --set model.prior_expert=none``) it is the published model. :math:`q_P` is the component
    of everything present or, where the aggregation has none as ``moe``, its whole mixture; KL divergences without a
    closed form are estimated from the draw. ``mwb`` therefore trains as ``wb`` does. Private latents follow
    :math:`q(u_m \mid x_m)`; since :math:`q_k(z, u)` is their prior for all modalities but k, the same derivation gives
    their KL terms the weight :math:`\beta (M - \alpha) / M`.

    Args:
        vae: The model and guide to train.
        alpha: The weight α of the KL divergences from single modalities, between 0 (the ELBO of everything present) and
            1; 5/6 by default, as published.
        beta: The weight β of all KL terms, positive, which is multiplied by ``model.beta`` and its warm-up; 2.5 by
            default, as published.

    Raises:
        ValueError: If α or β is out of its range, or the model has a single modality.

    References:
        Hwang, Kim, Hong and Kim, 2021. Multi-view representation learning via total correlation objective. NeurIPS.
    """

    name = "mvtcae"
    routings = ("all", "leave_one_out")

    def __init__(self, vae: MultimodalVAE, alpha: float = 5 / 6, beta: float = 2.5) -> None:
        super().__init__(vae)
        self.alpha = check_number("mvtcae", "alpha", alpha, 0, 1)
        self.factor = check_number("mvtcae", "beta", beta, 0)

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Compute the negative objective of a batch, see :meth:`Objective.forward`."""
        experts, private = self.encode(batch)
        posterior = self.posteriors.given_all(experts)
        z = draw_reparameterised(posterior)
        self.vae.guide.attach_routes(z, experts)
        u, private_kl = self.draw_private(experts, private, z)
        reconstruction = self.reconstruct(batch, z, u)
        kl = torch.where(experts.mask.any(-1), divergence(posterior, self.vae.model.prior(), z), 0.0)
        each = divergence(posterior, expert_distributions(experts), z)
        count = experts.mask.sum(-1).clamp(min=1).to(kl)
        conditional = torch.where(experts.mask.movedim(-1, 0), each, 0.0).sum(0) / count
        kl_of_private = total(private_kl, torch.zeros_like(kl))
        beta, share = self.factor * self.beta, (count - self.alpha) / count
        value = share * (reconstruction.total() - beta * kl_of_private)
        value = value - beta * ((1 - self.alpha) * kl + self.alpha * conditional)
        value = with_score(value, (posterior, z))
        return self.loss_and_terms(
            value,
            reconstruction.log_likelihood,
            kl + kl_of_private,
            self.penalties(experts, None),
            {"conditional_kl": conditional},
        )
