"""The guide of a multimodal variational autoencoder, as a Pyro program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.aggregation import Aggregation
from pyro_mmvae.batch import Batch
from pyro_mmvae.experts import Experts
from pyro_mmvae.guides.barycentric import BarycentricGuide
from pyro_mmvae.vae.generative import Distributions, Observations, count_items
from pyro_mmvae.vae.modalities import Encoders, PrivateExpert, only_where, private_site


class MultimodalGuide(BarycentricGuide):
    r"""The guide of a :class:`MultimodalVAE`: a barycentric guide that knows of batches, of β and of private latents.

    A private latent is Gaussian given its own modality, :math:`q(u_m \mid x_m)`, and its prior where that is absent. In
    the component bound the subset drawn for an item is all that its guide sees: the private latents of the modalities
    outside are drawn from their priors too, so that each term is the ELBO of what generates those modalities from the
    subset, and the shared latent has to hold what they have in common. In the mixture bound every private latent
    follows its own modality, as in MoPoE (Sutter et al., 2021, arXiv 2105.02470).
    """

    def __init__(
        self,
        encode: Encoders,
        aggregation: Aggregation,
        *,
        beta: float,
        reconstruction: Mapping[str, float],
        prior: tuple[Tensor, Tensor],
        **options: Any,
    ) -> None:
        super().__init__(encode, aggregation, prior=prior, **options)
        self.register_buffer("prior_loc", prior[0], persistent=False)
        self.beta, self.names = beta, tuple(reconstruction)
        self._untrained = {name for name, weight in reconstruction.items() if weight == 0}

    def experts(self, batch: Observations | None, size: int | None = None) -> Experts:
        """The unimodal posteriors of a batch.

        Args:
            batch: observations.
            size: how many items without any observation, where there is no batch.

        Returns:
            Experts `(item, modality, latent)`.

        Raises:
            ValueError: if there is neither a batch nor a size, or a modality is unknown.
        """
        return self._encoded(batch, size)[0]

    def private(self, batch: Observations) -> Distributions:
        """The posteriors of the private latents of what was observed.

        Args:
            batch: observations.

        Returns:
            Modality name to a distribution of batch shape `(item,)`, event shape `(private,)`: the prior for items
            without the modality. Modalities without a private latent, or that are not in the batch, are left out.
        """
        return self._private_posteriors(self._encoded(batch, None)[1], None)

    def _encoded(self, batch: Observations | None, size: int | None) -> tuple[Experts, dict[str, PrivateExpert]]:
        observed = None if batch is None else Batch.of(batch, self.names)
        count, encode = count_items(observed, size), cast("Encoders", self.encode)
        if observed is not None and observed.values:
            return encode.encode(observed)
        return encode.blank(count, cast("Tensor", self.prior_loc)), {}

    def _private_posteriors(
        self, private: Mapping[str, PrivateExpert], members: Bool[Tensor, "item modality"] | None
    ) -> Distributions:
        result = {}
        for name, (loc, scale) in private.items():
            seen = None if members is None else members[..., self.names.index(name)]
            posterior = dist.Normal(*only_where(seen, loc, scale), validate_args=False).to_event(1)
            result[name] = cast("TorchDistribution", posterior)
        return result

    def forward(
        self,
        batch: Observations | None = None,
        *,
        size: int | None = None,
        generate: Iterable[str] | bool = False,
        weighted: bool = True,
        bound: str | None = None,
    ) -> Tensor:
        """Draw the latent of each item given what was observed of it; from the prior where nothing was.

        Args:
            batch: observations.
            size: how many items where there is no batch.
            generate: taken for the model's sake. What is in the batch is given, generated or not.
            weighted: whether β applies.
            bound: another than the guide's own.

        Returns:
            z, `(…, item, latent)`.
        """
        experts, private = self._encoded(batch, size)
        members = self.draw_members(experts) if private and (bound or self.bound) == "component" else None
        posterior = self.posterior(experts, bound, members)
        sites = {name: expert for name, expert in private.items() if not (weighted and name in self._untrained)}
        return self.sample_posterior(
            posterior,
            experts if weighted else None,
            kl_weight=self.beta if weighted else 1.0,
            others=private_sites(self._private_posteriors(sites, members)),
        )


def private_sites(posteriors: Distributions) -> Distributions:
    """The same by the names of their sites."""
    return {private_site(name): posterior for name, posterior in posteriors.items()}
