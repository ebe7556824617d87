"""Pyro programs whose draws are seeded one by one, so that the first draws do not depend on how many follow."""

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

DRAW_SITE = "_draw"  # an auxiliary site, by which each draw knows its number and thus its seed
Program: TypeAlias = Callable[[], Any]


@dataclass(frozen=True)
class SeededProgram:
    """A Pyro program that seeds each draw by its number, which ``Predictive`` gives it as the site ``DRAW_SITE``.

    Args:
        program: to run.
        seed: of the whole.
        stream: tells programs of one seed apart.
    """

    program: Program
    seed: int
    stream: int

    def __call__(self) -> Any:
        """Run it."""
        draw = pyro.sample(DRAW_SITE, dist.Delta(torch.tensor(-1.0, dtype=torch.float64)))
        words = np.random.SeedSequence((self.seed, self.stream, int(draw) + 1)).generate_state(1, np.uint64)
        number = int(words[0] >> np.uint64(1))
        torch.default_generator.manual_seed(number)  # torch.manual_seed takes a traceback where CUDA sleeps
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(number)
        return self.program()


def draw_latents(guide: Program, samples: int, seed: int) -> dict[str, Tensor]:
    """Draws of a guide's latent sites, each with its own seed; torch's generator is left changed.

    Args:
        guide: a program without arguments.
        samples: how many draws.
        seed: of all of them.

    Returns:
        Site to `(sample, …)`.
    """
    numbers = torch.arange(samples, dtype=torch.float64)
    # Predictive keeps every trace, and under validation each leaves a handler that compares plates: quadratic time.
    with pyro.validation_enabled(False):
        program = SeededProgram(guide, seed, 1)
        nodes = poutine.trace(program).get_trace().nodes
        sites = [name for name, site in nodes.items() if _is_latent(name, site)]
        return dict(Predictive(program, {DRAW_SITE: numbers}, return_sites=sites)())


def _is_latent(name: str, site: Mapping[str, Any]) -> bool:
    return (
        bool(site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)) and name != DRAW_SITE
    )
