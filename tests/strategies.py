"""Helpers of the tests of the mathematics: random experts, a brute-force oracle, and a user-defined aggregation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from hypothesis import settings
from hypothesis import strategies as st
from pyro.distributions.torch_distribution import TorchDistribution
from scipy.special import logsumexp
from scipy.stats import norm

from pyro_mmvae import Aggregation, Experts, divergences, make_aggregation

BUILT_IN = ("poe", "moe", "mopoe", "wb", "mwb", "pool", "moment")
RECENT = ("pairs", "code", "holder", "helvae")
"""Further built-in aggregations, each with tests of its own."""

NAMES = (*BUILT_IN, *RECENT, *divergences())  # all aggregations but those that a test registers
MIXTURES = ("moe", "mopoe", "mwb")
SINGLE = tuple(name for name in BUILT_IN if name not in MIXTURES)
FAMILIES = {"moe": "singletons", "mopoe": "powerset", "mwb": "powerset"}

few = settings(deadline=None, derandomize=True, max_examples=15)
"""Settings of Hypothesis with few examples, which do not change between runs."""


@st.composite
def experts(
    draw: st.DrawFn,
    modalities: tuple[int, int] = (1, 5),
    latents: tuple[int, int] = (1, 4),
    log10_scale: float = 3.0,
    all_present: bool = False,
) -> Experts:
    """Draw experts of any batch shape and presence, with float64 scales from 1e-3 to 1e3."""
    batch = draw(st.sampled_from([(), (1,), (4,), (2, 3)]))
    shape = (*batch, draw(st.integers(*modalities)))
    latent = draw(st.integers(*latents))
    slots = int(np.prod(shape))
    present = [True] * slots if all_present else draw(st.lists(st.booleans(), min_size=slots, max_size=slots))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    isotropic = draw(st.booleans())
    loc = 2.0 * torch.randn(*shape, latent, dtype=torch.float64, generator=generator)
    exponent = 2.0 * torch.rand(*shape, 1 if isotropic else latent, dtype=torch.float64, generator=generator) - 1.0
    return Experts(loc, 10.0 ** (log10_scale * exponent), torch.tensor(present).reshape(shape))


def random_experts(*shape: int, absent: bool = True, seed: int = 0) -> Experts:
    """Return float64 experts `(*batch, modality, latent)` of moderate scales, some absent but never all of an item."""
    generator = torch.Generator().manual_seed(seed)
    loc, noise = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    present = torch.rand(shape[:-1], generator=generator) < 0.6
    present[..., 0] |= ~present.any(-1)
    return Experts(loc, (0.6 * noise).exp(), present if absent else None)


def random_full_experts(*shape: int, absent: bool = True, seed: int = 0, log_scale_std: float = 0.6) -> Experts:
    """Return experts like those of :func:`random_experts` with full covariances, whose axes have random directions."""
    diagonal = random_experts(*shape, absent=absent, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    turned, _ = torch.linalg.qr(torch.randn(*shape, shape[-1], dtype=torch.float64, generator=generator))
    lengths = (log_scale_std * torch.randn(*shape, dtype=torch.float64, generator=generator)).exp()
    tril = torch.linalg.cholesky((turned * lengths.square().unsqueeze(-2)) @ turned.mT)
    return Experts(diagonal.loc, present=diagonal.mask, scale_tril=tril)


def two_experts() -> Experts:
    """Return the experts N(0, 1) and N(2, 9)."""
    return Experts(torch.tensor([[0.0], [2.0]]).double(), torch.tensor([[1.0], [3.0]]).double())


def joint_component(experts: Experts, name: str, **options: Any) -> TorchDistribution:
    """Return the component of everything present of an aggregation by name."""
    return make_aggregation(name, **options).joint(experts)


def subset_of(component: int, num_modalities: int, name: str) -> tuple[int, ...]:
    """Return the subset of modalities of a component of a built-in mixture, in the documented order."""
    if FAMILIES[name] == "singletons":
        return (component,)
    return tuple(m for m in range(num_modalities) if (component + 1) >> m & 1)


@dataclass(frozen=True)
class Component:
    """One Gaussian component of a mixture in numpy."""

    probability: float
    loc: np.ndarray
    scale: np.ndarray


def brute_force(
    name: str,
    loc: np.ndarray,
    scale: np.ndarray,
    present: Sequence[bool],
    weights: Sequence[float] | None = None,
    prior: tuple[float, float] = (0.0, 1.0),
    prior_expert: str | None = None,
    size_of: Callable[[tuple[int, ...]], float] | str = "uniform",
) -> dict[tuple[int, ...], Component]:
    """Return the mixture of one item over its live subsets, computed from the definitions one subset at a time.

    ``size_of`` is ``"uniform"``, ``"size"`` or a function that returns the weight of a subset. An item without a live
    subset has one component, the prior, under the key ().
    """
    count = len(present)
    lam = np.ones(count) if weights is None else np.asarray(weights, dtype=float)
    observed = tuple(m for m in range(count) if present[m] and lam[m] > 0)
    kind = prior_expert or {"poe": "all", "mopoe": "complete"}.get(name, "none")
    if name == "moe":
        family = [(m,) for m in observed]
    elif name in {"mopoe", "mwb"}:
        family = [s for size in range(1, count + 1) for s in combinations(observed, size)]
    else:
        family = [observed]
    live = [s for s in family if s]
    if not live:
        shape = loc.shape[-1]
        return {(): Component(1.0, np.full(shape, prior[0]), np.full(shape, prior[1]))}
    sizes = [len(s) for s in live]
    mass = []
    for s in live:
        base = 1.0 if size_of == "uniform" else 1.0 / sizes.count(len(s)) if size_of == "by_size" else size_of(s)
        mass.append(base * lam[s[0]] if name == "moe" else base)
    result = {}
    for s, share in zip(live, mass, strict=True):
        members = [(1.0 if name == "moe" else lam[m], loc[m], scale[m]) for m in s]
        if kind == "all" or (kind == "joint_only" and s == observed) or (kind == "complete" and len(s) == count):
            members.append((1.0, np.full_like(loc[0], prior[0]), np.full_like(scale[0], prior[1])))
        result[s] = Component(share / sum(mass), *_merge(name, members))
    return result


def _merge(name: str, members: list[tuple[float, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    total = sum(w for w, _, _ in members)
    if name in {"wb", "mwb"}:
        return sum(w * mu for w, mu, _ in members) / total, sum(w * sd for w, _, sd in members) / total
    if name == "moment":
        mean = sum(w * mu for w, mu, _ in members) / total
        return mean, np.sqrt(sum(w * (sd**2 + (mu - mean) ** 2) for w, mu, sd in members) / total)
    share = total if name == "pool" else 1.0
    precision = sum(w / sd**2 for w, _, sd in members) / share
    return sum(w * mu / sd**2 for w, mu, sd in members) / share / precision, precision**-0.5


def moments(mixture: dict[tuple[int, ...], Component]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of a brute-force mixture."""
    mean = sum(c.probability * c.loc for c in mixture.values())
    return mean, sum(c.probability * (c.scale**2 + (c.loc - mean) ** 2) for c in mixture.values())


