"""The evidence lower bound: its terms, an estimator that records them, and its value on a data set."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypedDict, cast

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_mmvae._seeding import seeded
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.training.team import Team
from pyro_mmvae.vae.names import site_modality
from pyro_mmvae.vae.vae import MultimodalVAE


@dataclass(frozen=True)
class Terms:
    """The terms of an objective, each a sum over the items of a batch, in nats, detached and on the device.

    They are recorded without the weights of the objective, such as β and w_m.

    Args:
        log_likelihood: The reconstruction term log p(x_m | z) of each modality, by modality name.
        kl: The term log q(z) - log p(z) of all latents.
        penalties: All further terms that are added to the loss, by name; none by default.
    """

    log_likelihood: Mapping[str, Tensor]
    kl: Tensor
    penalties: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class MeanTerms:
    """The means over items of a loss and its terms, in nats.

    Args:
        loss: The mean loss, which is the negative objective.
        log_likelihood: The mean reconstruction term of each modality, by modality name.
        kl: The mean of log q(z) - log p(z).
        penalties: The mean of each further term, by name.
    """

    loss: float
    log_likelihood: dict[str, float]
    kl: float
    penalties: dict[str, float]


class Averages:
    """Running means of a loss and its terms, kept on the device until they are read."""

    def __init__(self) -> None:
        self.items = 0
        self._loss: Tensor | float = 0.0
        self._kl: Tensor | float = 0.0
        self._log_likelihood: dict[str, Tensor] = {}
        self._penalties: dict[str, Tensor] = {}

    def add(self, items: int, loss: Tensor, terms: Terms) -> None:
        """Add the sums over one batch.

        Args:
            items: The number of items in the batch.
            loss: The loss, summed over the batch and detached.
            terms: The terms of the loss.
        """
        self.items += items
        self._loss = self._loss + loss.double()
        self._kl = self._kl + terms.kl.double()
        _add_each(self._log_likelihood, terms.log_likelihood)
        _add_each(self._penalties, terms.penalties)

    def state(self) -> dict[str, Any]:
        """Return the sums as JSON can hold them, exactly."""
        return {
            "items": self.items,
            "loss": float(self._loss),
            "kl": float(self._kl),
            "log_likelihood": {name: float(value) for name, value in self._log_likelihood.items()},
            "penalties": {name: float(value) for name, value in self._penalties.items()},
        }

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Load the dictionary that :meth:`state` returned.

        Args:
            state: The sums over the items of the epoch before an interruption.
            device: The device of the sums.
        """

        def tensor(value: float) -> Tensor:
            return torch.tensor(value, dtype=torch.float64, device=device)

        self.items, self._loss, self._kl = state["items"], tensor(state["loss"]), tensor(state["kl"])
        self._log_likelihood = {name: tensor(value) for name, value in state["log_likelihood"].items()}
        self._penalties = {name: tensor(value) for name, value in state["penalties"].items()}

    def read(self) -> MeanTerms:
        """Return the means over the items added so far, waiting for the device once."""
        sums = [*self._log_likelihood.values(), *self._penalties.values(), self._loss, self._kl]
        device = next((value.device for value in sums if isinstance(value, Tensor)), None)
        stacked = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in sums])
        *means, loss, kl = (stacked / max(self.items, 1)).tolist()
        likelihoods = dict(zip(self._log_likelihood, means, strict=False))
        penalties = dict(zip(self._penalties, means[len(likelihoods) :], strict=True))
        return MeanTerms(loss, likelihoods, kl, penalties)


def _add_each(sums: dict[str, Tensor], terms: Mapping[str, Tensor]) -> None:
    for name, value in terms.items():
        sums[name] = sums.get(name, 0.0) + value.double()


