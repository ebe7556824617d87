"""The guide of a multimodal variational autoencoder, as a Pyro program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.aggregation import Aggregation
from pyro_mmvae.aggregation.draws import SubsetDraws, redrawn
from pyro_mmvae.aggregation.values import weighted_mask
from pyro_mmvae.batch import Batch
from pyro_mmvae.experts import Experts
from pyro_mmvae.guides.barycentric import BarycentricGuide
from pyro_mmvae.vae.encoders_decoders import Encoders, PrivateExpert, prior_if_absent
from pyro_mmvae.vae.generative import Distributions, Observations, count_items
from pyro_mmvae.vae.names import private_site
from pyro_mmvae.vae.routing import Routing, attach_cuts, check_routing


class MultimodalGuide(BarycentricGuide):
    r"""A barycentric guide of a :class:`MultimodalVAE`, with batches, β and private latents.

    A private latent is Gaussian given its own modality, :math:`q(u_m \mid x_m)`, and follows its prior if that is
    absent. In the component bound the guide of an item depends on the drawn subset only: the private latents of the
    modalities outside of the subset are drawn from their priors too, so that each term is the ELBO of generating those
    modalities from the subset, and the shared latent has to hold what they have in common. In the mixture bound every
    private latent follows its own modality, as in MoPoE (Sutter et al., 2021, arXiv 2105.02470).

    Args:
        encode: Encoders of the modalities.
        aggregation: Name of the aggregation.
        beta: Weight of the KL term in training.
        reconstruction_weights: Modality name to w_m; modalities of weight 0 have no private site in training.
        routing: The encoders that the gradient of a decoder reaches through the shared latent in training: ``"all"``,
            the default, or ``"leave_one_out"``, all but that of its own modality.
        **options: Further arguments of :class:`~pyro_mmvae.BarycentricGuide`.
    """

    def __init__(
        self,
        encode: Encoders,
        aggregation: Aggregation,
        *,
        beta: float,
        reconstruction_weights: Mapping[str, float],
        prior: tuple[Tensor, Tensor],
        routing: Routing = "all",
        **options: Any,
    ) -> None:
        super().__init__(encode, aggregation, prior=prior, **options)
        self.register_buffer("prior_loc", prior[0], persistent=False)
        self.beta, self.names = beta, tuple(reconstruction_weights)
        check_routing(routing, aggregation, self.bound, num_modalities=len(self.names))
        self.routing = routing
        self._untrained = {name for name, weight in reconstruction_weights.items() if weight == 0}

    def experts(self, batch: Observations | None, num_items: int | None = None) -> Experts:
        """Return the unimodal posteriors of a batch.

        Args:
            batch: Observations; None if there are none.
            num_items: Number of items if nothing is observed.

        Returns:
            Experts `(item, modality, latent)`.

        Raises:
            ValueError: If there is neither a batch nor a number of items, or a modality is unknown.
        """
        return self._encode(batch, num_items)[0]

    def private(self, batch: Observations) -> Distributions:
        """Return the posteriors of the private latents of the observed modalities.

        Args:
            batch: Observations of some items.

        Returns:
            Modality name to a distribution of batch shape `(item,)`, event shape `(private,)`: the prior for items
            without the modality. Modalities without a private latent, or that are not in the batch, are left out.
        """
        return self._private_posteriors(self._encode(batch, None)[1], None)

    def _encode(self, batch: Observations | None, num_items: int | None) -> tuple[Experts, dict[str, PrivateExpert]]:
        observed = None if batch is None else Batch.of(batch, self.names)
        count, encode = count_items(observed, num_items), cast("Encoders", self.encode)
        if observed is not None and observed.values:
            return encode.encode(observed)
        return encode.blank(count, cast("Tensor", self.prior_loc)), {}

    def _private_posteriors(self, private: Mapping[str, PrivateExpert], draws: SubsetDraws | None) -> Distributions:
        result: Distributions = {}
        for name, expert in private.items():
            if draws is None:
                result[name] = _private_posterior(expert, None)
            else:
                make = partial(_drawn_private_posterior, draws, self.names.index(name), expert)
                result[name] = redrawn(make, draws.experts.batch_shape)
        return result

    def forward(
        self,
        batch: Observations | None = None,
        *,
        num_items: int | None = None,
        generate: Iterable[str] | bool = False,
        weighted: bool = True,
        bound: str | None = None,
    ) -> Tensor:
        """Draw the latent of each item given its observations, from the prior if it has none.

        Args:
            batch: Observations; None if there are none.
            num_items: Number of items if there is no batch.
            generate: Ignored; model and guide are called with the same arguments. The guide conditions on everything
                in the batch, generated or not.
            weighted: If True, β applies, and in training mode the penalties.
            bound: ``"mixture"`` or ``"component"``; by default the guide's own.

        Returns:
            z, `(…, item, latent)`.

        Raises:
            ValueError: If gradients are routed and the bound is one where the subset of a draw is not known.
        """
        experts, private = self._encode(batch, num_items)
        # Penalties and routing need to know what was drawn; there is one subset only for a rule without a mixture.
        has_draws = bool(private) or (weighted and (self.is_penalized or self.routing != "all"))
        draws = self.aggregation.draws(experts) if has_draws and (bound or self.bound) == "component" else None
        posterior = self.posterior(experts, bound) if draws is None else draws.posterior()
        sites = {name: expert for name, expert in private.items() if not (weighted and name in self._untrained)}
        z = self.sample_posterior(
            posterior,
            experts if weighted else None,
            kl_weight=self.beta if weighted else 1.0,
            others=private_sites(self._private_posteriors(sites, draws)),
            draws=draws,
        )
        if self.routing == "leave_one_out" and weighted and self.training:
            check_routing(self.routing, self.aggregation, bound or self.bound)
            self.attach_routes(z, *((experts, None) if draws is None else draws.latest()))
        return z

    def attach_routes(
        self, z: Tensor, experts: Experts, members: Bool[Tensor, "*batch modality"] | None = None
    ) -> None:
        """Let each modality be decoded from z with a gradient that leaves its own expert out, if the guide routes so.

        The guide calls this on what it draws in training; an objective that draws z itself calls it before the model is
        conditioned on that very tensor.

        Args:
            z: The latents, `(…, item, latent)`, drawn from the posterior of the subsets.
            experts: The unimodal posteriors that z was drawn from.
            members: The subset of each item, `(…, item, modality)`; None for everything present.
        """
        if self.routing == "leave_one_out":
            members = weighted_mask(experts, self.expert_weights(experts)) if members is None else members
            attach_cuts(z, self.names, self.aggregation, experts, members)


def _drawn_private_posterior(
    draws: SubsetDraws, index: int, expert: PrivateExpert, batch_shape: torch.Size
) -> TorchDistribution:
    loc, scale = (tensor.expand(*batch_shape, tensor.shape[-1]) for tensor in expert)
    return _private_posterior((loc, scale), draws.members(batch_shape)[..., index])


def _private_posterior(expert: PrivateExpert, seen: Bool[Tensor, "*batch"] | None) -> TorchDistribution:
    posterior = dist.Normal(*prior_if_absent(seen, *expert), validate_args=False).to_event(1)
    return cast("TorchDistribution", posterior)


def private_sites(posteriors: Distributions) -> Distributions:
    """Return the posteriors of private latents by the names of their sites.

    Args:
        posteriors: Modality name to posterior.
    """
    return {private_site(name): posterior for name, posterior in posteriors.items()}
