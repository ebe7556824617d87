"""Simulation-based calibration: does the guide invert its generative model?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from scipy import stats

from pyro_mmvae._compat import is_plate_site
from pyro_mmvae._typing import Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.seeded_programs import DRAW_SITE, SeededProgram, draw_latents
from pyro_mmvae.inference.trace_sites import is_factor
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.vae.names import modality_site
from pyro_mmvae.vae.private_latents import private_sites
from pyro_mmvae.vae.vae import MultimodalVAE

IMAGE_NOTE = (
    "images were simulated with the noise of their likelihood, which the encoder never saw in training: ranks that are "
    "not uniform may reflect its response to that noise and not the posterior on real images"
)
SIZE_NOTE = (
    "counts were simulated with their reference totals as size factors, so that the guide is calibrated for items of "
    "about those totals only"
)
Arguments: TypeAlias = tuple[Sequence[Any], Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class SimulationCalibration:
    """Ranks of the latents that generated the data among the guide's draws given the data.

    Attributes:
        quantities: The names of the ranked quantities: ``z[0]``, …, and ``log_p``, the log density of the latents and
            the observations given.
        ranks: Ranks from 0 to ``draws`` of shape `(simulation, quantity)`, uniform if the guide is the exact posterior.
        draws: The number of draws of the guide per simulation.
        given: The modalities that the guide saw.
        density: The density that the guide's draws came from.
        seed: The seed of everything random.
        note: A caveat for the interpretation, or ``""``.
    """

    quantities: tuple[str, ...]
    ranks: NDArray[np.int64]
    draws: int
    given: tuple[str, ...]
    density: str
    seed: int
    note: str = ""

    @property
    def simulations(self) -> int:
        """The number of simulated data sets."""
        return len(self.ranks)

    @property
    def protocol(self) -> str:
        """The way in which the ranks were computed, in words."""
        text = f"simulation-based calibration, {self.density} density, {self.draws} draws"
        return f"{text}; {self.note}" if self.note else text

    def chi_square(self) -> NDArray[np.float64]:
        """Return p-values `(quantity,)` of the chi-square test of uniform ranks; see :func:`rank_bins` for the bins."""
        bins = rank_bins(self.draws, self.simulations)
        binned = self.ranks * bins // (self.draws + 1)
        counts = np.stack([np.bincount(column, minlength=bins) for column in binned.T])
        return np.array([float(stats.chisquare(row).pvalue) for row in counts])

    def ks(self) -> NDArray[np.float64]:
        """Return p-values `(quantity,)` of the Kolmogorov–Smirnov test; each rank is spread uniformly over its cell."""
        spread = np.random.default_rng((self.seed, 1)).random(self.ranks.shape)
        values = (self.ranks + spread) / (self.draws + 1)
        return np.array([float(stats.kstest(column, "uniform").pvalue) for column in values.T])

    def metrics(self) -> list[Metric]:
        """Return the p-values as rows of figures; those named ``holm`` are corrected for the number of quantities."""
        chi_square, ks = self.chi_square(), self.ks()
        kinds = {
            "sbc_chi_square_p_value": chi_square,
            "sbc_chi_square_holm_p_value": holm(chi_square),
            "sbc_ks_p_value": ks,
            "sbc_ks_holm_p_value": holm(ks),
        }
        return [
            Metric(name, self.protocol, self.given, quantity, float(value), self.simulations, self.seed)
            for name, values in kinds.items()
            for quantity, value in zip(self.quantities, values, strict=True)
        ]


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values corrected by Holm's method for their number, which holds for dependent tests too.

    References:
        Holm, 1979. A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6.

    Args:
        p_values: The p-values of several tests, of shape `(test,)`.

    Returns:
        The corrected p-values in the order of the tests, at most 1; the least of them is that of Bonferroni.
    """
    order = np.argsort(p_values)
    steps = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty_like(steps)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


