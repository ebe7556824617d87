"""A guide whose latent follows the aggregated posterior of several encoders, for any Pyro model with one plate."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.infer.autoguide import AutoGuide
from pyro.infer.util import is_validation_enabled

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.draws import SubsetDraws
from pyro_mmvae.aggregation.functional import AggregationLike, make_aggregation
from pyro_mmvae.aggregation.mixtures import MixtureOverSubsets
from pyro_mmvae.aggregation.values import Prior
from pyro_mmvae.distributions import SubsetMixture
from pyro_mmvae.experts import Experts
from pyro_mmvae.guides.penalized import Penalized
from pyro_mmvae.guides.penalties import PenaltyLike
from pyro_mmvae.guides.plate_check import PlateWatch
from pyro_mmvae.guides.store_names import SeparatelyStored

BOUNDS = ("mixture", "component", "subsets")
DENSITIES = ("mixture", "component", "subsets", "joint")


class BarycentricGuide(Penalized, SeparatelyStored, AutoGuide):
    r"""A guide ``z ~ aggregation(encode(...))`` over one plate.

    It goes wherever a Pyro guide goes: ``SVI(model, guide, Adam({"lr": 1e-3}), Trace_ELBO())``. Where the model has
    other latent sites, it is a part of a ``pyro.infer.autoguide.AutoGuideList``, whose plates it then uses.

    Args:
        encode: The encoder, called with the model's arguments; it returns :class:`~pyro_mmvae.Experts` of batch shape
            `(…, item)`. A ``torch.nn.Module`` is trained with the guide; a plain function registers its own parameters.
            If its signature has ``subsample``, it gets the indices of the plate there.
        aggregation: The aggregation: an :class:`~pyro_mmvae.Aggregation`, which is a submodule, so that its parameters
            are trained and saved; any module or callable from experts to a distribution; or a name, one of
            :func:`pyro_mmvae.aggregations`, "wb" by default.
        site: The name of the model's latent site, "z" by default.
        plate: The name of the model's plate over items, "data" by default.
        plate_size: The size of the model's plate, needed where the model subsamples it: the site then takes the scale
            and the indices that it has in the model. By default the plate is as large as the batch of experts.
        subsample_size: The number of items that a model draws which is given all items and subsamples them itself. The
            guide then draws the indices, and only those experts are aggregated.
        dim: The dimension of the plate, negative, as in ``pyro.plate``; -1 by default.
        bound: The training bound: ``"mixture"``, the true density of the aggregation, by default; or ``"component"``,
            one subset drawn per item at each call, an unbiased estimate of the mean of the ELBOs of the subsets, at a
            cost linear in the number of modalities; or ``"subsets"``, which draws a subset per item under every
            aggregation, also under one without a mixture such as ``wb`` or ``poe``: its latent then follows the
            aggregation of that subset alone. The subsets are all non-empty ones of what is present, with the weights
            ``subset_weights``; for a mixture over subsets it is the component bound.
        prior: The pair ``(loc, scale)`` of the latent's prior in the model, which the guide hands to the aggregation;
            by default the aggregation's own, which is N(0, I) unless it was given another.
        expert_weights_entropy: The coefficient, in nats per item and nat, of the entropy of the expert weights that is
            added to the ELBO in training, so that no modality is left out for good; the loss is then an objective and
            not a bound. 0 by default.
        penalties: The penalties that are added to the loss in training, each a name, one of
            :func:`pyro_mmvae.guides.penalty_names`, a mapping with a name and options, or a
            :class:`~pyro_mmvae.guides.Penalty`; none by default. Each is a ``pyro.factor`` in the plate, while the
            guide is in training mode; ``guide.eval()`` leaves them out.
        **options: The keywords of an aggregation that is given by name, see :class:`~pyro_mmvae.Aggregation`:
            ``expert_weights``, ``subset_weights``, ``prior_expert``. An object is given them itself.

    Raises:
        ValueError: At construction if the aggregation or bound is unknown, the coefficient is negative, the aggregation
            cannot serve the bound, options or another prior are given beside an object, or a penalty is unknown or does
            not have a meaning for the aggregation; at the first call for a
            mixture of more than 4,096 components, for more items than ``plate_size``, and (under Pyro's validation) if
            the model's plate has another size than the guide's, since the two would then be scaled differently.
        TypeError: If ``encode`` is not callable or does not return Experts.

    References:
        Qiu et al., 2025. Multimodal variational autoencoder: a barycentric view. AAAI 39(19), arXiv 2412.20487.

    Example:
        >>> class Encode(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = torch.nn.Linear(4, 2 * 2 * 3)
        ...
        ...     def forward(self, x):
        ...         loc, log_scale = self.linear(x).reshape(-1, 2, 2, 3).unbind(1)
        ...         return Experts(loc, log_scale.exp())
        >>> guide = BarycentricGuide(Encode(), "mwb")
        >>> guide(torch.zeros(8, 4)).shape
        torch.Size([8, 3])
    """

    aggregation: Aggregation

    def __init__(
        self,
        encode: Callable[..., Experts],
        aggregation: AggregationLike = "wb",
        *,
        site: str = "z",
        plate: str = "data",
        plate_size: int | None = None,
        subsample_size: int | None = None,
        dim: int = -1,
        bound: str = "mixture",
        prior: Prior | None = None,
        expert_weights_entropy: float = 0.0,
        penalties: Sequence[PenaltyLike] = (),
        **options: Any,
    ) -> None:
        super().__init__(None)  # the model's structure is known without a prototype
        self._pyro_name = ""  # parameters are named as those of any module, not after the class
        if bound not in BOUNDS:
            raise ValueError(f"bound must be one of {', '.join(BOUNDS)}, got {bound!r}")
        if dim >= 0:
            raise ValueError(f"dim must be negative, since it counts from the right, got {dim}")
        if subsample_size is not None and (plate_size is None or not 0 < subsample_size <= plate_size):
            raise ValueError(f"subsample_size {subsample_size} needs a plate_size of at least that, got {plate_size}")
        if not callable(encode):
            raise TypeError(f"encode must be a module or function that returns Experts, got {type(encode).__name__}")
        if not 0 <= expert_weights_entropy < math.inf:
            raise ValueError(f"expert_weights_entropy must be finite and not negative, got {expert_weights_entropy!r}")
        self.encode = encode
        self.aggregation = make_aggregation(aggregation, **options)
        self.subset_aggregation(bound).check_bound("component" if bound == "subsets" else bound)
        if prior is not None:
            self.aggregation.set_prior(prior)
        self.bound, self.site = bound, site
        self.plate, self.plate_size, self.subsample_size, self.dim = plate, plate_size, subsample_size, dim
        self.expert_weights_entropy = expert_weights_entropy
        self.set_penalties(penalties)
        self._plates_agree = False

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies without the list that this guide is a part of, which sets itself again."""
        return {**super(AutoGuide, self).__getstate__(), "master": None}

    def posterior(
        self, experts: Experts, density: str | None = None, members: Bool[Tensor, "*batch modality"] | None = None
    ) -> TorchDistribution:
        """Return the distribution that the latent follows given some experts.

        Args:
            experts: The unimodal posteriors; ``experts.condition_on(…)`` conditions on fewer of them.
            density: ``"mixture"``, the whole posterior; ``"component"``, one drawn subset per item; ``"subsets"``, one
                drawn subset per item under every aggregation; or ``"joint"``, the component of everything present. By
                default that of the guide's own bound.
            members: The subset of each item, `(*batch, modality)`, for the densities of a drawn subset; drawn by
                default.

        Returns:
            A distribution of batch shape `batch` and event shape `(latent,)`.

        Raises:
            TypeError: If ``experts`` are data or anything else than Experts.
            ValueError: If the density is unknown, or the aggregation does not have it.
        """
        if not isinstance(experts, Experts):
            raise TypeError(
                f"{type(self).__name__}.posterior: experts must be Experts, got {type(experts).__name__}: encode data "
                "first, as in guide.posterior(guide.encode(x)), or call the posterior(batch) of a MultimodalVAE"
            )
        density = density or self.bound
        if density not in DENSITIES:
            raise ValueError(f"density must be one of {', '.join(DENSITIES)}, got {density!r}")
        if density in {"component", "subsets"}:
            return self.subset_aggregation(density).component(experts, members)
        return self.aggregation.joint(experts) if density == "joint" else self.aggregation(experts)

    def draw_members(self, experts: Experts) -> Bool[Tensor, "*batch modality"] | None:
        """Draw the subset of each item that the guide's bound uses, see :meth:`pyro_mmvae.Aggregation.draw`.

        Args:
            experts: The unimodal posteriors of the items.

        Returns:
            The members of each item's subset, `(*batch, modality)`; None if the bound does not draw subsets.
        """
        return self.subset_aggregation().draw(experts) if self.draws_subsets() else None

    def draws_subsets(self, bound: str | None = None) -> bool:
        """Return True if a bound draws a subset per item.

        Args:
            bound: One of ``BOUNDS``; the guide's own by default.
        """
        subsets = self.subset_aggregation(bound).subsets
        return (bound or self.bound) != "mixture" and not (isinstance(subsets, str) and subsets == "all")

    def subset_aggregation(self, bound: str | None = None) -> Aggregation:
        """Return the aggregation whose components a bound draws.

        Args:
            bound: One of ``BOUNDS``; the guide's own by default.

        Returns:
            With the bound ``"subsets"``, an aggregation of one component as the rule of a mixture over all subsets,
            which shares its parameters; otherwise the aggregation of the guide.
        """
        own = self.aggregation
        has_family = own.subsets is not None and not (isinstance(own.subsets, str) and own.subsets == "all")
        if (bound or self.bound) != "subsets" or has_family:
            return own
        if isinstance(own, MixtureOverSubsets):  # a rule that was registered for everything present
            return own.with_subsets("powerset")
        return MixtureOverSubsets(own, subset_weights=own.subset_weights)

    def expert_weights(self, experts: Experts) -> Tensor | None:
        """Return λ of some experts, `(modality,)` or `(*batch, modality)`; None if all are 1."""
        return self.aggregation.expert_weights_for(experts)

    def has_mixture(self, num_modalities: int) -> bool:
        """Return True unless the whole posterior over so many modalities has too many components."""
        try:
            self.aggregation.check_bound("mixture", num_modalities)
        except ValueError:
            return False
        return True

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | dict[str, Tensor]:
        """Draw the latent of every item.

        Args:
            *args: The arguments of the model.
            **kwargs: The keyword arguments of the model.

        Returns:
            The latents, `(…, item, latent)`; as a part of an ``AutoGuideList`` a dictionary from the site's name to
            them.

        Raises:
            ValueError: As a part of an ``AutoGuideList``, if its plate does not fit this guide.
        """
        if self.subsample_size is not None:
            z = self._sample_subsampled(args, kwargs)
        else:
            experts = self._experts(args, kwargs)
            posterior, draws = self._posterior_with_draws(experts)
            z = self.sample_posterior(posterior, experts, draws=draws)
        return z if self.master is None else {self.site: z}

    def median(self, *args: Any, **kwargs: Any) -> Any:
        """Raise an error: a mixture has no median in closed form.

        Raises:
            NotImplementedError: At each call.
        """
        raise NotImplementedError("BarycentricGuide has no median(): posterior(encode(...)) is the distribution itself")

    def sample_posterior(
        self,
        posterior: TorchDistribution,
        experts: Experts | None = None,
        *,
        kl_weight: float = 1.0,
        others: Mapping[str, TorchDistribution] | Callable[[Tensor], Mapping[str, TorchDistribution]] | None = None,
        draws: SubsetDraws | None = None,
    ) -> Tensor:
        """Run the sample statement in the plate, for a subclass that has its own way to the posterior.

        Args:
            posterior: The distribution of the latents of the items in the plate.
            experts: The experts that it came from; the entropy of their weights enters the objective if there is a
                coefficient for it, and so do penalties. None leaves both out.
            kl_weight: The factor β of the log probabilities of latent sites, 1 by default.
            others: Further latents of the items: names of sites to distributions, or a function from the latents to
                them, for distributions that depend on the latents. None by default.
            draws: The drawn subsets that the posterior was made from, see :meth:`pyro_mmvae.Aggregation.draws`, for
                penalties; None if no subsets were drawn.

        Returns:
            The latents, `(…, item, latent)`.

        Raises:
            ValueError: If there are more items than ``plate_size``.
        """
        if len(posterior.batch_shape) < -self.dim:
            raise ValueError(
                f"BarycentricGuide: the experts have batch shape {tuple(posterior.batch_shape)}, without the dimension "
                f"{self.dim} of plate {self.plate!r}"
            )
        count = posterior.batch_shape[self.dim]
        size = count if self.plate_size is None else self.plate_size
        if count > size:
            raise ValueError(f"BarycentricGuide: {count} items in a plate {self.plate!r} of plate_size={size}")
        with self._plate(size, count, _device_of(posterior)):
            z = self._sample(posterior, size, experts, kl_weight, draws)
            with scaled(kl_weight):
                for name, other in ((others(z) if callable(others) else others) or {}).items():
                    pyro.sample(name, other)
        return z

    def _sample_subsampled(self, args: Any, kwargs: Any) -> Tensor:
        size, count = cast("int", self.plate_size), cast("int", self.subsample_size)
        with self._plate(size, count, None) as index:
            experts = self._experts(args, kwargs, index)
            if experts.batch_shape[self.dim] == size and count < size:
                rows = index.to(experts.loc.device)
                experts = experts.map(lambda tensor, event_dim: tensor.index_select(self.dim - event_dim, rows))
            posterior, draws = self._posterior_with_draws(experts)
            return self._sample(posterior, size, experts, draws=draws)

    def _experts(self, args: Any, kwargs: Any, index: Tensor | None = None) -> Experts:
        if index is not None and "subsample" in inspect.signature(_forward_of(self.encode)).parameters:
            kwargs = {**kwargs, "subsample": index}
        experts = self.encode(*args, **kwargs)
        if not isinstance(experts, Experts):
            raise TypeError(f"BarycentricGuide: encode must return Experts, got {type(experts).__name__}")
        return experts

    def _sample(
        self,
        posterior: TorchDistribution,
        size: int,
        experts: Experts | None,
        kl_weight: float = 1.0,
        draws: SubsetDraws | None = None,
    ) -> Tensor:
        infer = {}
        if experts is not None:
            self.add_factors(self.entropy_term(experts))
        if is_validation_enabled() and not self._plates_agree:
            infer = PlateWatch.install(self, size, None if experts is None else experts.num_modalities)
        with scaled(kl_weight):
            z = cast("Tensor", pyro.sample(self.site, posterior, infer=infer))
        if experts is not None and self.is_penalized:
            # Only now is it known which subsets were drawn, as Pyro may have expanded the posterior.
            self.add_factors(self.penalties_of(*((experts, None) if draws is None else draws.latest())))
        return z

    def _plate(self, size: int, count: int, device: torch.device | None) -> Any:
        if self.master is not None:
            return self._plate_of_list(size, count)
        name = None if device is None else str(device)
        return pyro.plate(self.plate, size, subsample_size=count if count < size else None, dim=self.dim, device=name)

    def _plate_of_list(self, size: int, count: int) -> Any:
        plates = self.master().plates
        if self.plate not in plates:
            raise ValueError(f"BarycentricGuide: the AutoGuideList has no plate {self.plate!r}, only {list(plates)}")
        plate = plates[self.plate]
        of_list = (plate.size, plate.subsample_size, plate.dim)
        if of_list != (size, count, self.dim):
            raise ValueError(
                f"BarycentricGuide: (size, items, dim) of plate {self.plate!r} are {of_list} in the AutoGuideList and "
                f"{(size, count, self.dim)} in the guide: pass plate_size to the guide, and create_plates to the list "
                f"if the number of items changes"
            )
        return plate


def scaled(weight: float) -> AbstractContextManager[Any]:
    """Return ``poutine.scale``, or a context that does nothing for a weight of 1.

    Args:
        weight: The factor of log probabilities.
    """
    return nullcontext() if weight == 1 else cast("AbstractContextManager[Any]", poutine.scale(scale=weight))


def _device_of(posterior: TorchDistribution) -> torch.device:
    """Return the device; the mean of a mixture would sum over its components only to be asked where it is."""
    return posterior.logits.device if isinstance(posterior, SubsetMixture) else posterior.mean.device


def _forward_of(encode: Callable[..., Any]) -> Callable[..., Any]:
    return encode.forward if isinstance(encode, torch.nn.Module) else encode
