"""Posteriors given subsets of modalities, aggregated from experts that are encoded once and cached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Bool, Float, Int, Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.experts import Experts
from pyro_mmvae.vae.vae import MultimodalVAE

DRAWS_AT_ONCE = {"cpu": 50}
"""The number of latents to decode at once, by type of device. A CPU decodes 1,000 at once at half the speed, since the
images no longer fit into its caches."""

_ELEMENTS = 2**23
"""The largest number of elements that the components of a mixture may take at once: 32 MiB in float32, little beside a
decoder's images."""


def draws_at_once(device: torch.device) -> int:
    """Return the number of latents to decode at once on a device."""
    return DRAWS_AT_ONCE.get(device.type, 2000)


def encode_dataset(vae: MultimodalVAE, data: MultimodalDataset, *, batch_size: int = 500) -> Experts:
    """Encode every item of a data set, batch by batch.

    Args:
        vae: The model, in eval mode.
        data: The items to encode, on any device.
        batch_size: The number of items to encode at once, 500 by default.

    Returns:
        Experts of shape `(item, modality, latent)` on the model's device, without gradients.
    """
    device = next(vae.parameters()).device
    parts = []
    with torch.no_grad():
        for start in range(0, len(data), batch_size):
            parts.append(vae.guide.experts(make_batch(data, slice(start, start + batch_size)).to(device)))
    return concatenate(parts)


def concatenate(parts: Sequence[Experts]) -> Experts:
    """Concatenate the experts of several batches, all of one kind; at least one batch is required."""
    tensors: tuple[list[Tensor], ...] = ([], [], [])
    for part in parts:
        scale_parameter = part.scale if part.scale_tril is None else part.scale_tril
        for collected, tensor in zip(tensors, (part.loc, scale_parameter, part.mask), strict=True):
            collected.append(tensor)
    loc, scale_parameter, present = map(torch.cat, tensors)
    return parts[0].like(loc, scale_parameter, present)


def select(experts: Experts, rows: Tensor | slice) -> Experts:
    """Return the experts of the selected items."""
    return experts.map(lambda tensor, _: tensor[rows])


def has_all(experts: Experts, subset: Sequence[int]) -> Bool[Tensor, " item"]:
    """Return a mask of the items that have every modality of a subset; all items have those of the empty subset."""
    return experts.mask[:, list(subset)].all(-1)


def indices_with_all(experts: Experts, subset: Sequence[int]) -> Int[Tensor, " item"]:
    """Return the indices of the items that have every modality of a subset.

    Raises:
        ValueError: If no item has every modality of the subset.
    """
    index = has_all(experts, subset).nonzero()[:, 0]
    if not len(index):
        raise ValueError(f"no item has every modality of subset {tuple(subset)}")
    return index


