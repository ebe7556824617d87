"""The objective with one latent per modality, which a prior that depends on the data holds together."""

from __future__ import annotations

from typing import Literal

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Tensor
from pyro_mmvae.aggregation import Aggregation
from pyro_mmvae.aggregation.kinds import check_kind
from pyro_mmvae.aggregation.mixtures import MixtureOfExperts
from pyro_mmvae.aggregation.rules import WassersteinBarycenter
from pyro_mmvae.aggregation.values import Values
from pyro_mmvae.batch import Batch
from pyro_mmvae.experts import Experts
from pyro_mmvae.training.elbo import Terms
from pyro_mmvae.training.objectives.latent import LatentObjective, total
from pyro_mmvae.training.objectives.subset_posteriors import divergence, expert_distributions
from pyro_mmvae.vae.vae import MultimodalVAE

PRIORS = ("mixture", "barycenter", "aggregation")


class MMVMObjective(LatentObjective):
    r"""The objective with a latent per modality and a prior h(z | X) that all modalities of the item define.

    .. math:: \sum_m \big[ w_m E_{q_m} \log p(x_m \mid z_m) - \beta KL(q_m \,\|\, h(\cdot \mid X)) \big]

    The sums are over what an item has. Every modality is decoded from its own posterior, and the divergences pull the
    posteriors together: with the mixture of all of them as h, the published model, their sum is M times the
    Jensen-Shannon divergence. The prior p(z) of the model does not occur. It is therefore no model of the latents of
    this training, so that draws without observations need a prior that is fitted afterwards, and the validation ELBO,
    which contains p(z), does not choose a checkpoint well: set ``train.select`` to ``last``. The aggregation takes part
    with the prior ``"aggregation"`` only, and otherwise joins the experts after training. Private latents follow
    :math:`q(u_m \mid x_m)`.

    Args:
        vae: The model and guide to train.
        prior: The distribution h: ``"mixture"``, the mixture of all present experts, by default; ``"barycenter"``,
            their Wasserstein barycenter; or ``"aggregation"``, the posterior of everything present of the guide's
            aggregation. The first two have the expert weights λ of the aggregation.

    Raises:
        ValueError: If the prior is unknown, the model has a single modality, or the experts have no barycenter.

    References:
        Sutter, Meng, Agostini, Chopard, Fortin, Vogt, Shahbaba and Mandt, 2024. Unity by diversity: improved
        representation learning for multimodal VAEs. NeurIPS, arXiv 2403.05300.
    """

    name = "mmvm"
    not_routed_since = (
        "it decodes each modality from its own expert alone, whose encoder would get the gradient of the KL term only"
    )

    def __init__(self, vae: MultimodalVAE, prior: Literal["mixture", "barycenter", "aggregation"] = "mixture") -> None:
        super().__init__(vae)
        if prior not in PRIORS:
            raise ValueError(f"option 'prior' of objective 'mmvm' must be one of {', '.join(PRIORS)}, got {prior!r}")
        if vae.model.learned_prior is not None:
            raise ValueError(
                "objective 'mmvm' has a prior given the data in place of the model's, which would not be trained: "
                "choose model.prior=standard"
            )
        rules: dict[str, Aggregation] = {"mixture": MixtureOfExperts(), "barycenter": WassersteinBarycenter()}
        self.prior, self.rule = prior, rules.get(prior)
        if self.rule is not None:
            check_kind(f"{prior} of objective 'mmvm'", self.posteriors.trial.kind, self.rule.accepts)

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Compute the negative objective of a batch, see :meth:`Objective.forward`."""
        experts, private = self.encode(batch)
        posteriors = expert_distributions(experts)
        draws = posteriors.rsample()
        each = divergence(posteriors, self._data_dependent_prior(experts), draws)
        kl = torch.where(experts.mask.movedim(-1, 0), each, 0.0).sum(0)
        z = dict(zip(self.vae.names, draws.unbind(0), strict=True))
        u, private_kl = self.draw_private(experts, private, z)
        reconstruction = self.reconstruct(batch, z, u)
        kl = kl + total(private_kl, torch.zeros_like(kl))
        value = reconstruction.total() - self.beta * kl
        return self.loss_and_terms(value, reconstruction.log_likelihood, kl, self.penalties(experts, None))

    def _data_dependent_prior(self, experts: Experts) -> TorchDistribution:
        """Return h(z | X) of each item."""
        if self.rule is None:
            return self.posteriors.given_all(experts)
        aggregation = self.posteriors.aggregation
        values = Values(aggregation.expert_weights_for(experts), aggregation.prior, "none")
        with self.rule.prepared(experts) as ready:
            return self.rule.with_values(values)(ready)