def rank_bins(draws: int, simulations: int) -> int:
    """Return the number of equal bins of ``draws`` + 1 ranks for a chi-square test.

    It is the largest number, at most 20, with at least 5 simulations expected in each bin.

    Args:
        draws: The number of draws per simulation, which makes ``draws`` + 1 ranks.
        simulations: The number of simulations, which are spread over the bins.

    Raises:
        ValueError: If there are no two such bins.
    """
    for bins in range(min(20, simulations // 5), 1, -1):
        if (draws + 1) % bins == 0:
            return bins
    raise ValueError(
        f"{simulations} simulations of {draws} draws do not fill two equal bins of ranks: choose draws + 1 divisible "
        "by 20, such as 99, and at least 100 simulations"
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
    density: str = "guide",
    note: str = "",
    **kwargs: Any,
) -> SimulationCalibration:
    """Calibrate any Pyro guide against its model by simulation; every item of the plate is one simulation.

    Latents and observations are drawn from the model, then latents from the guide given those observations. The rank of
    the first latent among the others is uniform if the guide is the exact posterior. A guide that is too narrow gives
    ranks in the shape of ∪, one that is too wide ∩, and one that is shifted a slope. ``pyro.factor`` statements are not
    densities, and are left out of log p.

    References:
        Talts, Betancourt, Simpson, Vehtari and Gelman, 2018. Validating Bayesian inference algorithms with
        simulation-based calibration. arXiv 1804.06788. Ranks of data-dependent quantities such as log p: Modrák et al.,
        2023. Simulation-based calibration checking for Bayesian computation. Bayesian Analysis.

    Args:
        model: The model, called with ``*args`` to simulate; what it observes then is drawn anew.
        guide: The guide of the model.
        condition: A function from simulated observations, a mapping from site to `(item, *event)`, to the arguments
            ``(args, kwargs)`` with which model and guide see all or some of them.
        *args: Positional arguments of the model; their values do not matter, but the number of items does.
        latent: The name of the latent site, ``"z"`` by default, of shape `(item, latent)` in the plate of dimension -1.
        draws: The number of draws of the guide per simulation; 99, the default, makes 100 ranks.
        seed: The seed of everything random, 0 by default; the states of torch's generators are restored afterwards.
        given: The names of the sites that the guide sees, recorded in the result; all observed sites by default.
        density: The density that the guide draws from, recorded in the result; ``"guide"`` by default.
        note: A caveat recorded in the result, empty by default.
        **kwargs: Keyword arguments of the model.

    Returns:
        Ranks of each latent dimension and of log p.

    Raises:
        ValueError: If there are too few simulations for the draws, see :func:`rank_bins`.
    """
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=cuda), torch.no_grad():
        simulate = SeededProgram(lambda: poutine.uncondition(model)(*args, **kwargs), seed, 3)
        trace = poutine.trace(simulate).get_trace()
        truth = trace.nodes[latent]["value"]
        rank_bins(draws, len(truth))
        nodes = {n: trace.nodes[n] for n in trace.stochastic_nodes if n not in {latent, DRAW_SITE}}
        variables = {n: s for n, s in nodes.items() if not is_factor(s) and not is_plate_site(s["fn"])}
        values = {name: site["value"] for name, site in variables.items()}
        values = {name: value for name, value in values.items() if len(value.shape) and len(value) == len(truth)}
        seen, options = condition(values)
        latents = draw_latents(lambda: guide(*seen, **options), draws, seed)
        drawn = latents[latent].reshape(draws, *truth.shape)
        others = {name for name in latents if name != latent and name in values}  # private latents of the guide

        def log_density(z: Tensor, rest: dict[str, Tensor]) -> Tensor:
            return _log_density(poutine.condition(model, {latent: z, **rest}), seen, options, len(truth))

        rests = [{n: latents[n].reshape(draws, *values[n].shape)[k] for n in others} for k in range(draws)]
        heights = torch.stack([log_density(z, rest) for z, rest in zip(drawn, rests, strict=True)])
        flat = torch.cat([drawn.reshape(draws, len(truth), -1), heights[..., None].to(drawn.dtype)], -1)
        height = log_density(truth, {name: values[name] for name in others})
        true_values = torch.cat([truth.reshape(len(truth), -1), height[:, None].to(truth.dtype)], -1)
    names = (*(f"z[{d}]" for d in range(flat.shape[-1] - 1)), "log_p")
    names_given = tuple(values if given is None else given)
    return SimulationCalibration(names, _ranks(flat, true_values, seed), draws, names_given, density, seed, note)


def simulation_calibration(
    vae: MultimodalVAE,
    given: Sequence[str] | None = None,
    *,
    simulations: int = 200,
    draws: int = 99,
    seed: int = 0,
) -> SimulationCalibration:
    """Calibrate the guide of a :class:`~pyro_mmvae.MultimodalVAE` by simulation, as in :func:`calibrate_by_simulation`.

    The guide uses its mixture density if that can be evaluated, and β = w_m = 1. Categories of covariates are drawn by
    their frequencies in the training data.

    Args:
        vae: The model, in eval mode.
        given: The modalities that the guide sees; all by default.
        simulations: The number of simulated data sets, 200 by default.
        draws: The number of draws of the guide per simulation; 99, the default, makes 100 ranks.
        seed: The seed of everything random, 0 by default; the states of torch's generators are restored afterwards.

    Returns:
        Ranks of each latent dimension and of log p, with caveats for images and counts.

    Raises:
        ValueError: If a modality is unknown, or there are too few simulations.
    """
    given = vae.names if given is None else tuple(given)
    for name in given:
        if name not in vae.names:
            raise ValueError(f"given must name modalities of the model ({', '.join(vae.names)}), got {name!r}")
    density = "mixture" if vae.guide.has_mixture(len(vae.names)) else "joint"
    answers: list[tuple[Any, Any]] = []
    # Drawn once, so that model and guide see the categories with which the data were simulated.
    covariates = vae.model.covariates.draw(simulations, torch.Generator().manual_seed(seed))

    def model(batch: Batch | None = None, **options: Any) -> Tensor:
        if batch is None and covariates is not None:
            return vae.model(Batch({}, covariates=covariates), generate=True, weighted=False, **options)
        return vae.model(batch, weighted=False, **options)

    def guide(batch: Batch, **options: Any) -> Tensor:
        if not answers:  # the observations are encoded once, not once per draw
            posterior = vae.guide.posterior(vae.guide.experts(batch, **options), density)
            answers.append((posterior, vae.guide.private(batch) if given else None))
        posterior, private = answers[0]
        return vae.guide.sample_posterior(posterior, others=private and (lambda z: private_sites(private(z))))

    def condition(values: dict[str, Tensor]) -> Arguments:
        observed = {name: values[modality_site(name)] for name in given}
        return (Batch(observed, covariates=covariates),), {"num_items": simulations}

    images = any(len(modality.shape) == 3 for modality in vae.modalities if modality.name in given)
    counts = any(cast("Likelihood", vae.model.likelihoods[name]).has_size_factor for name in given)
    return calibrate_by_simulation(
        model,
        guide,
        condition,
        draws=draws,
        seed=seed,
        given=given,
        density=density,
        note="; ".join([IMAGE_NOTE] * images + [SIZE_NOTE] * counts),
        num_items=simulations,
    )


def _log_density(model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], items: int) -> Tensor:
    """Return the log density of all sites in the plate, of shape `(item,)`."""
    trace = poutine.trace(model).get_trace(*args, **kwargs)
    trace.compute_log_prob()
    sites = [trace.nodes[name] for name in (*trace.stochastic_nodes, *trace.observation_nodes)]
    terms = [site["log_prob"] for site in sites if not is_factor(site)]
    return torch.stack([term for term in terms if term.shape[-1:] == (items,)]).sum(0)


def _ranks(drawn: Tensor, truth: Tensor, seed: int) -> NDArray[np.int64]:
    """Return the number of draws below the truth; ties are broken at random."""
    values, target = drawn.cpu().numpy(), truth.cpu().numpy()
    less, equal = (values < target).sum(0), (values == target).sum(0)
    return less + np.random.default_rng((seed, 2)).integers(0, equal + 1)
