"""The fit of a prior to draws of the aggregated posterior of training items."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.fitted_prior import FittedPrior
from pyro_mmvae.inference.flows import fit_flow
from pyro_mmvae.inference.posteriors import encode_dataset, posteriors, select, subset_posterior
from pyro_mmvae.vae.vae import MultimodalVAE

COVARIANCES = ("full", "diag")
DENSITIES = ("joint", "mixture")

MAX_ITEMS = 5000
"""The default of the largest number of training items that are encoded and drawn from."""

_DRAWS, _DRAWS_PER_ITEM = 5000, 10  # few items give several draws each, which smooth the fit
_ITEMS_PER_COMPONENT = 10
_HELD_OUT = 0.1  # the share of the items on whose draws the fit is judged
_FEWEST_TO_HOLD_OUT = 20


def fit_prior(
    vae: MultimodalVAE,
    data: MultimodalDataset,
    *,
    components: int = 10,
    covariance: str = "full",
    flow: bool = False,
    items: int = MAX_ITEMS,
    density: str | None = None,
    seed: int = 0,
) -> FittedPrior:
    r"""Fit a distribution to draws of the aggregated posterior :math:`q(z) = \frac1N \sum_n q(z \mid x_n)`.

    A decoder is trained where the posteriors of the training items are. Where their mean q(z) differs from the prior,
    draws of the prior reach regions that no item has, and what is decoded there is poor; draws of a density that is
    fitted to q(z) afterwards are not (Ghosh et al., 2020, arXiv 1903.12436, with a Gaussian mixture as here).

    Args:
        vae: The model and guide, in eval mode.
        data: The training items, on any device; an item of which nothing is present is left out.
        components: The number of Gaussians, 10 by default; at most one per ten items is fitted.
        covariance: The covariance of each Gaussian, ``"full"`` (default) or ``"diag"``.
        flow: If True, a neural spline flow is fitted in place of Gaussians, which needs the extra ``flow``; False by
            default.
        items: The largest number of items, 5,000 by default, chosen at random.
        density: The posterior of an item to draw from: ``"joint"``, the component of everything present, or
            ``"mixture"``, the whole posterior. By default the joint component where the aggregation has one.
        seed: The seed of the choice of items, the draws and the fit, 0 by default.

    Returns:
        The fitted prior. In ``about``, ``held_out`` has the mean log density of draws of a tenth of the items, which
        were not fitted, under the fitted prior and under the model's own; None if there are fewer than 20 items.

    Raises:
        ValueError: If an option is out of its range, no item has a modality, the aggregation does not have the density,
            or the posteriors are not finite.
        ImportError: If a flow is asked for, and zuko is not installed.
    """
    _check(components, covariance, items, density)
    started = time.perf_counter()
    rows = _choose_rows(data, items, seed)
    device = next(vae.parameters()).device
    with seeded(seed, device):
        experts = encode_dataset(vae, data.subset(rows))
        if not bool((experts.loc.isfinite() & experts.scale.isfinite()).all()):
            raise ValueError("the posteriors must be finite to fit a prior to them, got some that are not: train again")
        density = density or _default_density(vae, experts)
        z = _draw(vae, experts, density)
    count = len(rows) - (int(_HELD_OUT * len(rows)) if len(rows) >= _FEWEST_TO_HOLD_OUT else 0)
    fitted, held_out = (part.flatten(0, 1).double().cpu() for part in (z[:count], z[count:]))
    about: dict[str, Any] = {
        "kind": "flow" if flow else "mixture", "items": len(rows), "draws": z.shape[0] * z.shape[1],
        "density": density, "seed": seed,
    }  # fmt: skip
    if flow:
        arrays, options = fit_flow(fitted, seed=seed)
    else:
        arrays, options = _fit_mixture(fitted.numpy(), min(components, count // _ITEMS_PER_COMPONENT), covariance, seed)
    prior = FittedPrior(arrays, {**about, **options})
    about = {"held_out": _judge(vae, prior, held_out), "seconds": round(time.perf_counter() - started, 3)}
    return replace(prior, about={**prior.about, **about})


def _check(components: int, covariance: str, items: int, density: str | None) -> None:
    for name, count in (("components", components), ("items", items)):
        if isinstance(count, bool) or int(count) != count or count < 1:
            raise ValueError(f"{name} must be a positive integer, got {count!r}")
    for name, choice, known in (("covariance", covariance, COVARIANCES), ("density", density or "joint", DENSITIES)):
        if choice not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {choice!r}")


def _choose_rows(data: MultimodalDataset, items: int, seed: int) -> list[int]:
    """Return the numbers of random items of which something is present, in random order."""
    rows = data.present.any(-1).nonzero()[:, 0].tolist()
    if not rows:
        raise ValueError(f"data {data.name!r} must have items with a modality to fit a prior to, got none")
    return [int(row) for row in np.random.default_rng(seed).permutation(rows)[:items]]


def _default_density(vae: MultimodalVAE, experts: Experts) -> str:
    """Return the joint component if the aggregation has one, otherwise the mixture, or its draws by components."""
    every = range(experts.num_modalities)
    try:
        subset_posterior(vae, select(experts, slice(0, 1)), every, "joint")
    except ValueError:
        return "mixture" if vae.guide.has_mixture(experts.num_modalities) else "component"
    return "joint"


def _draw(vae: MultimodalVAE, experts: Experts, density: str) -> Float[Tensor, "item draw latent"]:
    """Draw from the posterior of each item given all that is present; several times if the items are few."""
    each = min(math.ceil(_DRAWS / len(experts.loc)), _DRAWS_PER_ITEM)
    parts: Iterator[Any] = posteriors(vae, experts, range(experts.num_modalities), density)
    return torch.cat([posterior.sample(torch.Size((each,))).transpose(0, 1) for posterior in parts])


def _fit_mixture(
    z: NDArray[np.float64], components: int, covariance: str, seed: int
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Fit a mixture of Gaussians by expectation maximisation, from one start by k-means."""
    model = GaussianMixture(max(components, 1), covariance_type=covariance, max_iter=200, random_state=seed)
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        # After 200 steps the likelihood hardly changes; items that coincide leave k-means with fewer clusters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(z)
    spread = {"scale_trils": np.linalg.cholesky(model.covariances_)} if covariance == "full" else {
        "scales": np.sqrt(model.covariances_)
    }  # fmt: skip
    options = {"components": model.n_components, "covariance": covariance, "steps": int(model.n_iter_)}
    return {"weights": model.weights_, "means": model.means_, **spread}, options


@torch.no_grad()
def _judge(vae: MultimodalVAE, prior: FittedPrior, held_out: Tensor) -> dict[str, Any] | None:
    """Return the mean log density of held-out draws under the fitted prior and the model's own, in nats."""
    if not len(held_out):
        return None
    own = vae.model.prior()
    device = next(vae.parameters()).device
    z = held_out.float()
    return {
        "draws": len(z),
        "fitted": float(prior.distribution().log_prob(z).mean()),
        "model": float(own.log_prob(z.to(device)).mean()),
    }
