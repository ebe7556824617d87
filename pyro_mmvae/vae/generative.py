"""The generative model of a multimodal variational autoencoder, as a Pyro program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.distributions import location_scale
from pyro_mmvae.guides.barycentric import scaled
from pyro_mmvae.guides.store_names import SeparatelyStored
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.vae.covariates import Covariates
from pyro_mmvae.vae.encoders_decoders import Decoders
from pyro_mmvae.vae.names import modality_site, private_site
from pyro_mmvae.vae.priors import MixturePrior

Observations: TypeAlias = Batch | Mapping[str, Tensor]
Distributions: TypeAlias = dict[str, TorchDistribution]


class GenerativeModel(SeparatelyStored):
    r"""The model :math:`z \sim p(z),\ u_m \sim N(0, I),\ x_m \sim p(x_m \mid z, u_m)`, as a Pyro program.

    Its sites are ``z``, one per modality, and ``NAME_private`` for the private latent u of a modality that has one, in
    one plate ``data``. The site of a modality has its name, or ``modality:NAME`` if that is taken, see
    :func:`~pyro_mmvae.vae.names.modality_site`.

    Args:
        decoders: Module from a latent to the parameters of every modality.
        likelihoods: Modality name to likelihood.
        reconstruction_weights: Modality name to w_m.
        prior_loc: Location of the prior, `(latent,)`.
        prior_scale: Scale of the prior, `(latent,)`.
        beta: Weight of the KL term in training.
        family: Family of the prior, ``"normal"`` by default.
        df: Degrees of freedom of the prior if its family is ``student_t``.
        private_sizes: Modality name to the number of dimensions of its private latent, for modalities that have one.
        covariates: The covariates c that the decoders condition on, :math:`p(x_m \mid z, u_m, c)`; none by default.
        learned_prior: The prior that is trained with the model; by default the prior is that of loc and scale.
    """

    covariates: Covariates

    def __init__(
        self,
        decoders: Decoders,
        likelihoods: nn.ModuleDict,
        reconstruction_weights: Mapping[str, float],
        prior_loc: Tensor,
        prior_scale: Tensor,
        beta: float,
        family: str = "normal",
        df: float | None = None,
        private_sizes: Mapping[str, int] | None = None,
        covariates: Covariates | None = None,
        learned_prior: MixturePrior | None = None,
    ) -> None:
        super().__init__()
        self.learned_prior = learned_prior
        self.covariates = covariates or Covariates()
        self.decoders = decoders
        self.private_sizes = dict(private_sizes or {})
        self.likelihoods = likelihoods
        self.names = tuple(reconstruction_weights)
        self.reconstruction_weights, self.beta = dict(reconstruction_weights), beta
        self.prior_family, self.prior_df = family if learned_prior is None else "mixture", df
        self.register_buffer("prior_loc", prior_loc)
        self.register_buffer("prior_scale", prior_scale)

    def prior(self) -> TorchDistribution:
        """Return the prior of one item."""
        if self.learned_prior is not None:
            return cast("TorchDistribution", self.learned_prior())
        loc, scale = cast("Tensor", self.prior_loc), cast("Tensor", self.prior_scale)
        if self.prior_family != "normal":
            return location_scale(self.prior_family, loc, scale, self.prior_df)
        return cast("TorchDistribution", dist.Normal(loc, scale, validate_args=False).to_event(1))

    def private_prior(self, name: str) -> TorchDistribution:
        """Return the prior N(0, I) of the private latent of one item.

        Args:
            name: A modality that has a private latent.
        """
        zeros = cast("Tensor", self.prior_loc).new_zeros(self.private_sizes[name])
        return cast("TorchDistribution", dist.Normal(zeros, torch.ones_like(zeros), validate_args=False).to_event(1))

    def private_draws(
        self, z: Float[Tensor, "*batch latent"], names: Iterable[str], known: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return private latents to go with shared ones: the known ones, and draws from the prior for the others.

        Args:
            z: Latents with any leading dimensions.
            names: Names of modalities; those without a private latent are skipped.
            known: Modality name to private latents `(*batch, private)` that are not drawn.

        Returns:
            Modality name to `(*batch, private)`.
        """
        known = known or {}
        with_private = [name for name in names if name in self.private_sizes]
        return {n: known[n] if n in known else self.private_prior(n).sample(z.shape[:-1]) for n in with_private}

    def parameters_given(
        self,
        z: Float[Tensor, "*batch latent"],
        names: Iterable[str],
        private: Mapping[str, Tensor] | None = None,
        covariates: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the parameters of likelihoods given the latents.

        Args:
            z: Latents with any leading dimensions.
            names: Names of the modalities to decode.
            private: Modality name to private latents `(*batch, private)`; those left out are drawn from their priors.
            covariates: Indicators of categories that broadcast to `(*batch, covariate)`; a block of zeros, or None
                (default), stands for an unknown category and is replaced by the frequencies in the training data.

        Returns:
            Modality name to `(*batch, *parameter_shape)`.

        Raises:
            ValueError: If the covariates are not those of the model.
        """
        names = list(names)
        drawn = self.private_draws(z, names, private)
        filled = self.covariates.fill(covariates, z.shape[:-1], z)
        options = {} if filled is None else {"covariates": filled}
        parameters = self.decoders(z, names, drawn, **options) if drawn else self.decoders(z, names, **options)
        return cast("dict[str, Tensor]", parameters)

    def _likelihoods_given(
        self, z: Tensor, names: Iterable[str], private: Mapping[str, Tensor], batch: Batch | None
    ) -> Distributions:
        """Return the distributions of modalities given the latents, and totals of what was observed."""
        result: Distributions = {}
        observed, covariates = ({}, None) if batch is None else (batch.values, batch.covariates)
        for name, parameters in self.parameters_given(z, names, private, covariates).items():
            likelihood = cast("Likelihood", self.likelihoods[name])
            result[name] = likelihood(parameters, observed.get(name))
            if result[name].event_shape != likelihood.shape:
                raise ValueError(self.wrong_event_shape(name, result[name]))
        return result

    def wrong_event_shape(self, name: str, distribution: TorchDistribution) -> str:
        """Return the error message for a likelihood that returned a distribution of another event shape.

        Args:
            name: The modality of the likelihood.
            distribution: The distribution that it returned.
        """
        shape = cast("Likelihood", self.likelihoods[name]).shape
        return (
            f"modality {name!r}: the likelihood must return a distribution of event shape {shape}, got "
            f"{tuple(distribution.event_shape)}; to_event({len(shape)}) may be missing"
        )

    def forward(
        self,
        batch: Observations | None = None,
        *,
        num_items: int | None = None,
        generate: Iterable[str] | bool = False,
        weighted: bool = True,
        bound: str | None = None,
    ) -> Tensor:
        """Run the model on observations, or draw from it.

        Args:
            batch: Observations. A modality that is missing has no site; one that is missing for some items is masked.
                Its covariates apply to generated modalities as well.
            num_items: Number of items to draw if there is no batch; then every modality is generated.
            generate: Names of modalities to draw instead of observing them, whether or not they are in the batch; True
                for all.
            weighted: If True, β and w_m apply. If False, the trace is that of the generative model itself.
            bound: Ignored; model and guide are called with the same arguments.

        Returns:
            z, `(…, item, latent)`.

        Raises:
            ValueError: If there is neither a batch nor a number of items, or a name is unknown.
        """
        observed = None if batch is None else Batch.of(batch, self.names)
        drawn = _names_to_generate(generate or observed is None, self.names)
        count = count_items(observed, num_items)
        values = {} if observed is None else {n: v for n, v in observed.values.items() if n not in drawn}
        weights = self.reconstruction_weights if weighted else dict.fromkeys(self.names, 1.0)
        sites = [name for name in self.names if name in drawn or (name in values and weights[name] > 0)]
        with pyro.plate("data", count, dim=-1, device=str(cast("Tensor", self.prior_loc).device)):
            with scaled(self.beta if weighted else 1.0):
                z = cast("Tensor", pyro.sample("z", self.prior()))
                private = {
                    name: cast("Tensor", pyro.sample(private_site(name), self.private_prior(name)))
                    for name in sites
                    if name in self.private_sizes
                }
            # A modality that is drawn anew keeps the observed total of counts, which is a size factor.
            likelihoods = self._likelihoods_given(z, sites, private, observed)
            for name in sites:
                likelihood = likelihoods[name]
                if name in values and observed is not None and name in observed.present:
                    likelihood = likelihood.mask(observed.present[name])
                with scaled(weights[name] if name in values else 1.0):  # w_m weighs reconstructions, not draws
                    pyro.sample(modality_site(name), likelihood, obs=values.get(name))
        return z


def _names_to_generate(generate: Iterable[str] | bool, names: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(generate, bool):
        return names if generate else ()
    generate = (generate,) if isinstance(generate, str) else tuple(generate)
    unknown = [name for name in generate if name not in names]
    if unknown:
        raise ValueError(f"unknown modality {unknown[0]!r} to generate; the model has {', '.join(names)}")
    return generate


def count_items(observed: Batch | None, num_items: int | None) -> int:
    """Return the number of items of a batch, or ``num_items`` if nothing is observed.

    Args:
        observed: The batch, None if there is none.
        num_items: Number of items without any observation.

    Raises:
        ValueError: If nothing is observed and ``num_items`` is None.
    """
    if observed is not None and observed.values:
        return len(observed)
    if num_items is None:
        raise ValueError("num_items must be given if nothing is observed, got None")
    return num_items
