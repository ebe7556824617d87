"""Encode once, aggregate any subset from the cached experts, and see how the posteriors lie to the prior."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import kl_divergence

from pyro_mmvae._typing import Bool, Float, Int, Tensor
from pyro_mmvae.aggregation.functional import get_aggregation
from pyro_mmvae.batch import Batch
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.evaluation.metrics import Metric, names_of
from pyro_mmvae.experts import Experts
from pyro_mmvae.vae.vae import MultimodalVAE

ACTIVE_VARIANCE = 0.01
"""Burda et al., 2016: the variances of the means fall into two groups, far apart on either side of this."""

DRAWS_AT_ONCE = {"cpu": 50}
"""Latents decoded at once, by the type of device. A CPU decodes 1,000 of them at half the speed, out of its caches."""

_ELEMENTS = 2**23
"""Numbers of a mixture's components held at once, 32 MiB in float32: few beside a decoder's images."""


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators of the CPU and of ``device``, and put both back after.

    ``torch.manual_seed`` would seed every accelerator, also those not put back.
    """
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def draws_at_once(device: torch.device) -> int:
    """How many latents to decode at once."""
    return DRAWS_AT_ONCE.get(device.type, 2000)


def encode_dataset(vae: MultimodalVAE, data: MultimodalDataset, *, batch_size: int = 500) -> Experts:
    """The experts of every item, by batches.

    Args:
        vae: in eval mode.
        data: on any device.
        batch_size: items at once.

    Returns:
        Experts `(item, modality, latent)` on the model's device, without gradients.
    """
    device = next(vae.parameters()).device
    parts = []
    with torch.no_grad():
        for start in range(0, len(data), batch_size):
            parts.append(vae.guide.experts(make_batch(data, slice(start, start + batch_size)).to(device)))
    return concatenated(parts)


def concatenated(parts: Sequence[Experts]) -> Experts:
    """The experts of all items, part after part; all of one kind, one part at least."""
    tensors: tuple[list[Tensor], ...] = ([], [], [])
    for part in parts:
        spread = part.scale if part.scale_tril is None else part.scale_tril
        for found, tensor in zip(tensors, (part.loc, spread, part.mask), strict=True):
            found.append(tensor)
    loc, spread, present = map(torch.cat, tensors)
    return parts[0].like(loc, spread, present)


def take(experts: Experts, rows: Tensor | slice) -> Experts:
    """The experts of some items."""
    return experts.map(lambda tensor, _: tensor[rows])


def having(experts: Experts, subset: Sequence[int]) -> Bool[Tensor, " item"]:
    """Which items have every modality of a subset; all of them for the empty one."""
    return experts.mask[:, list(subset)].all(-1)


def indices_having(experts: Experts, subset: Sequence[int]) -> Int[Tensor, " item"]:
    """Which items have every modality of a subset.

    Raises:
        ValueError: if none has.
    """
    index = having(experts, subset).nonzero()[:, 0]
    if not len(index):
        raise ValueError(f"no item has every modality of subset {tuple(subset)}")
    return index


def density_of(vae: MultimodalVAE, num_modalities: int) -> str:
    """``mixture``, the whole posterior, or ``full``, the component of everything given where that has too many."""
    return "mixture" if vae.guide.has_mixture(num_modalities) else "full"


def subset_family(vae: MultimodalVAE) -> str | None:
    """The family of subsets whose components the aggregation mixes, if it has a name."""
    family = getattr(get_aggregation(vae.guide.aggregation), "family", None)
    return family if isinstance(family, str) else None


def subset_posterior(
    vae: MultimodalVAE, experts: Experts, subset: Sequence[int], bound: str | None = None
) -> TorchDistribution:
    """The posterior given a subset, see :func:`density_of`; the prior given nothing, or nothing that an item has.

    Args:
        vae: whose guide aggregates.
        experts: of some items.
        subset: of modalities.
        bound: ``mixture`` or ``full``, the component of all that is given; by default as :func:`density_of` says.

    Returns:
        Batch shape `(item,)`, event shape `(latent,)`, without gradients.
    """
    with torch.no_grad():
        return vae.guide.posterior(experts.given(list(subset)), bound or density_of(vae, experts.num_modalities))


