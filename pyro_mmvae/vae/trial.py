"""Trials of what users define or combine on a few items, before anything is written or trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import nn

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.vae.custom_networks import CustomDecoder, CustomEncoder
from pyro_mmvae.vae.encoders_decoders import Encoders
from pyro_mmvae.vae.vae import MultimodalVAE

_R = TypeVar("_R")


@torch.no_grad()
def try_custom_parts(vae: MultimodalVAE, batch: Batch) -> None:
    """Run the encoders, decoders and likelihoods that are not the package's own on a few items.

    They run in eval mode, without gradients, so that neither parameters nor running statistics change.

    Args:
        vae: The model and guide, in any mode, which is restored.
        batch: A few items, on the device of the model.

    Raises:
        ValueError: If a part fails, or what it returns has a wrong type, shape or range; the message names modality and
            part.
    """
    encoders, decoders = cast("Encoders", vae.guide.encode), vae.model.decoders
    with _in_eval_mode(vae):
        for network, group in zip(encoders.networks, encoders.groups, strict=True):
            if isinstance(network, CustomEncoder) and group[0] in batch.values:
                features = encoders._features(group[0], _present_values(batch, group[0]))
                what = f"encoder {type(network.module).__name__} failed on items of shape {tuple(features.shape[1:])}"
                if len(features):
                    _run(network.label, what, network.run_groups, [0], features.unsqueeze(1))
        for network, group in zip(decoders.networks, decoders.groups, strict=True):
            for name in group:
                if isinstance(network, CustomDecoder) or _is_custom(vae.model.likelihoods[name]):
                    _try_generating(vae, name, network)


def try_posterior(vae: MultimodalVAE, batch: Batch) -> None:
    """Compute the posterior of the training bound and the penalties of a few items once.

    Some aggregations and penalties tell only from experts that they cannot be computed, such as ``code:1`` from experts
    of different scales. Modules are in eval mode, and random numbers those of a fixed seed, so that neither running
    statistics nor the draws that follow change.

    Args:
        vae: The model and guide, in any mode, which is restored.
        batch: A few items, on the device of the model.

    Raises:
        ValueError: If the aggregation or a penalty refuses the experts of the items.
    """
    guide = vae.guide
    with _in_eval_mode(vae), seeded(0, next(vae.parameters()).device):
        experts = guide.experts(batch)
        if not experts.loc.isfinite().all():  # which the training reports, with the step and the modality
            return
        members = guide.draw_members(experts)
        guide.posterior(experts, members=members)
        guide.penalties_of(experts, members)


def _try_generating(vae: MultimodalVAE, name: str, network: nn.Module) -> None:
    """Decode two latents and make the distribution of a modality from them."""
    prior = cast("Tensor", vae.model.prior_loc)
    z = prior.expand(2, vae.latent_size)
    module = network.module if isinstance(network, CustomDecoder) else network
    size = vae.latent_size + vae.model.covariates.size + vae.model.private_sizes.get(name, 0)
    what = f"decoder {type(module).__name__} failed on latents of shape ({size},)"
    parameters = _run(f"modality {name!r}", what, vae.model.parameters_given, z, [name])[name]
    likelihood = cast("Likelihood", vae.model.likelihoods[name])
    what = f"likelihood {type(likelihood).__name__} failed on parameters of shape {tuple(parameters.shape[1:])}"
    result = _run(f"modality {name!r}", what, likelihood, parameters)
    if tuple(result.event_shape) != tuple(likelihood.shape):
        raise ValueError(vae.model.wrong_event_shape(name, result))


def _run(label: str, what: str, function: Callable[..., _R], *args: Any) -> _R:
    """Call a part of a user, and say which one failed."""
    try:
        return function(*args)
    except ValueError as error:
        if str(error).startswith(label):  # the checks of shapes say it by themselves
            raise
        raise ValueError(f"{label}: {what}: {_first_line(error)}") from error
    except Exception as error:  # whatever a user's module raises
        raise ValueError(f"{label}: {what}: {type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _present_values(batch: Batch, name: str) -> Tensor:
    values, mask = batch.values[name], batch.present.get(name)
    return values if mask is None else values[mask]


def _is_custom(likelihood: nn.Module) -> bool:
    return not type(likelihood).__module__.startswith("pyro_mmvae.")


@contextmanager
def _in_eval_mode(vae: MultimodalVAE) -> Iterator[None]:
    """Put all modules into eval mode, and restore the mode of each and the first call of each encoder after it."""
    modes = {module: module.training for module in vae.modules()}
    vae.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
            if isinstance(module, CustomEncoder):
                module.forget_first_call()
