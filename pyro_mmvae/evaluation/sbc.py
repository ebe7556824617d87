"""Simulation-based calibration: does the guide invert its generative model?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine

from pyro_mmvae._compat import is_plate_site
from pyro_mmvae._typing import Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.evaluation.sbc_result import SimulationCalibration
from pyro_mmvae.evaluation.seeded_programs import DRAW_SITE, SeededProgram, draw_latents
from pyro_mmvae.evaluation.tarp import reference_points, tarp_ranks
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
    latents: Callable[[], Any] | None = None,
    data: Sequence[str] = (),
    **kwargs: Any,
) -> SimulationCalibration:
    """Calibrate any Pyro guide against its model by simulation; every item of the plate is one simulation.

    Latents and observations are drawn from the model, then latents from the guide given those observations. The rank of
    the first latent among the others is uniform if the guide is the exact posterior. A guide that is too narrow gives
    ranks in the shape of ∪, one that is too wide ∩, and one that is shifted a slope. ``pyro.factor`` statements are not
    densities, and are left out of log p.

    With ``latents``, the guide given data at hand, this is posterior SBC: latents are drawn given those data and not
    from the prior, further observations are simulated from the latents, and the guide is calibrated given both.

    References:
        Talts, Betancourt, Simpson, Vehtari and Gelman, 2018. Validating Bayesian inference algorithms with
        simulation-based calibration. arXiv 1804.06788. Ranks of data-dependent quantities such as log p: Modrák et al.,
        2023. Simulation-based calibration checking for Bayesian computation. Bayesian Analysis. Posterior SBC:
        Säilynoja, Schmitt, Bürkner and Vehtari, 2025. Posterior SBC: simulation-based calibration checking conditional
        on data. arXiv 2502.03279.

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
        latents: A program without arguments that draws the latents from which is simulated, such as the guide given the
            data at hand; ``condition`` then returns those data and the simulated ones. By default the model's prior.
        data: The names of the sites that ``latents`` saw, recorded in the result; empty by default.
        **kwargs: Keyword arguments of the model.

    Returns:
        Ranks of each latent dimension, of log p, and of the distance from a random point, which tests the joint
        coverage of all dimensions, see :mod:`~pyro_mmvae.evaluation.tarp`.

    Raises:
        ValueError: If there are no draws.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=cuda), torch.no_grad():
        simulate = SeededProgram(lambda: _simulate(model, latents)(*args, **kwargs), seed, 3)
        trace = poutine.trace(simulate).get_trace()
        truth = trace.nodes[latent]["value"]
        nodes = {n: trace.nodes[n] for n in trace.stochastic_nodes if n not in {latent, DRAW_SITE}}
        variables = {n: s for n, s in nodes.items() if not is_factor(s) and not is_plate_site(s["fn"])}
        values = {name: site["value"] for name, site in variables.items()}
        values = {name: value for name, value in values.items() if len(value.shape) and len(value) == len(truth)}
        seen, options = condition(values)
        sites = draw_latents(lambda: guide(*seen, **options), draws, seed)
        drawn = sites[latent].reshape(draws, *truth.shape)
        others = {name for name in sites if name != latent and name in values}  # private latents of the guide

        def log_density(z: Tensor, rest: dict[str, Tensor]) -> Tensor:
            return _log_density(poutine.condition(model, {latent: z, **rest}), seen, options, len(truth))

        rests = [{n: sites[n].reshape(draws, *values[n].shape)[k] for n in others} for k in range(draws)]
        heights = torch.stack([log_density(z, rest) for z, rest in zip(drawn, rests, strict=True)])
        flat = torch.cat([drawn.reshape(draws, len(truth), -1), heights[..., None].to(drawn.dtype)], -1)
        height = log_density(truth, {name: values[name] for name in others})
        true_values = torch.cat([truth.reshape(len(truth), -1), height[:, None].to(truth.dtype)], -1)
        ranks = _ranks(flat, true_values, seed)
    true_latents, drawn_latents = _as_floats(true_values)[:, :-1], _as_floats(flat)[..., :-1]
    distances = tarp_ranks(true_latents, drawn_latents, reference_points(true_latents, (seen, options), seed=seed))
    return SimulationCalibration(
        quantities=(*(f"z[{d}]" for d in range(true_latents.shape[-1])), "log_p", "tarp"),
        ranks=np.concatenate([ranks, distances[:, None]], 1),
        draws=draws,
        given=tuple(values if given is None else given),
        density=density,
        seed=seed,
        note=note,
        data=tuple(data),
        truth=true_latents,
        drawn=drawn_latents,
    )


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
        Ranks of each latent dimension, of log p and of a distance, with caveats for images and counts.

    Raises:
        ValueError: If a modality is unknown.
    """
    given = vae.names if given is None else tuple(given)
    check_names(vae, given)
    # Drawn once, so that model and guide see the categories with which the data were simulated.
    covariates = vae.model.covariates.draw(simulations, torch.Generator().manual_seed(seed))

    def model(batch: Batch | None = None, **options: Any) -> Tensor:
        if batch is None and covariates is not None:
            return vae.model(Batch({}, covariates=covariates), generate=True, weighted=False, **options)
        return vae.model(batch, weighted=False, **options)

    def condition(values: dict[str, Tensor]) -> Arguments:
        observed = {name: values[modality_site(name)] for name in given}
        return (Batch(observed, covariates=covariates),), {"num_items": simulations}

    return calibrate_by_simulation(
        model,
        posterior_program(vae),
        condition,
        draws=draws,
        seed=seed,
        given=given,
        density=density_of(vae),
        note=simulation_note(vae, given),
        num_items=simulations,
    )


def posterior_program(vae: MultimodalVAE) -> Callable[..., Tensor]:
    """Return the guide as a Pyro program that encodes its first batch once, and not once per draw.

    Args:
        vae: The model, in eval mode.
    """
    answers: list[tuple[Any, Any]] = []

    def guide(batch: Batch, **options: Any) -> Tensor:
        if not answers:
            posterior = vae.guide.posterior(vae.guide.experts(batch, **options), density_of(vae))
            answers.append((posterior, vae.guide.private(batch) if batch.values else None))
        posterior, private = answers[0]
        return vae.guide.sample_posterior(posterior, others=private and (lambda z: private_sites(private(z))))

    return guide


def density_of(vae: MultimodalVAE) -> str:
    """Return the name of the density that the guide draws from: that of the mixture if it can be evaluated.

    Args:
        vae: The model whose guide draws.
    """
    return "mixture" if vae.guide.has_mixture(len(vae.names)) else "joint"


def simulation_note(vae: MultimodalVAE, simulated: Sequence[str]) -> str:
    """Return the caveats for simulated images and counts.

    Args:
        vae: The model that simulated them.
        simulated: The names of the modalities that the guide sees simulated.
    """
    images = any(len(modality.shape) == 3 for modality in vae.modalities if modality.name in simulated)
    counts = any(cast("Likelihood", vae.model.likelihoods[name]).has_size_factor for name in simulated)
    return "; ".join([IMAGE_NOTE] * images + [SIZE_NOTE] * counts)


def check_names(vae: MultimodalVAE, given: Sequence[str]) -> None:
    """Check that the modalities given are known.

    Args:
        vae: The model whose modalities are known.
        given: The names to check.

    Raises:
        ValueError: If a name is not that of a modality.
    """
    for name in given:
        if name not in vae.names:
            raise ValueError(f"given must name modalities of the model ({', '.join(vae.names)}), got {name!r}")


def _simulate(model: Callable[..., Any], latents: Callable[[], Any] | None) -> Callable[..., Any]:
    """Return the model with what it observes drawn anew, from its prior or from other latents."""
    free = poutine.uncondition(model)
    if latents is None:
        return free
    with poutine.block():
        drawn = poutine.trace(latents).get_trace()
    return poutine.replay(free, trace=drawn)


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


def _as_floats(values: Tensor) -> NDArray[np.float64]:
    """Return a tensor as an array of double precision."""
    return values.double().cpu().numpy()
