"""Normalizing flows of zuko as fitted priors: their training with early stopping, and their draws."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Mapping
from typing import Any, cast

import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_mmvae._compat import validates_by_default
from pyro_mmvae._seeding import seeded

_TRANSFORMS, _HIDDEN, _BINS = 3, (64, 64), 8
_LR, _BATCH, _MAX_EPOCHS, _PATIENCE = 1e-3, 256, 100, 5
_STATE = "flow."


def fit_flow(z: Tensor, *, seed: int = 0) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Fit a neural spline flow to draws, with early stopping.

    The draws are standardised per dimension. The last tenth of them is not trained on: training by Adam stops after
    five epochs in which their likelihood did not rise, or after 100, and the best state is kept.

    References:
        Durkan, Bekasov, Murray and Papamakarios, 2019. Neural spline flows. NeurIPS, arXiv 1906.04032.

    Args:
        z: The draws to fit, `(draw, latent)`, those of the same item next to each other.
        seed: The seed of the initial state and of the order of the draws, 0 by default.

    Returns:
        The parameters by name and the options of the flow, for :class:`~pyro_mmvae.inference.FittedPrior`.

    Raises:
        ImportError: If zuko is not installed.
    """
    center, spread = z.mean(0), z.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    standardised = ((z - center) / spread).float()
    stop = len(z) // 10
    train, valid = standardised[: len(z) - stop], standardised[len(z) - stop :] if stop else standardised
    options = {"features": z.shape[-1], "transforms": _TRANSFORMS, "hidden_features": list(_HIDDEN), "bins": _BINS}
    with seeded(seed, torch.device("cpu")):
        flow = _make_flow(options)
        epochs = _train(flow, train, valid)
    arrays = {_STATE + name: value.numpy() for name, value in flow.state_dict().items()}
    return {**arrays, "center": center.numpy(), "spread": spread.numpy()}, {"flow": options, "epochs": epochs}


def check_flow_options(options: Mapping[str, Any], latent_size: int) -> None:
    """Check that the options of a flow, read from a file, are those of one that takes little memory.

    Args:
        options: The options by name, as :func:`fit_flow` returns them.
        latent_size: The number of latent dimensions.

    Raises:
        ValueError: If an option is missing, unknown or too large.
    """
    hidden = list(options["hidden_features"])
    sizes = {"features": latent_size, "transforms": 64, "bins": 1024}
    numbers = [(options[name], limit) for name, limit in sizes.items()] + [(size, 8192) for size in hidden]
    is_small = all(type(number) is int and 0 < number <= limit for number, limit in numbers) and len(hidden) <= 16
    if set(options) != {*sizes, "hidden_features"} or options["features"] != latent_size or not is_small:
        raise ValueError(f"a flow of other options: {str(options)[:100]}")


def flow_distribution(
    arrays: Mapping[str, Tensor], about: Mapping[str, Any], device: torch.device
) -> TorchDistribution:
    """Return the distribution of a fitted flow, in the units of the latent.

    Args:
        arrays: The parameters by name, as :func:`fit_flow` returns them.
        about: The options of the flow under ``flow``.
        device: The device of its parameters and draws.

    Raises:
        ImportError: If zuko is not installed.
    """
    flow = _make_flow(about["flow"])
    # Masks of the networks are integers or booleans, which the state keeps as numbers.
    reference = flow.state_dict()
    state = {name: arrays[_STATE + name].to(value.dtype) for name, value in reference.items()}
    flow.load_state_dict(state)
    flow.to(device).eval().requires_grad_(False)
    affine = dist.transforms.AffineTransform(arrays["center"].to(device), arrays["spread"].to(device), event_dim=1)
    return cast("TorchDistribution", dist.TransformedDistribution(flow(), [affine], validate_args=False))


def _make_flow(options: Mapping[str, Any]) -> nn.Module:
    validates = validates_by_default()
    try:
        flows = importlib.import_module("zuko.flows")
    except ImportError as error:
        raise ImportError(f"a flow as prior needs zuko: pip install 'pyro-mmvae[flow]' ({error})") from None
    finally:
        Distribution.set_default_validate_args(validates)  # which zuko turns off for the whole program
    return cast("nn.Module", flows.NSF(**dict(options)))


def _train(flow: nn.Module, train: Tensor, valid: Tensor) -> int:
    """Train a flow in place, keep its best state, and return the number of epochs."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=_LR)
    best, best_state, waited, epochs = -math.inf, copy.deepcopy(flow.state_dict()), 0, 0
    while waited < _PATIENCE and epochs < _MAX_EPOCHS:
        for rows in torch.randperm(len(train)).split(_BATCH):
            loss = -flow().log_prob(train[rows]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            figure = float(flow().log_prob(valid).mean())
        epochs, waited = epochs + 1, waited + 1
        if figure > best:
            best, best_state, waited = figure, copy.deepcopy(flow.state_dict()), 0
    flow.load_state_dict(best_state)
    return epochs
