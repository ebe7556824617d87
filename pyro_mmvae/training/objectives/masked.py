"""The masked objective: one bound for a drawn subset, and one for all other modalities given this subset."""

from __future__ import annotations

import torch

from pyro_mmvae._typing import Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.experts import Experts
from pyro_mmvae.training.elbo import Terms
from pyro_mmvae.training.objectives.latent import LatentObjective, Latents, check_number, total
from pyro_mmvae.training.objectives.subset_posteriors import divergence, draw_reparameterised, with_score
from pyro_mmvae.vae.vae import MultimodalVAE


class MaskedObjective(LatentObjective):
    r"""The masked objective, whose posterior of everything present is held to that of a drawn subset.

    .. math::
        E_S \Big[ E_{q_S} \sum_{m \in S} w_m \log p(x_m \mid z) - \beta KL(q_S \,\|\, p)
        + E_{q_P} \sum_{m \in C} w_m \log p(x_m \mid z) - \beta KL(q_P \,\|\, q_S) \Big]

    P is what an item has, S a drawn subset of it and C = P∖S the rest, whose terms are 0 if C is empty. The first two
    terms are the ELBO of the modalities in S, and the last two bound :math:`\log p(x_C \mid x_S)`, with q_S in place of
    the posterior given S. S is drawn as :class:`~pyro_mmvae.training.objectives.subset_posteriors.SubsetPosteriors`
    says, and :math:`q_P` is the component of everything present or, where the aggregation has none as ``moe``, its
    whole mixture, whose KL divergence is estimated from the draw. Each modality is decoded once, from the draw of
    :math:`q_S` or of :math:`q_P`. Each private latent follows :math:`q(u_m \mid x_m)`, since every modality is decoded
    from a posterior that contains it.

    With ``delta`` = δ the objective is δ · component + (1 − δ) · masked, where the component bound decodes all that is
    present from the draw of :math:`q_S`, with private latents from their auxiliary priors outside S. Modalities are
    then decoded twice.

    Args:
        vae: The model and guide to train.
        delta: The share δ of the component bound, between 0 and 1; 0 by default.

    Raises:
        ValueError: If δ is not between 0 and 1, the model has a single modality, or the weights of the subsets are
            learned, since their gradient would be lost in the draw.

    References:
        Hirt, Campolo, Leong and Ortega, 2024. Learning multi-modal generative models with permutation-invariant
        encoders and tighter variational objectives. TMLR, arXiv 2309.00380.
    """

    name = "masked"
    routings = ("all", "leave_one_out")

    def __init__(self, vae: MultimodalVAE, delta: float = 0.0) -> None:
        super().__init__(vae)
        self.delta = check_number("masked", "delta", delta, 0, 1)
        self.check_draws("masked")

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Compute the negative masked objective of a batch, see :meth:`Objective.forward`."""
        experts, private = self.encode(batch)
        members = self.posteriors.draw(experts)
        q_subset, q_all = self.posteriors.given(experts, members), self.posteriors.given_all(experts)
        z_subset, z_all = draw_reparameterised(q_subset), draw_reparameterised(q_all)
        kl = torch.where(members.any(-1), divergence(q_subset, self.vae.model.prior(), z_subset), 0.0)
        has_rest = (experts.mask & ~members).any(-1)
        kl = kl + torch.where(has_rest, (1 - self.delta) * divergence(q_all, q_subset, z_all), 0.0)
        z, seen, coefficients = self._routes(members, z_subset, z_all)
        self._leave_own_out(z, experts, members)
        u, private_kl = self.draw_private(experts, private, z, seen)
        reconstruction = self.reconstruct(batch, z, u)
        if coefficients:
            reconstruction = reconstruction.times(coefficients)
            private_kl = {name: (coefficients[name] * value).sum(0) for name, value in private_kl.items()}
        kl = kl + total(private_kl, torch.zeros_like(kl))
        value = with_score(reconstruction.total() - self.beta * kl, (q_subset, z_subset), (q_all, z_all))
        return self.loss_and_terms(value, reconstruction.log_likelihood, kl, self.penalties(experts, members))

    def _routes(
        self, members: Tensor, z_subset: Tensor, z_all: Tensor
    ) -> tuple[Latents, Tensor | None, dict[str, Tensor]]:
        """Return the latents to decode, the mask of private latents, and the coefficients of the draws."""
        by_name = dict(zip(self.vae.names, members.unbind(-1), strict=True))
        if self.delta == 0:
            return {n: torch.where(m.unsqueeze(-1), z_subset, z_all) for n, m in by_name.items()}, None, {}
        coefficients = {}
        for name, member in by_name.items():
            inside = member.to(z_subset.dtype)
            coefficients[name] = torch.stack([inside + self.delta * (1 - inside), (1 - self.delta) * (1 - inside)])
        return torch.stack([z_subset, z_all]), torch.stack([members, torch.ones_like(members)]), coefficients

    def _leave_own_out(self, z: Latents, experts: Experts, members: Tensor) -> None:
        """Cut the decoders from the encoders of their own modality, if the guide routes gradients so."""
        guide = self.vae.guide
        if isinstance(z, Tensor):
            guide.attach_routes(z, experts, torch.stack([members, experts.mask]))
            return
        for name, member in zip(self.vae.names, members.unbind(-1), strict=True):
            guide.attach_routes(z[name], experts, torch.where(member.unsqueeze(-1), members, experts.mask))
