"""The rules that make one posterior of several experts: the table of the built-in ones, and anyone's own.

Built-in aggregations are rows of one table: family of subsets × chart × normalised or not × prior expert or not. All
subsets of all items are one matrix product.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Protocol, TypeAlias, cast

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.aggregation import subsets
from pyro_mmvae.aggregation.kinds import Chart, Merging, merging_of
from pyro_mmvae.barycenters import diagonal, find_divergence, solve
from pyro_mmvae.distributions import SubsetMixture
from pyro_mmvae.experts import EXPERT_KINDS, Experts

Prior: TypeAlias = tuple[Tensor | float, Tensor | float]

PRIOR_EXPERTS = ("none", "full", "all")


@dataclass(frozen=True)
class Options:
    """What a caller may say about an aggregation, besides the experts. See :func:`aggregate`."""

    weights: Tensor | None = None
    mixture_weights: subsets.MixtureWeights = "uniform"
    prior: Prior | None = None
    prior_expert: str | None = None
    members: Tensor | None = None

    def check(self, experts: Experts) -> None:
        """Refuse what does not fit the experts.

        Raises:
            ValueError: naming the option and what was expected.
        """
        if self.prior_expert not in {None, *PRIOR_EXPERTS}:
            raise ValueError(f"prior_expert must be one of {', '.join(PRIOR_EXPERTS)}, not {self.prior_expert!r}")
        subsets.check_mixture_weights(self.mixture_weights)
        if self.weights is None:
            return
        shape = experts.mask.shape
        if self.weights.shape not in {shape, shape[-1:]}:
            raise ValueError(
                f"weights must have shape ({shape[-1]},) or {tuple(shape)} (one for each modality), got "
                f"{tuple(self.weights.shape)}"
            )
        default = torch.distributions.Distribution._validate_args
        check = default if experts.validate_args is None else experts.validate_args
        if check and not bool(((self.weights >= 0) & self.weights.isfinite()).all()):
            raise ValueError(f"weights must be finite and not negative, got {self.weights.min().item()} as the least")


class Aggregation(Protocol):
    """What the registry holds."""

    @property
    def summary(self) -> str:
        """One line."""

    def mixture(self, experts: Experts, options: Options) -> TorchDistribution:
        """The whole posterior."""

    def component(self, experts: Experts, options: Options) -> TorchDistribution:
        """The barycenter of one subset per item: ``options.members``, or drawn with its mixture weight."""

    def draw(self, experts: Experts, options: Options) -> Tensor:
        """One subset per item, drawn with its mixture weight, `(*batch, modality)`."""

    def full(self, experts: Experts, options: Options) -> TorchDistribution:
        """The component of everything present."""

    def check(self, num_modalities: int | None, bound: str) -> None:
        """Raise ValueError where the bound is not to be had, over so many modalities if that is known already."""


def kinds_of(aggregation: Aggregation, prior_expert: str | None = None) -> tuple[str, ...]:
    """Which kinds of experts an aggregation takes: what its method ``kinds`` says, or else diagonal Gaussians only."""
    kinds = getattr(aggregation, "kinds", None)
    return ("normal",) if kinds is None else kinds(prior_expert)


def posterior_family(aggregation: Aggregation, kind: str, prior_expert: str | None = None) -> str:
    """Of which family the posterior of experts of a kind is, and with it the prior: the experts' own as a rule."""
    merging = aggregation.merging(kind, prior_expert) if isinstance(aggregation, Rule) else None
    return merging.family if merging is not None else ("normal" if kind == "full" else kind)


