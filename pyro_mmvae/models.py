"""A multimodal variational autoencoder: a Pyro model and guide over the same latent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.nn import PyroModule
from torch import nn

from pyro_mmvae import subsets
from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.aggregation import get_aggregation
from pyro_mmvae.data.batch import Batch
from pyro_mmvae.distributions import location_scale
from pyro_mmvae.experts import Experts
from pyro_mmvae.guides import BarycentricGuide, scaled
from pyro_mmvae.kinds import check_kind
from pyro_mmvae.likelihoods import Likelihood, make_likelihood
from pyro_mmvae.modalities import Decoders, Encoders, Modality, group_modalities, network_of
from pyro_mmvae.networks import NetworkOptions, make_networks
from pyro_mmvae.rules import Prior, kinds_of, posterior_family
from pyro_mmvae.weighting import make_mixture_weights, make_weights

Observations: TypeAlias = Batch | Mapping[str, Tensor]


class GenerativeModel(PyroModule):
    r"""The model :math:`z \sim p(z),\ x_m \sim p(x_m \mid z)`, as a Pyro program.

    Sites: ``z`` and one a modality, in one plate ``data``.

    Args:
        decoders: from a latent to the parameters of every modality.
        likelihoods: modality name to likelihood.
        weights: modality name to w_m.
        prior_loc: `(latent,)`.
        prior_scale: `(latent,)`.
        beta: the weight of the KL term in training.
        family: of the prior.
        df: degrees of freedom, if that is ``student_t``.
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
    ) -> None:
        super().__init__()
        self.decoders = decoders
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
        count = _count(observed, size)
        values = {} if observed is None else {n: v for n, v in observed.values.items() if n not in drawn}
        weights = self.weights if weighted else dict.fromkeys(self.names, 1.0)
        sites = [name for name in self.names if name in drawn or (name in values and weights[name] > 0)]
        decoders, likelihoods = self.decoders, self.likelihoods
        with pyro.plate("data", count, dim=-1, device=str(cast("Tensor", self.prior_loc).device)):
            with scaled(self.beta if weighted else 1.0):
                z = cast("Tensor", pyro.sample("z", self.prior()))
            parameters = decoders(z, sites)
            for name in sites:
                known = None if observed is None else observed.values.get(name)  # drawn anew or not: its size factors
                likelihood = likelihoods[name](parameters[name], known)
                if name in values and observed is not None and name in observed.present:
                    likelihood = likelihood.mask(observed.present[name])
                with scaled(weights[name] if name in values else 1.0):  # w_m weighs what is reconstructed
                    pyro.sample(name, likelihood, obs=values.get(name))
        return z


class MultimodalGuide(BarycentricGuide):
    """The guide of a :class:`MultimodalVAE`: a barycentric guide that knows of batches and of β."""

    def __init__(
        self, encode: Encoders, aggregation: str, *, beta: float, names: tuple[str, ...], **options: Any
    ) -> None:
        super().__init__(encode, aggregation, **options)
        self.beta, self.names = beta, names

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
        observed = None if batch is None else Batch.of(batch, self.names)
        count = _count(observed, size)
        if observed is not None and observed.values:
            return self.encode(observed)
        return cast("Encoders", self.encode).blank(count, cast("Tensor", self.prior_loc))

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
        experts = self.experts(batch, size)
        posterior = self.posterior(experts, bound)
        if not weighted:
            return self.sample_posterior(posterior)
        return self.sample_posterior(posterior, experts, scale=self.beta)


