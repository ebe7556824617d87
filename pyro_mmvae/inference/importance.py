"""Importance weights of draws from a guide, and the averages and effective sample sizes computed from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask

from pyro_mmvae._compat import is_plate_site
from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.posteriors import draws_at_once, items_at_once, private_posteriors, subset_posterior
from pyro_mmvae.inference.trace_sites import is_factor
from pyro_mmvae.vae.vae import MultimodalVAE


def log_mean_exp(log_weights: Float[Tensor, "*sample_and_item"]) -> Float[Tensor, "*item"]:
    """Return the log of the mean of the weights over the first dimension, the draws of each item."""
    return torch.logsumexp(log_weights, 0) - math.log(log_weights.shape[0])


def effective_sample_size(log_weights: Float[Tensor, "*sample_and_item"]) -> Float[Tensor, "*item"]:
    """Return the effective sample size (Σ w)² / Σ w² of the draws of each item (Kong, 1992).

    It lies between 1 and the number of draws.
    """
    relative = log_weights - log_weights.amax(0)
    return (2 * torch.logsumexp(relative, 0) - torch.logsumexp(2 * relative, 0)).exp()


def importance_weights(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    samples: int = 64,
    plate: str = "data",
    **kwargs: Any,
) -> Float[Tensor, "sample item"]:
    """Return the log importance weights log p(x, z) − log q(z | x) of any Pyro model and guide, per item of a plate.

    Masks are respected. Scales (of a subsampled plate, or weights in an objective) are ignored, since these are
    densities of single items. ``pyro.factor`` statements, such as the term that ``expert_weights_entropy`` adds to a
    guide, are terms of an objective and not densities, and are left out. A subsample is drawn once and kept, so that
    every row refers to the same items. A latent site that the guide lacks is drawn from the model and cancels.

    Args:
        model: A Pyro model whose sites all lie in one plate of dimension -1.
        guide: The guide of the model.
        *args: Positional arguments of both the model and the guide.
        samples: The number of draws per item, 64 by default.
        plate: The name of the plate, ``"data"`` by default. A site outside it would be shared by the items and raises.
        **kwargs: Keyword arguments of both the model and the guide.

    Returns:
        Log weights of shape `(sample, item)`, without gradients.

    Raises:
        ValueError: If a site of the model or the guide lies outside the plate, or the plate has another dimension.
    """
    rows = []
    kept = poutine.Trace()
    with torch.no_grad():
        for _ in range(samples):
            guide_trace = poutine.trace(poutine.replay(guide, trace=kept)).get_trace(*args, **kwargs)
            held = poutine.replay(model, trace=kept)
            model_trace = poutine.trace(poutine.replay(held, trace=guide_trace)).get_trace(*args, **kwargs)
            for trace in (guide_trace, model_trace):
                for name, site in trace.nodes.items():
                    if site["type"] == "sample" and is_plate_site(site["fn"]) and name not in kept:
                        kept.add_node(name, **site)
            latents = {name for name, site in guide_trace.nodes.items() if site["type"] == "sample"}
            rows.append(
                _log_density_per_item(model_trace, plate, latents) - _log_density_per_item(guide_trace, plate, latents)
            )
    return torch.stack(rows)


def _log_density_per_item(trace: Any, plate: str, latents: set[str]) -> Tensor:
    """Return the log density of each item at the observations and the sites ``latents``."""
    trace.compute_log_prob()
    total: Any = 0.0
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or is_plate_site(site["fn"]) or is_factor(site):
            continue
        if (plate, -1) not in [(frame.name, frame.dim) for frame in site["cond_indep_stack"]]:
            raise ValueError(
                f"every site must lie in plate {plate!r} of dimension -1, so that each item has its own weight; "
                f"site {name!r} does not"
            )
        if site["is_observed"] or name in latents:
            log_prob = scale_and_mask(site["unscaled_log_prob"], 1.0, site["mask"])
            total = total + log_prob.reshape(-1, log_prob.shape[-1]).sum(0)
    return total


@dataclass(frozen=True)
class ImportanceSamples:
    """Log densities at draws from the posterior given a subset.

    Attributes:
        log_proposal: The log density log q(z | x_S) of shape `(sample, item)`, private latents included.
        log_prior: The log density log p(z) of shape `(sample, item)`, private latents included.
        log_likelihood: A mapping from modality to log p(x_m | z) of shape `(sample, item)`, 0 where the modality is
            absent. A modality that no item has may be left out.
    """

    log_proposal: Tensor
    log_prior: Tensor
    log_likelihood: dict[str, Tensor]

    def log_weights(self, names: Sequence[str]) -> Tensor:
        """Return log p(x_names, z) − log q(z | x_S) of shape `(sample, item)`, in float64 since large terms cancel."""
        weights = self.log_prior.double() - self.log_proposal.double()
        for name in names:
            if name in self.log_likelihood:
                weights = weights + self.log_likelihood[name].double()
        return weights


def sample_importance(
    vae: MultimodalVAE,
    experts: Experts,
    batch: Batch,
    subset: Sequence[int],
    samples: int,
    *,
    names: Sequence[str] | None = None,
    at_once: int | None = None,
    density: str | None = None,
) -> ImportanceSamples:
    """Draw from the posterior given a subset and evaluate all log densities, with β = w_m = 1.

    Private latents of the subset's modalities are part of z. Those of other modalities are drawn from their priors, so
    that their densities cancel.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items of the batch.
        batch: The observations, on the model's device.
        subset: Indices of the modalities to condition on.
        samples: The number of draws per item.
        names: The modalities whose likelihoods to evaluate; all modalities of the batch by default.
        at_once: The number of latents to decode at once; by default it depends on the device.
        density: ``mixture`` to draw from the whole posterior or ``joint`` from the component of all modalities given;
            by default the choice of :func:`~pyro_mmvae.inference.posteriors.density_of`.

    Returns:
        The log densities of the draws.
    """
    posterior = subset_posterior(vae, experts, subset, density)
    prior = vae.model.prior()
    at_once = at_once or draws_at_once(experts.loc.device)
    chunk = max(min(at_once, items_at_once(vae, experts, subset, density)) // max(len(batch), 1), 1)
    proposal, priors = [], []
    values = {name: value for name, value in batch.values.items() if names is None or name in names}
    likelihoods: dict[str, list[Tensor]] = {name: [] for name in values}
    with torch.no_grad():
        private = private_posteriors(vae, batch, subset, list(values))
        for start in range(0, samples, chunk):
            count = torch.Size((min(chunk, samples - start),))
            z = posterior.sample(count)
            experts_of_u = private(z)
            u = {name: expert.sample() for name, expert in experts_of_u.items()}
            at_draws = (experts_of_u[name].log_prob(value) for name, value in u.items())
            proposal.append(sum(at_draws, posterior.log_prob(z)))
            at_priors = (vae.model.private_prior(name).log_prob(value) for name, value in u.items())
            priors.append(sum(at_priors, prior.log_prob(z)))
            parameters = vae.model.parameters_given(z, values, u, batch.covariates)
            for name, value in values.items():
                terms: Any = vae.model.likelihoods[name](parameters[name], value)
                log_prob = terms.log_prob(value)
                if name in batch.present:
                    log_prob = torch.where(batch.present[name], log_prob, 0.0)
                likelihoods[name].append(log_prob)
    return ImportanceSamples(
        torch.cat(proposal), torch.cat(priors), {name: torch.cat(parts) for name, parts in likelihoods.items()}
    )
