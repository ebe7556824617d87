"""The base class of aggregations: expert weights, subset weights, prior and prior expert, and the calls guides make."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Self, cast

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.aggregation.draws import SubsetDraws
from pyro_mmvae.aggregation.kinds import check_kind
from pyro_mmvae.aggregation.subsets import SubsetFamily, SubsetWeights, check_subset_weights
from pyro_mmvae.aggregation.values import (
    PRIOR_EXPERTS,
    ExpertWeights,
    Prior,
    Values,
    are_equal,
    check_fit,
    check_prior,
    in_one_dtype,
)
from pyro_mmvae.aggregation.weights import check_expert_weights, make_expert_weights, make_subset_weights
from pyro_mmvae.experts import Experts


class Aggregation(nn.Module):
    r"""A rule that turns experts into one posterior; the base class of all of them.

    .. math:: q_S = \arg\min_q \sum_{m \in S} \lambda_m D(q, q_m), \qquad q = \sum_S \pi_S \, q_S

    A subclass overrides :meth:`forward`, may hold parameters of its own, and is given to
    :class:`~pyro_mmvae.BarycentricGuide` or :class:`~pyro_mmvae.MultimodalVAE` as it is. Inside ``forward`` the methods
    :meth:`expert_weights_for` and :meth:`prior_for` give λ and the prior. Such a rule is the whole posterior;
    ``MixtureOverSubsets(rule)`` is the mixture of it over subsets of the modalities and has a component bound too.
    :func:`pyro_mmvae.testing.check_aggregation` checks the contract that guides rely on.

    Args:
        expert_weights: The weights λ of the experts: numbers or a tensor of shape `(modality,)` or
            `(*batch, modality)`, not negative; a ``torch.nn.Parameter``, which is trained; a module or callable from
            experts to such a tensor, see :mod:`pyro_mmvae.aggregation.weights`; or ``"learned"``, ``"precision"`` or
            ``"gate"``, which :meth:`build_weights` turns into a module. They are raw exponents in products of experts,
            mixture weights in the mixture of experts, and normalised over the members of each subset elsewhere. All 1
            by default.
        subset_weights: The weights π of an item's live subsets: ``"uniform"``; ``"by_size"``, which makes each size of
            subset equally likely; ``"singles:0.5"``, which gives this share to the single modalities and the rest to
            the other subsets, uniformly within both; ``"learned"``, which :meth:`build_weights` turns into a module; or
            a function or module from the membership matrix `(component, modality)`, bool, to weights `(component,)`.
            An aggregation of one component ignores them, but for objectives that draw subsets themselves.
        prior: The pair ``(loc, scale)`` of the latent's prior, each a number or a tensor that broadcasts to
            `(*batch, latent)`; by default (0, 1), or what the guide says. It is the prior expert, and the posterior of
            an item of which nothing is present. Its scale is the scale parameter of the posterior's family.
        prior_expert: In which subsets the prior counts as one more expert of weight 1: in ``"none"``; in
            ``"complete"``, the subset of all M modalities, which an item that lacks one does not have; in
            ``"joint_only"``, the subset of everything present in the item; or in ``"all"``. By default "all" for the
            product of experts, "complete" for its mixture over subsets (MoPoE), "none" elsewhere. With "complete" an
            absent modality is not as good as a removed one, since removal makes other items complete.

    Attributes:
        accepts: The kinds of experts that the aggregation is defined for, see :attr:`pyro_mmvae.Experts.kind`.
        name: The name that messages use.
        subsets: The family of subsets whose components are mixed; None if the aggregation is not made of subsets.
        divergence: The divergence whose barycenter the posterior of a subset is, a name in
            :func:`pyro_mmvae.divergences` or a callable of two elementwise Normals, for penalties; None if unknown.

    Raises:
        ValueError: If an option is not one of the values above.

    Example:
        >>> import pyro.distributions as dist
        >>> class Sharpest(Aggregation):
        ...     def forward(self, experts):
        ...         best = experts.scale.masked_fill(~experts.mask.unsqueeze(-1), torch.inf).argmin(-2, keepdim=True)
        ...         loc, scale = (t.gather(-2, best).squeeze(-2) for t in (experts.loc, experts.scale))
        ...         return dist.Normal(loc, scale).to_event(1)
        >>> Sharpest()(Experts(torch.zeros(8, 2, 3), torch.ones(8, 2, 3))).batch_shape
        torch.Size([8])
    """

    accepts: tuple[str, ...] = ("normal",)
    subsets: SubsetFamily | None = None
    divergence: Any = None
    default_prior_expert: str = "none"
    expert_weights: Any
    subset_weights: Any
    prior_loc: Any
    prior_scale: Any
    _values: Values | None = None

    def __init__(
        self,
        *,
        expert_weights: ExpertWeights | None = None,
        subset_weights: SubsetWeights = "uniform",
        prior: Prior | None = None,
        prior_expert: str | None = None,
    ) -> None:
        super().__init__()
        if prior_expert not in (None, *PRIOR_EXPERTS):
            raise ValueError(f"prior_expert must be one of {', '.join(PRIOR_EXPERTS)}, got {prior_expert!r}")
        check_subset_weights(subset_weights)
        self.name = type(self).__name__
        self.prior_expert = prior_expert
        self._store("expert_weights", check_expert_weights(expert_weights), persistent=True)
        self._store("subset_weights", subset_weights, persistent=True)
        for part, value in zip(
            ("prior_loc", "prior_scale"), (None, None) if prior is None else check_prior(prior), strict=True
        ):
            self._store(part, value, persistent=False)
        # W and log π of complete items, per number of modalities, dtype and device: neither state nor worth copying.
        self._complete: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}

    def _store(self, name: str, value: Any, *, persistent: bool) -> None:
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            self.register_buffer(name, value, persistent=persistent)
        else:
            setattr(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles, without what can be computed again."""
        return {**self.__dict__, "_complete": {}}

    def __call__(self, experts: Experts) -> TorchDistribution:
        """Return the whole posterior: :meth:`forward` on checked experts, with autocast off.

        Args:
            experts: The unimodal posteriors, of a kind in :attr:`accepts`.

        Returns:
            A distribution of batch shape `batch` and event shape `(latent,)`, in the floating type of the experts, at
            least float32.

        Raises:
            ValueError: If the experts are of another kind, expert weights or prior do not fit them, or the mixture has
                more than 4,096 components.
        """
        with self.prepared(experts) as ready:
            return cast("TorchDistribution", super().__call__(ready))

    def forward(self, experts: Experts) -> TorchDistribution:
        """Return the whole posterior; subclasses override this.

        Absent slots hold loc 0 and scale 1 and must get no weight; where nothing is present the result is the prior.

        Args:
            experts: The unimodal posteriors of the items.

        Returns:
            A distribution of batch shape `batch` and event shape `(latent,)`.
        """
        raise NotImplementedError(f"{type(self).__name__} must override forward(experts)")

    def component(self, experts: Experts, members: Bool[Tensor, "*batch modality"] | None = None) -> TorchDistribution:
        r"""Return the posterior of one subset per item, drawn with its weight: the component bound.

        As a guide's distribution it gives an unbiased estimate of :math:`\sum_k \pi_k ELBO_k`, at a cost linear in the
        number of modalities, however many of the :math:`2^M - 1` subsets there are. Draws are stratified over the
        batch. Where Pyro expands the distribution, as for vectorised particles, each entry of the new batch shape draws
        a subset of its own; subsets that are given as ``members`` stay.

        Args:
            experts: The unimodal posteriors of the items.
            members: The subset of each item, `(*batch, modality)`, as :meth:`draw` returns it; drawn here by default.

        Returns:
            A distribution of batch shape `batch` and event shape `(latent,)`; it is a mixture only if the rule for one
            subset returns one, as the Hölder pool does.

        Raises:
            ValueError: If the aggregation has no component bound, and as for a call.
        """
        if members is None:
            return self.draws(experts).posterior()
        self.check_bound("component")
        with self.prepared(experts) as ready:
            return self.with_values(self.values_for(ready)).over_members(ready, members)

    def draws(self, experts: Experts) -> SubsetDraws:
        """Return the source of drawn subsets and their posterior, for distributions that have to share subsets.

        Args:
            experts: The unimodal posteriors of the items.

        Raises:
            ValueError: If the aggregation has no component bound, and as for a call.
        """
        self.check_bound("component")
        with self.prepared(experts) as ready:
            return SubsetDraws(self.with_values(self.values_for(ready)), ready)  # λ is computed once

    def draw(self, experts: Experts) -> Bool[Tensor, "*batch modality"]:
        """Draw one subset per item with its weight, as :meth:`component` does, from torch's global generator.

        Args:
            experts: The unimodal posteriors of the items.

        Returns:
            The members of each item's subset, `(*batch, modality)`; everything present where there is only one subset.

        Raises:
            ValueError: If the aggregation has no component bound.
        """
        self.check_bound("component")
        raise NotImplementedError(f"{type(self).__name__} must override draw(experts)")

    def joint(self, experts: Experts) -> TorchDistribution:
        """Return the component of everything present: the one subset that uses all there is, at any size.

        Args:
            experts: The unimodal posteriors of the items.

        Returns:
            A distribution of batch shape `batch` and event shape `(latent,)`.

        Raises:
            ValueError: If the aggregation has no such component, as the mixture of experts, and as for a call.
        """
        return self(experts)

    def check_bound(self, bound: str, num_modalities: int | None = None) -> None:
        """Check that the aggregation can serve a bound.

        Args:
            bound: The bound, ``"mixture"`` or ``"component"``.
            num_modalities: The number of modalities, if it is known already.

        Raises:
            ValueError: If there are no subsets to draw components from, or too many to mix.
        """
        if bound == "component" and self.subsets is None:
            raise ValueError(
                f"aggregation {self.name!r} has no component bound, since it is not made of subsets: use "
                "bound='mixture', or make it a rule for one subset with MixtureOverSubsets(rule) or "
                "register_aggregation(name, subsets=…)"
            )

    def posterior_family(self, expert_kind: str) -> str:
        """Return the family of the posterior, and hence of the prior, for experts of a kind.

        Args:
            expert_kind: The kind of the experts, one of ``EXPERT_KINDS``.

        Returns:
            A name in ``FAMILIES``; by default the experts' own family.
        """
        return "normal" if expert_kind == "full" else expert_kind

    @property
    def prior(self) -> Prior | None:
        """The pair ``(loc, scale)`` of the prior, or None if it was not given."""
        return None if self.prior_loc is None else (self.prior_loc, self.prior_scale)

    def set_prior(self, prior: Prior) -> None:
        """Set the prior, as a guide does that knows the prior of its model.

        Args:
            prior: The pair ``(loc, scale)``, as for the constructor.

        Raises:
            ValueError: If it is not a pair of loc and scale, or the aggregation was given another prior before.
        """
        prior = check_prior(prior)
        if self.prior is not None:
            if not all(are_equal(*pair) for pair in zip(self.prior, prior, strict=True)):
                raise ValueError(
                    f"aggregation {self.name!r} has another prior than its guide: give the prior of the model once"
                )
            return
        for name, value in zip(("prior_loc", "prior_scale"), prior, strict=True):
            delattr(self, name)
            self._store(name, value, persistent=False)

    def prior_for(self, experts: Experts) -> tuple[Float[Tensor, "*batch latent"], Float[Tensor, "*batch latent"]]:
        """Return loc and scale of the prior of each item, in the type and on the device of the experts.

        Args:
            experts: The unimodal posteriors of the items.

        Raises:
            ValueError: If the prior does not broadcast to `(*batch, latent)`.
        """
        shape = (*experts.batch_shape, experts.latent_size)
        prior = self.prior if self._values is None else self._values.prior
        values = []
        for name, value in zip(("loc", "scale"), (0.0, 1.0) if prior is None else prior, strict=True):
            tensor = torch.as_tensor(value, dtype=experts.loc.dtype, device=experts.loc.device)
            try:
                values.append(tensor.expand(shape))
            except RuntimeError:
                raise ValueError(
                    f"prior {name} must broadcast to (*batch, latent) = {shape}, got shape {tuple(tensor.shape)}"
                ) from None
        return values[0], values[1]

    def expert_weights_for(self, experts: Experts) -> Tensor | None:
        """Return the weights λ of some experts, checked and on their device.

        Args:
            experts: The unimodal posteriors of the items.

        Returns:
            A tensor of shape `(modality,)` or `(*batch, modality)`; None if all weights are 1.

        Raises:
            ValueError: If the weights do not have such a shape, are negative or not finite, or are still a name that
                :meth:`build_weights` has to turn into a module.
        """
        if self._values is not None:
            return self._values.expert_weights
        weights = self.expert_weights
        if isinstance(weights, str):
            raise ValueError(
                f"expert_weights={weights!r} must be built for a number of modalities: call "
                "aggregation.build_weights(num_modalities, latent_size), as MultimodalVAE does, or give a module of "
                "pyro_mmvae.aggregation.weights"
            )
        return None if weights is None else check_fit(weights(experts) if callable(weights) else weights, experts)

    @property
    def learns_expert_weights(self) -> bool:
        """If True, λ is a parameter or a module."""
        return isinstance(self.expert_weights, (nn.Module, nn.Parameter))

    def build_weights(self, num_modalities: int, latent_size: int) -> None:
        """Turn weights that were given by name into modules with parameters; leave others as they are.

        Args:
            num_modalities: The number of modalities.
            latent_size: The number of latent dimensions.

        Raises:
            ValueError: If there are no subsets whose weights could be learned.
        """
        if isinstance(self.expert_weights, str):
            name = self.expert_weights
            del self.expert_weights
            self.expert_weights = make_expert_weights(name, num_modalities, latent_size)
        if isinstance(self.subset_weights, str) and self.subset_weights == "learned":
            weights = make_subset_weights(self.subsets, num_modalities)
            del self.subset_weights
            self.subset_weights = weights

    # What follows is for aggregations made of others, see MixtureOverSubsets.

    def values_for(self, experts: Experts) -> Values:
        """Return λ, prior and prior expert for some experts."""
        if self._values is not None:
            return self._values
        prior_expert = self.prior_expert or self.default_prior_expert
        return Values(self.expert_weights_for(experts), self.prior, prior_expert)

    def with_values(self, values: Values) -> Self:
        """Return a view of this aggregation that shares its parameters but uses other values.

        What a method of the view assigns to it, other than parameters and buffers, is lost with the view.

        Args:
            values: The values that :meth:`values_for`, :meth:`expert_weights_for` and :meth:`prior_for` go by.
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__, _values=values)
        return view

    def over_members(self, experts: Experts, members: Bool[Tensor, "*batch modality"]) -> TorchDistribution:
        """Return the posterior of one subset per item.

        Args:
            experts: The unimodal posteriors of the items.
            members: The subset of each item.

        Returns:
            A distribution of batch shape `batch`.
        """
        return self(experts.condition_on(members))

    def over_subsets(
        self,
        experts: Experts,
        members: Bool[Tensor, "*#batch component modality"],
        live: Bool[Tensor, "*#batch component"],
    ) -> TorchDistribution:
        """Return the posteriors of many subsets at once.

        The experts get one more batch dimension for the subsets, and ``present`` is cut to the members of each.

        Args:
            experts: The unimodal posteriors of the items.
            members: The subsets, one row per subset.
            live: The subsets that count for an item; the posterior of any other is the prior.

        Returns:
            A distribution of batch shape `(*batch, component)`.
        """
        shape = (*experts.batch_shape, live.shape[-1])

        def spread(tensor: Tensor, event_dim: int) -> Tensor:
            return tensor.unsqueeze(-event_dim - 1).expand(*shape, *tensor.shape[-event_dim:])

        view = self.with_values(self.values_for(experts).with_component_axis())
        return view(experts.map(spread).condition_on(members & live.unsqueeze(-1)))

    @contextlib.contextmanager
    def prepared(self, experts: Experts) -> Iterator[Experts]:
        """Check the kind of experts, and turn autocast off while they are aggregated in float32 at least.

        Args:
            experts: The unimodal posteriors of the items.

        Raises:
            ValueError: If they are of a kind that the aggregation does not accept.
            TypeError: If they are not experts.
        """
        if not isinstance(experts, Experts):
            raise TypeError(f"experts must be Experts, as in Experts(loc, scale), got {type(experts).__name__}")
        check_kind(self.name, experts.kind, self.accepts)
        device = experts.loc.device.type
        off: Any = contextlib.nullcontext()
        if torch.amp.is_autocast_available(device):
            off = torch.autocast(device, enabled=False)
        with off:
            yield in_one_dtype(experts)