class RecordingELBO(Trace_ELBO):
    """The estimator ``pyro.infer.Trace_ELBO``, which also records the terms of its last particle.

    ``terms`` are the :class:`Terms` of the last call: the log likelihood of each observed site of the model, the KL
    term of all latent sites, and, as penalties, all ``pyro.factor`` statements. If every latent site of the guide is
    reparameterised, as in the guides of this package without learned mixture weights, the loss is computed without
    reading a value back from the device.
    """

    terms: Terms

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative ELBO of a batch, to be differentiated.

        Args:
            model: The Pyro model, a callable.
            guide: The Pyro guide, a callable.
            *args: The arguments of both.
            **kwargs: The keyword arguments of both.

        Returns:
            The loss, a scalar, summed over the items of the batch.
        """
        loss: Any = 0.0
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            self.terms = _terms(model_trace, guide_trace)
            sites = [site for site in guide_trace.nodes.values() if site["type"] == "sample"]
            if all(getattr(site["fn"], "has_rsample", False) for site in sites):
                # Pyro's own path reads log probabilities back, for which the host would wait for the device.
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


def _terms(model_trace: Any, guide_trace: Any) -> Terms:
    log_likelihood, penalties = {}, {}
    kl: Any = 0.0
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample":
            continue
        if not site["is_observed"]:
            kl = kl + _unscaled(guide_trace.nodes[name]) - _unscaled(site)
        elif site["infer"].get("is_auxiliary"):  # a pyro.factor
            penalties[name] = -_unscaled(site)
        else:
            log_likelihood[site_modality(name)] = _unscaled(site)
    for name, site in guide_trace.nodes.items():
        if site["type"] == "sample" and site["is_observed"]:  # in a guide only a pyro.factor is
            penalties[name] = _unscaled(site)
    return Terms(log_likelihood, kl, penalties)


def _unscaled(site: Any) -> Tensor:
    value, scale = cast("Tensor", site["log_prob_sum"]).detach(), site["scale"]
    return value if isinstance(scale, float | int) and scale == 1 else value / scale


@contextmanager
def local_pyro() -> Iterator[None]:
    """Let parameters belong to their modules instead of Pyro's global store, and turn Pyro's checks off."""
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
        yield


class ElboEstimate(TypedDict):
    """An estimate of the ELBO on a data set: means over items, in nats, and how they were computed.

    ``elbo`` is the sum of the terms ``log_likelihood``, by modality name, less ``kl``; ``items`` is the number of
    items, ``samples`` the number of draws per item, ``seed`` their seed, ``density`` that of the guide, and ``seconds``
    the time that it took.
    """

    elbo: float
    kl: float
    log_likelihood: dict[str, float]
    items: int
    seed: int
    samples: int
    density: str
    seconds: float


@torch.no_grad()
def evaluate_elbo(
    vae: MultimodalVAE,
    data: MultimodalDataset,
    *,
    batch_size: int = 500,
    seed: int = 0,
    density: str | None = None,
    team: Team | None = None,
) -> ElboEstimate:
    r"""Estimate the evidence lower bound on a data set with one draw per item, β = w_m = 1, in float32.

    By default the guide's density is the whole mixture. If that has more than 4,096 components, it is one drawn
    component per item instead, whose ELBO has the component bound as its expectation.

    Args:
        vae: The model and guide, in any mode; the mode is restored.
        data: The data set, on the device of the model.
        batch_size: The number of items that are evaluated at once, 500 by default; the result depends on it only by
            rounding and by which draws belong to which items.
        seed: The seed of the draws, 0 by default.
        density: The density of the guide, ``mixture``, ``component`` or ``subsets``; by default the mixture if it can
            be evaluated.
        team: The processes that share the items, all of which call this function with equal arguments; by default this
            process alone.

    Returns:
        The estimate, a dictionary.
    """
    if density is None:
        density = "mixture" if vae.guide.has_mixture(len(vae.names)) else "component"
    estimator = RecordingELBO(max_plate_nesting=1)
    averages, started, mode = Averages(), time.perf_counter(), vae.training
    vae.eval()
    team = team or Team()
    with local_pyro(), seeded(seed, next(vae.parameters()).device), team.common_draws():
        for start in range(0, len(data), batch_size):
            with team.shard(min(batch_size, len(data) - start)) as own:
                batch = make_batch(data, slice(start + own.start, start + own.stop))
                loss = estimator.differentiable_loss(vae.model, vae.guide, batch, weighted=False, bound=density)
                averages.add(own.count, *team.add_up(loss, estimator.terms))
    vae.train(mode)
    means = averages.read()
    return {
        "elbo": sum(means.log_likelihood.values()) - means.kl,
        "kl": means.kl,
        "log_likelihood": means.log_likelihood,
        "items": len(data),
        "seed": seed,
        "samples": 1,
        "density": density,
        "seconds": time.perf_counter() - started,
    }
