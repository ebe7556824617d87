"""A guide whose one latent follows the barycenter of several encoders, for anyone's Pyro model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.infer.autoguide import AutoGuide
from pyro.infer.util import is_validation_enabled
from torch import nn

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.aggregation import subsets
from pyro_mmvae.aggregation.functional import aggregate, draw_component, draw_members, full_component, get_aggregation
from pyro_mmvae.aggregation.rules import Prior
from pyro_mmvae.aggregation.weights import weights_entropy
from pyro_mmvae.distributions import SubsetMixture
from pyro_mmvae.experts import Experts
from pyro_mmvae.guides.plate_check import PlateWatch

BOUNDS = ("mixture", "component")
_BUILDERS = {"mixture": aggregate, "component": draw_component, "full": full_component}


class BarycentricGuide(AutoGuide):
    r"""A guide ``z ~ aggregate(encode(...))`` over one plate.

    It goes wherever a Pyro guide goes: ``SVI(model, guide, Adam({"lr": 1e-3}), Trace_ELBO())``. Where the model has
    other latent sites, it is a part of a ``pyro.infer.autoguide.AutoGuideList``, whose plates it then uses.

    Args:
        encode: called with the model's arguments, gives :class:`~pyro_mmvae.Experts` of batch shape `(…, item)`. A
            ``torch.nn.Module`` is trained with the guide; a plain function registers its own parameters. If its
            signature has ``subsample``, it gets the indices of the plate there.
        aggregation: a name, see :func:`pyro_mmvae.aggregations`.
        site: name of the model's latent site.
        plate: name of the model's plate over items.
        plate_size: the size of the model's plate, needed where the model subsamples it: the site then takes the scale
            and the indices that it has in the model. Without it the plate is as large as the batch of experts.
        subsample_size: for a model that is given all items and subsamples them itself: how many it draws. The guide
            then draws the indices, and only those experts are aggregated.
        dim: the dimension of the plate, negative, as in ``pyro.plate``.
        bound: ``"mixture"``, the true density of the aggregation; or ``"component"``, one subset drawn per item at
            each call, an unbiased estimate of the mean of the ELBOs of the subsets, at a cost linear in the modalities.
        prior: ``(loc, scale)`` of the latent in the model; N(0, I) by default.
        prior_expert: see :func:`pyro_mmvae.aggregate`.
        weights: λ, `(modality,)`, see there; a ``torch.nn.Parameter`` is learned, and so is a module from Experts to
            `(*batch, modality)`, see :mod:`pyro_mmvae.aggregation.weights`.
        mixture_weights: see there; a module of :mod:`pyro_mmvae.aggregation.weights` is learned, in the mixture bound.
        weights_entropy: in nats an item for a nat of entropy of λ, added to the ELBO in training so that no modality is
            left out for good; then the loss is an objective and no bound. 0 by default.

    Raises:
        ValueError: at construction for an unknown aggregation or bound, or a bound that the aggregation has not; at the
            first call for a mixture of more than 4,096 components, for more items than ``plate_size``, and (under
            Pyro's validation) if the model's plate has another size than the guide's, which would scale the two
            differently without a word.
        TypeError: if ``encode`` does not give Experts.

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

    def __init__(
        self,
        encode: Callable[..., Experts],
        aggregation: str = "wb",
        *,
        site: str = "z",
        plate: str = "data",
        plate_size: int | None = None,
        subsample_size: int | None = None,
        dim: int = -1,
        bound: str = "mixture",
        prior: Prior | None = None,
        prior_expert: str | None = None,
        weights: Tensor | nn.Module | None = None,
        mixture_weights: subsets.MixtureWeights = "uniform",
        weights_entropy: float = 0.0,
    ) -> None:
        super().__init__(None)  # the model's structure is known without a prototype
        self._pyro_name = ""  # parameters are named as those of any module, not after the class
        if bound not in BOUNDS:
            raise ValueError(f"bound must be one of {', '.join(BOUNDS)}, not {bound!r}")
        if dim >= 0:
            raise ValueError(f"dim must be negative, it counts from the right, not {dim}")
        if subsample_size is not None and (plate_size is None or not 0 < subsample_size <= plate_size):
            raise ValueError(f"subsample_size {subsample_size} needs a plate_size of at least that, got {plate_size}")
        get_aggregation(aggregation).check(None, bound)
        self.encode = encode
        self.aggregation, self.bound = aggregation, bound
        self.site, self.plate, self.plate_size, self.dim = site, plate, plate_size, dim
        self.subsample_size = subsample_size
        self.prior_expert, self.mixture_weights = prior_expert, mixture_weights
        loc, scale = (0.0, 1.0) if prior is None else prior
        self.register_buffer("prior_loc", torch.as_tensor(loc, dtype=_float(loc)), persistent=False)
        self.register_buffer("prior_scale", torch.as_tensor(scale, dtype=_float(scale)), persistent=False)
        if weights is None or isinstance(weights, (nn.Parameter, nn.Module)):
            self.weights = weights
        else:
            self.register_buffer("weights", weights)
        self.weights_entropy = weights_entropy
        self._plates_agree = False

    def __getstate__(self) -> dict[str, Any]:
        """For copies, without the list it is a part of, which sets itself again; this guide stays in its own."""
        return {**super(AutoGuide, self).__getstate__(), "master": None}

    def posterior(
        self, experts: Experts, bound: str | None = None, members: Bool[Tensor, "*batch modality"] | None = None
    ) -> TorchDistribution:
        """What these experts say together.

        Args:
            experts: unimodal posteriors.
            bound: ``"mixture"`` for the whole posterior, ``"component"`` for one drawn subset, ``"full"`` for the
                component of everything present; the guide's own by default.
            members: for ``"component"``, subsets that :meth:`draw_members` drew; they are drawn here by default.

        Returns:
            A distribution of batch shape `batch` and event shape `(latent,)`.

        Raises:
            ValueError: for an unknown bound, or one that the aggregation has not.
        """
        bound = bound or self.bound
        if bound not in _BUILDERS:
            raise ValueError(f"bound must be one of {', '.join(_BUILDERS)}, not {bound!r}")
        options: dict[str, Any] = {} if members is None else {"members": members}
        return _BUILDERS[bound](
            experts,
            self.aggregation,
            weights=self.modality_weights(experts),
            mixture_weights=self.mixture_weights,
            prior=(cast("Tensor", self.prior_loc), cast("Tensor", self.prior_scale)),
            prior_expert=self.prior_expert,
            **options,
        )

    def draw_members(self, experts: Experts) -> Bool[Tensor, "*batch modality"]:
        """The subset of each item whose barycenter the component bound uses, see :func:`pyro_mmvae.draw_component`."""
        return draw_members(
            experts, self.aggregation, weights=self.modality_weights(experts), mixture_weights=self.mixture_weights
        )

    def modality_weights(self, experts: Experts) -> Tensor | None:
        """λ of some experts, `(modality,)` or `(*batch, modality)`; None where all are 1."""
        if isinstance(self.weights, nn.Module):
            return cast("Tensor", self.weights(experts))
        return self.weights

    def has_mixture(self, num_modalities: int) -> bool:
        """Whether the whole posterior over so many modalities can be had, or has too many components."""
        try:
            get_aggregation(self.aggregation).check(num_modalities, "mixture")
        except ValueError:
            return False
        return True

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | dict[str, Tensor]:
        """Draw the latent of every item.

        Args:
            *args: the model's.
            **kwargs: the model's.

        Returns:
            `(…, item, latent)`; as a part of an ``AutoGuideList`` a dictionary of it by the name of the site.

        Raises:
            ValueError: as a part of an ``AutoGuideList``, if its plate does not fit this guide.
        """
        if self.subsample_size is not None:
            z = self._sample_subsampled(args, kwargs)
        else:
            experts = self._experts(args, kwargs)
            z = self.sample_posterior(self.posterior(experts), experts)
        return z if self.master is None else {self.site: z}

    def median(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: a mixture has no median in closed form.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("BarycentricGuide has no median(); posterior(encode(...)) is the distribution itself")

    def sample_posterior(
        self,
        posterior: TorchDistribution,
        experts: Experts | None = None,
        *,
        scale: float = 1.0,
        others: Mapping[str, TorchDistribution] | None = None,
    ) -> Tensor:
        """The sample statement, in the plate: for a subclass that has its own way to the posterior.

        Args:
            posterior: of the items in the plate.
            experts: it came from; their weights' entropy is taken into account if there is a coefficient for it.
            scale: of the log probabilities of latent sites, as β in an objective.
            others: further latents of the items, by the names of their sites.

        Returns:
            `(…, item, latent)`.

        Raises:
            ValueError: if there are more items than ``plate_size``.
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
            z = self._sample(posterior, size, experts, scale)
            with scaled(scale):
                for name, other in (others or {}).items():
                    pyro.sample(name, other)
        return z

    def _sample_subsampled(self, args: Any, kwargs: Any) -> Tensor:
        size, count = cast("int", self.plate_size), cast("int", self.subsample_size)
        with self._plate(size, count, None) as index:
            experts = self._experts(args, kwargs, index)
            if experts.batch_shape[self.dim] == size and count < size:
                rows = index.to(experts.loc.device)
                experts = experts.map(lambda tensor, event_dim: tensor.index_select(self.dim - event_dim, rows))
            return self._sample(self.posterior(experts), size, experts)

    def _experts(self, args: Any, kwargs: Any, index: Tensor | None = None) -> Experts:
        if index is not None and "subsample" in inspect.signature(_forward_of(self.encode)).parameters:
            kwargs = {**kwargs, "subsample": index}
        experts = self.encode(*args, **kwargs)
        if not isinstance(experts, Experts):
            raise TypeError(f"BarycentricGuide: encode must give Experts, not {type(experts).__name__}")
        return experts

    def _sample(self, posterior: TorchDistribution, size: int, experts: Experts | None, scale: float = 1.0) -> Tensor:
        infer = {}
        if self.weights_entropy and experts is not None:
            weights = self.modality_weights(experts)
            if weights is not None:
                entropy = weights_entropy(weights.expand(experts.mask.shape) * experts.mask)
                name = f"{self.site}_weights_entropy"
                pyro.factor(name, -self.weights_entropy * entropy, has_rsample=True)  # the ELBO subtracts it
        if is_validation_enabled() and not self._plates_agree:
            infer = PlateWatch.install(self, size)
        with scaled(scale):
            return cast("Tensor", pyro.sample(self.site, posterior, infer=infer))

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
        found = (plate.size, plate.subsample_size, plate.dim)
        if found != (size, count, self.dim):
            raise ValueError(
                f"BarycentricGuide: (size, items, dim) of plate {self.plate!r} are {found} in the AutoGuideList and "
                f"{(size, count, self.dim)} in the guide: pass plate_size to the guide, and create_plates to the list "
                f"if the number of items changes"
            )
        return plate


def scaled(weight: float) -> AbstractContextManager[Any]:
    """``poutine.scale``, or nothing for a weight of 1."""
    return nullcontext() if weight == 1 else cast("AbstractContextManager[Any]", poutine.scale(scale=weight))


def _device_of(posterior: TorchDistribution) -> torch.device:
    """Where it is; the mean of a mixture is a sum over its components."""
    return posterior.logits.device if isinstance(posterior, SubsetMixture) else posterior.mean.device


def _forward_of(encode: Callable[..., Any]) -> Callable[..., Any]:
    return encode.forward if isinstance(encode, torch.nn.Module) else encode


def _float(value: Tensor | float) -> torch.dtype | None:
    return None if isinstance(value, Tensor) else torch.get_default_dtype()
