"""The posteriors of private latents: inferred from their modality, or drawn from an auxiliary prior in training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.aggregation.subsets import draw_subset
from pyro_mmvae.distributions.auxiliary import AuxiliaryNormal
from pyro_mmvae.networks.head import SCALE_FLOOR
from pyro_mmvae.vae.encoders_decoders import PrivateExpert, prior_if_absent
from pyro_mmvae.vae.names import NamedModules, private_site

PRIVATE_AUXILIARY = ("learned", "learned:SCALE", "prior")
PRIVATE_SUBSETS = ("auto", "drawn", "all")
PRIVATE_ENCODERS = ("own", "with_z")

INITIAL_AUXILIARY_SCALE = 0.1
"""The scale s of an auxiliary prior before training, unless another one is given. At the scale 1 of the prior the
decoder would learn at first to ignore private latents, as it does without auxiliary priors; near 0, uninformed draws
are told apart from the start. With a contrastive penalty the shared latent learns soon enough, and 1 is better."""

_MAX_CHANGE = 10.0  # of a log scale; keeps the exponential finite when training diverges

Posteriors: TypeAlias = dict[str, TorchDistribution]
PosteriorsGiven: TypeAlias = Callable[[Tensor | None], Posteriors]
"""A function from shared latents to the posteriors of private latents, by modality name."""


class PrivateLatents(nn.Module):
    r"""A module that makes the distributions of private latents given their modalities.

    A private latent is Gaussian, :math:`q(u_m \mid x_m)`, or :math:`q(u_m \mid x_m, z)`, where its modality is seen,
    and follows its prior N(0, I) elsewhere. In training the draw elsewhere is one from an auxiliary prior
    :math:`r_m = N(0, s_m^2)`, which has no KL term, see :class:`~pyro_mmvae.distributions.auxiliary.AuxiliaryNormal`.

    Args:
        names: Names of all modalities, in the order of the columns of a mask.
        sizes: Modality name to the size of its private latent, for modalities that have one.
        latent_size: Number of dimensions of the shared latent.
        auxiliary: Names of the modalities whose auxiliary prior is learned; that of the others is the prior itself.
        auxiliary_scale: The scale s of learned auxiliary priors before training, 0.1 by default.
        with_z: If True, the posterior depends on the shared latent too. False by default.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        sizes: Mapping[str, int],
        latent_size: int,
        *,
        auxiliary: tuple[str, ...] = (),
        auxiliary_scale: float = INITIAL_AUXILIARY_SCALE,
        with_z: bool = False,
    ) -> None:
        super().__init__()
        self.names, self.with_z = names, with_z
        self.auxiliary = NamedModules(
            {name: AuxiliaryPrior(sizes[name], auxiliary_scale) for name in sizes if name in auxiliary}
        )
        self.heads = NamedModules({name: PrivateHead(size, latent_size) for name, size in sizes.items() if with_z})

    def posteriors(
        self,
        experts: Mapping[str, PrivateExpert],
        z: Float[Tensor, "*batch latent"] | None,
        seen: Bool[Tensor, "*#batch modality"],
        *,
        training: bool = False,
    ) -> Posteriors:
        """Return the distributions of private latents given the experts of their modalities.

        Args:
            experts: Modality name to loc and scale by the encoder, each `(item, private)`.
            z: The shared latents, `(*batch, latent)`; may be None if the posteriors do not depend on them, for
                distributions of batch shape `(item,)`.
            seen: The modalities whose private latent is inferred, `(*batch, modality)`.
            training: If True, the other private latents are drawn from their auxiliary priors; their log density is
                that of the prior. False by default.

        Returns:
            Modality name to a distribution of batch shape `batch` and event shape `(private,)`.

        Raises:
            ValueError: If z is None and the posteriors depend on it.
        """
        if z is None and self.with_z and experts:
            raise ValueError("z must be given, since private_encoder is 'with_z': the shared latents (*batch, latent)")
        result: Posteriors = {}
        for name, own in experts.items():
            expert = own if z is None or not self.with_z else cast("PrivateHead", self.heads[name])(*own, z)
            inferred = seen[..., self.names.index(name)]
            loc, scale = prior_if_absent(inferred, *expert)
            if z is not None:
                loc, scale = (tensor.expand(*z.shape[:-1], -1) for tensor in (loc, scale))
            base: TorchDistribution = dist.Normal(loc, scale, validate_args=False)
            if training and name in self.auxiliary:
                drawn = torch.where(inferred.unsqueeze(-1), scale, cast("AuxiliaryPrior", self.auxiliary[name])())
                base = AuxiliaryNormal(loc, scale, drawn, validate_args=False)
            result[name] = base.to_event(1)
        return result


