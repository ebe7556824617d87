"""The posteriors of drawn subsets and of everything present, for objectives that combine several of them."""

from __future__ import annotations

from typing import Any, cast

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import kl_divergence

from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.aggregation import Aggregation
from pyro_mmvae.aggregation.kinds import distribution_of
from pyro_mmvae.aggregation.values import in_one_dtype
from pyro_mmvae.distributions import SubsetMixture
from pyro_mmvae.experts import Experts
from pyro_mmvae.vae.encoders_decoders import Encoders
from pyro_mmvae.vae.vae import MultimodalVAE


class SubsetPosteriors:
    r"""The posteriors :math:`q_S` of subsets S of the modalities under any aggregation.

    An aggregation over a family of subsets draws S from this family with its weights π. One that has a single
    component, such as ``wb`` and ``poe``, draws S from all non-empty subsets of what is present, with the weights that
    its option ``subset_weights`` names, and q_S is its posterior given S alone.

    Args:
        vae: The model and guide.

    Attributes:
        has_joint: True if the aggregation has a component of everything present; otherwise its whole mixture stands
            for q_P, as for ``moe``.
    """

    def __init__(self, vae: MultimodalVAE) -> None:
        self.vae = vae
        self.trial = _trial_experts(vae)
        self.has_joint = _has_joint(self.aggregation, self.trial)

    @property
    def aggregation(self) -> Aggregation:
        """The aggregation of the guide."""
        return self.vae.guide.aggregation

    def draw(self, experts: Experts) -> Bool[Tensor, "*batch modality"]:
        """Draw one subset per item, stratified over the batch.

        Args:
            experts: The unimodal posteriors of the items.

        Returns:
            The members of each item's subset, all False for an item of which nothing is present.

        Raises:
            ValueError: If the weights of the subsets require a gradient, which would be lost in the draw.
        """
        return self._over_subsets.draw(experts)

    def given(self, experts: Experts, members: Bool[Tensor, "*batch modality"]) -> TorchDistribution:
        """Return the posterior of one subset per item; the prior where the subset is empty.

        Args:
            experts: The unimodal posteriors of the items.
            members: The subset of each item.
        """
        return self._over_subsets.component(experts, members)

    def given_all(self, experts: Experts) -> TorchDistribution:
        """Return the posterior of everything present: the joint component, or else the whole mixture.

        Args:
            experts: The unimodal posteriors of the items.
        """
        return self.aggregation.joint(experts) if self.has_joint else self.aggregation(experts)

    @property
    def _over_subsets(self) -> Aggregation:
        return self.vae.guide.subset_aggregation("subsets")


def expert_distributions(experts: Experts) -> TorchDistribution:
    """Return the experts as distributions of batch shape `(modality, *batch)`, which broadcasts with that of items.

    Args:
        experts: The unimodal posteriors, `(*batch, modality, latent)`.
    """
    ready = in_one_dtype(experts)  # networks may compute in bfloat16
    return distribution_of(ready.map(lambda tensor, event_dim: tensor.movedim(-event_dim, 0)))


def draw_reparameterised(
    posterior: TorchDistribution, shape: torch.Size = torch.Size()
) -> Float[Tensor, "*sample latent"]:
    """Draw with pathwise gradients in the components, those of a mixture stratified over the batch.

    Args:
        posterior: The distribution to draw from.
        shape: The sample shape; a single draw by default.
    """
    if isinstance(posterior, SubsetMixture):
        return posterior.stratified()(shape)
    return posterior.rsample(shape)


def divergence(q: TorchDistribution, p: TorchDistribution, z: Float[Tensor, "*batch latent"]) -> Tensor:
    """Return KL(q ‖ p) in closed form where torch knows one, and its estimate log q(z) - log p(z) elsewhere.

    Args:
        q: The distribution that z was drawn from.
        p: The other distribution; the batch shapes broadcast.
        z: One draw per entry of q, with pathwise gradients.

    Returns:
        The divergences, of the broadcast batch shape.
    """
    if not isinstance(q, SubsetMixture):  # of which no closed form exists
        try:
            return kl_divergence(q, p)
        except NotImplementedError:
            pass
    return q.log_prob(z) - p.log_prob(z)


def learns_mixture_weights(posterior: TorchDistribution) -> bool:
    """Return True for a mixture whose weights require a gradient, which pathwise draws do not have.

    Args:
        posterior: The distribution that is drawn from.
    """
    return isinstance(posterior, SubsetMixture) and posterior.components.has_rsample and not posterior.has_rsample


def with_score(value: Float[Tensor, "*batch"], *sources: tuple[Any, Tensor]) -> Float[Tensor, "*batch"]:
    """Return values whose gradient has the score function of learned mixture weights added, if there are any.

    Args:
        value: The objective of each item, an estimate from the draws.
        *sources: The distributions that were drawn from, each with its draws, which have any sample dimensions in front
            of those of the items.
    """
    result = value
    for posterior, z in sources:
        if learns_mixture_weights(posterior):
            score = posterior.score_parts(z).score_function
            score = score.reshape(-1, *value.shape).sum(0)
            result = result + (score - score.detach()) * value.detach()
    return result


def _trial_experts(vae: MultimodalVAE) -> Experts:
    """Return experts of two items with gradients, which show what an aggregation can do before there are data."""
    reference = next(vae.parameters())
    shape = (2, len(vae.names), vae.latent_size)
    loc = torch.zeros(shape, device=reference.device, requires_grad=True)
    encode = cast("Encoders", vae.guide.encode)
    if encode.expert_kind == "full":
        tril = torch.eye(vae.latent_size, device=reference.device).expand(*shape, -1).clone().requires_grad_()
        return Experts(loc, scale_tril=tril, validate_args=False)
    scale = torch.ones(shape, device=reference.device, requires_grad=True)
    return Experts(loc, scale, validate_args=False, family=encode.expert_kind, df=encode.df)


def _has_joint(aggregation: Aggregation, trial: Experts) -> bool:
    try:
        aggregation.joint(trial)
    except ValueError:
        return False
    return True
