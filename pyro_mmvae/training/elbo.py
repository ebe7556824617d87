"""Trace_ELBO that keeps its terms and never waits for the device."""

from __future__ import annotations

from typing import Any, cast

from pyro.infer import Trace_ELBO
from torch import Tensor


class RecordingELBO(Trace_ELBO):
    """The estimator of ``pyro.infer.Trace_ELBO``, with the terms of the last call kept for progress and checks.

    ``terms`` maps each observed site to its log likelihood and ``"kl"`` to log q(z) - log p(z), summed over the batch,
    without the weights β and w_m, detached and still on the device. Where every latent is reparameterised, as in
    guides of ours without learned mixture weights, the loss is computed without reading a value back.
    """

    terms: dict[str, Tensor]

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The negative ELBO, to be differentiated."""
        loss: Any = 0.0
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            self.terms = _terms(model_trace, guide_trace)
            sites = [site for site in guide_trace.nodes.values() if site["type"] == "sample"]
            if all(getattr(site["fn"], "has_rsample", False) for site in sites):
                particle = _log_prob_sum(guide_trace) - _log_prob_sum(model_trace)
            else:
                value, surrogate = self._differentiable_loss_particle(model_trace, guide_trace)
                particle = value + surrogate - surrogate.detach()
            loss = loss + particle / self.num_particles
        return loss


def _log_prob_sum(trace: Any) -> Tensor:
    total: Any = 0.0
    for site in trace.nodes.values():
        if site["type"] == "sample":
            total = total + site["log_prob_sum"]
    return total


def _terms(model_trace: Any, guide_trace: Any) -> dict[str, Tensor]:
    terms = {}
    kl: Any = 0.0
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample":
            continue
        if site["is_observed"]:
            terms[name] = _unscaled(site)
        else:
            kl = kl + _unscaled(guide_trace.nodes[name]) - _unscaled(site)
    terms["kl"] = kl
    return terms


def _unscaled(site: Any) -> Tensor:
    value, scale = cast("Tensor", site["log_prob_sum"]).detach(), site["scale"]
    return value if isinstance(scale, float | int) and scale == 1 else value / scale
