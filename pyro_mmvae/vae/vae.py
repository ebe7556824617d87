"""A multimodal variational autoencoder: a Pyro model and guide over the same latent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.functional import AggregationLike, make_aggregation
from pyro_mmvae.aggregation.kinds import check_kind
from pyro_mmvae.aggregation.subsets import SubsetWeights
from pyro_mmvae.aggregation.values import ExpertWeights, Prior
from pyro_mmvae.likelihoods import Likelihood, make_likelihood
from pyro_mmvae.networks import NetworkOptions, make_networks
from pyro_mmvae.vae.generative import GenerativeModel, Observations
from pyro_mmvae.vae.guide import MultimodalGuide
from pyro_mmvae.vae.modalities import Decoders, Encoders, Modality, group_modalities, network_of


class MultimodalVAE(nn.Module):
    """Model and guide of one multimodal variational autoencoder.

    ``elbo = Trace_ELBO()(vae.model, vae.guide)`` is a module that any torch optimiser trains;
    ``SVI(vae.model, vae.guide, pyro.optim.Adam(…), Trace_ELBO())`` works as well. Both are called with a batch: a
    :class:`~pyro_mmvae.Batch` or a dict of tensors, where a missing key or a False in the mask ``"present"``
    `(item, modality)` means absent.

    Args:
        modalities: what is observed.
        latent_size: number of latent dimensions, shared by the modalities; each may have private ones besides, see
            :class:`~pyro_mmvae.Modality`.
        aggregation: The aggregation: a name, one of :func:`pyro_mmvae.aggregations`, "wb" by default; a mapping with a
            name and options; an :class:`~pyro_mmvae.Aggregation`, which is a submodule of the guide; or any module or
            callable from experts to a distribution.
        bound: ``"mixture"`` or ``"component"``, see :class:`~pyro_mmvae.BarycentricGuide`.
        beta: weight of the KL term in training, positive. With another than 1, or with other weights than 1, the
            training loss is an objective and no bound on the evidence.
        network: sizes of the networks, and the covariance and family of their experts.
        prior: The pair ``(loc, scale)`` of the latent's prior; by default that of the aggregation object, if it was
            given one, or N(0, I). It is of the posterior's family, usually ``network.family``, and its scale is that
            family's scale parameter.
        prior_expert: The subsets in which the prior is one more expert, see :class:`~pyro_mmvae.Aggregation`. This and
            the next two are for an aggregation by name; an object is given them itself.
        expert_weights: The weights λ, one per modality, or the name of a way to learn them: ``"learned"``,
            ``"precision"`` or ``"gate"``, see :mod:`pyro_mmvae.aggregation.weights`. Equal by default.
        subset_weights: The weights π of subsets, see :class:`~pyro_mmvae.Aggregation`; ``"learned"`` learns one per
            subset, with ``bound="mixture"``. "uniform" by default.
        expert_weights_entropy: The coefficient of the entropy of the expert weights, see
            :class:`~pyro_mmvae.BarycentricGuide`; 0 by default.

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
        aggregation: AggregationLike = "wb",
        *,
        bound: str = "mixture",
        beta: float = 1.0,
        network: NetworkOptions | None = None,
        prior: Prior | None = None,
        prior_expert: str | None = None,
        expert_weights: ExpertWeights | None = None,
        subset_weights: SubsetWeights = "uniform",
        expert_weights_entropy: float = 0.0,
    ) -> None:
        super().__init__()
        names = tuple(modality.name for modality in modalities)
        _check(names, latent_size, beta, expert_weights)
        self.modalities, self.latent_size = tuple(modalities), latent_size
        likelihoods = nn.ModuleDict(
            {
                m.name: make_likelihood(
                    m.likelihood, m.shape, scale=m.scale, classes=m.classes, size=m.size, output=m.output
                )
                for m in modalities
            }
        )
        options = network or NetworkOptions()
        rule = _make_aggregation(aggregation, expert_weights, subset_weights, prior_expert)
        rule.check_bound(bound)
        check_kind(rule.name, options.expert_kind, rule.accepts)
        groups = group_modalities(modalities, likelihoods)
        pairs = []
        for group in groups:
            first = modalities[names.index(group[0])]
            likelihood = cast("Likelihood", likelihoods[first.name])
            shape, kind = likelihood.parameter_shape, network_of(first, likelihood)
            sizes = (shape, shape, latent_size, replace(options, **first.sizes), len(group))
            pairs.append(make_networks(kind, *sizes, private_size=first.private_size))
        loc, scale = prior or rule.prior or (0.0, 1.0)
        prior_loc = torch.as_tensor(loc, dtype=torch.get_default_dtype()).expand(latent_size).clone()
        prior_scale = torch.as_tensor(scale, dtype=torch.get_default_dtype()).expand(latent_size).clone()
        rule.build_weights(len(names), latent_size)
        # Built like this, the modules can keep parameters to themselves or share them through Pyro's store.
        with pyro.settings.context(module_local_params=True):
            self.model = GenerativeModel(
                Decoders([decoder for _, decoder in pairs], groups),
                likelihoods,
                {m.name: m.weight for m in modalities},
                prior_loc,
                prior_scale,
                beta,
                rule.posterior_family(options.expert_kind),
                options.df,
                {m.name: m.private_size for m in modalities if m.private_size},
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
                ),
                rule,
                beta=beta,
                reconstruction={m.name: m.weight for m in modalities},
                bound=bound,
                prior=(prior_loc, prior_scale),
                expert_weights_entropy=expert_weights_entropy,
            )
        rule.check_bound(bound, len(names))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the modalities, in order."""
        return self.model.names

    def posterior(self, batch: Observations, density: str | None = None) -> TorchDistribution:
        """Return the distribution of the latent given what is in a batch.

        Args:
            batch: The observations.
            density: ``"mixture"`` for the whole posterior, ``"component"`` for one drawn subset per item, ``"joint"``
                for the component of everything given; by default that of the guide's own bound.

        Returns:
            A distribution of batch shape `(item,)` and event shape `(latent,)`.
        """
        return self.guide.posterior(self.guide.experts(batch), density)

    def private_posterior(self, batch: Observations) -> dict[str, TorchDistribution]:
        """The distributions of the private latents of the modalities in a batch, see :meth:`MultimodalGuide.private`.

        Args:
            batch: observations.

        Returns:
            Modality name to a distribution of batch shape `(item,)`, event shape `(private,)`.
        """
        return self.guide.private(batch) if self.model.private_sizes else {}  # nothing is encoded for nothing

    def decode(
        self,
        z: Float[Tensor, "*batch latent"],
        names: Iterable[str] | None = None,
        private: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The mean of each modality given the latents.

        Args:
            z: latents with any leading dimensions.
            names: which modalities; all by default.
            private: modality name to private latents `(*batch, private)`. Those not given are drawn from their priors,
                from torch's global generator, as a modality generated from others has them.

        Returns:
            Modality name to `(*batch, *shape)` (for a categorical modality class probabilities).
        """
        wanted = self.names if names is None else tuple(names)
        parameters = self.model.parameters_given(z, wanted, private)
        return {n: cast("Likelihood", self.model.likelihoods[n]).mean(parameters[n]) for n in wanted}


