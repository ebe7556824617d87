"""Models that combine the experts of a trained model by another aggregation."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from torch import nn

from pyro_mmvae._typing import Tensor
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.functional import AggregationLike, make_aggregation
from pyro_mmvae.aggregation.kinds import check_kind
from pyro_mmvae.aggregation.mixtures import MixtureOverSubsets
from pyro_mmvae.aggregation.weights import LearnedSubsetWeights
from pyro_mmvae.vae.encoders_decoders import Encoders
from pyro_mmvae.vae.priors import check_learned_prior
from pyro_mmvae.vae.vae import MultimodalVAE

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def with_aggregation(vae: MultimodalVAE, aggregation: AggregationLike) -> MultimodalVAE:
    """Return a model that shares all networks with a trained one, and combines its experts by another aggregation.

    Nothing is trained or copied, and the trained model stays as it is. The result is for evaluation: it has the weights
    of experts and subsets, and the prior expert, that the trained model was given, as a model that was trained with the
    other aggregation and otherwise equal settings would have. Penalties and routing, which act in training, are not
    checked. Private latents depend on their own modality and on z, so that any aggregation can be read with them.

    Args:
        vae: The trained model, which stays as it is.
        aggregation: The other aggregation: a name, a mapping with a name and options, an
            :class:`~pyro_mmvae.Aggregation`, which is copied, or a callable. The name of the aggregation of the model
            itself stands for that aggregation, with its options and learned parameters.

    Returns:
        A model with its own guide, in the mode of the trained one; the trained model itself if the aggregation is its
        own.

    Raises:
        ValueError: If the aggregation is unknown, is not defined for experts of this kind, has posteriors of another
            family than the prior of the model, has parameters that were not trained, is a mixture over other subsets
            than those whose weights were learned, or needs the loc and scale of a prior that was learned.

    Example:
        >>> import torch
        >>> from pyro_mmvae import Modality
        >>> vae = MultimodalVAE([Modality("a", (4,)), Modality("b", (6,))], latent_size=2, aggregation="mwb")
        >>> batch = {"a": torch.zeros(8, 4), "b": torch.zeros(8, 6)}
        >>> with_aggregation(vae, "moe").posterior(batch, "mixture").num_components
        2
    """
    guide = vae.guide
    if isinstance(aggregation, str) and aggregation == guide.aggregation.name:
        return vae
    rule = _make_rule(aggregation, guide.aggregation)
    _check(vae, rule)
    rule.set_prior((cast("Tensor", vae.model.prior_loc), cast("Tensor", vae.model.prior_scale)))
    read = _shallow_copy(vae)
    read.guide = _shallow_copy(guide)
    read.guide.aggregation = rule.to(cast("Tensor", vae.model.prior_loc).device).train(vae.training)
    try:
        rule.check_bound(guide.bound, len(vae.names))
    except ValueError:  # of rules that are not made of subsets, and of mixtures with too many components
        read.guide.bound = "component" if guide.bound == "mixture" else "mixture"
        rule.check_bound(read.guide.bound, len(vae.names))
    return read


def _make_rule(aggregation: AggregationLike, trained: Aggregation) -> Aggregation:
    """Return the aggregation with the weights and the prior expert that the trained one was given."""
    if not isinstance(aggregation, (str, Mapping)):
        return copy.deepcopy(make_aggregation(aggregation))
    given = {"name": aggregation} if isinstance(aggregation, str) else dict(aggregation)
    shared = {name: _option(trained, name) for name in ("expert_weights", "subset_weights", "prior_expert")}
    if isinstance(shared["subset_weights"], LearnedSubsetWeights):
        family = make_aggregation(given).subsets
        if family is None or (isinstance(family, str) and family == "all"):
            shared["subset_weights"] = "uniform"
        elif "subset_weights" not in given and family != trained.subsets:
            raise ValueError(
                f"aggregation {given['name']!r} must be a mixture over the subsets of {trained.name!r}, whose weights "
                "were learned: give it subset_weights of its own"
            )
    defaults: dict[str, Any] = {"expert_weights": None, "subset_weights": "uniform", "prior_expert": None}
    for name, value in shared.items():
        is_default = value is None or (isinstance(value, str) and value == defaults[name])
        if name not in given and not is_default:
            given[name] = value
    return make_aggregation(given)


def _option(aggregation: Aggregation, name: str) -> Any:
    """Return an option that was given to an aggregation, or to the rule of a mixture."""
    value = getattr(aggregation, name)
    if value is None and isinstance(aggregation, MixtureOverSubsets):
        return getattr(aggregation.rule, name)
    return value


def _check(vae: MultimodalVAE, rule: Aggregation) -> None:
    """Check that an aggregation can combine the experts of a model as they were trained."""
    kind, trained = cast("Encoders", vae.guide.encode).expert_kind, vae.guide.aggregation
    check_kind(rule.name, kind, rule.accepts)
    families = [aggregation.posterior_family(kind) for aggregation in (rule, trained)]
    if families[0] != families[1]:
        raise ValueError(
            f"aggregation {rule.name!r} must have posteriors of the family of the model's prior, {families[1]!r}, got "
            f"{families[0]!r} for experts of kind {kind!r}"
        )
    if vae.model.learned_prior is not None:
        check_learned_prior(rule)
    rule.build_weights(len(vae.names), vae.latent_size)
    known = {id(parameter) for parameter in trained.parameters()}
    untrained = [name for name, parameter in rule.named_parameters() if id(parameter) not in known]
    if untrained:
        raise ValueError(
            f"aggregation {rule.name!r} must not have parameters of its own, which this model was not trained with, "
            f"got {', '.join(untrained)}"
        )


def _shallow_copy(module: ModuleT) -> ModuleT:
    """Return a module with the same parameters and submodules, of which single ones can be replaced."""
    copied = object.__new__(type(module))
    copied.__dict__.update(module.__dict__, _modules=dict(module._modules))
    return copied
