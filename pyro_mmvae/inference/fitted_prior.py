"""Priors that are fitted to the aggregated posterior after training, and the file that holds one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._bounded import load_json
from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.files import read_npz, write_npz
from pyro_mmvae.inference.flows import check_flow_options, flow_distribution
from pyro_mmvae.inference.posteriors import readout
from pyro_mmvae.vae.vae import MultimodalVAE

KINDS = ("mixture", "flow")
"""The kinds of fitted priors: a mixture of Gaussians, or a normalizing flow."""


@dataclass(frozen=True, eq=False)
class FittedPrior:
    """A distribution of the latent that was fitted to draws of the aggregated posterior.

    It takes the place of the model's prior where items are generated without observations. The model itself, and with
    it every ELBO and log likelihood, keeps its own prior.

    Args:
        arrays: The parameters by name: of a mixture ``weights`` `(component,)`, ``means`` `(component, latent)`, and
            ``scales`` `(component, latent)` or ``scale_trils`` `(component, latent, latent)`; of a flow ``center`` and
            ``spread`` `(latent,)`, and its state under names that begin with ``flow.``.
        about: How the prior was fitted: ``kind``, its options, ``items``, ``draws``, ``density``, ``seed``, and the
            log densities of held-out draws.
    """

    arrays: Mapping[str, NDArray[Any]]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The distribution in a few words, such as ``"10 Gaussians"``."""
        if self.about["kind"] == "flow":
            return "flow"
        count = self.about["components"]
        return f"{count} Gaussian{'s' if count > 1 else ''}"

    def distribution(self, device: torch.device | str = "cpu") -> TorchDistribution:
        """Return the distribution of one latent, of event shape `(latent,)`, in float32.

        Args:
            device: The device of its parameters and draws; the CPU by default.

        Raises:
            ImportError: If the prior is a flow, and zuko is not installed.
        """
        arrays = {name: torch.as_tensor(array, dtype=torch.float32) for name, array in self.arrays.items()}
        if self.about["kind"] == "flow":
            return flow_distribution(arrays, self.about, torch.device(device))
        arrays = {name: tensor.to(device) for name, tensor in arrays.items()}
        components: Any
        if "scales" in arrays:
            components = dist.Normal(arrays["means"], arrays["scales"], validate_args=False).to_event(1)
        else:
            components = dist.MultivariateNormal(arrays["means"], scale_tril=arrays["scale_trils"], validate_args=False)
        weights = dist.Categorical(arrays["weights"], validate_args=False)
        return cast("TorchDistribution", dist.MixtureSameFamily(weights, components, validate_args=False))

    def save(self, path: Path) -> None:
        """Write the prior to an ``.npz`` file without pickles, atomically.

        Args:
            path: The path of the file, which is replaced if it exists.
        """
        write_npz(path, {**self.arrays, "about": np.array(json.dumps(self.about))})


def load_fitted_prior(path: Path) -> FittedPrior:
    """Read a fitted prior from a file.

    Args:
        path: The path of the file that :meth:`FittedPrior.save` wrote.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        arrays = read_npz(path)
        about = load_json(str(arrays.pop("about")))
        if about["kind"] not in KINDS:
            raise ValueError(f"an unknown kind {about['kind']!r}")
        _check_arrays(arrays, about)
        return FittedPrior(arrays, about)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: must be a fitted prior of pyro_mmvae, got {error}: fit it again by 'pyro-mmvae fit-prior', or "
            "delete it"
        ) from None


def _check_arrays(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> None:
    """Check that the parameters of a prior have the shapes that belong together, and are finite."""
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise ValueError(f"an array {name!r} that does not hold finite numbers")
    if about["kind"] == "flow":
        size = arrays["center"].shape
        if len(size) != 1 or arrays["spread"].shape != size:
            raise ValueError(f"arrays of shapes {size} and {arrays['spread'].shape} in place of (latent,)")
        check_flow_options(about["flow"], *size)
        return
    components, latent = arrays["means"].shape
    full = "scale_trils" in arrays
    shapes: dict[str, tuple[int, ...]] = {"weights": (components,), "scales": (components, latent)}
    if full:
        shapes["scale_trils"] = (*shapes.pop("scales"), latent)
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"an array {name!r} of shape {arrays[name].shape} in place of {shape}")
    scales = np.diagonal(arrays["scale_trils"], axis1=1, axis2=2) if full else arrays["scales"]
    if not (scales > 0).all() or (arrays["weights"] < 0).any() or arrays["weights"].sum() <= 0:
        raise ValueError("scales or weights that are not positive")


@torch.no_grad()
def prior_draws(vae: MultimodalVAE, count: int, prior: FittedPrior | None = None) -> Float[Tensor, "draw latent"]:
    """Draw latents without observations, by torch's global generator.

    Args:
        vae: The model, whose device the draws are on.
        count: The number of draws.
        prior: The fitted prior to draw from; by default that of the model.

    Returns:
        The latents, `(draw, latent)`.
    """
    distribution = vae.model.prior() if prior is None else prior.distribution(next(vae.parameters()).device)
    return cast("Tensor", distribution.sample(torch.Size((count,))))


def prior_protocol(vae: MultimodalVAE, prior: FittedPrior | None = None) -> str:
    """Describe how items are generated without observations, in words for the ``protocol`` column.

    Args:
        vae: The model that decodes the draws.
        prior: The fitted prior that is drawn from; by default that of the model.
    """
    source = "prior draws" if prior is None else f"draws of the fitted prior ({prior.label})"
    return f"{source}, {readout(vae)}"