@dataclass(frozen=True)
class Rule:
    """A row of the table of built-in aggregations."""

    name: str
    summary: str
    family: str
    chart: Chart
    normalised: bool
    prior_expert: str = "none"
    weights_are_mixture: bool = False

    def check(self, num_modalities: int | None, bound: str) -> None:
        """Refuse a mixture of too many components."""
        if bound == "mixture" and num_modalities is not None:
            subsets.check_components(self.family, num_modalities, self.name)

    def mixture(self, experts: Experts, options: Options) -> TorchDistribution:
        """The whole posterior: a Normal for the families of one subset, else a mixture."""
        self.check(experts.num_modalities, "mixture")
        merge, exponents, factor = self._prepare(experts, options)
        if experts.complete and options.weights is None and isinstance(options.mixture_weights, str):
            rows, logits = self._of_complete(experts, options)
            if self.family == "all":
                return merge(rows, single=True)
            return SubsetMixture(logits.expand(*experts.batch_shape, -1), merge(rows, single=False))
        # What is the same of all items, since nothing is missing, has no batch dimensions: W is then one matrix.
        present = experts.mask.new_ones(experts.num_modalities) if experts.complete else experts.mask
        members, live = subsets.members_of(self.family, present)
        rows, live = self._rows(members, live, exponents, factor, experts, options)
        if self.family == "all":
            return merge(rows, single=True)
        if callable(options.mixture_weights):
            live = live.expand(*experts.batch_shape, -1)
        by_component = None if factor is None else factor @ members.to(factor).mT
        probabilities = subsets.mixture_probabilities(
            options.mixture_weights, members, live, by_component, dtype=experts.loc.dtype
        )
        logits = _safe_log(probabilities).expand(*experts.batch_shape, -1)
        return SubsetMixture(logits, merge(rows, single=False))

    def _of_complete(self, experts: Experts, options: Options) -> tuple[Tensor, Tensor]:
        """W and log π of items that have everything, without weights: they depend on the rule alone, and are kept.

        Where the prior is in no subset, W has no column for it.
        """
        loc = experts.loc
        key = (experts.num_modalities, options.prior_expert, options.mixture_weights, loc.dtype, loc.device)
        is_watched = (
            torch.compiler.is_compiling()
            or torch._C._are_functorch_transforms_active()
            or torch._C._len_torch_dispatch_stack() > 0  # as of tensors without values
        )
        make = _constants.__wrapped__ if is_watched else _constants
        return make(self, *key)

    def component(self, experts: Experts, options: Options) -> TorchDistribution:
        """A Normal: the barycenter of a drawn subset, which is an unbiased estimate of the component bound."""
        merge, exponents, factor = self._prepare(experts, options)
        drawn = self.draw(experts, options) if options.members is None else options.members
        members, live = drawn.unsqueeze(-2), drawn.any(-1, keepdim=True)
        rows, _ = self._rows(members, live, exponents, factor, experts, options)
        return merge(rows, single=True)

    def draw(self, experts: Experts, options: Options) -> Tensor:
        """One subset per item, drawn with its mixture weight, `(*batch, modality)`.

        Raises:
            ValueError: if the weights of modalities are those of the mixture and require a gradient.
        """
        _, exponents, factor = self._prepare(experts, options)
        if factor is not None and factor.requires_grad:
            raise ValueError(
                f"aggregation {self.name!r} with weights that require a gradient has no component bound: the gradient "
                "of its mixture weights would be lost in the draw. Use bound='mixture'"
            )
        shared = exponents if factor is None else factor
        is_uniform = self.family == "powerset" and options.mixture_weights == "uniform"
        if experts.complete and is_uniform and shared is None and experts.num_modalities <= subsets.HEAD_BITS:
            return subsets.draw_of_complete(experts.batch_shape, experts.num_modalities, experts.loc.device)
        positive = None if shared is None else shared.detach() > 0
        return subsets.draw_subset(self.family, experts.mask, options.mixture_weights, positive, factor)

    def full(self, experts: Experts, options: Options) -> TorchDistribution:
        """The barycenter of everything present, which the families of all and of every subset have."""
        if self.family == "singletons":
            raise ValueError(f"aggregation {self.name!r} has no component of everything present")
        return replace(self, family="all").mixture(experts, options)

    def kinds(self, prior_expert: str | None = None) -> tuple[str, ...]:
        """Which kinds of experts the rule is defined for."""
        return tuple(kind for kind in EXPERT_KINDS if self.merging(kind, prior_expert) is not None)

    def merging(self, kind: str, prior_expert: str | None = None) -> Merging | None:
        """How experts of a kind become components; None where the rule is not defined for it."""
        selects = self.weights_are_mixture and (prior_expert or self.prior_expert) == "none"
        return merging_of(kind, self.chart, selects=selects)

    def _prepare(
        self, experts: Experts, options: Options
    ) -> tuple[Callable[..., TorchDistribution], Tensor | None, Tensor | None]:
        """From the matrix W to components, and λ as exponents of members or as factors of subsets."""
        merging = cast("Merging", self.merging(experts.kind, options.prior_expert))
        merge = partial(merging, experts, _prior(options.prior, experts))
        weights = None if options.weights is None else options.weights.to(experts.loc)
        return (merge, None, weights) if self.weights_are_mixture else (merge, weights, None)

    def _rows(
        self,
        members: Bool[Tensor, "*#batch component modality"],
        live: Bool[Tensor, "*#batch component"],
        exponents: Float[Tensor, "*#batch modality"] | None,
        factor: Float[Tensor, "*#batch modality"] | None,
        experts: Experts,
        options: Options,
    ) -> tuple[Float[Tensor, "*#batch component modality_and_prior"], Bool[Tensor, "*#batch component"]]:
        """The matrix W, its last column the prior expert's; a dead row is the prior alone.

        Without batch dimensions where it is the same of all items.
        """
        rows = members.to(experts.loc)
        if exponents is not None:
            rows = rows * exponents.to(rows).unsqueeze(-2)
            live = live & (rows.detach() > 0).any(-1)
        if factor is not None:
            live = live & ((factor.detach() > 0).unsqueeze(-2) & members).any(-1)
        prior_expert = options.prior_expert or self.prior_expert
        prior = ~live
        if prior_expert == "all":
            prior = torch.ones_like(live)
        elif prior_expert == "full":
            held = experts.num_modalities if experts.complete else experts.mask.sum(-1, keepdim=True)
            prior = prior | (members.sum(-1) == held)
        rows = torch.where(live.unsqueeze(-1), rows, 0.0)
        rows = torch.cat([rows, prior.unsqueeze(-1).to(rows)], -1)
        return (rows / rows.sum(-1, keepdim=True) if self.normalised else rows), live


