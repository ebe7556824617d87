"""Importance weights of draws from a guide, and the averages and effective sample sizes computed from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.subsample_messenger import _Subsample

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.evaluation.posteriors import draws_at_once, items_at_once, private_posteriors, subset_posterior
from pyro_mmvae.experts import Experts
from pyro_mmvae.vae.vae import MultimodalVAE


def log_mean_exp(log_weights: Float[Tensor, "*sample_and_item"]) -> Float[Tensor, "*item"]:
    """The log of the mean over the draws of the same item, which are the first dimension."""
    return torch.logsumexp(log_weights, 0) - math.log(log_weights.shape[0])


def effective_sample_size(log_weights: Float[Tensor, "*sample_and_item"]) -> Float[Tensor, "*item"]:
    """(Σ w)² / Σ w² over the draws of each item, between 1 and their number (Kong, 1992)."""
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
    """Log importance weights log p(x, z) − log q(z | x) of anyone's Pyro model and guide, for each item of a plate.

    Masks count; scales (of a subsampled plate, or a weight in an objective) do not, for these are densities of single
    items. A subsample is drawn once and kept, so that every row is of the same items. A latent that the guide lacks is
    drawn from the model and cancels.

    Args:
        model: whose sites all lie in one plate of dimension -1.
        guide: of it.
        *args: for both.
        samples: draws an item.
        plate: its name; sites outside it would be shared by the items and are refused.
        **kwargs: for both.

    Returns:
        `(sample, item)`, without gradients.

    Raises:
        ValueError: if a site of the model or guide lies outside the plate, or the plate has another dimension.
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
                    if site["type"] == "sample" and isinstance(site["fn"], _Subsample) and name not in kept:
                        kept.add_node(name, **site)
            latents = {name for name, site in guide_trace.nodes.items() if site["type"] == "sample"}
            rows.append(_items(model_trace, plate, latents) - _items(guide_trace, plate, latents))
    return torch.stack(rows)


def _items(trace: Any, plate: str, latents: set[str]) -> Tensor:
    """The log density of each item at the observations and ``latents``."""
    trace.compute_log_prob()
    total: Any = 0.0
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or isinstance(site["fn"], _Subsample):
            continue
        if (plate, -1) not in [(frame.name, frame.dim) for frame in site["cond_indep_stack"]]:
            raise ValueError(
                f"site {name!r} lies outside plate {plate!r} of dimension -1: its items have no weights of their own"
            )
        if site["is_observed"] or name in latents:
            log_prob = scale_and_mask(site["unscaled_log_prob"], 1.0, site["mask"])
            total = total + log_prob.reshape(-1, log_prob.shape[-1]).sum(0)
    return total


@dataclass(frozen=True)
class ImportanceSamples:
    """Log densities at draws from one subset's posterior.

    Attributes:
        log_proposal: log q(z | x_S), `(sample, item)`, private latents included.
        log_prior: log p(z), `(sample, item)`, likewise.
        log_likelihood: log p(x_m | z) of each modality, `(sample, item)`, 0 where it is absent. One that no item has
            may be left out.
    """

    log_proposal: Tensor
    log_prior: Tensor
    log_likelihood: dict[str, Tensor]

    def log_weights(self, names: Sequence[str]) -> Tensor:
        """Log p(x_names, z) − log q(z | x_S), `(sample, item)`, float64: large terms cancel in it."""
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
) -> ImportanceSamples:
    """Draw from the posterior given a subset, with β = w = 1 and the full mixture density.

    Private latents of the subset's modalities are part of z; those of others are drawn from their priors, which cancel.

    Args:
        vae: in eval mode.
        experts: of the batch's items.
        batch: what was observed, on the model's device.
        subset: what is given.
        samples: draws an item.
        names: modalities whose likelihoods are wanted; all of the batch by default.
        at_once: how many draws are decoded at a time; by default as suits the device.
    """
    posterior = subset_posterior(vae, experts, subset)
    prior = vae.model.prior()
    at_once = at_once or draws_at_once(experts.loc.device)
    chunk = max(min(at_once, items_at_once(vae, experts, subset)) // max(len(batch), 1), 1)
    proposal, priors = [], []
    values = {name: value for name, value in batch.values.items() if names is None or name in names}
    likelihoods: dict[str, list[Tensor]] = {name: [] for name in values}
    with torch.no_grad():
        own = private_posteriors(vae, batch, subset, list(values))
        for start in range(0, samples, chunk):
            count = torch.Size((min(chunk, samples - start),))
            z = posterior.sample(count)
            known = {name: expert.sample(count) for name, expert in own.items()}
            proposal.append(sum((own[name].log_prob(u) for name, u in known.items()), posterior.log_prob(z)))
            at_priors = (vae.model.private_prior(name).log_prob(u) for name, u in known.items())
            priors.append(sum(at_priors, prior.log_prob(z)))
            parameters = vae.model.parameters_given(z, values, known)
            for name, value in values.items():
                terms: Any = vae.model.likelihoods[name](parameters[name], value)
                log_prob = terms.log_prob(value)
                if name in batch.present:
                    log_prob = torch.where(batch.present[name], log_prob, 0.0)
                likelihoods[name].append(log_prob)
    return ImportanceSamples(
        torch.cat(proposal), torch.cat(priors), {name: torch.cat(parts) for name, parts in likelihoods.items()}
    )