def subset_names(subset: Sequence[int], names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the modalities in a subset, in data order."""
    return tuple(names[m] for m in sorted(subset))


def density_of(vae: MultimodalVAE, num_modalities: int) -> str:
    """Return the density by which the model is evaluated.

    This is ``mixture``, the whole posterior, or ``joint``, the component of all modalities given, if the mixture has
    too many components to be evaluated.
    """
    return "mixture" if vae.guide.has_mixture(num_modalities) else "joint"


def subset_family(vae: MultimodalVAE) -> str | None:
    """Return the name of the family of subsets that the aggregation mixes over, or None if it does not have a name."""
    subsets = vae.guide.aggregation.subsets
    return subsets if isinstance(subsets, str) else None


def subset_posterior(
    vae: MultimodalVAE, experts: Experts, subset: Sequence[int], density: str | None = None
) -> TorchDistribution:
    """Return the posterior given a subset of the modalities.

    An item that has no modality of the subset gets the prior.

    Args:
        vae: The model whose guide aggregates the experts.
        experts: Experts of some items.
        subset: Indices of the modalities to condition on.
        density: ``mixture`` for the whole posterior or ``joint`` for the component of all modalities given; by default
            the choice of :func:`density_of`.

    Returns:
        A distribution of batch shape `(item,)` and event shape `(latent,)`, without gradients.
    """
    with torch.no_grad():
        return vae.guide.posterior(
            experts.condition_on(list(subset)), density or density_of(vae, experts.num_modalities)
        )


def has_several_components(vae: MultimodalVAE, experts: Experts, subset: Sequence[int]) -> bool:
    """Return True if the posterior given a subset mixes several components, of which one is of all modalities given.

    Args:
        vae: The model whose guide aggregates the experts.
        experts: Experts of one item or more.
        subset: Indices of the modalities to condition on.
    """
    if len(subset) < 2 or density_of(vae, experts.num_modalities) != "mixture" or subset_family(vae) != "powerset":
        return False
    first = subset_posterior(vae, select(experts, slice(0, 1)), subset)
    return getattr(first, "num_components", 1) > 1


def items_at_once(vae: MultimodalVAE, experts: Experts, subset: Sequence[int], density: str | None = None) -> int:
    """Return the number of items whose mixture components fit into memory at once."""
    first = subset_posterior(vae, select(experts, slice(0, 1)), subset, density)
    numbers = experts.latent_size
    if experts.kind == "full":  # each member of a component then takes a matrix, in float64
        numbers *= 2 * experts.latent_size * experts.num_modalities
    return max(_ELEMENTS // (getattr(first, "num_components", 1) * numbers), 1)


def posteriors(
    vae: MultimodalVAE, experts: Experts, subset: Sequence[int], density: str | None = None
) -> Iterator[TorchDistribution]:
    """Yield the posteriors given a subset for consecutive chunks of items, each as large as fits into memory."""
    size = items_at_once(vae, experts, subset, density)
    for start in range(0, len(experts.loc), size):
        yield subset_posterior(vae, select(experts, slice(start, start + size)), subset, density)


@torch.no_grad()
def posterior_means(vae: MultimodalVAE, experts: Experts, subset: Sequence[int]) -> Float[Tensor, "item latent"]:
    """Return the mean of the posterior given a subset, for every item."""
    return torch.cat([posterior.mean for posterior in posteriors(vae, experts, subset)])


@torch.no_grad()
def posterior_variances(vae: MultimodalVAE, experts: Experts, subset: Sequence[int]) -> Float[Tensor, "item latent"]:
    """Return the variance of each coordinate of the posterior given a subset, for every item."""
    return torch.cat([posterior.variance for posterior in posteriors(vae, experts, subset)])


@torch.no_grad()
def posterior_draws(
    vae: MultimodalVAE, experts: Experts, subset: Sequence[int], density: str | None = None
) -> Float[Tensor, "item latent"]:
    """Draw once from the posterior given a subset, for every item."""
    return torch.cat([posterior.sample() for posterior in posteriors(vae, experts, subset, density)])


def private_posteriors(
    vae: MultimodalVAE, batch: Batch, subset: Sequence[int], names: Iterable[str] | None = None
) -> Callable[[Tensor], dict[str, TorchDistribution]]:
    """Return the posteriors of the private latents of a subset, without gradients, as a function of shared latents.

    Args:
        vae: The model, in eval mode.
        batch: Items to condition on, on the model's device.
        subset: Indices of the modalities to condition on.
        names: The modalities whose private posteriors to return; all modalities of the subset by default.

    Returns:
        A function from z `(*sample, item, latent)` to a mapping from modality to a distribution of batch shape
        `(*sample, item)`, for modalities with a private latent only. The batch is encoded once.
    """
    given = [name for name in subset_names(subset, vae.names) if names is None or name in names]
    private = [name for name in given if name in vae.model.private_sizes and name in batch.values]
    with torch.no_grad():
        posteriors_given = vae.guide.private(batch.select(private)) if private else None

    @torch.no_grad()
    def at(z: Tensor) -> dict[str, TorchDistribution]:
        return {} if posteriors_given is None else posteriors_given(z)

    return at


@torch.no_grad()
def decode_in_batches(
    vae: MultimodalVAE,
    z: Float[Tensor, "item latent"],
    names: Sequence[str],
    size: int,
    covariates: Float[Tensor, "item covariate"] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Decode latents to the means of modalities, batch by batch, with private latents drawn from their priors.

    Args:
        vae: The model, in eval mode.
        z: Latents of all items.
        names: The modalities to decode.
        size: The number of items to decode at once.
        covariates: The indicators of the items' categories; frequencies take the place of unknown ones, by default of
            all.

    Yields:
        For each batch in turn, a mapping from modality to means `(item, *shape)`.
    """
    private = vae.model.private_draws(z, names)
    for start in range(0, len(z), size):
        part = slice(start, start + size)
        known = None if covariates is None else covariates[part]
        yield vae.decode(z[part], names, {name: u[part] for name, u in private.items()}, known)


def draw_protocol(vae: MultimodalVAE, num_modalities: int, density: str | None = None) -> str:
    """Describe how a modality is generated from the modalities given, in words for the ``protocol`` column."""
    density = density or density_of(vae, num_modalities)
    source = "posterior" if density == "mixture" else "joint component"
    return f"one draw of the {source}, {readout(vae)}"


def readout(vae: MultimodalVAE) -> str:
    """Describe how a likelihood is turned into an observation, in words for the ``protocol`` column.

    The observation is the mean of the likelihood or, for tokens, the most probable token at each position.
    """
    tokens = any(likelihood.is_categorical for likelihood in vae.model.likelihoods.values())
    return "mean of the likelihood" + ", of tokens the most probable" * tokens