class MultimodalVAE(nn.Module):
    """Model and guide of one multimodal variational autoencoder.

    ``elbo = Trace_ELBO()(vae.model, vae.guide)`` is a module that any torch optimiser trains;
    ``SVI(vae.model, vae.guide, pyro.optim.Adam(…), Trace_ELBO())`` works as well. Both are called with a batch: a
    :class:`~pyro_mmvae.Batch` or a dict of tensors, where a missing key or a False in the mask ``"present"``
    `(item, modality)` means absent.

    Args:
        modalities: what is observed.
        latent_size: number of latent dimensions.
        aggregation: a name, see :func:`pyro_mmvae.aggregations`.
        bound: ``"mixture"`` or ``"component"``, see :class:`~pyro_mmvae.BarycentricGuide`.
        beta: weight of the KL term in training, positive. With another than 1, or with other weights than 1, the
            training loss is an objective and no bound on the evidence.
        network: sizes of the networks, and the covariance and family of their experts.
        prior: ``(loc, scale)`` of the latent, N(0, I) by default. It is of the family of the posterior, that of
            ``network.family`` as a rule, and its scale the family's own.
        prior_expert: see :func:`pyro_mmvae.aggregate`.
        weights: λ, one a modality; see there. Or how it is learned, see :func:`pyro_mmvae.weighting.make_weights`.
        mixture_weights: see there; ``"learned"`` learns one a subset, with ``bound="mixture"``.
        weights_entropy: see :class:`~pyro_mmvae.BarycentricGuide`.

    Raises:
        ValueError: for no modalities, two of one name, a β or latent size that is not positive, unknown names of
            anything, weights that do not fit, or a mixture of more than 4,096 components.

    Example:
        >>> vae = MultimodalVAE([Modality("a", (4,)), Modality("b", (6,))], latent_size=2)
        >>> vae.guide({"a": torch.zeros(8, 4)}).shape
        torch.Size([8, 2])
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        latent_size: int,
        aggregation: str = "wb",
        *,
        bound: str = "mixture",
        beta: float = 1.0,
        network: NetworkOptions | None = None,
        prior: Prior | None = None,
        prior_expert: str | None = None,
        weights: Sequence[float] | Tensor | str | None = None,
        mixture_weights: subsets.MixtureWeights = "uniform",
        weights_entropy: float = 0.0,
    ) -> None:
        super().__init__()
        names = tuple(modality.name for modality in modalities)
        _check(names, latent_size, beta, weights)
        self.modalities, self.latent_size = tuple(modalities), latent_size
        likelihoods = nn.ModuleDict(
            {
                m.name: make_likelihood(
                    m.likelihood, m.shape, scale=m.scale, classes=m.classes, size=m.size, output=m.output
                )
                for m in modalities
            }
        )
        options, rule = network or NetworkOptions(), get_aggregation(aggregation)
        check_kind(aggregation, options.kind, kinds_of(rule, prior_expert))
        groups = group_modalities(modalities, likelihoods)
        pairs = []
        for group in groups:
            first = modalities[names.index(group[0])]
            likelihood = cast("Likelihood", likelihoods[first.name])
            shape, kind = likelihood.parameter_shape, network_of(first, likelihood)
            pairs.append(make_networks(kind, shape, shape, latent_size, replace(options, **first.sizes), len(group)))
        loc, scale = (0.0, 1.0) if prior is None else prior
        prior_loc = torch.as_tensor(loc, dtype=torch.get_default_dtype()).expand(latent_size).clone()
        prior_scale = torch.as_tensor(scale, dtype=torch.get_default_dtype()).expand(latent_size).clone()
        # Built like this, the modules can keep parameters to themselves or share them through Pyro's store.
        with pyro.settings.context(module_local_params=True):
            self.model = GenerativeModel(
                Decoders([decoder for _, decoder in pairs], groups),
                likelihoods,
                {m.name: m.weight for m in modalities},
                prior_loc,
                prior_scale,
                beta,
                posterior_family(rule, options.kind, prior_expert),
                options.df,
            )
            self.guide = MultimodalGuide(
                Encoders(
                    [encoder for encoder, _ in pairs], groups, likelihoods, names, latent_size, options.kind, options.df
                ),
                aggregation,
                beta=beta,
                names=names,
                bound=bound,
                prior=(prior_loc, prior_scale),
                prior_expert=prior_expert,
                weights=make_weights(weights, len(names), latent_size),
                mixture_weights=make_mixture_weights(mixture_weights, getattr(rule, "family", None), len(names), bound),
                weights_entropy=weights_entropy,
            )
        rule.check(len(names), bound)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the modalities, in order."""
        return self.model.names

    def posterior(self, batch: Observations, bound: str | None = None) -> TorchDistribution:
        """The distribution of the latent given what is in a batch.

        Args:
            batch: observations.
            bound: ``"mixture"`` for the whole posterior, ``"component"`` for one drawn subset, ``"full"`` for the
                component of everything given; the guide's own by default.

        Returns:
            Batch shape `(item,)`, event shape `(latent,)`.
        """
        return self.guide.posterior(self.guide.experts(batch), bound)

    def decode(self, z: Float[Tensor, "*batch latent"], names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The mean of each modality given the latent.

        Args:
            z: latents with any leading dimensions.
            names: which modalities; all by default.

        Returns:
            Modality name to `(*batch, *shape)` (for a categorical modality class probabilities).
        """
        wanted = self.names if names is None else tuple(names)
        parameters = self.model.decoders(z, wanted)
        return {n: cast("Likelihood", self.model.likelihoods[n]).mean(parameters[n]) for n in wanted}


def _check(names: tuple[str, ...], latent_size: int, beta: float, weights: Any) -> None:
    if not names:
        raise ValueError("a model needs at least one modality")
    if len(set(names)) < len(names):
        raise ValueError(f"modalities must have different names, got {', '.join(names)}")
    if latent_size < 1:
        raise ValueError(f"latent_size must be positive, not {latent_size}")
    if not beta > 0 or not math.isfinite(beta):
        raise ValueError(f"beta must be positive and finite, not {beta}")
    if weights is not None and not isinstance(weights, str) and len(weights) != len(names):
        raise ValueError(
            f"{len(weights)} weights for {len(names)} modalities: one each, in the order {', '.join(names)}"
        )


def _names(generate: Iterable[str] | bool, names: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(generate, bool):
        return names if generate else ()
    generate = (generate,) if isinstance(generate, str) else tuple(generate)
    unknown = [name for name in generate if name not in names]
    if unknown:
        raise ValueError(f"unknown modality {unknown[0]!r} to generate; the model has {', '.join(names)}")
    return generate


def _count(observed: Batch | None, size: int | None) -> int:
    if observed is not None and observed.values:
        return len(observed)
    if size is None:
        raise ValueError("nothing observed: say how many items with size=")
    return size