class AuxiliaryPrior(nn.Module):
    """The learned scale of the draws of a private latent that is not inferred in training.

    Args:
        size: Number of dimensions of the private latent.
        scale: The scale of each dimension before training, 0.1 by default.
    """

    def __init__(self, size: int, scale: float = INITIAL_AUXILIARY_SCALE) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((size,), math.log(scale)))

    def forward(self) -> Float[Tensor, " private"]:
        """Return the scale s of each dimension."""
        return self.log_scale.exp()


class PrivateHead(nn.Module):
    r"""A small network that corrects the posterior of a private latent by the shared latent, and starts without effect.

    .. math:: loc' = loc + a, \qquad scale' = scale \cdot e^b, \qquad (a, b) = f(loc, \log scale, z)

    Args:
        size: Number of dimensions of the private latent.
        latent_size: Number of dimensions of the shared latent.
    """

    def __init__(self, size: int, latent_size: int) -> None:
        super().__init__()
        inputs = 2 * size + latent_size
        last = nn.Linear(2 * inputs, 2 * size)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(nn.Linear(inputs, 2 * inputs), nn.ReLU(), last)

    def forward(self, loc: Tensor, scale: Tensor, z: Tensor) -> PrivateExpert:
        """Return loc and scale given z, each `(*batch, private)`."""
        inputs = torch.cat([torch.cat([loc, scale.log()], -1).expand(*z.shape[:-1], -1), z.to(loc.dtype)], -1)
        change, log_factor = self.network(inputs).to(loc.dtype).chunk(2, -1)
        factor = log_factor.clamp(-_MAX_CHANGE, _MAX_CHANGE).exp()
        return loc + change, (scale * factor).clamp_min(SCALE_FLOOR)


class UniformSubsets:
    """The draws of one subset per item, each non-empty subset of its modalities equally likely: one per batch shape.

    Args:
        present: The modalities that each item has, `(item, modality)`.
    """

    def __init__(self, present: Bool[Tensor, "item modality"]) -> None:
        self.present = present

    def members(self, batch_shape: torch.Size) -> Bool[Tensor, "*batch modality"]:
        """Draw the subsets, stratified over the entries of a batch shape.

        Args:
            batch_shape: A shape to which `(item,)` can be expanded.
        """
        return draw_subset("powerset", self.present.expand(*batch_shape, -1))


def check_private_options(auxiliary: str, subsets: str, encoder: str) -> None:
    """Check the options of private latents.

    Args:
        auxiliary: What draws private latents that are not inferred, one of ``PRIVATE_AUXILIARY``, with a number for
            SCALE.
        subsets: The subsets whose private latents are inferred, one of ``PRIVATE_SUBSETS``.
        encoder: The inputs of their posteriors, one of ``PRIVATE_ENCODERS``.

    Raises:
        ValueError: If an option is not one of these.
    """
    auxiliary_scale(auxiliary)
    for option, value, choices in (
        ("private_subsets", subsets, PRIVATE_SUBSETS),
        ("private_encoder", encoder, PRIVATE_ENCODERS),
    ):
        if value not in choices:
            raise ValueError(f"{option} must be one of {', '.join(choices)}, got {value!r}")


def auxiliary_scale(auxiliary: str) -> float | None:
    """Return the scale of auxiliary priors before training; None if they are the prior itself.

    Args:
        auxiliary: ``"learned"``, ``"learned:SCALE"`` with a positive number, or ``"prior"``.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> auxiliary_scale("learned:0.5")
        0.5
    """
    if auxiliary in {"learned", "prior"}:
        return INITIAL_AUXILIARY_SCALE if auxiliary == "learned" else None
    name, _, number = str(auxiliary).partition(":")
    try:
        scale = float(number)
    except ValueError:
        scale = math.nan
    if name != "learned" or not 0 < scale < math.inf:
        raise ValueError(
            f"private_auxiliary must be one of {', '.join(PRIVATE_AUXILIARY)} with a positive number, got {auxiliary!r}"
        )
    return scale


def private_sites(posteriors: Posteriors) -> Posteriors:
    """Return the posteriors of private latents by the names of their sites.

    Args:
        posteriors: Modality name to posterior.
    """
    return {private_site(name): posterior for name, posterior in posteriors.items()}
