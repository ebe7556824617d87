"""From experts to one posterior: aggregations by name, open to anyone, and both bounds."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.aggregation import subsets
from pyro_mmvae.aggregation.kinds import EXPERT_KINDS, check_kind
from pyro_mmvae.aggregation.rules import BUILT_IN, Aggregation, Custom, Options, Prior, kinds_of, rule_of_divergence
from pyro_mmvae.barycenters import divergences
from pyro_mmvae.experts import Experts

Function = TypeVar("Function", bound=Callable[..., TorchDistribution])

_REGISTRY: dict[str, Aggregation] = {rule.name: rule for rule in BUILT_IN}


def aggregations() -> tuple[str, ...]:
    """The names of all aggregations: the built-in ones, the divergences (each with a default parameter), one's own.

    A divergence may be given another parameter, ``renyi:0.9``, and has a mixture over every subset,
    ``mixture:renyi:0.9``.
    """
    return tuple(dict.fromkeys([*(rule.name for rule in BUILT_IN), *divergences(), *_REGISTRY]))


def get_aggregation(name: str) -> Aggregation:
    """Look an aggregation up; that of a divergence also with its parameter and as a mixture.

    Raises:
        ValueError: if there is none of that name; the message lists those there are. Or if the parameter of a
            divergence is outside of its domain.
    """
    if isinstance(name, str):
        found = _REGISTRY.get(name) or rule_of_divergence(name)
        if found is not None:
            return found
    raise ValueError(
        f"unknown aggregation {name!r}; there are {', '.join(aggregations())}, and mixture:NAME of a divergence. Your "
        "own is registered with @pyro_mmvae.register_aggregation('name')"
    )


def register_aggregation(
    name: str, *, subsets: subsets.Family | None = None, kinds: Sequence[str] = ("normal",)
) -> Callable[[Function], Function]:
    """Register a callable `Experts → TorchDistribution` as an aggregation, from anywhere.

    The keywords ``weights``, ``mixture_weights``, ``prior`` and ``prior_expert`` of :func:`aggregate` reach the
    callable only if its signature has them. Absent slots come to it filled with loc 0 and scale 1; it must give them no
    weight, and the prior where nothing is present. :func:`pyro_mmvae.testing.check_aggregation` tells whether it keeps
    the contract.

    Args:
        name: a new name.
        subsets: without it the callable is the whole aggregation, and only the mixture bound can use it. With it,
            ``"all"``, ``"singletons"``, ``"powerset"``, a bool membership matrix or a function from the number of
            modalities to one, the callable is the rule for *one* subset: it gets experts whose ``present`` is cut to
            that subset, with one more batch dimension for the subsets. The aggregation is then the mixture of it over
            the family, and the component bound is served too.
        kinds: of experts that the callable can take, see :attr:`Experts.kind <pyro_mmvae.Experts.kind>`: ``"normal"``
            (diagonal Gaussians), ``"full"``, ``"laplace"``, ``"student_t"``, ``"logistic"``. Others are refused before
            it is called, lest it take them for diagonal Gaussians.

    Returns:
        A decorator that gives the callable back unchanged.

    Raises:
        ValueError: if the name is taken, ``subsets`` is no family or ``kinds`` are unknown.

    Example:
        >>> import pyro.distributions as dist
        >>> @register_aggregation("sharpest")
        ... def sharpest(experts):
        ...     '''The expert of least scale, dimension by dimension.'''
        ...     best = experts.scale.masked_fill(~experts.mask.unsqueeze(-1), torch.inf).argmin(-2, keepdim=True)
        ...     return dist.Normal(
        ...         experts.loc.gather(-2, best).squeeze(-2), experts.scale.gather(-2, best).squeeze(-2)
        ...     ).to_event(1)
        >>> aggregate(Experts(torch.zeros(8, 2, 3), torch.ones(8, 2, 3)), "sharpest").batch_shape
        torch.Size([8])
        >>> unregister_aggregation("sharpest")
    """
    from pyro_mmvae.aggregation import subsets as families  # noqa: PLC0415  (the argument of that name hides the module)

    if name in _REGISTRY or rule_of_divergence(name) is not None:
        raise ValueError(f"aggregation {name!r} is registered already; unregister_aggregation({name!r}) first")
    if subsets is not None:
        families.check_family(subsets)
    if not kinds or not set(kinds) <= set(EXPERT_KINDS):
        raise ValueError(f"kinds must be some of {', '.join(EXPERT_KINDS)}, not {kinds!r}")

    def decorate(function: Function) -> Function:
        summary = str(inspect.getdoc(function) or getattr(function, "__name__", name)).split("\n")[0]
        _REGISTRY[name] = Custom(name, summary, function, subsets, tuple(kinds))
        return function

    return decorate


def unregister_aggregation(name: str) -> None:
    """Forget a registered aggregation of somebody's own.

    Raises:
        ValueError: if there is none of that name or it is built in.
    """
    if not isinstance(get_aggregation(name), Custom):
        raise ValueError(f"aggregation {name!r} is built in")
    del _REGISTRY[name]


def aggregate(
    experts: Experts,
    name: str,
    *,
    weights: Float[Tensor, "*#batch modality"] | None = None,
    mixture_weights: subsets.MixtureWeights = "uniform",
    prior: Prior | None = None,
    prior_expert: str | None = None,
) -> TorchDistribution:
    r"""The joint posterior of some experts.

    .. math:: q_S = \arg\min_q \sum_{m \in S} \lambda_m D(q, q_m), \qquad q = \sum_S \pi_S \, q_S

    Args:
        experts: unimodal posteriors.
        name: one of :func:`aggregations`.
        weights: :math:`\lambda`, `(modality,)` or `(*batch, modality)`, not negative, may require gradients. Raw
            exponents in ``poe`` and ``mopoe``, mixture weights in ``moe``, elsewhere normalised over the members of
            each subset. A subset of zero total weight is dead. All 1 by default.
        mixture_weights: :math:`\pi` over an item's live subsets: ``"uniform"``; ``"size"``, each size of subset equally
            likely; or a function from the membership matrix `(component, modality)`, bool, to weights `(component,)`.
        prior: ``(loc, scale)``, each a number or a tensor that broadcasts to `(*batch, latent)`; (0, 1) by default, so
            N(0, I) for Gaussian experts. It is the prior expert, and the posterior of an item of which nothing is
            alive. Its family is that of the posterior: that of the experts, with their df, and Gaussian in ``moment``;
            its scale is the family's own.
        prior_expert: whether the prior is one more expert, of weight 1: in ``"none"`` of the subsets, in ``"full"``,
            the subset of everything present in the item, or in ``"all"``. By default all for ``poe``, full for
            ``mopoe``, none elsewhere.

    Returns:
        A distribution of batch shape `batch` and event shape `(latent,)`, in the experts' floating type, float32 at
        least, computed with autocast off: for one-component aggregations independent Normals, a
        :class:`~pyro_mmvae.distributions.MultivariateNormal` of experts of full covariance, or the family of the
        experts; else a :class:`~pyro_mmvae.distributions.SubsetMixture` of such.

    Raises:
        ValueError: for an unknown name or option, weights or prior that do not fit, negative weights, a mixture of more
            than 4,096 components, or experts of a kind that the aggregation is not defined for.

    References:
        Qiu et al., 2025. Multimodal variational autoencoder: a barycentric view. AAAI 39(19), arXiv 2412.20487.

    Example:
        >>> experts = Experts(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]]))
        >>> posterior = aggregate(experts, "wb")
        >>> posterior.mean.item(), posterior.stddev.item()
        (1.0, 2.0)
    """
    options = Options(weights, mixture_weights, prior, prior_expert)
    return _run(name, "mixture", experts, options)


def draw_component(
    experts: Experts,
    name: str,
    *,
    weights: Float[Tensor, "*#batch modality"] | None = None,
    mixture_weights: subsets.MixtureWeights = "uniform",
    prior: Prior | None = None,
    prior_expert: str | None = None,
    members: Bool[Tensor, "*batch modality"] | None = None,
) -> TorchDistribution:
    r"""The barycenter of one subset per item, drawn with its mixture weight: the component bound.

    As a guide's distribution it gives an unbiased estimate of :math:`\sum_k \pi_k ELBO_k`, at a cost linear in the
    number of modalities, however many of the :math:`2^M - 1` subsets there are. Draws are stratified over the batch.

    Args:
        experts: as for :func:`aggregate`, and so are the others.
        name: see there.
        weights: see there; in ``moe`` they must not require a gradient.
        mixture_weights: see there.
        prior: see there.
        prior_expert: see there.
        members: the subset of each item, if :func:`draw_members` has drawn it before.

    Returns:
        A distribution of batch shape `batch` and event shape `(latent,)`: one component, of whatever family, see
        :func:`aggregate`.

    Raises:
        ValueError: as for :func:`aggregate`, and for an aggregation without subsets or learned weights of ``moe``.
    """
    options = Options(weights, mixture_weights, prior, prior_expert, members)
    return _run(name, "component", experts, options)


def draw_members(
    experts: Experts,
    name: str,
    *,
    weights: Float[Tensor, "*#batch modality"] | None = None,
    mixture_weights: subsets.MixtureWeights = "uniform",
) -> Bool[Tensor, "*batch modality"]:
    """The subset of each item that :func:`draw_component` aggregates, for a guide that has to know it.

    Args:
        experts: as for :func:`aggregate`, and so are the others.
        name: see there.
        weights: see there.
        mixture_weights: see there.

    Returns:
        Which modalities are in the subset, `(*batch, modality)`: for aggregations of one subset all that are present.

    Raises:
        ValueError: as for :func:`draw_component`.
    """
    options = Options(weights, mixture_weights)
    options.check(experts)
    return get_aggregation(name).draw(experts, options)


def full_component(
    experts: Experts,
    name: str,
    *,
    weights: Float[Tensor, "*#batch modality"] | None = None,
    mixture_weights: subsets.MixtureWeights = "uniform",
    prior: Prior | None = None,
    prior_expert: str | None = None,
) -> TorchDistribution:
    """The component of everything present: the one subset of a mixture that uses all there is, at any size.

    Args:
        experts: as for :func:`aggregate`, and so are the others.
        name: see there.
        weights: see there.
        mixture_weights: taken for the sake of one signature; one component has none.
        prior: see there.
        prior_expert: see there.

    Returns:
        A distribution of batch shape `batch` and event shape `(latent,)`: one component, of whatever family, see
        :func:`aggregate`.

    Raises:
        ValueError: as for :func:`aggregate`, and for ``moe``, which has no such component.
    """
    options = Options(weights, mixture_weights, prior, prior_expert)
    return _run(name, "full", experts, options)


def _run(name: str, builder: str, experts: Experts, options: Options) -> TorchDistribution:
    return run_aggregation(get_aggregation(name), name, builder, experts, options)


def run_aggregation(
    aggregation: Aggregation, name: str, builder: str, experts: Experts, options: Options
) -> TorchDistribution:
    """What an aggregation, registered or not, makes of experts, checked, in float32 at least and with autocast off.

    Args:
        aggregation: a rule.
        name: for messages.
        builder: ``mixture``, ``component`` or ``full``.
        experts: unimodal posteriors.
        options: of the caller.

    Raises:
        ValueError: as :func:`aggregate` says.
    """
    options.check(experts)
    check_kind(name, experts.kind, kinds_of(aggregation, options.prior_expert))
    experts = _promoted(experts)
    device = experts.loc.device.type
    off: Any = contextlib.nullcontext()
    if torch.amp.is_autocast_available(device):
        off = torch.autocast(device, enabled=False)
    with off:
        return cast("TorchDistribution", getattr(aggregation, builder)(experts, options))


def _promoted(experts: Experts) -> Experts:
    """The experts in one floating type, float32 at least."""
    dtype = torch.promote_types(torch.promote_types(experts.loc.dtype, experts.scale.dtype), torch.float32)
    if experts.loc.dtype == dtype == experts.scale.dtype:
        return experts
    return experts.map(lambda tensor, event_dim: tensor.to(dtype) if event_dim > 1 else tensor)
