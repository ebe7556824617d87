"""Before anything is timed: contestants compute the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.byhand import ByHand, Plain, apart, networks_of, stacked
from benchmarks.settings import random_data
from pyro_mmvae import MultimodalVAE
from pyro_mmvae.data import make_batch
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import RecordingELBO

ITEMS = 16


def seeded(loss: Callable[[], Tensor]) -> Tensor:
    """A loss, on noise that is always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return loss()


def check_by_hand(vae: MultimodalVAE, hand: ByHand, config: Config) -> None:
    """Loss and gradients of the loop by hand equal ours on the same noise: both draw in the same order."""
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
    """The loss of the loop over modalities equals ours on the same noise."""
    data, index = random_data(ITEMS), torch.arange(ITEMS)
    elbo = RecordingELBO(max_plate_nesting=1)(vae.model, vae.guide)
    close(
        "one network a modality",
        seeded(lambda: elbo(make_batch(data, index))),
        seeded(lambda: plain.loss(apart(data, index))),
    )


def gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> tuple[Tensor, ...]:
    """Of a loss."""
    return torch.autograd.grad(loss, list(parameters))


def close(what: str, ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Refuse to time what is something else.

    Raises:
        AssertionError: if the two differ by more than a share ``tolerance`` of their size.
    """
    ours, theirs = ours.detach(), theirs.detach()
    off = float((ours - theirs).norm() / ours.norm())
    if not off <= tolerance:
        raise AssertionError(f"{what}: differs from ours by {off:.2g} of it, expected less than {tolerance:g}")
