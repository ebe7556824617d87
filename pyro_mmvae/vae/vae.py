"""A multimodal variational autoencoder: a Pyro model and guide over the same latent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.aggregation.functional import AggregationLike
from pyro_mmvae.aggregation.kinds import check_kind
from pyro_mmvae.aggregation.subsets import SubsetWeights
from pyro_mmvae.aggregation.values import ExpertWeights, Prior, check_prior
from pyro_mmvae.batch import Batch
from pyro_mmvae.guides.penalties import PenaltyLike, make_penalties
from pyro_mmvae.likelihoods import Likelihood, StandardizedLikelihood, moments
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.vae.arguments import check_arguments, check_modalities, make_rule
from pyro_mmvae.vae.covariates import Categories, Covariates
from pyro_mmvae.vae.encoders_decoders import Decoders, Encoders
from pyro_mmvae.vae.generative import GenerativeModel, Observations
from pyro_mmvae.vae.guide import MultimodalGuide
from pyro_mmvae.vae.modalities import Modality, group_modalities, make_group
from pyro_mmvae.vae.names import NamedModules
from pyro_mmvae.vae.priors import MixturePrior, check_learned_prior
from pyro_mmvae.vae.routing import Routing, check_routing


class MultimodalVAE(nn.Module):
    """A multimodal variational autoencoder: a Pyro model and a Pyro guide, with the defaults of the recipe ``plain``.

    ``elbo = Trace_ELBO()(vae.model, vae.guide)`` is a module that any torch optimiser trains;
    ``SVI(vae.model, vae.guide, pyro.optim.Adam(…), Trace_ELBO())`` works as well. Both are called with a batch: a
    :class:`~pyro_mmvae.Batch` or a dict of tensors, where a missing key or a False in the mask ``"present"``
    `(item, modality)` means absent.

    Args:
        modalities: The observed modalities, in the order of the experts.
        latent_size: Number of latent dimensions that the modalities share, 32 by default; each may have further private
            ones, see :class:`~pyro_mmvae.Modality`.
        aggregation: The aggregation: a name, one of :func:`pyro_mmvae.aggregations`, "wb" by default; a mapping with a
            name and options; an :class:`~pyro_mmvae.Aggregation`, which is a submodule of the guide; or any module or
            callable from experts to a distribution.
        bound: Training bound, ``"mixture"``, ``"component"``, the default, or ``"subsets"``; see
            :class:`~pyro_mmvae.BarycentricGuide`.
        beta: Weight of the KL term in training, positive, 1 by default. Unless this and the reconstruction weights are
            1, the training loss is an objective and not a bound on the evidence.
        network: Sizes of the networks, and the covariance and family of their experts; the defaults of
            :class:`~pyro_mmvae.networks.NetworkOptions` if None.
        prior: The pair ``(loc, scale)`` of the latent's prior; by default that of the aggregation object, if it was
            given one, or N(0, I). It is of the posterior's family, usually ``network.family``, and its scale is that
            family's scale parameter. Or a :class:`~pyro_mmvae.MixturePrior`, which is trained with the model.
        prior_expert: The subsets in which the prior is one more expert, see :class:`~pyro_mmvae.Aggregation`. This and
            the next two are for an aggregation by name; an object is given them itself.
        expert_weights: The weights λ, one per modality, or the name of a way to learn them: ``"learned"``,
            ``"precision"`` or ``"gate"``, see :mod:`pyro_mmvae.aggregation.weights`. Equal by default.
        subset_weights: The weights π of subsets, see :class:`~pyro_mmvae.Aggregation`; ``"learned"`` learns one per
            subset, with ``bound="mixture"``. "uniform" by default.
        expert_weights_entropy: The coefficient of the entropy of the expert weights, see
            :class:`~pyro_mmvae.BarycentricGuide`; 0 by default.
        private_auxiliary: The distribution, in training, of private latents that are not inferred: ``"learned"``, the
            default, for N(0, s²) with a learned s per dimension that starts at 0.1; ``"learned:SCALE"`` for another
            start; or ``"prior"``, for N(0, I), from which generation draws in any case.
        private_subsets: The modalities whose private latents training infers: ``"drawn"``, for a drawn subset per item,
            with any aggregation; ``"all"``; or ``"auto"``, the default, for ``"drawn"`` with a bound that draws
            subsets, as the component bound of a mixture, and ``"all"`` elsewhere.
        private_encoder: The posterior of a private latent: ``"own"``, the default, given its modality; or
            ``"with_z"``, given its modality and z.
        penalties: The penalties that are added to the loss in training, each a name, one of
            :func:`pyro_mmvae.guides.penalty_names`, a mapping with a name and options, or a
            :class:`~pyro_mmvae.guides.Penalty`; none by default.
        routing: The encoders that the gradient of a decoder reaches through the shared latent in training: ``"all"``,
            the default; or ``"leave_one_out"``, all but the encoder of its own modality, which is exact for Wasserstein
            barycenters (``wb``, and ``mwb`` with the bound ``"component"``) and refused elsewhere.
        covariates: The names of the categories of each covariate, such as ``{"donor": ("A", "B")}``; none by default.
            All decoders see the items' categories, and so do the built-in encoders of vectors, counts and binary
            values, so that the latent need not hold them. A batch holds them as
            :meth:`covariate_vector` returns them, under the key ``"covariates"`` of a dict. A category
            that is unknown is replaced by the frequencies, see :meth:`set_covariate_frequencies`.

    Raises:
        ValueError: If there is no modality or two have one name, β or the latent size is not positive, a name is
            unknown, weights or a module's shape do not fit, a learned prior meets a prior expert, or the mixture has
            more than 4,096 components.

    Example:
        >>> vae = MultimodalVAE([Modality("a", (4,)), Modality("b", (6,))], latent_size=2)
        >>> vae.guide({"a": torch.zeros(8, 4)}).shape
        torch.Size([8, 2])
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        latent_size: int = 32,
        aggregation: AggregationLike = "wb",
        *,
        bound: str = "component",
        beta: float = 1.0,
        network: NetworkOptions | None = None,
        prior: Prior | MixturePrior | None = None,
        prior_expert: str | None = None,
        expert_weights: ExpertWeights | None = None,
        subset_weights: SubsetWeights = "uniform",
        expert_weights_entropy: float = 0.0,
        private_auxiliary: str = "learned",
        private_subsets: str = "auto",
        private_encoder: str = "own",
        penalties: Sequence[PenaltyLike] = (),
        routing: Routing = "all",
        covariates: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        names = tuple(modality.name for modality in check_modalities(modalities))
        check_arguments(names, latent_size, beta, expert_weights)
        modalities = tuple(modality.resolved() for modality in modalities)
        self.modalities, self.latent_size = modalities, latent_size
        likelihoods = NamedModules({modality.name: modality.make_likelihood() for modality in modalities})
        options = network or NetworkOptions()
        rule = make_rule(aggregation, expert_weights, subset_weights, prior_expert)
        rule.check_bound(bound)
        check_kind(rule.name, options.expert_kind, rule.accepts)
        check_routing(routing, rule, bound, expert_kind=options.expert_kind, num_modalities=len(names))
        penalties = make_penalties(penalties)
        for penalty in penalties:
            penalty.check(rule, expert_kind=options.expert_kind, num_modalities=len(names))
        conditions = Covariates(covariates)
        groups = group_modalities(modalities, likelihoods, conditions.size)
        pairs = []
        for group in groups:
            first = modalities[names.index(group[0])]
            likelihood = cast("Likelihood", likelihoods[first.name])
            pairs.append(make_group(first, likelihood, latent_size, options, len(group), conditions.size))
        reconstruction_weights = {m.name: cast("float", m.reconstruction_weight) for m in modalities}
        learned_prior = prior if isinstance(prior, MixturePrior) else None
        if learned_prior is not None:
            check_learned_prior(rule)
            learned_prior.build(latent_size)
            prior = None
        loc, scale = check_prior(rule.prior or (0.0, 1.0) if prior is None else prior)
        prior_loc = torch.as_tensor(loc, dtype=torch.get_default_dtype()).expand(latent_size).clone()
        prior_scale = torch.as_tensor(scale, dtype=torch.get_default_dtype()).expand(latent_size).clone()
        private_sizes = {m.name: m.private_size for m in modalities if m.private_size}
        rule.build_weights(len(names), latent_size)
        # Built like this, the modules can keep parameters to themselves or share them through Pyro's store.
        with pyro.settings.context(module_local_params=True):
            self.model = GenerativeModel(
                Decoders([decoder for _, decoder in pairs], groups),
                likelihoods,
                reconstruction_weights,
                prior_loc,
                prior_scale,
                beta,
                rule.posterior_family(options.expert_kind),
                options.df,
                private_sizes,
                conditions,
                learned_prior,
            )
            self.guide = MultimodalGuide(
                Encoders(
                    [encoder for encoder, _ in pairs],
                    groups,
                    likelihoods,
                    names,
                    latent_size,
                    options.expert_kind,
                    options.df,
                    conditions,
                ),
                rule,
                beta=beta,
                reconstruction_weights=reconstruction_weights,
                bound=bound,
                prior=(prior_loc, prior_scale),
                learned_prior=learned_prior,
                expert_weights_entropy=expert_weights_entropy,
                private_sizes=private_sizes,
                private_auxiliary=private_auxiliary,
                private_subsets=private_subsets,
                private_encoder=private_encoder,
                penalties=penalties,
                routing=routing,
            )
        rule.check_bound(bound, len(names))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the modalities, in the order of the experts."""
        return self.model.names

    @property
    def covariates(self) -> dict[str, tuple[str, ...]]:
        """The names of the categories of each covariate, empty for a model without covariates."""
        return self.model.covariates.categories

    def covariate_vector(self, categories: Categories) -> Tensor:
        """Return the indicators of categories, as batches hold them under the key ``"covariates"``.

        Args:
            categories: The categories by the name of the covariate: one string for all items, or a sequence with one
                per item. A covariate that is left out is unknown, and its indicators are 0.

        Returns:
            Indicators `(covariate,)` if every covariate has one category for all items, otherwise `(item, covariate)`,
            on the device of the model.

        Raises:
            ValueError: If a covariate or a category is unknown, or sequences differ in length.

        Example:
            >>> vae = MultimodalVAE([Modality("rna", (5,))], latent_size=2, covariates={"donor": ("A", "B")})
            >>> vae.covariate_vector({"donor": ["B", "A", "B"]})[:, 0]
            tensor([0., 1., 0.])
        """
        return self.model.covariates.encode(categories).to(cast("Tensor", self.model.prior_loc))

    def set_covariate_frequencies(self, values: Tensor) -> None:
        """Set the frequencies of the categories to those of the training data; they are equal before that.

        They take the place of a category that is unknown, in encoders and decoders, and are part of the state_dict.

        Args:
            values: The count or the share of each category, in the order of :attr:`covariates`, of shape
                `(covariate,)`; each covariate's are normalised to sum to 1.

        Raises:
            ValueError: If the shape is another, a value is negative or not finite, or a covariate's values are all 0.

        Example:
            >>> vae = MultimodalVAE([Modality("rna", (5,))], latent_size=2, covariates={"donor": ("A", "B", "C")})
            >>> vae.set_covariate_frequencies(torch.tensor([50.0, 30.0, 20.0]))
            >>> vae.decode(torch.zeros(4, 2), covariates={"donor": "A"})["rna"].shape
            torch.Size([4, 5])
        """
        self.model.covariates.set_frequencies(values)

    def standardize_from(self, batch: Observations) -> None:
        """Set the moments of every modality with ``standardize=True`` to those of training data.

        Args:
            batch: The training data, or enough of it: a batch whose present items are used. Modalities that are not
                standardized are ignored.

        Raises:
            ValueError: If a standardized modality is not in the batch, is absent from all of its items, or has values
                that are not finite.

        Example:
            >>> pascals = 101_325 + 800 * torch.randn(200, 3)
            >>> vae = MultimodalVAE([Modality("pressure", (3,), standardize=True)], latent_size=2)
            >>> vae.standardize_from({"pressure": pascals})
            >>> vae.decode(torch.zeros(1, 2))["pressure"].mean().round(decimals=-4)
            tensor(100000., grad_fn=<RoundBackward1>)
        """
        observed, result = Batch.of(batch, self.names), {}
        for name, likelihood in self.model.likelihoods.items():
            if not isinstance(likelihood, StandardizedLikelihood):
                continue
            if name not in observed.values:
                raise ValueError(f"batch: must have modality {name!r}, which is standardized, got none")
            values, mask = observed.values[name], observed.present.get(name)
            try:
                result[name] = moments([values if mask is None else values[mask]])
            except ValueError as error:
                raise ValueError(f"batch: modality {name!r}: {error}") from None
        self.set_moments(result)

    def start_prior_from(self, batch: Observations) -> None:
        """Move the components of a learned prior to experts of training items, before the training.

        Args:
            batch: Training items, best at least as many as the prior has components.

        Raises:
            ValueError: If the prior is not learned, or nothing is present in the batch.

        Example:
            >>> vae = MultimodalVAE([Modality("a", (4,))], latent_size=2, prior=MixturePrior(5))
            >>> vae.start_prior_from({"a": torch.randn(20, 4)})
        """
        prior = self.model.learned_prior
        if prior is None:
            raise ValueError("prior must be learned, as MultimodalVAE(…, prior=MixturePrior(40)), to be started")
        training = self.training
        with torch.no_grad():
            prior.start_from(self.eval().guide.experts(batch))
        self.train(training)

    def set_moments(self, values: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Set the moments of standardized modalities.

        Args:
            values: Modality name to center and spread of each feature, each of the shape of one item.

        Raises:
            ValueError: If a modality is not standardized, or the moments do not fit it.
        """
        for name, (center, spread) in values.items():
            likelihood = self.model.likelihoods[name] if name in self.names else None
            if not isinstance(likelihood, StandardizedLikelihood):
                raise ValueError(f"values must be of modalities with standardize=True, got {name!r}")
            likelihood.set_moments(center, spread)

    def posterior(self, batch: Observations, density: str | None = None) -> TorchDistribution:
        """Return the distribution of the latent given the observations of a batch.

        Args:
            batch: Observations of some items.
            density: ``"mixture"`` for the whole posterior, ``"component"`` for one drawn subset per item, ``"joint"``
                for the component of everything given; by default that of the guide's own bound.

        Returns:
            A distribution of batch shape `(item,)` and event shape `(latent,)`.
        """
        return self.guide.posterior(self.guide.experts(batch), density)

    def private_posterior(
        self, batch: Observations, z: Float[Tensor, "*batch latent"] | None = None
    ) -> dict[str, TorchDistribution]:
        """Return the distributions of the private latents of the modalities in a batch.

        Args:
            batch: Observations of some items.
            z: Shared latents of the items, `(*sample, item, latent)`, which ``private_encoder="with_z"`` needs; None by
                default.

        Returns:
            Modality name to a distribution of batch shape `(item,)`, or `(*sample, item)` with z, and event shape
            `(private,)`: the prior for items without the modality. Modalities without a private latent, or that are
            not in the batch, are left out.

        Raises:
            ValueError: If the posteriors depend on z and it is None.
        """
        # Without private latents the encoders need not run.
        return self.guide.private(batch)(z) if self.model.private_sizes else {}

    def decode(
        self,
        z: Float[Tensor, "*batch latent"],
        names: Iterable[str] | None = None,
        private: Mapping[str, Tensor] | None = None,
        covariates: Tensor | Categories | None = None,
    ) -> dict[str, Tensor]:
        """Return the mean of each modality given the latents.

        Args:
            z: Latents with any leading dimensions.
            names: Names of the modalities to decode; all by default.
            private: Modality name to private latents `(*batch, private)`. Those that are left out are drawn from their
                priors, by torch's global generator, as they are for a modality that is generated from others.
            covariates: Categories by the name of the covariate, one string for all items or one per item; or their
                indicators, which broadcast to `(*batch, covariate)`. Frequencies take the place of those that are left
                out, by default of all.

        Returns:
            Modality name to the mean `(*batch, *shape)`; for a categorical modality class probabilities.

        Raises:
            ValueError: If a modality or a category is unknown, or z does not have the latent size of the model.
        """
        names = self.names if names is None else (names,) if isinstance(names, str) else tuple(names)
        for given, what in ((names, "names"), (private or {}, "private")):
            unknown = [name for name in given if name not in self.names]
            if unknown:
                raise ValueError(
                    f"{what} must be modalities of the model ({', '.join(self.names)}), got {unknown[0]!r}"
                )
        if not isinstance(z, Tensor) or z.shape[-1:] != (self.latent_size,):
            got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(f"z must be a tensor of shape (*batch, {self.latent_size}), got {got}")
        if isinstance(covariates, Mapping):
            covariates = self.covariate_vector(covariates)
        parameters = self.model.parameters_given(z, names, private, covariates)
        return {n: cast("Likelihood", self.model.likelihoods[n]).mean(parameters[n]) for n in names}