@dataclass(frozen=True)
class Custom:
    """Somebody's own callable, as the registry holds it."""

    name: str
    summary: str
    function: Callable[..., TorchDistribution]
    family: subsets.Family | None
    accepts: tuple[str, ...] = ("normal",)

    def kinds(self, prior_expert: str | None = None) -> tuple[str, ...]:
        """Which kinds of experts it was registered for."""
        return self.accepts

    def check(self, num_modalities: int | None, bound: str) -> None:
        """Refuse a component bound without subsets and a mixture of too many components."""
        if bound == "component" and self.family is None:
            raise ValueError(
                f"aggregation {self.name!r} has no component bound: register it with subsets=…, as a rule for one "
                "subset, to have one"
            )
        if bound == "mixture" and self.family is not None and num_modalities is not None:
            subsets.check_components(self.family, num_modalities, self.name)

    def _call(self, experts: Experts, options: Options) -> TorchDistribution:
        offered = {"weights": options.weights, "mixture_weights": options.mixture_weights, "prior": options.prior}
        offered["prior_expert"] = options.prior_expert
        parameters = inspect.signature(self.function).parameters
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return self.function(experts, **{k: v for k, v in offered.items() if takes_all or k in parameters})

    def mixture(self, experts: Experts, options: Options) -> TorchDistribution:
        """The callable itself or, with subsets, the mixture of it over them, in one call."""
        self.check(experts.num_modalities, "mixture")
        if self.family is None or (isinstance(self.family, str) and self.family == "all"):
            return self.full(experts, options)
        members, live = subsets.members_of(self.family, experts.mask)
        if options.weights is not None:
            live = live & ((options.weights.detach() > 0).unsqueeze(-2) & members).any(-1)
        spread = experts.map(
            lambda tensor, event_dim: tensor.unsqueeze(-event_dim - 1).expand(*live.shape, *tensor.shape[-event_dim:])
        )
        components = self._call(spread.condition_on(members & live.unsqueeze(-1)), _with_component_axis(options))
        probabilities = subsets.mixture_probabilities(options.mixture_weights, members, live, dtype=experts.loc.dtype)
        return SubsetMixture(_safe_log(probabilities), components)

    def component(self, experts: Experts, options: Options) -> TorchDistribution:
        """The callable of a drawn subset."""
        drawn = self.draw(experts, options) if options.members is None else options.members
        return self._call(experts.condition_on(drawn), options)

    def draw(self, experts: Experts, options: Options) -> Tensor:
        """One subset per item, drawn with its mixture weight, `(*batch, modality)`."""
        self.check(experts.num_modalities, "component")
        family = cast("subsets.Family", self.family)
        positive = None if options.weights is None else options.weights.detach() > 0
        return subsets.draw_subset(family, experts.mask, options.mixture_weights, positive)

    def full(self, experts: Experts, options: Options) -> TorchDistribution:
        """The callable of everything present; of nothing where what is present has no weight."""
        if self.family is not None and options.weights is not None:
            alive = ((options.weights.detach() > 0) & experts.mask).any(-1, keepdim=True)
            experts = experts.condition_on(alive)
        return self._call(experts, options)


