"""Conditional and prior draws of a trained run, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from pyro_mmvae.runs import Run
from pyro_mmvae.training.pictures import to_pixels


@dataclass(frozen=True)
class Samples:
    """Images of one set of draws.

    Attributes:
        given: what was conditioned on, modality name to uint8 `(item, channel, height, width)`.
        generated: what was drawn, likewise.
    """

    given: dict[str, NDArray[Any]]
    generated: dict[str, NDArray[Any]]


def draw_samples(
    run: Run, given: Sequence[str] = (), generate: Sequence[str] = (), count: int = 8, seed: int = 0
) -> Samples:
    """Draw modalities given others: z from the posterior of what is given, then the likelihood's mean.

    Args:
        run: a trained run.
        given: modalities to condition on, of test items that have them; none for draws from the prior.
        generate: modalities to draw; by default all that are not given.
        count: how many items.
        seed: which items, and which draws.

    Returns:
        The images.

    Raises:
        ValueError: for an unknown modality, one that is no image, or too few items that have what is given.
    """
    generate = tuple(generate) or tuple(name for name in run.names if name not in given) or run.names
    for name in (*given, *generate):
        if name not in run.names:
            raise ValueError(f"unknown modality {name!r}; the run has {', '.join(run.names)}")
        if len(run.state["shapes"][name]) != 3:
            raise ValueError(f"modality {name!r} is no image")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if not given:
            z = run.model.prior().sample(torch.Size((count,)))
            return Samples({}, _images(run, z, generate))
        data = run.data("test")
        columns = [data.names.index(name) for name in given]
        items = data.present[:, columns].all(-1).nonzero().squeeze(-1)
        if len(items) < count:
            raise ValueError(f"only {len(items)} test items have {', '.join(given)}, {count} were asked for")
        some = data.subset(items[torch.randperm(len(items))[:count]])
        z = run.posterior(some.modalities, given).sample()
        return Samples({n: some.modalities[n].numpy() for n in given}, _images(run, z, generate))


def _images(run: Run, z: torch.Tensor, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    decoded = run.decode(z)
    return {name: to_pixels(decoded[name]) for name in names}
