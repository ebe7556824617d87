"""Simulation-based calibration: does the guide agree with the generative model it claims to invert?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.infer import Predictive
from pyro.poutine.util import site_is_subsample
from scipy import stats

from pyro_mmvae._typing import Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.vae.guide import private_sites
from pyro_mmvae.vae.vae import MultimodalVAE

IMAGE_NOTE = (
    "images were simulated with the noise of their likelihood, which is nothing the encoder ever saw: ranks that are "
    "not uniform may tell of its answer to that noise and not of the posterior on real images"
)
DRAW_SITE = "_draw"  # an auxiliary site, by which each draw knows its number and thus its seed
Program: TypeAlias = Callable[[], Any]
Arguments: TypeAlias = tuple[Sequence[Any], Mapping[str, Any]]


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


@dataclass(frozen=True, eq=False)
class SimulationCalibration:
    """Ranks of the latents that made the data among the guide's draws given the data.

    Attributes:
        quantities: ``z[0]``, …, and ``log_p``, the log density of latent and what was given.
        ranks: `(simulation, quantity)`, 0 to ``draws``; uniform where the guide is the posterior.
        draws: the guide's, a simulation.
        given: what it saw.
        bound: of the guide.
        seed: of everything.
        note: what to mind when reading them.
    """

    quantities: tuple[str, ...]
    ranks: NDArray[np.int64]
    draws: int
    given: tuple[str, ...]
    bound: str
    seed: int
    note: str = ""

    @property
    def simulations(self) -> int:
        """How many."""
        return len(self.ranks)

    @property
    def protocol(self) -> str:
        """How the ranks came about, in words."""
        text = f"simulation-based calibration, bound {self.bound}, {self.draws} draws"
        return f"{text}; {self.note}" if self.note else text

    def chi_square(self) -> NDArray[np.float64]:
        """p-values `(quantity,)` of the chi-square test of uniform ranks, in at most 20 equal bins of 5 expected."""
        bins = rank_bins(self.draws, self.simulations)
        binned = self.ranks * bins // (self.draws + 1)
        counts = np.stack([np.bincount(column, minlength=bins) for column in binned.T])
        return np.array([float(stats.chisquare(row).pvalue) for row in counts])

    def ks(self) -> NDArray[np.float64]:
        """p-values `(quantity,)` of the Kolmogorov–Smirnov test, of ranks spread evenly over their cells at random."""
        spread = np.random.default_rng((self.seed, 1)).random(self.ranks.shape)
        values = (self.ranks + spread) / (self.draws + 1)
        return np.array([float(stats.kstest(column, "uniform").pvalue) for column in values.T])

    def metrics(self) -> list[Metric]:
        """As rows of figures."""
        return [
            Metric(name, self.protocol, self.given, quantity, float(value), self.simulations, self.seed)
            for name, values in (("sbc_chi_square_p_value", self.chi_square()), ("sbc_ks_p_value", self.ks()))
            for quantity, value in zip(self.quantities, values, strict=True)
        ]


def rank_bins(draws: int, simulations: int) -> int:
    """The largest number of equal bins of ``draws`` + 1 ranks, 20 at the most, with 5 simulations in each on average.

    Raises:
        ValueError: if there are no two such bins.
    """
    for bins in range(min(20, simulations // 5), 1, -1):
        if (draws + 1) % bins == 0:
            return bins
    raise ValueError(
        f"{simulations} simulations of {draws} draws make no two equal bins of ranks: take draws + 1 divisible by 20, "
        "such as 99, and 100 simulations or more"
    )


def calibrate_by_simulation(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    condition: Callable[[dict[str, Tensor]], Arguments],
    *args: Any,
    latent: str = "z",
    draws: int = 99,
    seed: int = 0,
    given: Sequence[str] | None = None,
    bound: str = "guide",
    note: str = "",
    **kwargs: Any,
) -> SimulationCalibration:
    """Simulation-based calibration of anyone's guide against their model; every item of the plate is a simulation.

    Latents and observations are drawn from the model, then latents from the guide given those observations; the rank of
    the first latent among the others is uniform if the guide is the exact posterior. A guide too narrow gives ranks in
    the shape of ∪, one too wide ∩, one shifted a slope.

    References:
        Talts, Betancourt, Simpson, Vehtari and Gelman, 2018. Validating Bayesian inference algorithms with
        simulation-based calibration. arXiv 1804.06788. Ranks of data-dependent quantities such as log p: Modrák et al.,
        2023. Simulation-based calibration checking for Bayesian computation. Bayesian Analysis.

    Args:
        model: called with ``*args`` to simulate; what it observes then is drawn anew.
        guide: of it.
        condition: simulated observations, site to `(item, *event)`, to arguments ``(args, kwargs)`` with which model
            and guide see them, all or some.
        *args: for the model; their values do not matter, the number of items does.
        latent: name of the latent site, `(item, latent)` in the plate of dimension -1.
        draws: the guide's, a simulation; 99 makes 100 ranks.
        seed: of everything; torch's generators are put back after.
        given: names of what the guide sees, for the record; all observed sites by default.
        bound: of the guide, for the record.
        note: what to mind.
        **kwargs: for the model.

    Returns:
        Ranks of each latent dimension and of log p.

    Raises:
        ValueError: if there are too few simulations for the draws, see :func:`rank_bins`.
    """
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=cuda), torch.no_grad():
        simulate = SeededProgram(lambda: poutine.uncondition(model)(*args, **kwargs), seed, 3)
        trace = poutine.trace(simulate).get_trace()
        truth = trace.nodes[latent]["value"]
        rank_bins(draws, len(truth))
        values = {n: trace.nodes[n]["value"] for n in trace.stochastic_nodes if n not in {latent, DRAW_SITE}}
        values = {name: value for name, value in values.items() if len(value.shape) and len(value) == len(truth)}
        seen, options = condition(values)
        latents = draw_latents(lambda: guide(*seen, **options), draws, seed)
        drawn = latents[latent].reshape(draws, *truth.shape)
        others = {name for name in latents if name != latent and name in values}  # what else the guide answers for

        def log_density(z: Tensor, rest: dict[str, Tensor]) -> Tensor:
            return _log_density(poutine.condition(model, {latent: z, **rest}), seen, options, len(truth))

        rests = [{n: latents[n].reshape(draws, *values[n].shape)[k] for n in others} for k in range(draws)]
        heights = torch.stack([log_density(z, rest) for z, rest in zip(drawn, rests, strict=True)])
        flat = torch.cat([drawn.reshape(draws, len(truth), -1), heights[..., None].to(drawn.dtype)], -1)
        height = log_density(truth, {name: values[name] for name in others})
        wanted = torch.cat([truth.reshape(len(truth), -1), height[:, None].to(truth.dtype)], -1)
    names = (*(f"z[{d}]" for d in range(flat.shape[-1] - 1)), "log_p")
    names_given = tuple(values if given is None else given)
    return SimulationCalibration(names, _ranks(flat, wanted, seed), draws, names_given, bound, seed, note)


def simulation_calibration(
    vae: MultimodalVAE,
    given: Sequence[str] | None = None,
    *,
    simulations: int = 200,
    draws: int = 99,
    seed: int = 0,
) -> SimulationCalibration:
    """The same for a model of ours, with the full mixture and without β and w_m.

    Args:
        vae: in eval mode.
        given: modalities that the guide sees; all by default.
        simulations: how many.
        draws: the guide's, a simulation.
        seed: of everything; torch's generators are put back after.

    Returns:
        Ranks, with a note for image models.

    Raises:
        ValueError: for an unknown modality or too few simulations.
    """
    given = vae.names if given is None else tuple(given)
    for name in given:
        if name not in vae.names:
            raise ValueError(f"unknown modality {name!r}; the model has {', '.join(vae.names)}")
    bound = "mixture" if vae.guide.has_mixture(len(vae.names)) else "full"
    answers: list[tuple[Any, Any]] = []

    def model(batch: Batch | None = None, **options: Any) -> Tensor:
        return vae.model(batch, weighted=False, **options)

    def guide(batch: Batch, **options: Any) -> Tensor:
        if not answers:  # encoded once, not once a draw
            posterior = vae.guide.posterior(vae.guide.experts(batch, **options), bound)
            answers.append((posterior, private_sites(vae.private_posterior(batch) if given else {})))
        posterior, private = answers[0]
        return vae.guide.sample_posterior(posterior, others=private)

    def condition(values: dict[str, Tensor]) -> Arguments:
        return (Batch({name: values[name] for name in given}),), {"num_items": simulations}

    images = any(len(modality.shape) == 3 for modality in vae.modalities if modality.name in given)
    return calibrate_by_simulation(
        model,
        guide,
        condition,
        draws=draws,
        seed=seed,
        given=given,
        bound=bound,
        note=IMAGE_NOTE if images else "",
        num_items=simulations,
    )


def _log_density(model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], items: int) -> Tensor:
    """The log density of all sites in the plate, `(item,)`."""
    trace = poutine.trace(model).get_trace(*args, **kwargs)
    trace.compute_log_prob()
    terms = [trace.nodes[name]["log_prob"] for name in (*trace.stochastic_nodes, *trace.observation_nodes)]
    return torch.stack([term for term in terms if term.shape[-1:] == (items,)]).sum(0)


def _ranks(drawn: Tensor, truth: Tensor, seed: int) -> NDArray[np.int64]:
    """How many draws lie below the truth; ties are broken at random."""
    values, wanted = drawn.cpu().numpy(), truth.cpu().numpy()
    less, equal = (values < wanted).sum(0), (values == wanted).sum(0)
    return less + np.random.default_rng((seed, 2)).integers(0, equal + 1)