def _with_component_axis(options: Options) -> Options:
    """Batched options as they broadcast to `(*batch, component, …)`."""

    def spread(value: Any) -> Any:
        return value.unsqueeze(-2) if isinstance(value, Tensor) and value.dim() > 1 else value

    prior = None if options.prior is None else (spread(options.prior[0]), spread(options.prior[1]))
    return replace(options, weights=spread(options.weights), prior=prior)


def _safe_log(probabilities: Tensor) -> Tensor:
    alive = probabilities > 0
    return torch.where(alive, torch.where(alive, probabilities, 1.0).log(), -torch.inf)


def _prior(prior: Prior | None, experts: Experts) -> tuple[Tensor, Tensor]:
    """The prior as one more expert of each item, `(*batch, 1, latent)`."""
    shape = (*experts.batch_shape, experts.latent_size)
    values = []
    for name, value in zip(("loc", "scale"), (0.0, 1.0) if prior is None else prior, strict=True):
        dtype, device = experts.loc.dtype, experts.loc.device
        if isinstance(value, (int, float)):  # made there: to copy it there would wait for an accelerator
            tensor = torch.full((), value, dtype=dtype, device=device)
        else:
            tensor = torch.as_tensor(value, dtype=dtype, device=device)
        try:
            values.append(tensor.expand(shape).unsqueeze(-2))
        except RuntimeError:
            raise ValueError(
                f"prior {name} of shape {tuple(tensor.shape)} does not broadcast to (*batch, latent) = {shape}"
            ) from None
    return values[0], values[1]


@lru_cache(maxsize=32)
def _constants(
    rule: Rule,
    modalities: int,
    prior_expert: str | None,
    mixture_weights: str,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Float[Tensor, "component modality_or_prior"], Float[Tensor, " component"]]:
    """W and log π of any item that has everything."""
    with torch.inference_mode(False), torch.no_grad():  # for use in any mode
        ones = torch.ones(1, modalities, 1, dtype=dtype, device=device)
        experts, options = Experts(ones, ones, validate_args=False), Options(prior_expert=prior_expert)
        members, live = subsets.members_of(rule.family, experts.mask[0])
        rows, live = rule._rows(members, live, None, None, experts, options)
        probabilities = subsets.mixture_probabilities(mixture_weights, members, live, dtype=dtype)
        if (prior_expert or rule.prior_expert) == "none":
            rows = rows[:, :-1].contiguous()
        return rows, _safe_log(probabilities)


BUILT_IN = (
    Rule("poe", "product of all present experts and the prior (MVAE)", "all", diagonal.natural, False, "all"),
    Rule(
        "moe", "mixture of the present experts (MMVAE)", "singletons", diagonal.natural, False, weights_are_mixture=True
    ),
    Rule("mopoe", "mixture of products over every subset (MoPoE)", "powerset", diagonal.natural, False, "full"),
    Rule("wb", "2-Wasserstein barycenter of all present experts", "all", diagonal.wasserstein, True),
    Rule("mwb", "mixture of Wasserstein barycenters over every subset", "powerset", diagonal.wasserstein, True),
    Rule("pool", "log-linear pool: the barycenter of KL(q || q_m)", "all", diagonal.natural, True),
    Rule("moment", "moment matching: the Gaussian barycenter of KL(q_m || q)", "all", diagonal.moment, True),
)


def rule_of_divergence(name: str) -> Rule | None:
    """The row of a divergence, of everything present or, as ``mixture:…``, of every subset; None if there is no such.

    Raises:
        ValueError: if the parameter of the divergence is outside of its domain.
    """
    mixture = name.startswith("mixture:")
    divergence = find_divergence(name.removeprefix("mixture:"))
    if divergence is None:
        return None
    family, summary = "all", f"barycenter under {divergence.summary}; mixture:{name} over every subset"
    if mixture:
        family, summary = "powerset", f"mixture over every subset of barycenters under {divergence.summary}"
    chart = partial(solve, divergence=divergence)
    return Rule(name, summary, family, cast("Chart", chart), True)
