"""Posterior predictive checks: statistics of replicated observations beside those of the observed items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.infer import Predictive

from pyro_mmvae._typing import Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.evaluation.dependence import repeated_observations
from pyro_mmvae.evaluation.metrics import choose_subsets
from pyro_mmvae.evaluation.seeded_programs import DRAW_SITE, Program, SeededProgram, draw_latents
from pyro_mmvae.evaluation.statistics import ClassifierLike, Statistic, statistic_names, statistics_of
from pyro_mmvae.inference.posteriors import subset_names
from pyro_mmvae.inference.trace_sites import is_factor
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.run_files import split_key
from pyro_mmvae.vae.names import modality_site
from pyro_mmvae.vae.private_latents import private_sites
from pyro_mmvae.vae.vae import MultimodalVAE


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """Statistics of draws from the posterior predictive distribution, beside those of the observations.

    The key of a statistic is modality and label, such as ``"m0.contrast"``. Values that an item lacks are NaN.

    Attributes:
        z: Draws of the latent, of shape `(sample, item, latent)`.
        replicated: A mapping from key to statistics of shape `(sample, item)`, of draws from the likelihood, not of its
            mean.
        observed: A mapping from key to statistics of the observations, of shape `(item,)`.
        log_likelihood: A mapping from modality to log p(x_m | z) in nats, of shape `(sample, item)`.
        present: A mapping from modality to a mask of the items that have it, of shape `(item,)`.
        ids: Identifiers of the items, of shape `(item,)`.
        given: The modalities that the guide saw; empty for the prior predictive distribution.
        density: The density that z was drawn from: ``mixture``; ``joint`` if the mixture has too many components;
            ``guide`` for a user-defined guide.
        seed: The seed of all draws.
        nominal: The keys of statistics whose values do not have an order.
        raw: A mapping from modality to replicated observations `(sample, item, *event)`; empty unless they were kept.
        observed_raw: A mapping from modality to observations `(item, *event)`; empty unless they were kept.
        sizes_drawn: The modalities of counts that were not given, whose size factors were drawn from observed totals.
        shared: A mapping from modality to codes of shape `(item,)`, equal for items that share an observation of it;
            modalities whose observations are all different are left out. Codes under the key ``""`` are those of
            groups of items that depend on each other in all modalities.
    """

    z: NDArray[Any]
    replicated: dict[str, NDArray[np.float64]]
    observed: dict[str, NDArray[np.float64]]
    log_likelihood: dict[str, NDArray[Any]]
    present: dict[str, NDArray[np.bool_]]
    ids: NDArray[Any]
    given: tuple[str, ...]
    density: str
    seed: int
    nominal: frozenset[str] = frozenset()
    raw: dict[str, NDArray[Any]] = field(default_factory=dict)
    observed_raw: dict[str, NDArray[Any]] = field(default_factory=dict)
    sizes_drawn: tuple[str, ...] = ()
    shared: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """The number of draws per item."""
        return len(self.z)

    @property
    def protocol(self) -> str:
        """The way in which the draws were made, in words."""
        distribution = "posterior predictive" if self.given else "prior predictive"
        text = f"{distribution}, draws of the likelihood, {self.density} density, {self.samples} samples"
        names = ", ".join(self.sizes_drawn)
        return f"{text}; size factors of {names} drawn from observed totals" if names else text

    def in_sample(self, key: str) -> bool:
        """Return True if the guide saw the modality of a statistic."""
        return split_key(key, self.present)[0] in self.given

    def dependence(self, key: str) -> list[NDArray[np.int64]]:
        """Return the codes by which items depend on each other in a statistic: of its modality and of those given."""
        names = {"", split_key(key, self.present)[0], *self.given}
        return [codes for name, codes in self.shared.items() if name in names]

    def is_determined(self, key: str) -> bool:
        """Return True if a statistic follows from what the draws condition on, so that its fit says nothing."""
        name, _, label = key.partition(".")
        if label == "mean" and name in self.sizes_drawn:
            return True
        kept = ~np.isnan(self.observed[key])
        return bool((self.replicated[key][:, kept] == self.observed[key][kept]).all())


def posterior_predictive(
    vae: MultimodalVAE,
    batch: Batch | Mapping[str, Tensor],
    given: Sequence[str] = (),
    *,
    samples: int = 100,
    seed: int = 0,
    statistics: Sequence[str] | None = None,
    classifiers: ClassifierLike | None = None,
    ids: Sequence[int] | None = None,
    keep_raw: bool = False,
    shared: Mapping[str, NDArray[np.int64]] | None = None,
) -> PredictiveCheck:
    """Replicate the observations of some items given some of their modalities.

    z is drawn from the mixture density of the guide, and so are the private latents of the modalities given; other
    private latents are drawn from their priors. Then *every* modality is drawn from its likelihood, given or not;
    counts that were not given have size factors drawn from the totals of all items. β and w_m do not apply. Each draw
    has its own seed, made of ``seed`` and its number, so that the first n draws do not depend on ``samples``. Memory
    holds one draw of the observations at a time, unless ``keep_raw``.

    Args:
        vae: The model, in eval mode.
        batch: The items to replicate, on the model's device.
        given: The modalities that the guide sees; empty by default, for the prior predictive distribution.
        samples: The number of draws per item, 100 by default.
        seed: The seed of all draws, 0 by default; the states of torch's generators are restored afterwards.
        statistics: The names of the statistics, see :func:`~pyro_mmvae.evaluation.statistics.statistic_names`; by
            default all that fit.
        classifiers: The classifiers for ``predicted_class`` and ``attributes_seen``, which are left out by default.
        ids: Identifiers of the items; 0, 1, … by default.
        keep_raw: If True, the replicated observations are kept as well; False by default.
        shared: A mapping from modality to codes of shape `(item,)`, equal for items that share an observation of it; it
            has precedence over what :func:`~pyro_mmvae.evaluation.dependence.repeated_observations` finds. The key
            ``""`` stands for all modalities. None by default.

    Returns:
        Draws, statistics and log likelihoods.

    Raises:
        ValueError: If a name is unknown, or a given modality is not in the batch.
    """
    observed = Batch.of(batch, vae.names)
    for name in given:
        if name not in observed.values:
            raise ValueError(f"given must name modalities of the batch ({', '.join(observed.values)}), got {name!r}")
    given = tuple(name for name in vae.names if name in given)
    density = "mixture" if vae.guide.has_mixture(len(vae.names)) else "joint"
    with torch.no_grad():  # the observations are encoded once, not once per draw
        posterior = vae.guide.posterior(vae.guide.experts(observed.select(given), num_items=len(observed)), density)
        private = vae.guide.private(observed.select(given)) if given else None
    unknown = {name: cast("Likelihood", vae.model.likelihoods[name]) for name in vae.names if name not in given}
    return _check(
        lambda: vae.model(observed, generate=True, weighted=False),
        lambda: vae.guide.sample_posterior(posterior, others=private and (lambda z: private_sites(private(z)))),
        dict(observed.values),
        dict(observed.present),
        _Options("z", given, density, samples, seed, statistics, classifiers, ids, keep_raw, shared),
        {name: modality_site(name) for name in vae.names},
        unknown,
    )


def predictive_check(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    guide_args: Sequence[Any] | None = None,
    given: Sequence[str] | None = None,
    latent: str = "z",
    samples: int = 100,
    seed: int = 0,
    statistics: Sequence[str] | None = None,
    ids: Sequence[int] | None = None,
    keep_raw: bool = False,
    **kwargs: Any,
) -> PredictiveCheck:
    """Replicate the observations of any Pyro model from the latents that its guide draws.

    The sites that the model observes when it is called are checked, and drawn anew with ``poutine.uncondition``.
    ``pyro.factor`` and ``pyro.deterministic`` statements are not observations and are left out. Items are the plate of
    dimension -1; masked items count as absent.

    Args:
        model: A model with one latent site `(item, latent)` and observed sites `(item, *event)`.
        guide: A guide with the latent site of the model.
        *args: Positional arguments of the model.
        guide_args: Positional arguments of the guide, by default those of the model. Pass fewer observations to check
            modalities that the guide does not see.
        given: The observed sites that the guide sees; by default all, in which case none is judged.
        latent: The name of the latent site, ``"z"`` by default.
        samples: The number of draws per item, 100 by default.
        seed: The seed of all draws, 0 by default; each draw has its own, as in :func:`posterior_predictive`.
        statistics: The names of the statistics; by default all that fit.
        ids: Identifiers of the items; 0, 1, … by default.
        keep_raw: If True, the replicated observations are kept as well; False by default.
        **kwargs: Keyword arguments of both the model and the guide.

    Returns:
        Draws, statistics and log likelihoods.

    Raises:
        ValueError: If nothing is observed, or a given site is not observed.
    """
    with torch.no_grad():
        trace = poutine.trace(model).get_trace(*args, **kwargs)
    observations = {n: trace.nodes[n] for n in trace.observation_nodes}
    sites = {n: s for n, s in observations.items() if not s["infer"].get("_deterministic") and not is_factor(s)}
    if not sites:
        raise ValueError("the model must observe at least one site when it is called with these arguments, got none")
    given = tuple(sites if given is None else given)
    for name in given:
        if name not in sites:
            raise ValueError(f"given must name observed sites of the model ({', '.join(sites)}), got {name!r}")
    present = {}
    for name, site in sites.items():
        masks = [m for m in (site["mask"], getattr(site["fn"], "_mask", None)) if isinstance(m, Tensor)]
        shape = site["fn"].batch_shape
        present[name] = torch.stack([m.expand(shape) for m in masks]).all(0) if masks else torch.ones(shape).bool()
    guide_inputs = args if guide_args is None else tuple(guide_args)
    return _check(
        lambda: poutine.uncondition(model)(*args, **kwargs),
        lambda: guide(*guide_inputs, **kwargs),
        {name: site["value"] for name, site in sites.items()},
        present,
        _Options(latent, given, "guide", samples, seed, statistics, None, ids, keep_raw),
        {name: name for name in sites},
    )


def choose_conditions(names: Sequence[str], *, per_size: int = 1, seed: int = 0) -> list[tuple[str, ...]]:
    """Choose what to condition on: nothing, some subsets of each size, and everything.

    Args:
        names: The names of all modalities.
        per_size: The number of subsets per size, 1 by default.
        seed: The seed of the choice, 0 by default.

    Returns:
        Tuples of names, the empty one first.
    """
    chosen = [
        subset_names(subset, names) for subset in choose_subsets(len(names), limit=per_size * len(names), seed=seed)
    ]
    return [(), *(given for i, given in enumerate(chosen) if i < per_size or len(chosen[i - per_size]) < len(given))]


@dataclass(frozen=True)
class _Options:
    """The options that both kinds of checks share."""

    latent: str
    given: tuple[str, ...]
    density: str
    samples: int
    seed: int
    statistics: Sequence[str] | None
    classifiers: ClassifierLike | None
    ids: Sequence[int] | None
    keep_raw: bool
    shared: Mapping[str, NDArray[np.int64]] | None = None


@dataclass(frozen=True)
class _Summarised:
    """A Pyro program that shows statistics and log likelihoods to the outside, but not its observations."""

    program: Program
    observed: dict[str, Tensor]
    statistics: dict[str, dict[str, Statistic]]
    keep_raw: bool
    site_names: Mapping[str, str]
    unknown: Mapping[str, Likelihood]

    def __call__(self) -> None:
        """Run the program and add its statistics as deterministic sites."""
        with poutine.block(hide=[self.site_names[name] for name in self.observed]), poutine.trace() as traced:
            self.program()
        for name, value in self.observed.items():
            site = traced.trace.nodes[self.site_names[name]]
            replicate, distribution = site["value"], site["fn"]
            if name in self.unknown:  # its own total must not enter its replicates
                redrawn = self.unknown[name].without_observed(distribution, value)
                replicate = replicate if redrawn is distribution else redrawn.sample()
            for label, statistic in self.statistics[name].items():
                pyro.deterministic(f"{name}.{label}", statistic(replicate, distribution.event_dim))
            pyro.deterministic(f"{name}.log_likelihood", distribution.log_prob(value))
            if self.keep_raw:
                pyro.deterministic(f"{name}.raw", replicate)


def _check(
    model: Program,
    guide: Program,
    observed: dict[str, Tensor],
    present: dict[str, Tensor],
    options: _Options,
    site_names: Mapping[str, str],
    unknown: Mapping[str, Likelihood] | None = None,
) -> PredictiveCheck:
    """Draw the latents, replicate the observations and compute their statistics.

    ``unknown`` holds the likelihoods of the modalities whose replicates must not depend on their own observations.
    """
    unknown = unknown or {}
    items, raw = len(next(iter(observed.values()))), tuple(observed) if options.keep_raw else ()
    if options.ids is not None and len(options.ids) != items:
        raise ValueError(f"ids must have one entry for each of the {items} items, got {len(options.ids)}")
    devices = {v.device for v in observed.values() if v.is_cuda}
    with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
        draws = torch.arange(options.samples, dtype=torch.float64)
        nodes = poutine.trace(SeededProgram(model, options.seed, 0)).get_trace().nodes
        sites = {name: nodes[site_names[name]] for name in observed}
        statistics = {n: statistics_of(n, sites[n]["fn"], options.statistics, options.classifiers) for n in observed}
        if not any(statistics.values()):
            raise ValueError(
                f"statistics must fit at least one modality, got {', '.join(options.statistics or ()) or 'none'}; "
                f"available: {', '.join(statistic_names())}"
            )
        latents = draw_latents(guide, options.samples, options.seed)
        z = latents[options.latent]
        summary = _Summarised(model, observed, statistics, options.keep_raw, site_names, unknown)
        keys = [f"{n}.{k}" for n in observed for k in (*statistics[n], "log_likelihood", *["raw"] * bool(raw))]
        drawn = Predictive(SeededProgram(summary, options.seed, 2), {DRAW_SITE: draws, **latents}, return_sites=keys)()
        labelled = {f"{n}.{label}": (n, s) for n in observed for label, s in statistics[n].items()}
        truth = {key: s(observed[n], sites[n]["fn"].event_dim) for key, (n, s) in labelled.items()}
    ids = np.arange(items) if options.ids is None else np.asarray(options.ids)
    masks = {n: present[n].cpu().numpy() if n in present else np.ones(items, dtype=bool) for n in observed}

    def blank(key: str, value: Tensor) -> NDArray[Any]:
        array = value.reshape(-1, items).cpu().numpy()
        return np.where(masks[split_key(key, masks)[0]], array, np.nan)

    return PredictiveCheck(
        z=z.reshape(options.samples, items, -1).cpu().numpy(),
        replicated={key: blank(key, drawn[key]) for key in truth},
        observed={key: blank(key, value)[0] for key, value in truth.items()},
        log_likelihood={n: blank(n, drawn[f"{n}.log_likelihood"]) for n in observed},
        present=masks,
        ids=ids,
        given=options.given,
        density=options.density,
        seed=options.seed,
        nominal=frozenset(key for key, (_, s) in labelled.items() if s.nominal),
        raw={n: drawn[f"{n}.raw"].reshape(-1, *observed[n].shape).cpu().numpy() for n in raw},
        observed_raw={n: observed[n].cpu().numpy() for n in raw},
        sizes_drawn=tuple(n for n in observed if n in unknown and unknown[n].has_size_factor),
        shared=repeated_observations(observed) | dict(options.shared or {}),
    )
