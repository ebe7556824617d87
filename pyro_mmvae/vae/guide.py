"""The guide of a multimodal variational autoencoder, as a Pyro program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, cast

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.aggregation import Aggregation
from pyro_mmvae.aggregation.draws import SubsetDraws
from pyro_mmvae.aggregation.values import weighted_mask
from pyro_mmvae.batch import Batch
from pyro_mmvae.experts import Experts
from pyro_mmvae.guides.barycentric import BarycentricGuide
from pyro_mmvae.vae.encoders_decoders import Encoders, PrivateExpert
from pyro_mmvae.vae.generative import Distributions, Observations, count_items
from pyro_mmvae.vae.priors import MixturePrior, prior_where_absent
from pyro_mmvae.vae.private_latents import (
    PosteriorsGiven,
    PrivateLatents,
    UniformSubsets,
    auxiliary_scale,
    check_private_options,
    private_sites,
)
from pyro_mmvae.vae.routing import Routing, attach_cuts, check_routing


class MultimodalGuide(BarycentricGuide):
    r"""A barycentric guide of a :class:`MultimodalVAE`, with batches, β and private latents.

    A private latent is Gaussian given its own modality, :math:`q(u_m \mid x_m)`, and follows its prior if that is
    absent. In training, each item may infer the private latents of a drawn subset of its modalities only, and draw the
    others from auxiliary priors without a KL term, so that the shared latent has to hold what modalities have in
    common. In the component bound of a mixture the subset is the one that the shared latent is drawn from, so that each
    term is about generating the other modalities from it; otherwise every non-empty subset is equally likely.

    Args:
        encode: Encoders of the modalities.
        aggregation: Name of the aggregation.
        beta: Weight of the KL term in training.
        reconstruction_weights: Modality name to w_m; modalities of weight 0 have no private site in training.
        prior: Loc and scale of the prior, each of shape `(latent,)`.
        learned_prior: The prior that the model learns in place of these two, if it does.
        private_sizes: Modality name to the size of its private latent, for modalities that have one; none by default.
        private_auxiliary: The distribution of private latents outside the subset in training: ``"learned"``, the
            default, ``"learned:SCALE"`` or ``"prior"``.
        private_subsets: ``"drawn"``; ``"all"``, so that every private latent is inferred; or ``"auto"``, the default,
            for ``"drawn"`` with a bound that draws subsets, and ``"all"`` elsewhere.
        private_encoder: ``"own"``, the default, or ``"with_z"`` for :math:`q(u_m \mid x_m, z)`.
        routing: The encoders that the gradient of a decoder reaches through the shared latent in training: ``"all"``,
            the default, or ``"leave_one_out"``, all but that of its own modality.
        **options: Further arguments of :class:`~pyro_mmvae.BarycentricGuide`.

    Raises:
        ValueError: If an option of private latents is unknown.
    """

    def __init__(
        self,
        encode: Encoders,
        aggregation: Aggregation,
        *,
        beta: float,
        reconstruction_weights: Mapping[str, float],
        prior: tuple[Tensor, Tensor],
        learned_prior: MixturePrior | None = None,
        private_sizes: Mapping[str, int] | None = None,
        private_auxiliary: str = "learned",
        private_subsets: str = "auto",
        private_encoder: str = "own",
        routing: Routing = "all",
        **options: Any,
    ) -> None:
        check_private_options(private_auxiliary, private_subsets, private_encoder)
        super().__init__(encode, aggregation, prior=prior, **options)
        self.register_buffer("prior_loc", prior[0], persistent=False)
        self._learned_prior = (learned_prior,)  # in a tuple, since it is a submodule of the model alone
        self.beta, self.names = beta, tuple(reconstruction_weights)
        check_routing(routing, aggregation, self.bound, num_modalities=len(self.names))
        self.routing = routing
        self._untrained = {name for name, weight in reconstruction_weights.items() if weight == 0}
        if private_subsets == "auto":
            private_subsets = "drawn" if self.draws_subsets() else "all"
        self.private_subsets = private_subsets
        scale = auxiliary_scale(private_auxiliary) if private_subsets == "drawn" else None
        self.private_latents = PrivateLatents(
            self.names,
            private_sizes or {},
            encode.latent_size,
            auxiliary=() if scale is None else tuple(name for name in self.names if name not in self._untrained),
            auxiliary_scale=scale or 1.0,
            with_z=private_encoder == "with_z",
        )

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

    def posterior(
        self, experts: Experts, density: str | None = None, members: Bool[Tensor, "*batch modality"] | None = None
    ) -> TorchDistribution:
        """Return the distribution that the latent follows given some experts, see :class:`BarycentricGuide`.

        Args:
            experts: The unimodal posteriors of the items.
            density: ``"mixture"``, ``"component"``, ``"subsets"`` or ``"joint"``; by default that of the guide's own
                bound.
            members: The subset of each item for the densities of a drawn subset; drawn by default.
        """
        return self._with_prior(super().posterior(experts, density, members), experts)

    def _with_prior(self, posterior: TorchDistribution, experts: Experts) -> TorchDistribution:
        """Return the posterior with a learned prior for items of which nothing is present."""
        (prior,) = self._learned_prior
        if prior is None or experts.complete:
            return posterior
        return prior_where_absent(posterior, ~experts.mask.any(-1), prior)

    def private(self, batch: Observations) -> PosteriorsGiven:
        """Return the posteriors of the private latents of the observed modalities, as a function of shared latents.

        The batch is encoded once, here.

        Args:
            batch: Observations of some items.

        Returns:
            A function from z `(*sample, item, latent)` to modality name to a distribution of batch shape
            `(*sample, item)`, event shape `(private,)`: the prior for items without the modality. Modalities without a
            private latent, or that are not in the batch, are left out. If the posteriors do not depend on z it may be
            None, for the batch shape `(item,)`.
        """
        experts, private = self._encode(batch, None)
        return partial(self.private_latents.posteriors, private, seen=experts.mask)

    def _encode(self, batch: Observations | None, num_items: int | None) -> tuple[Experts, dict[str, PrivateExpert]]:
        observed = None if batch is None else Batch.of(batch, self.names)
        count, encode = count_items(observed, num_items), cast("Encoders", self.encode)
        if observed is not None and observed.values:
            return encode.encode(observed)
        return encode.blank(count, cast("Tensor", self.prior_loc)), {}

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
            generate: Names of modalities that the model draws, True for all. The guide conditions on everything in the
                batch, generated or not, but draws private latents for generation and not for training.
            weighted: If True, β applies, and private latents are drawn for training; in training mode the penalties
                apply too.
            bound: ``"mixture"``, ``"component"`` or ``"subsets"``; by default the guide's own.

        Returns:
            z, `(…, item, latent)`.

        Raises:
            ValueError: If gradients are routed and the bound is one where the subset of a draw is not known.
        """
        experts, private = self._encode(batch, num_items)
        training = weighted and not generate
        # Private latents, penalties and routing need to know what was drawn.
        follows = bool(private) and self.private_subsets == "drawn"
        has_draws = follows or (weighted and (self.is_penalized or self.routing != "all"))
        draws = self.subset_aggregation(bound).draws(experts) if has_draws and self.draws_subsets(bound) else None
        posterior = self.posterior(experts, bound) if draws is None else self._with_prior(draws.posterior(), experts)
        sites = {name: expert for name, expert in private.items() if not (weighted and name in self._untrained)}

        def others(z: Tensor) -> Distributions:
            seen = self._seen(experts, draws, z.shape[:-1], training=training)
            return private_sites(self.private_latents.posteriors(sites, z, seen, training=training))

        z = self.sample_posterior(
            posterior,
            experts if weighted else None,
            kl_weight=self.beta if weighted else 1.0,
            others=others if sites else None,
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

    def _seen(
        self, experts: Experts, draws: SubsetDraws | None, batch_shape: torch.Size, *, training: bool
    ) -> Bool[Tensor, "*#batch modality"]:
        """Return the modalities whose private latents are inferred."""
        if self.private_subsets == "all":
            return experts.mask
        if draws is not None:
            return draws.members(batch_shape)
        return UniformSubsets(experts.mask).members(batch_shape) if training else experts.mask