def _make_aggregation(
    aggregation: AggregationLike,
    expert_weights: ExpertWeights | None,
    subset_weights: SubsetWeights,
    prior_expert: str | None,
) -> Aggregation:
    """Return the aggregation, given those options that differ from the defaults."""
    options: dict[str, Any] = {"expert_weights": expert_weights, "prior_expert": prior_expert}
    if not (isinstance(subset_weights, str) and subset_weights == "uniform"):
        options["subset_weights"] = subset_weights
    return make_aggregation(aggregation, **{name: value for name, value in options.items() if value is not None})


def _check(names: tuple[str, ...], latent_size: int, beta: float, expert_weights: Any) -> None:
    if not names:
        raise ValueError("a model needs at least one modality")
    if len(set(names)) < len(names):
        raise ValueError(f"modalities must have different names, got {', '.join(names)}")
    for name in names:
        if name.removesuffix("_private") in names and name.endswith("_private"):
            raise ValueError(f"a modality cannot be called {name!r} beside {name.removesuffix('_private')!r}")
    if latent_size < 1:
        raise ValueError(f"latent_size must be positive, not {latent_size}")
    if not beta > 0 or not math.isfinite(beta):
        raise ValueError(f"beta must be positive and finite, not {beta}")
    is_listed = isinstance(expert_weights, (Sequence, Tensor)) and not isinstance(expert_weights, str)
    if is_listed and len(expert_weights) != len(names):
        raise ValueError(
            f"expert_weights must have one number per modality, in the order {', '.join(names)}, got "
            f"{len(expert_weights)}"
        )
