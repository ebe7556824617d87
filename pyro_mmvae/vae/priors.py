"""Priors of the latent that are learned with the model, by name for configurations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.mixtures import MixtureOverSubsets
from pyro_mmvae.distributions import SubsetMixture
from pyro_mmvae.experts import Experts
from pyro_mmvae.signatures import Option, check_options, describe_options, find_options, summary_line

STANDARD = "standard"
"""The name of the default prior, of mean 0 and scale 1 in each dimension."""

STARTS = ("spread", "experts")

_SPREAD = 0.7  # the standard deviation of the initial means; with that of the components the mixture has variance 1


class MixturePrior(nn.Module):
    r"""A mixture of diagonal Gaussians as prior, whose weights, means and scales are trained with the model.

    .. math:: p(z) = \sum_k \pi_k \, N(z; \mu_k, \mathrm{diag}(\sigma_k^2))

    The KL term of the ELBO does not have a closed form; ``Trace_ELBO`` estimates it by the draws of z. It cannot be a
    factor of a product of experts, so that an aggregation with a prior expert is refused. Items of which nothing is
    present have the mixture as their posterior.

    Args:
        components: The number of Gaussians, 40 by default.
        init: The initial values: ``"spread"`` (default), random means around 0 such that the mixture has mean 0 and
            variance 1; or ``"experts"``, which :meth:`MultimodalVAE.start_prior_from` moves to experts of training
            items before the training.

    Raises:
        ValueError: If the number is not positive, or ``init`` is unknown.

    References:
        Tomczak and Welling, 2018. VAE with a VampPrior. AISTATS, arXiv 1705.07120. Its mixture of Gaussians; the start
        from experts is in the spirit of its pseudo-inputs.

    Example:
        >>> from pyro_mmvae import Modality, MultimodalVAE
        >>> vae = MultimodalVAE([Modality("a", (4,)), Modality("b", (6,))], 2, prior=MixturePrior(5))
        >>> vae.model.prior().sample(torch.Size((3,))).shape
        torch.Size([3, 2])
    """

    logits: nn.Parameter
    loc: nn.Parameter
    log_scale: nn.Parameter

    def __init__(self, components: int = 40, *, init: str = "spread") -> None:
        super().__init__()
        if isinstance(components, bool) or not isinstance(components, int) or components < 1:
            raise ValueError(f"components must be a positive integer, got {components!r}")
        if init not in STARTS:
            raise ValueError(f"init must be one of {', '.join(STARTS)}, got {init!r}")
        self.components, self.init = components, init

    def build(self, latent_size: int) -> None:
        """Make the parameters for a number of latent dimensions, drawn from torch's generator.

        Args:
            latent_size: The number of latent dimensions.

        Raises:
            ValueError: If the prior has parameters already, those of another model.
        """
        if self._parameters:
            raise ValueError("prior must be a new MixturePrior for each model, got one that another model has")
        shape = (self.components, latent_size)
        self.logits = nn.Parameter(torch.zeros(self.components))
        self.loc = nn.Parameter(_SPREAD * torch.randn(shape))
        self.log_scale = nn.Parameter(torch.full(shape, 0.5 * math.log(1 - _SPREAD**2)))

    def forward(self) -> SubsetMixture:
        """Return the prior of one item."""
        return _mixture(self.logits, self.loc, self.log_scale)

    def detached(self) -> SubsetMixture:
        """Return the prior of one item without gradients in its parameters."""
        return _mixture(self.logits.detach(), self.loc.detach(), self.log_scale.detach())

    @torch.no_grad()
    def start_from(self, experts: Experts) -> None:
        """Move each component to a random expert of some items, with its mean and its standard deviations.

        Args:
            experts: The unimodal posteriors of the items, of which those present are used, once each if they are
                enough. Otherwise they are used again with a little noise, since equal components would stay equal.

        Raises:
            ValueError: If no modality of any item is present.
        """
        loc, scale = experts.loc[experts.mask], experts.stddev[experts.mask]
        if not len(loc):
            raise ValueError("experts must have a modality that is present to start a prior from, got none")
        chosen = torch.randperm(len(loc))[: self.components].to(loc.device)
        repeated = torch.randint(len(loc), (self.components - len(chosen),)).to(loc.device)
        noise = 0.1 * scale[repeated] * torch.randn(len(repeated), loc.shape[-1]).to(loc)
        self.logits.zero_()
        self.loc.copy_(torch.cat([loc[chosen], loc[repeated] + noise]))
        self.log_scale.copy_(torch.cat([scale[chosen], scale[repeated]]).log())


def _mixture(logits: Tensor, loc: Tensor, log_scale: Tensor) -> SubsetMixture:
    return SubsetMixture(logits, dist.Normal(loc, log_scale.exp(), validate_args=False).to_event(1), False)


def check_learned_prior(rule: Aggregation) -> None:
    """Check that an aggregation does not need loc and scale of the prior, which a learned one does not have.

    Args:
        rule: The aggregation of the model.

    Raises:
        ValueError: If the prior is one of its experts, or it was given a prior of its own.
    """
    if rule.prior is not None:
        raise ValueError(
            f"prior: a learned prior must be the only one, got a pair (loc, scale) in aggregation {rule.name!r} too"
        )
    inner = rule.rule if isinstance(rule, MixtureOverSubsets) else rule
    prior_expert = (
        rule.prior_expert or inner.prior_expert or rule.default_prior_expert or inner.default_prior_expert or "none"
    )
    if prior_expert != "none":
        raise ValueError(
            f"prior: a mixture cannot be an expert of aggregation {rule.name!r}, whose prior_expert={prior_expert!r} "
            "multiplies by a prior of one loc and scale: choose prior_expert='none' (model.prior_expert) or the "
            "standard prior"
        )


def prior_where_absent(
    posterior: TorchDistribution, absent: Bool[Tensor, "*batch"], prior: MixturePrior
) -> TorchDistribution:
    """Return a posterior whose items without any observation follow a learned prior.

    There log q(z) − log p(z) is 0, and the gradient of the prior is 0 in expectation, hence without one in q.

    Args:
        posterior: The posterior of all items.
        absent: The mask of items of which nothing is present.
        prior: The learned prior of the model.
    """
    if not bool(absent.any()):
        return posterior
    if bool(absent.all()):
        return prior.detached().expand(posterior.batch_shape)
    return dist.MaskedMixture(absent, posterior, prior.detached(), validate_args=False)


PRIORS: Mapping[str, type[MixturePrior] | None] = {STANDARD: None, "mixture": MixturePrior}
"""The priors by name; None stands for the default one, which is not learned."""


def make_prior(prior: str | Mapping[str, Any] | None) -> MixturePrior | None:
    """Make a prior from its name and options.

    Args:
        prior: The name of the prior, or a mapping with ``name`` and its options, as ``model.prior`` of a configuration
            has it; None for the standard one.

    Returns:
        The learned prior, or None for the standard one.

    Raises:
        ValueError: If the name is unknown, or an option is or has a wrong value.
    """
    options = dict(prior) if isinstance(prior, Mapping) else {"name": STANDARD if prior is None else prior}
    name = options.pop("name", None)
    factory = _lookup(name)
    check_options(f"prior {name!r}", options, () if factory is None else find_options(factory)[0])
    return None if factory is None else factory(**options)


def prior_options(name: str) -> tuple[Option, ...]:
    """Return the options of a prior by name.

    Args:
        name: The name of a prior, one of ``PRIORS``.

    Returns:
        The options with their defaults, annotations and descriptions; none for the standard prior.

    Raises:
        ValueError: If the name is unknown.
    """
    factory = _lookup(name)
    return () if factory is None else tuple(describe_options(factory))


def describe_prior(name: str) -> str:
    """Return a one-line summary of a prior by name.

    Args:
        name: The name of a prior, one of ``PRIORS``.

    Raises:
        ValueError: If the name is unknown.
    """
    factory = _lookup(name)
    if factory is None:
        return "The prior of mean 0 and scale 1 in each dimension, of the family of the posterior."
    return summary_line(factory, name)


def _lookup(name: Any) -> type[MixturePrior] | None:
    if not isinstance(name, str) or name not in PRIORS:
        raise ValueError(f"prior must be one of {', '.join(PRIORS)}, got {name!r}")
    return PRIORS[name]
