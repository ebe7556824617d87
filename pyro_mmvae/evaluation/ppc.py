"""Posterior predictive draws: replicated observations of the items, as statistics of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.infer import Predictive

from pyro_mmvae._typing import Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.evaluation.metrics import choose_subsets, names_of
from pyro_mmvae.evaluation.sbc import DRAW_SITE, Program, SeededProgram, draw_latents
from pyro_mmvae.evaluation.statistics import ClassifierLike, Statistic, statistic_names, statistics_of
from pyro_mmvae.vae.guide import private_sites
from pyro_mmvae.vae.vae import MultimodalVAE


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """Draws from the posterior predictive distribution beside what was observed.

    A statistic's key is modality and label, ``"m0.contrast"``. What an item lacks is NaN.

    Attributes:
        z: `(sample, item, latent)`.
        replicated: statistic's key to `(sample, item)`, of draws from the likelihood and not of its mean.
        observed: statistic's key to `(item,)`.
        log_likelihood: modality to log p(x_m | z), `(sample, item)`, nats.
        present: modality to `(item,)` bool.
        ids: of the items, `(item,)`.
        given: the modalities that the guide saw; none for the prior predictive.
        bound: ``mixture``; ``full`` where that has too many components; ``guide`` for anyone's own guide, as it is.
        seed: of all draws.
        nominal: keys of statistics whose values have no order.
        raw: modality to replicated observations `(sample, item, *event)`, only if asked for.
        observed_raw: modality to `(item, *event)`, likewise.
    """

    z: NDArray[Any]
    replicated: dict[str, NDArray[np.float64]]
    observed: dict[str, NDArray[np.float64]]
    log_likelihood: dict[str, NDArray[Any]]
    present: dict[str, NDArray[np.bool_]]
    ids: NDArray[Any]
    given: tuple[str, ...]
    bound: str
    seed: int
    nominal: frozenset[str] = frozenset()
    raw: dict[str, NDArray[Any]] = field(default_factory=dict)
    observed_raw: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Draws an item."""
        return len(self.z)

    @property
    def protocol(self) -> str:
        """How the draws came about, in words."""
        what = "posterior predictive" if self.given else "prior predictive"
        return f"{what}, draws of the likelihood, bound {self.bound}, {self.samples} samples"

    def in_sample(self, key: str) -> bool:
        """Whether the guide saw the modality of a statistic."""
        return key.split(".", maxsplit=1)[0] in self.given


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
) -> PredictiveCheck:
    """Replicate the observations of some items given some of their modalities.

    z is drawn from the guide, with the full mixture, and so is the private latent of what is given; other private
    latents from their priors; then *every* modality from its likelihood, given or not. β and w_m do not apply. Each
    draw has a seed of its own, made of ``seed`` and its number, so the first n of more samples are those of n samples.
    Memory holds one draw of the observations at a time, unless ``keep_raw``.

    Args:
        vae: in eval mode.
        batch: items, on the model's device.
        given: modalities that the guide sees; none for the prior predictive.
        samples: draws an item.
        seed: of all draws; torch's generators are put back after.
        statistics: names, see :func:`~pyro_mmvae.evaluation.statistics.statistic_names`; all that fit by default.
        classifiers: for ``predicted_class``.
        ids: of the items; 0, 1, … by default.
        keep_raw: keep the replicated observations themselves.

    Returns:
        Draws, statistics and log likelihoods.

    Raises:
        ValueError: for unknown names, or a given modality that is not in the batch.
    """
    observed = Batch.of(batch, vae.names)
    for name in given:
        if name not in observed.values:
            raise ValueError(f"given modality {name!r} is not in the batch, which has {', '.join(observed.values)}")
    given = tuple(name for name in vae.names if name in given)
    bound = "mixture" if vae.guide.has_mixture(len(vae.names)) else "full"
    with torch.no_grad():  # encoded once, not once a draw
        posterior = vae.guide.posterior(vae.guide.experts(observed.given(given), num_items=len(observed)), bound)
        private = private_sites(vae.private_posterior(observed.given(given)) if given else {})
    return _check(
        lambda: vae.model(observed, generate=True, weighted=False),
        lambda: vae.guide.sample_posterior(posterior, others=private),
        dict(observed.values),
        dict(observed.present),
        _Options("z", given, bound, samples, seed, statistics, classifiers, ids, keep_raw),
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
    """The same for anyone's Pyro model and guide.

    What the model observes when it is called is checked, and drawn anew with ``poutine.uncondition``. Items are the
    plate of dimension -1; those masked out are absent.

    Args:
        model: with one latent site `(item, latent)` and observed sites `(item, *event)`.
        guide: with the same latent.
        *args: for the model.
        guide_args: for the guide, the model's by default: give it less to check what it did not see.
        given: the observed sites that the guide sees; by default all, which judges none of them.
        latent: name of the latent site.
        samples: draws an item.
        seed: see :func:`posterior_predictive`.
        statistics: likewise.
        ids: likewise.
        keep_raw: likewise.
        **kwargs: for both.

    Returns:
        Draws, statistics and log likelihoods.

    Raises:
        ValueError: if nothing is observed, or a given site is not.
    """
    with torch.no_grad():
        trace = poutine.trace(model).get_trace(*args, **kwargs)
    sites = {n: trace.nodes[n] for n in trace.observation_nodes if not trace.nodes[n]["infer"].get("_deterministic")}
    if not sites:
        raise ValueError("the model observes nothing when it is called with these arguments")
    given = tuple(sites if given is None else given)
    for name in given:
        if name not in sites:
            raise ValueError(f"given site {name!r} is not observed, the model observes {', '.join(sites)}")
    present = {}
    for name, site in sites.items():
        masks = [m for m in (site["mask"], getattr(site["fn"], "_mask", None)) if isinstance(m, Tensor)]
        shape = site["fn"].batch_shape
        present[name] = torch.stack([m.expand(shape) for m in masks]).all(0) if masks else torch.ones(shape).bool()
    guided = args if guide_args is None else tuple(guide_args)
    return _check(
        lambda: poutine.uncondition(model)(*args, **kwargs),
        lambda: guide(*guided, **kwargs),
        {name: site["value"] for name, site in sites.items()},
        present,
        _Options(latent, given, "guide", samples, seed, statistics, None, ids, keep_raw),
    )


def choose_given(names: Sequence[str], *, per_size: int = 1, seed: int = 0) -> list[tuple[str, ...]]:
    """What to condition on: nothing, some subsets of each size, everything.

    Args:
        names: of the modalities.
        per_size: how many subsets a size.
        seed: of the choice.
    """
    chosen = [names_of(subset, names) for subset in choose_subsets(len(names), limit=per_size * len(names), seed=seed)]
    return [(), *(given for i, given in enumerate(chosen) if i < per_size or len(chosen[i - per_size]) < len(given))]


@dataclass(frozen=True)
class _Options:
    latent: str
    given: tuple[str, ...]
    bound: str
    samples: int
    seed: int
    statistics: Sequence[str] | None
    classifiers: ClassifierLike | None
    ids: Sequence[int] | None
    keep_raw: bool


@dataclass(frozen=True)
class _Summarised:
    """A Pyro program of which only statistics and log likelihoods are seen from outside, and no observations."""

    program: Program
    observed: dict[str, Tensor]
    statistics: dict[str, dict[str, Statistic]]
    keep_raw: bool

    def __call__(self) -> None:
        with poutine.block(hide=list(self.observed)), poutine.trace() as traced:
            self.program()
        for name, value in self.observed.items():
            site = traced.trace.nodes[name]
            for label, statistic in self.statistics[name].items():
                pyro.deterministic(f"{name}.{label}", statistic(site["value"], site["fn"].event_dim))
            pyro.deterministic(f"{name}.log_likelihood", site["fn"].log_prob(value))
            if self.keep_raw:
                pyro.deterministic(f"{name}.raw", site["value"])


def _check(
    model: Program, guide: Program, observed: dict[str, Tensor], present: dict[str, Tensor], options: _Options
) -> PredictiveCheck:
    items, raw = len(next(iter(observed.values()))), tuple(observed) if options.keep_raw else ()
    if options.ids is not None and len(options.ids) != items:
        raise ValueError(f"{len(options.ids)} ids for {items} items")
    devices = {v.device for v in observed.values() if v.is_cuda}
    with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
        draws = torch.arange(options.samples, dtype=torch.float64)
        sites = poutine.trace(SeededProgram(model, options.seed, 0)).get_trace().nodes
        statistics = {n: statistics_of(n, sites[n]["fn"], options.statistics, options.classifiers) for n in observed}
        if not any(statistics.values()):
            raise ValueError(f"no statistic fits any modality; there are {', '.join(statistic_names())}")
        latents = draw_latents(guide, options.samples, options.seed)
        z = latents[options.latent]
        summary = _Summarised(model, observed, statistics, options.keep_raw)
        keys = [f"{n}.{k}" for n in observed for k in (*statistics[n], "log_likelihood", *["raw"] * bool(raw))]
        drawn = Predictive(SeededProgram(summary, options.seed, 2), {DRAW_SITE: draws, **latents}, return_sites=keys)()
        labelled = {f"{n}.{label}": (n, s) for n in observed for label, s in statistics[n].items()}
        truth = {key: s(observed[n], sites[n]["fn"].event_dim) for key, (n, s) in labelled.items()}
    ids = np.arange(items) if options.ids is None else np.asarray(options.ids)
    masks = {n: present[n].cpu().numpy() if n in present else np.ones(items, dtype=bool) for n in observed}

    def blank(key: str, value: Tensor) -> NDArray[Any]:
        array = value.reshape(-1, items).cpu().numpy()
        return np.where(masks[key.split(".", maxsplit=1)[0]], array, np.nan)

    return PredictiveCheck(
        z=z.reshape(options.samples, items, -1).cpu().numpy(),
        replicated={key: blank(key, drawn[key]) for key in truth},
        observed={key: blank(key, value)[0] for key, value in truth.items()},
        log_likelihood={n: blank(n, drawn[f"{n}.log_likelihood"]) for n in observed},
        present=masks,
        ids=ids,
        given=options.given,
        bound=options.bound,
        seed=options.seed,
        nominal=frozenset(key for key, (_, s) in labelled.items() if s.nominal),
        raw={n: drawn[f"{n}.raw"].reshape(-1, *observed[n].shape).cpu().numpy() for n in raw},
        observed_raw={n: observed[n].cpu().numpy() for n in raw},
    )
