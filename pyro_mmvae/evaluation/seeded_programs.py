"""Pyro programs that seed every draw by its number, so that the first draws do not depend on how many follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.poutine.util import site_is_subsample

from pyro_mmvae._typing import Tensor

DRAW_SITE = "_draw"  # an auxiliary site by which ``Predictive`` passes each draw its number, and thus its seed
Program: TypeAlias = Callable[[], Any]


@dataclass(frozen=True)
class SeededProgram:
    """A Pyro program that seeds each draw by its number, which ``Predictive`` passes as the site ``DRAW_SITE``.

    Args:
        program: The program to run, without arguments.
        seed: The seed of all draws together.
        stream: A number that distinguishes several programs with one seed.
    """

    program: Program
    seed: int
    stream: int

    def __call__(self) -> Any:
        """Run the program with the seed of its draw."""
        draw = pyro.sample(DRAW_SITE, dist.Delta(torch.tensor(-1.0, dtype=torch.float64)))
        state = np.random.SeedSequence((self.seed, self.stream, int(draw) + 1)).generate_state(1, np.uint64)
        draw_seed = int(state[0] >> np.uint64(1))
        # torch.manual_seed would format a traceback for CUDA's lazy initialisation at every draw, which is slow.
        torch.default_generator.manual_seed(draw_seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(draw_seed)
        return self.program()


def draw_latents(guide: Program, samples: int, seed: int) -> dict[str, Tensor]:
    """Draw the latent sites of a guide, each draw with its own seed; the states of torch's generators are not restored.

    Args:
        guide: A program without arguments.
        samples: The number of draws.
        seed: The seed of all draws together.

    Returns:
        A mapping from latent site to draws of shape `(sample, …)`.
    """
    numbers = torch.arange(samples, dtype=torch.float64)
    # Predictive keeps all traces, and under validation each adds a handler that compares plates: quadratic time.
    with pyro.validation_enabled(False):
        program = SeededProgram(guide, seed, 1)
        nodes = poutine.trace(program).get_trace().nodes
        sites = [name for name, site in nodes.items() if _is_latent(name, site)]
        return dict(Predictive(program, {DRAW_SITE: numbers}, return_sites=sites)())


def _is_latent(name: str, site: Mapping[str, Any]) -> bool:
    """Return True for a latent sample site other than ``DRAW_SITE``."""
    return (
        bool(site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)) and name != DRAW_SITE
    )
