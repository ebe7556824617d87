"""The sum of the ELBO of everything present and of those of subsets, as MVAE is trained."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.experts import Experts
from pyro_mmvae.training.elbo import Terms
from pyro_mmvae.training.objectives.latent import LatentObjective, check_number, total
from pyro_mmvae.training.objectives.subset_posteriors import divergence, draw_reparameterised, with_score
from pyro_mmvae.vae.vae import MultimodalVAE


class SubELBOsObjective(LatentObjective):
    r"""The ELBO of everything present plus those of every single modality and of k random subsets.

    .. math::
        L(P) + \sum_{m \in P} L(\{m\}) + \sum_{j=1}^k L(S_j), \qquad
        L(S) = E_{q_S} \sum_{m \in S} w_m \log p(x_m \mid z) - \beta KL(q_S \,\|\, p)

    P is what an item has. With the product of experts (``poe``) it is the objective of MVAE; any other aggregation may
    stand in its place. The random subsets S_j are drawn as those of
    :class:`~pyro_mmvae.training.objectives.subset_posteriors.SubsetPosteriors`, and where the aggregation has no
    component of everything present, as ``moe``, its whole mixture stands for :math:`q_P`. A term of a subset decodes
    the modalities of the subset only, whose private latents follow :math:`q(u_m \mid x_m)`. An item without any
    modality adds 0. The objective is a sum of bounds on different evidences, so that its values are not comparable
    with those of the ELBO; the recorded terms are sums over all subsets.

    Args:
        vae: The model and guide to train.
        subsets: The number k of random subsets per item and step, 1 by default; 0 for none.
        singles: If True, the ELBOs of the single modalities are added; True by default.

    Raises:
        ValueError: If k is not an integer from 0 on, the model has a single modality, or subsets are drawn whose
            weights are learned.

    References:
        Wu and Goodman, 2018. Multimodal generative models for scalable weakly-supervised learning. NeurIPS, equation 4.
    """

    name = "sub_elbos"
    not_routed_since = (
        "its bounds of single modalities decode each from its own expert alone, whose encoder would get the gradient "
        "of the KL term only"
    )

    def __init__(self, vae: MultimodalVAE, subsets: int = 1, singles: bool = True) -> None:
        super().__init__(vae)
        self.subsets, self.singles = int(check_number("sub_elbos", "subsets", subsets, 0)), singles
        if self.subsets != subsets:
            raise ValueError(f"option 'subsets' of objective 'sub_elbos' must be an integer, got {subsets!r}")
        if not isinstance(singles, bool):
            raise ValueError(f"option 'singles' of objective 'sub_elbos' must be true or false, got {singles!r}")
        if self.subsets:
            self.check_draws("sub_elbos")

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Compute the negative sum of the bounds of a batch, see :meth:`Objective.forward`."""
        experts, private = self.encode(batch)
        members = self._members(experts)
        q_all, q_others = self._posteriors(experts, members)
        z, kl = self._draw(q_all, q_others, members)
        # Each modality is decoded from the draws of the subsets that may contain it: all, itself alone, random ones.
        rows, names = self._rows_by_modality(len(members)), self.vae.names
        latents = {name: z[rows[m]] for m, name in enumerate(names)}
        inside = torch.stack([members[rows[m], :, m] for m in range(len(names))], -1)
        u, private_kl = self.draw_private(experts, private, latents, inside)
        shares = {name: inside[..., m].to(z) for m, name in enumerate(names)}
        reconstruction = self.reconstruct(batch, latents, u).times(shares)
        kl = kl.sum(0) + total({n: (shares[n] * v).sum(0) for n, v in private_kl.items()}, torch.zeros_like(kl[0]))
        others = () if q_others is None else ((q_others, z[1:]),)
        value = with_score(reconstruction.total() - self.beta * kl, (q_all, z[0]), *others)
        return self.loss_and_terms(value, reconstruction.log_likelihood, kl, self.penalties(experts, None))

    def _members(self, experts: Experts) -> Bool[Tensor, "subset item modality"]:
        """Return the members of all subsets: everything present, the single modalities, the random subsets."""
        present = experts.mask
        parts = [present.unsqueeze(0)]
        if self.singles:
            single = torch.eye(experts.num_modalities, dtype=torch.bool, device=present.device)
            parts.append(single.unsqueeze(1) & present)
        parts += [self.posteriors.draw(experts).unsqueeze(0) for _ in range(self.subsets)]
        return torch.cat(parts)

    def _posteriors(
        self, experts: Experts, members: Bool[Tensor, "subset item modality"]
    ) -> tuple[TorchDistribution, TorchDistribution | None]:
        """Return the posterior of everything present, and those of the other subsets; None without others."""
        q_all, others = self.posteriors.given_all(experts), members[1:]
        if not len(others):
            return q_all, None
        spread = experts.map(lambda tensor, event_dim: tensor.expand(len(others), *tensor.shape))
        return q_all, self.posteriors.given(spread, others)

    def _draw(
        self, q_all: TorchDistribution, q_others: TorchDistribution | None, members: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return a draw of the posterior of each subset, and its KL divergence from the prior."""
        prior = self.vae.model.prior()
        z = draw_reparameterised(q_all).unsqueeze(0)
        kl = divergence(q_all, prior, z[0]).unsqueeze(0)
        if q_others is not None:
            draws = draw_reparameterised(q_others)
            z, kl = torch.cat([z, draws]), torch.cat([kl, divergence(q_others, prior, draws)])
        # An item lacks some of the subsets, whose posterior is N(0, I), which a learned prior differs from.
        return z, torch.where(members.any(-1), kl, 0.0)

    def _rows_by_modality(self, count: int) -> list[list[int]]:
        """Return, for each modality, the rows of the subsets that may contain it, as many for each."""
        singles = len(self.vae.names) if self.singles else 0
        shared = [0, *range(1 + singles, count)]
        return [sorted([*shared, *([1 + m] if self.singles else [])]) for m in range(len(self.vae.names))]
