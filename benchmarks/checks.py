"""The checks before timing that contestants compute equal losses and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.byhand import ByHand, Plain, networks_of, split_by_modality, stacked
from benchmarks.settings import random_data
from pyro_mmvae import MultimodalVAE
from pyro_mmvae.data import make_batch
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import RecordingELBO

ITEMS = 16


def seeded(loss: Callable[[], Tensor]) -> Tensor:
    """Return a loss computed with a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return loss()


def check_by_hand(vae: MultimodalVAE, hand: ByHand, config: Config) -> None:
    """Check that loss and gradients of the loop by hand equal those of the package, which draws in the same order.

    Args:
        vae: The model of the package.
        hand: The loop by hand that started from its weights.
        config: The configuration of the model.

    Raises:
        AssertionError: If they differ.
    """
    device = next(vae.parameters()).device
    data, index = random_data(ITEMS, device), torch.arange(ITEMS, device=device)
    elbo = RecordingELBO(max_plate_nesting=1)(vae.model, vae.guide)
    ours, theirs = seeded(lambda: elbo(make_batch(data, index))), seeded(lambda: hand.loss(stacked(data, index)))
    what = f"{config.model.aggregation}, by hand"
    close(what, ours, theirs)
    networks = networks_of(vae)
    parameters = [parameter for network in networks for parameter in network.parameters()]
    for one, other in zip(gradients(ours, parameters), gradients(theirs, hand.parameters), strict=True):
        close(f"{what}: a gradient", one, other, 1e-3)


def check_plain(vae: MultimodalVAE, plain: Plain) -> None:
    """Check that the loss of the loop over modalities equals that of the package on equal noise.

    Args:
        vae: The model of the package.
        plain: The loop over modalities that started from its weights.

    Raises:
        AssertionError: If they differ.
    """
    data, index = random_data(ITEMS), torch.arange(ITEMS)
    elbo = RecordingELBO(max_plate_nesting=1)(vae.model, vae.guide)
    close(
        "one network per modality",
        seeded(lambda: elbo(make_batch(data, index))),
        seeded(lambda: plain.loss(split_by_modality(data, index))),
    )


def gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> tuple[Tensor, ...]:
    """Return the gradients of a loss."""
    return torch.autograd.grad(loss, list(parameters))


def close(what: str, ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Check that two tensors are equal up to a relative tolerance.

    Args:
        what: A description of the tensors for the error message.
        ours: The tensor of the package.
        theirs: The tensor of the other contestant.
        tolerance: The largest norm of the difference relative to that of ``ours``; 1e-5 by default.

    Raises:
        AssertionError: If they differ by more.
    """
    ours, theirs = ours.detach(), theirs.detach()
    difference = float((ours - theirs).norm() / ours.norm())
    if not difference <= tolerance:
        raise AssertionError(f"{what}: the relative difference must be at most {tolerance:g}, got {difference:.2g}")
