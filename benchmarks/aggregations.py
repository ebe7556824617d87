"""The benchmarks of aggregation: all subsets in one product against a loop, and the component bound over M."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import torch
from torch import Tensor

from benchmarks.memory import peak_bytes
from benchmarks.timing import Row, at_least, at_most, compare, in_turn
from pyro_mmvae import Experts, aggregate, draw_component

BATCH, LATENT = 256, 64


def random_experts(num_modalities: int) -> Experts:
    """Return experts whose loc and scale require gradients."""
    generator = torch.Generator().manual_seed(0)
    loc, noise = torch.randn(2, BATCH, num_modalities, LATENT, generator=generator)
    return Experts(loc.requires_grad_(), (0.3 * noise).exp().requires_grad_(), validate_args=False)


def at_once(experts: Experts, name: str) -> None:
    """Compute all components of all items by this package, forward and backward."""
    mixture = aggregate(experts, name)
    base = mixture.components.base_dist
    torch.autograd.grad((base.loc + base.scale).sum(), [experts.loc, experts.scale])


def subset_by_subset(experts: Experts, name: str) -> None:
    """Compute all components in a Python loop over subsets with ``torch.cat``, forward and backward."""
    locs: list[Tensor] = []
    scales: list[Tensor] = []
    count = experts.num_modalities
    for size in range(1, count + 1):
        for subset in combinations(range(count), size):
            loc, scale = experts.loc[:, list(subset)], experts.scale[:, list(subset)]
            if name == "mwb":
                locs.append(loc.mean(1, keepdim=True))
                scales.append(scale.mean(1, keepdim=True))
                continue
            precision = scale.square().reciprocal()
            total = precision.sum(1, keepdim=True) + float(size == count)
            locs.append((precision * loc).sum(1, keepdim=True) / total)
            scales.append(total.rsqrt())
    loc, scale = torch.cat(locs, 1), torch.cat(scales, 1)
    torch.autograd.grad((loc + scale).sum(), [experts.loc, experts.scale])


def component(experts: Experts) -> None:
    """Draw by the component bound, forward and backward."""
    z = draw_component(experts, "mwb").rsample()
    torch.autograd.grad(z.sum(), [experts.loc, experts.scale])


def contestants(name: str, count: int) -> dict[str, Callable[[], None]]:
    """Return the loop over subsets and the package's own aggregation, by name.

    Args:
        name: The name of the aggregation.
        count: The number of modalities.
    """
    experts = random_experts(count)
    return {"loop": lambda: subset_by_subset(experts, name), "ours": lambda: at_once(experts, name)}


def rows(rounds: int) -> Iterator[Row]:
    """Yield one row per aggregation and number of modalities, then the cost per modality of the component bound."""
    for name in ("mwb", "mopoe"):
        for count in range(2, (12 if rounds > 3 else 8) + 1, 2):
            seconds = in_turn(contestants(name, count), rounds=rounds)
            note = f"{2**count - 1} subsets, batch {BATCH}, latent {LATENT}, forward and backward"
            row, bar = f"aggregation {name}, M = {count}: subset by subset / ours", at_least(10) if count == 8 else None
            yield compare(row, seconds, "loop", "ours", note, bar)
    few, many = random_experts(5), random_experts(40)
    seconds = in_turn(
        {"M = 40": lambda: component(many), "M = 5": lambda: component(few)}, rounds=10 * rounds, warmup=5
    )
    name, bar = "mwb, component bound: time per modality, M = 40 / M = 5", at_most(1.2)
    yield compare(name, seconds, "M = 40", "M = 5", "per batch", bar).divided(8)
    held = {count: peak_bytes(lambda e=experts: component(e)) for count, experts in ((40, many), (5, few))}
    ratio = held[40] / held[5] / 8
    detail = f"at most {held[40] / 1e6:.3g} MB, {held[5] / 1e6:.3g} MB at a time in addition to the experts; per batch"
    name = "mwb, component bound: memory per modality, M = 40 / M = 5"
    yield Row(name, ratio, (ratio, ratio), detail, bar=at_most(1.2))
