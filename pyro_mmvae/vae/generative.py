"""The generative model of a multimodal variational autoencoder, as a Pyro program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.nn import PyroModule
from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.distributions import location_scale
from pyro_mmvae.guides.barycentric import scaled
from pyro_mmvae.likelihoods import join
from pyro_mmvae.vae.modalities import Decoders, private_site

Observations: TypeAlias = Batch | Mapping[str, Tensor]
Distributions: TypeAlias = dict[str, TorchDistribution]


class GenerativeModel(PyroModule):
    r"""The model :math:`z \sim p(z),\ u_m \sim N(0, I),\ x_m \sim p(x_m \mid z, u_m)`, as a Pyro program.

    Sites: ``z``, one a modality, and ``NAME_private`` for the private latent u of a modality that has one, in one plate
    ``data``.

    Args:
        decoders: from a latent to the parameters of every modality.
        likelihoods: modality name to likelihood.
        weights: modality name to w_m.
        prior_loc: `(latent,)`.
        prior_scale: `(latent,)`.
        beta: the weight of the KL term in training.
        family: of the prior.
        df: degrees of freedom, if that is ``student_t``.
        private_sizes: modality name to the number of dimensions of its private latent, of those that have one.
    """

    def __init__(
        self,
        decoders: Decoders,
        likelihoods: nn.ModuleDict,
        weights: Mapping[str, float],
        prior_loc: Tensor,
        prior_scale: Tensor,
        beta: float,
        family: str = "normal",
        df: float | None = None,
        private_sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.decoders = decoders
        self.private_sizes = dict(private_sizes or {})
        self.likelihoods = likelihoods
        self.names = tuple(weights)
        self.weights, self.beta = dict(weights), beta
        self.prior_family, self.prior_df = family, df
        self.register_buffer("prior_loc", prior_loc)
        self.register_buffer("prior_scale", prior_scale)

    def prior(self) -> TorchDistribution:
        """The prior of one item."""
        loc, scale = cast("Tensor", self.prior_loc), cast("Tensor", self.prior_scale)
        if self.prior_family != "normal":
            return location_scale(self.prior_family, loc, scale, self.prior_df)
        return cast("TorchDistribution", dist.Normal(loc, scale, validate_args=False).to_event(1))

    def private_prior(self, name: str) -> TorchDistribution:
        """The prior of the private latent of a modality that has one: N(0, I), of one item."""
        zeros = cast("Tensor", self.prior_loc).new_zeros(self.private_sizes[name])
        return cast("TorchDistribution", dist.Normal(zeros, torch.ones_like(zeros), validate_args=False).to_event(1))

    def private_draws(
        self, z: Float[Tensor, "*batch latent"], names: Iterable[str], known: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Private latents beside some latents: those that are known, the rest drawn from their prior.

        Args:
            z: latents with any leading dimensions.
            names: modalities; those without a private latent are passed over.
            known: modality name to `(*batch, private)`.

        Returns:
            Modality name to `(*batch, private)`.
        """
        known = known or {}
        wanted = [name for name in names if name in self.private_sizes]
        return {n: known[n] if n in known else self.private_prior(n).sample(z.shape[:-1]) for n in wanted}

    def parameters_given(
        self, z: Float[Tensor, "*batch latent"], names: Iterable[str], private: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The parameters of likelihoods given the latents.

        Args:
            z: latents with any leading dimensions.
            names: which modalities.
            private: modality name to `(*batch, private)`; those left out are drawn from their priors.

        Returns:
            Modality name to `(*batch, *parameter_shape)`.
        """
        names = list(names)
        own = self.private_draws(z, names, private)
        return cast("dict[str, Tensor]", self.decoders(z, names, own) if own else self.decoders(z, names))

    def _likelihoods_given(
        self,
        z: Tensor,
        names: Iterable[str],
        private: Mapping[str, Tensor],
        known: Mapping[str, Tensor],
        observed: Iterable[str],
    ) -> Distributions:
        """The likelihoods of some modalities, of which those that are observed are evaluated together where alike."""
        likelihoods, observed = self.likelihoods, set(observed)
        result: Distributions = {}
        for group, parameters in self.decoders.by_group(z, names, self.private_draws(z, names, private)):
            parts = parameters.unbind(z.dim() - 1)
            sites = [likelihoods[name](part, known.get(name)) for name, part in zip(group, parts, strict=True)]
            if observed.issuperset(group):
                join(sites, [known[name] for name in group], parts, parameters)
            result.update(zip(group, sites, strict=True))
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
        """Run the model on observations, or draw from it.

        Args:
            batch: observations. A modality that is missing has no site, one that is missing for some items is masked.
            size: how many items to draw where there is no batch; then every modality is generated.
            generate: names of modalities to draw rather than to observe, given or not; True for all.
            weighted: whether β and w_m apply. Without them the trace is that of the generative model itself.
            bound: taken for the guide's sake.

        Returns:
            z, `(…, item, latent)`.

        Raises:
            ValueError: if there is neither a batch nor a size, or a name is unknown.
        """
        observed = None if batch is None else Batch.of(batch, self.names)
        drawn = _names(generate or observed is None, self.names)
        count = count_items(observed, size)
        values = {} if observed is None else {n: v for n, v in observed.values.items() if n not in drawn}
        weights = self.weights if weighted else dict.fromkeys(self.names, 1.0)
        sites = [name for name in self.names if name in drawn or (name in values and weights[name] > 0)]
        with pyro.plate("data", count, dim=-1, device=str(cast("Tensor", self.prior_loc).device)):
            with scaled(self.beta if weighted else 1.0):
                z = cast("Tensor", pyro.sample("z", self.prior()))
                private = {
                    name: cast("Tensor", pyro.sample(private_site(name), self.private_prior(name)))
                    for name in sites
                    if name in self.private_sizes
                }
            given = {} if observed is None else observed.values  # drawn anew or not: a total is a size factor
            likelihoods = self._likelihoods_given(z, sites, private, given, [name for name in sites if name in values])
            for name in sites:
                likelihood = likelihoods[name]
                if name in values and observed is not None and name in observed.present:
                    likelihood = likelihood.mask(observed.present[name])
                with scaled(weights[name] if name in values else 1.0):  # w_m weighs what is reconstructed
                    pyro.sample(name, likelihood, obs=values.get(name))
        return z


def _names(generate: Iterable[str] | bool, names: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(generate, bool):
        return names if generate else ()
    generate = (generate,) if isinstance(generate, str) else tuple(generate)
    unknown = [name for name in generate if name not in names]
    if unknown:
        raise ValueError(f"unknown modality {unknown[0]!r} to generate; the model has {', '.join(names)}")
    return generate


def count_items(observed: Batch | None, size: int | None) -> int:
    """Return the number of items of a batch, or ``size`` where nothing is observed."""
    if observed is not None and observed.values:
        return len(observed)
    if size is None:
        raise ValueError("nothing observed: say how many items with size=")
    return size
