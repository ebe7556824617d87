"""The fitted prior of a run: its file in the run directory, the check that it is up to date, and its draws."""

from __future__ import annotations

import hashlib
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.inference.fitted_prior import FittedPrior, load_fitted_prior
from pyro_mmvae.inference.prior_fitting import MAX_ITEMS, fit_prior
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.vae.vae import MultimodalVAE

SOURCES = ("auto", "fitted", "model")
"""The choices of the prior to draw from: the fitted one if there is one, the fitted one, or the model's own."""


class RunPrior:
    """The fitted prior of a trained model, which :class:`~pyro_mmvae.Run` inherits."""

    path: Path
    vae: MultimodalVAE
    state: dict[str, Any]

    def data(self, split: str) -> MultimodalDataset:
        """Load a split of the data that the run was trained on."""
        raise NotImplementedError

    @cached_property
    def _stored_prior(self) -> tuple[FittedPrior | None, str | None]:
        file = RunFiles(self.path).prior
        if not file.exists():
            return None, None
        stored = load_fitted_prior(file)
        found, size = _latent_size(stored), self.vae.model.prior_loc.shape[-1]
        if found != size:
            raise ValueError(f"{file}: must be a prior of {size} latent dimensions, got one of {found}: fit it again")
        if stored.about.get("fingerprint") == guide_fingerprint(self.vae):
            return stored, None
        fitted_to, present = (f"epoch {about.get('epoch')}" for about in (stored.about, self.state))
        other = "" if fitted_to == present else f" ({fitted_to}, this is {present})"
        return None, (
            f"{file.name} was fitted to another checkpoint{other} and is not used: fit it again by "
            f"'pyro-mmvae fit-prior'"
        )

    @property
    def fitted_prior(self) -> FittedPrior | None:
        """The prior that was fitted to this checkpoint; None, with a warning if there is one of another checkpoint."""
        stored, note = self._stored_prior
        if note is not None:
            warnings.warn(note, UserWarning, stacklevel=2)
        return stored

    @property
    def prior_note(self) -> str | None:
        """A line that says why the fitted prior in the run directory is not used; None if all is well."""
        return self._stored_prior[1]

    def fit_prior(
        self,
        components: int = 10,
        *,
        flow: bool = False,
        covariance: str = "full",
        items: int = MAX_ITEMS,
        density: str | None = None,
        seed: int = 0,
        data: MultimodalDataset | None = None,
    ) -> FittedPrior:
        """Fit a prior to the aggregated posterior of training items and store it in the run directory.

        See :func:`pyro_mmvae.inference.fit_prior`. It takes the place of an earlier one.

        Args:
            components: The number of Gaussians, 10 by default.
            flow: If True, a normalizing flow is fitted instead, which needs the extra ``flow``; False by default.
            covariance: The covariance of each Gaussian, ``"full"`` (default) or ``"diag"``.
            items: The largest number of training items, 5,000 by default.
            density: ``"joint"`` or ``"mixture"``; by default the joint component where the aggregation has one.
            seed: The seed of the choice of items, the draws and the fit, 0 by default.
            data: The training items; by default the split ``train`` of the data of the run.

        Returns:
            The fitted prior.
        """
        train = self.data("train") if data is None else data
        options: dict[str, Any] = {"components": components, "covariance": covariance, "flow": flow, "items": items}
        fitted = _fit_and_save(self.path, self.vae, self.state, train, density=density, seed=seed, **options)
        self.__dict__["_stored_prior"] = (fitted, None)
        return fitted

    def prior(self, source: str = "auto") -> TorchDistribution:
        """Return the distribution of the latent of an item without observations, on the device of the model.

        Args:
            source: ``"auto"`` (default) for the fitted prior if there is one of this checkpoint, otherwise the model's;
                ``"fitted"``; or ``"model"`` for the prior of the model itself, which all likelihoods refer to.

        Returns:
            A distribution of event shape `(latent,)`.

        Raises:
            ValueError: If the source is unknown, or there is no fitted prior to draw from.
        """
        chosen = self._choose_prior(source)
        model = self.vae.model
        return model.prior() if chosen is None else chosen.distribution(_device_of(self.vae))

    def describe_prior(self, source: str = "auto") -> str:
        """Return the prior that :meth:`prior` chooses, in words.

        Args:
            source: One of ``"auto"``, ``"fitted"`` and ``"model"``, as in :meth:`prior`.
        """
        chosen = self._choose_prior(source)
        return "the prior" if chosen is None else f"the fitted prior ({chosen.label})"

    def _choose_prior(self, source: str) -> FittedPrior | None:
        if source not in SOURCES:
            raise ValueError(f"prior must be one of {', '.join(SOURCES)}, got {source!r}")
        if source == "model":
            return None
        stored, note = self._stored_prior
        if stored is None and source == "fitted":
            reason = note or f"got a run without one: fit it by 'pyro-mmvae fit-prior {self.path}'"
            raise ValueError(f"prior='fitted' needs a prior that was fitted to this checkpoint, {reason}")
        return stored


def refit_prior(run: RunPrior, vae: MultimodalVAE, path: Path) -> None:
    """Fit the prior of a run again, with its options, to a guide that was trained on, for another run directory.

    Args:
        run: The run, whose fitted prior gives the options; without one, nothing is done.
        vae: The model with the other guide.
        path: The path of the other run directory.
    """
    stored, _ = run._stored_prior
    if stored is None:
        return
    about = stored.about
    options = {name: about[name] for name in ("components", "covariance", "items", "seed") if name in about}
    density = None if about["density"] == "component" else about["density"]
    train = run.data("train")
    _fit_and_save(path, vae, run.state, train, flow=about["kind"] == "flow", density=density, **options)


def _fit_and_save(
    path: Path, vae: MultimodalVAE, state: dict[str, Any], data: MultimodalDataset, **options: Any
) -> FittedPrior:
    """Fit a prior and store it in a run directory with the fingerprint of the guide and the version of the model."""
    fitted = fit_prior(vae, data, **options)
    version = {key: state.get(key) for key in ("epoch", "step")}
    fitted.about.update({"fingerprint": guide_fingerprint(vae), **version})
    fitted.save(RunFiles(path).prior)
    return fitted


def guide_fingerprint(vae: MultimodalVAE) -> str:
    """Return a hash of the parameters and buffers of a guide, which a prior that was fitted to it is stored with.

    Args:
        vae: The model and guide, on any device.
    """
    digest = hashlib.sha256()
    for name, value in sorted(vae.guide.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _latent_size(prior: FittedPrior) -> int:
    return int(prior.arrays["center" if prior.about["kind"] == "flow" else "means"].shape[-1])


def _device_of(vae: MultimodalVAE) -> torch.device:
    return next(vae.parameters()).device