def items_at_once(vae: MultimodalVAE, experts: Experts, subset: Sequence[int], bound: str | None = None) -> int:
    """How many items' components may be held at once, so that a large mixture fits into memory."""
    first = subset_posterior(vae, take(experts, slice(0, 1)), subset, bound)
    numbers = experts.latent_size
    if experts.kind == "full":  # a matrix for each member of a component, in float64
        numbers *= 2 * experts.latent_size * experts.num_modalities
    return max(_ELEMENTS // (getattr(first, "num_components", 1) * numbers), 1)


def posteriors(
    vae: MultimodalVAE, experts: Experts, subset: Sequence[int], bound: str | None = None
) -> Iterator[TorchDistribution]:
    """The posteriors given a subset of all items in turn, as many at once as fit into memory."""
    size = items_at_once(vae, experts, subset, bound)
    for start in range(0, len(experts.loc), size):
        yield subset_posterior(vae, take(experts, slice(start, start + size)), subset, bound)


@torch.no_grad()
def posterior_means(vae: MultimodalVAE, experts: Experts, subset: Sequence[int]) -> Float[Tensor, "item latent"]:
    """The mean of the posterior given a subset, for every item."""
    return torch.cat([posterior.mean for posterior in posteriors(vae, experts, subset)])


@torch.no_grad()
def posterior_variances(vae: MultimodalVAE, experts: Experts, subset: Sequence[int]) -> Float[Tensor, "item latent"]:
    """The variance of each coordinate of the posterior given a subset, for every item."""
    return torch.cat([posterior.variance for posterior in posteriors(vae, experts, subset)])


@torch.no_grad()
def posterior_draws(
    vae: MultimodalVAE, experts: Experts, subset: Sequence[int], bound: str | None = None
) -> Float[Tensor, "item latent"]:
    """One draw from the posterior given a subset, for every item."""
    return torch.cat([posterior.sample() for posterior in posteriors(vae, experts, subset, bound)])


def private_posteriors(
    vae: MultimodalVAE, batch: Batch, subset: Sequence[int], names: Iterable[str] | None = None
) -> dict[str, TorchDistribution]:
    """The posteriors of private latents given a subset, without gradients.

    Args:
        vae: in eval mode.
        batch: items, on the model's device.
        subset: what is given.
        names: modalities of which they are wanted; all of the subset by default.

    Returns:
        Modality name to a distribution of batch shape `(item,)`; of modalities that have a private latent only.
    """
    given = [name for name in names_of(subset, vae.names) if names is None or name in names]
    wanted = [name for name in given if name in vae.model.private_sizes and name in batch.values]
    with torch.no_grad():
        return vae.private_posterior(batch.given(wanted)) if wanted else {}


@torch.no_grad()
def decoded(
    vae: MultimodalVAE, z: Float[Tensor, "item latent"], names: Sequence[str], size: int
) -> Iterator[dict[str, Tensor]]:
    """The means of modalities given latents, so many at once, with private latents drawn from their priors.

    Args:
        vae: in eval mode.
        z: of all items.
        names: modalities that are wanted.
        size: items at once.

    Yields:
        Modality name to `(item, *shape)`, part after part.
    """
    private = vae.model.private_draws(z, names)
    for start in range(0, len(z), size):
        part = slice(start, start + size)
        yield vae.decode(z[part], names, {name: u[part] for name, u in private.items()})


def draw_protocol(vae: MultimodalVAE, num_modalities: int, bound: str | None = None) -> str:
    """How a modality is generated from what is given, in words for a row."""
    bound = bound or density_of(vae, num_modalities)
    where = "posterior" if bound == "mixture" else "full component"
    return f"one draw of the {where}, {shown(vae)}"


def shown(vae: MultimodalVAE) -> str:
    """What of a likelihood stands for what is generated, in words for a row: its mean, and of tokens the likeliest."""
    tokens = any(likelihood.is_categorical for likelihood in vae.model.likelihoods.values())
    return "mean of the likelihood" + ", of tokens the most probable" * tokens


@torch.no_grad()
def latent_usage(
    vae: MultimodalVAE, experts: Experts, *, subset: Sequence[int], draws: int = 1000, seed: int = 0
) -> list[Metric]:
    r"""How far posteriors, one by one and together, are from the prior, and how many dimensions say something.

    ``kl`` is the mean of KL(q(z | x_S) ‖ p); ``aggregate_kl`` that of :math:`q(z) = \frac1N \sum_n q(z \mid x_n)`
    (Hoffman and Johnson, 2016), over all N items at each draw. Their difference, the information of z about n, is
    at most log N: where it comes near, ``aggregate_kl`` says more of N than of the model. ``aggregate_kl_moments``,
    the KL of the diagonal Gaussian with the moments of q(z), is exact and a lower bound that has no such trouble.
    ``active_units`` counts the dimensions in which the mean varies by more than ``ACTIVE_VARIANCE`` over items (Burda
    et al., 2016), ``active_share`` is their share.

    Args:
        vae: in eval mode. With another than a Normal prior ``aggregate_kl_moments`` compares the Gaussians with the
            moments of both and bounds nothing.
        experts: of N items; those that lack a modality of the subset are left out.
        subset: S.
        draws: from q(z). Each costs N posterior densities.
        seed: of the draws; torch's generators are put back after.

    Returns:
        Five rows, target ``z``, in nats and dimensions.

    Raises:
        ValueError: if no item has the subset.
    """
    some = take(experts, indices_having(experts, subset))
    count, given = len(some.loc), names_of(subset, vae.names)
    means, variances = (f(vae, some, subset).double() for f in (posterior_means, posterior_variances))
    active = float((means.var(0, correction=0) > ACTIVE_VARIANCE).sum())
    loc, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
    prior_loc, prior_scale = prior_of(vae)
    with seeded(seed, some.loc.device):
        mean_kl, how = _mean_kl(vae, some, subset)
        aggregate = _aggregate_kl(vae, some, subset, draws)
    over = f"{count} items"
    figures = (
        ("kl", how, mean_kl, count),
        ("aggregate_kl", f"{draws} draws, {over}", aggregate, draws),
        (
            "aggregate_kl_moments",
            f"diagonal, {over}" if _has_normal_prior(vae) else f"diagonal, Gaussians of q(z) and prior, {over}",
            float(gaussian_kl(loc, variance.sqrt(), prior_loc, prior_scale)),
            count,
        ),
        ("active_units", f"variance of means > {ACTIVE_VARIANCE}", active, count),
        ("active_share", f"variance of means > {ACTIVE_VARIANCE}", active / some.latent_size, count),
    )
    return [Metric(name, protocol, given, "z", value, n, seed) for name, protocol, value, n in figures]


def _mean_kl(vae: MultimodalVAE, experts: Experts, subset: Sequence[int], draws: int = 16) -> tuple[float, str]:
    total, how, prior = 0.0, "closed form", vae.model.prior()
    for posterior in posteriors(vae, experts, subset):
        try:
            total += float(kl_divergence(posterior, prior.expand(posterior.batch_shape)).double().sum())
        except NotImplementedError:
            how = f"{draws} draws an item"
            for _ in range(draws):
                z = posterior.sample()
                total += float((posterior.log_prob(z) - prior.log_prob(z)).double().sum()) / draws
    return total / len(experts.loc), how


def _aggregate_kl(vae: MultimodalVAE, experts: Experts, subset: Sequence[int], draws: int) -> float:
    count = len(experts.loc)
    z = posterior_draws(vae, take(experts, torch.randint(count, (draws,)).to(experts.loc.device)), subset)
    size = max(items_at_once(vae, experts, subset) // draws, 1)
    density = z.new_full((draws,), -math.inf, dtype=torch.float64)
    for start in range(0, count, size):
        posterior = subset_posterior(vae, take(experts, slice(start, start + size)), subset)
        at = z.unsqueeze(1).expand(-1, posterior.batch_shape[0], -1)
        density = torch.logaddexp(density, posterior.log_prob(at).double().logsumexp(1))
    return float((density - math.log(count) - vae.model.prior().log_prob(z)).mean())


def w2(loc: Tensor, scale: Tensor, other_loc: Tensor, other_scale: Tensor) -> Float[Tensor, "*item"]:
    """Wasserstein distance between diagonal Gaussians, each given by loc and scale."""
    return ((loc - other_loc).square() + (scale - other_scale).square()).sum(-1).sqrt()


def gaussian_kl(loc: Tensor, scale: Tensor, other_loc: Tensor, other_scale: Tensor) -> Float[Tensor, "*item"]:
    """KL divergence between diagonal Gaussians, each given by loc and scale, in nats."""
    ratio = (scale / other_scale).square()
    return 0.5 * (ratio + ((loc - other_loc) / other_scale).square() - 1 - ratio.log()).sum(-1)


def prior_of(vae: MultimodalVAE) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the prior, float64."""
    prior = vae.model.prior()
    return prior.mean.double(), prior.stddev.double()


def _has_normal_prior(vae: MultimodalVAE) -> bool:
    return vae.model.prior_family == "normal"