def log_density(mixture: dict[tuple[int, ...], Component], z: np.ndarray) -> np.ndarray:
    """Return the log density of a brute-force mixture at points `(point, latent)`, by scipy."""
    terms = [np.log(c.probability) + norm(c.loc, c.scale).logpdf(z).sum(-1) for c in mixture.values() if c.probability]
    return logsumexp(terms, axis=0)


def items(batch: Experts) -> list[tuple[tuple[int, ...], np.ndarray, np.ndarray, list[bool]]]:
    """Return index, locs, scales and presence of each item of a batch of experts."""
    return [
        (index, batch.loc[index].numpy(), batch.scale[index].numpy(), batch.mask[index].tolist())
        for index in np.ndindex(*batch.batch_shape)
    ]


def wasserstein_rule(experts: Experts, weights: torch.Tensor | None = None, **_: Any) -> TorchDistribution:
    """Return the Wasserstein barycenter of the present experts, as a user would write it."""
    dtype = torch.promote_types(experts.loc.dtype, torch.float32)
    share = experts.mask.to(dtype) * (1.0 if weights is None else weights.to(dtype))
    total = share.sum(-1, keepdim=True)
    dead = total <= 0
    share = (share / torch.where(dead, 1.0, total)).unsqueeze(-1)
    loc = (share * experts.loc.to(dtype)).sum(-2)
    scale = torch.where(dead, 1.0, (share * experts.scale.to(dtype)).sum(-2))
    return dist.Normal(loc, scale).to_event(1)


class WeightedWassersteinRule(Aggregation):
    """The Wasserstein barycenter as a user-defined aggregation that uses expert weights."""

    def forward(self, experts: Experts) -> TorchDistribution:
        return wasserstein_rule(experts, self.expert_weights_for(experts))
