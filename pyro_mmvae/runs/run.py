"""A trained run: its configuration, its model, its posteriors and what it decodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._printable import one_line
from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.data import DataDescription, MultimodalDataset
from pyro_mmvae.data.covariate_matching import match_covariates
from pyro_mmvae.data.tokenizer import decode_tokens
from pyro_mmvae.device import resolve_device
from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.allocation import AllocationError, AllocationLimit
from pyro_mmvae.runs.answers import Answers
from pyro_mmvae.runs.calibration import CalibrationResult, calibrate_run
from pyro_mmvae.runs.checkpoint import CheckpointError, load_checkpoint, read_state
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.data_record import DataRecord, load_checked_split, read_record
from pyro_mmvae.runs.layout import RunError, check_run_id, read_config
from pyro_mmvae.runs.plugins import require_plugins
from pyro_mmvae.runs.priors import RunPrior
from pyro_mmvae.runs.resolution import load_split, read_covariates, read_specs, resolve_modalities
from pyro_mmvae.runs.verification import check_state
from pyro_mmvae.vae.covariates import Categories
from pyro_mmvae.vae.generative import GenerativeModel
from pyro_mmvae.vae.guide import MultimodalGuide
from pyro_mmvae.vae.modalities import Modality
from pyro_mmvae.vae.priors import make_prior
from pyro_mmvae.vae.vae import MultimodalVAE

_FREE_BYTES, _BYTES_PER_BYTE = 256 << 20, 8  # of new tensors, beside a file of a size; some are temporary
_MAX_TENSORS = 100_000  # that are made while a model is built


def build_vae(
    config: Config,
    shapes: Mapping[str, Sequence[int]],
    specs: Mapping[str, ModalitySpec] | None = None,
    covariates: Mapping[str, Sequence[str]] | None = None,
) -> MultimodalVAE:
    """Build the model and guide of a configuration, with initial weights drawn from torch's generator.

    Args:
        config: The configuration of the run.
        shapes: The shape of one item of each modality, by name.
        specs: The resolved description of each modality, by name, see :func:`resolve_modalities`; by default that of
            images for shapes of three axes, otherwise that of vectors.
        covariates: The names of the categories of each covariate, by name; none by default.

    Returns:
        The model and guide, on the CPU, in training mode.

    Raises:
        ValueError: If the configuration does not fit the modalities.
    """
    model = config.model
    if specs is None:
        unknown = {
            name: ModalitySpec(data_type="image" if len(shape) == 3 else "vector") for name, shape in shapes.items()
        }
        specs = resolve_modalities(config, unknown)
    modalities = [Modality(name, tuple(shape), **specs[name].settings()) for name, shape in shapes.items()]
    return MultimodalVAE(
        modalities,
        model.latent_size,
        model.aggregation_options,
        bound=model.bound,
        beta=model.beta,
        network=model.network,
        prior=make_prior(model.prior),
        prior_expert=model.prior_expert,
        expert_weights=model.expert_weights,
        subset_weights=model.subset_weights,
        expert_weights_entropy=model.expert_weights_entropy,
        private_auxiliary=model.private_auxiliary,
        private_subsets=model.private_subsets,
        private_encoder=model.private_encoder,
        penalties=config.train.penalties,
        routing=model.routing,
        covariates=covariates,
    )


@dataclass(frozen=True)
class Run(RunPrior, Answers):
    """A trained model with its configuration, in eval mode.

    Attributes:
        path: The path of the run directory.
        config: The configuration that it was trained with.
        vae: The model and the guide.
        state: The state of the checkpoint: epoch, step, shapes of the modalities and best validation ELBO.
        allow_changed_data: If True, :meth:`data` does not compare the data with those of earlier uses of the run. False
            by default.
    """

    path: Path
    config: Config
    vae: MultimodalVAE
    state: dict[str, Any]
    allow_changed_data: bool = False
    _checked: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @property
    def model(self) -> GenerativeModel:
        """The Pyro model."""
        return self.vae.model

    @property
    def guide(self) -> MultimodalGuide:
        """The Pyro guide."""
        return self.vae.guide

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the modalities, in order."""
        return self.vae.names

    @property
    def modality_specs(self) -> dict[str, ModalitySpec]:
        """The description of each modality, by name; empty if the checkpoint holds none."""
        return read_specs(self.state) or {}

    @cached_property
    def description(self) -> DataDescription:
        """The description of the training data, which :func:`pyro_mmvae.data.match_data` matches new data to."""
        shapes = {name: tuple(shape) for name, shape in self.state["shapes"].items()}
        return (read_record(self.path) or DataRecord()).describe(
            shapes, self.modality_specs, read_covariates(self.state)
        )

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return cast("Tensor", self.model.prior_loc).device

    def alphabet(self, name: str) -> str | None:
        """Return the characters that the tokens of a text modality stand for.

        Args:
            name: The name of the modality.

        Returns:
            The characters, one per token class, or None if the modality does not have an alphabet or is not a row of
            tokens.
        """
        spec = self.modality_specs.get(name)
        return spec.alphabet if spec is not None and len(self.state["shapes"][name]) == 1 else None

    def is_text(self, name: str) -> bool:
        """Return True if the tokens of a modality stand for a text, by an alphabet or a tokenizer.

        Args:
            name: The name of the modality.
        """
        spec = self.modality_specs.get(name)
        return spec is not None and spec.is_text and len(self.state["shapes"][name]) == 1

    def texts(self, name: str, tokens: Tensor) -> NDArray[np.str_]:
        """Convert the tokens of a text modality to strings, without their padding.

        Args:
            name: The name of the modality.
            tokens: Its tokens, `(item, position)`.

        Returns:
            The strings, `(item,)`.

        Raises:
            ValueError: If the modality is not text.
        """
        if not self.is_text(name):
            raise ValueError(f"modality {name!r} must be text with an alphabet or a tokenizer, got other values")
        return np.array(decode_tokens(tokens, self.modality_specs[name]), dtype=np.str_)

    def data(self, split: str) -> MultimodalDataset:
        """Load a split of the data that the run was trained on.

        Its content is compared with that of the training and of earlier uses of the run, see
        :mod:`pyro_mmvae.data.fingerprint`, unless ``allow_changed_data`` is True.

        Args:
            split: The name of the split, ``"train"``, ``"val"`` or ``"test"``.

        Returns:
            The data set, on the CPU.

        Raises:
            DataChangedError: If the data have changed; the message says in what.
        """
        if self.allow_changed_data:
            data = load_split(self.config, split)
        else:
            data = load_checked_split(self.path, self.config, split, train_is_checked="train" in self._checked)
            self._checked.add(split)
        # A loader of a user may number the categories of each split by themselves.
        return match_covariates(data, self.vae.covariates)[0]

    def posterior(
        self,
        values: Mapping[str, Tensor],
        given: Sequence[str] | None = None,
        *,
        density: str = "mixture",
    ) -> TorchDistribution:
        """Compute the posterior distribution of the latent given some modalities.

        Args:
            values: Observations `(item, …)` by modality name: images `(item, channel, height, width)`, floats in [0, 1]
                or uint8, which is divided by 255. A mask `(item, modality)` may stand under ``"present"``, and
                covariates `(item, covariate)` under ``"covariates"``, see
                :meth:`~pyro_mmvae.MultimodalVAE.covariate_vector`.
            given: The names of the modalities to condition on; all by default, the prior if empty.
            density: The density to return: ``"mixture"`` for the whole posterior (default), ``"component"`` for one
                drawn subset per item, or ``"joint"`` for the component of all modalities in ``given``.

        Returns:
            A distribution of batch shape `(item,)` and event shape `(latent,)`, float32, on the run's device, without
            gradients.

        Raises:
            ValueError: If a modality is unknown, is in ``given`` but not in ``values``, or if the mixture has more than
                4,096 components.
        """
        batch = self._condition_on(values, given)
        if density == "mixture":
            self._check_mixture()
        with torch.no_grad():
            experts = self.guide.experts(batch, num_items=len(Batch.of(dict(values), self.names)))
            return self.guide.posterior(experts, density)

    def private_posterior(
        self,
        values: Mapping[str, Tensor],
        given: Sequence[str] | None = None,
        z: Float[Tensor, "*batch latent"] | None = None,
    ) -> dict[str, TorchDistribution]:
        """Compute the posterior distributions of the private latents of some modalities.

        Args:
            values: Observations by modality name, as in :meth:`posterior`.
            given: The names of the modalities to condition on; all by default.
            z: Shared latents of the items, `(*sample, item, latent)`, needed if the model was trained with
                ``private_encoder: with_z``; None by default.

        Returns:
            A distribution of batch shape `(item,)`, or `(*sample, item)` with z, and event shape `(private,)`, without
            gradients, for each modality in ``given`` that has a private latent, by name.

        Raises:
            ValueError: If a modality is unknown, or is in ``given`` but not in ``values``; or z is needed and None.
        """
        batch = self._condition_on(values, given)
        with torch.no_grad():
            z = None if z is None else z.to(self.device, torch.float32)
            return self.vae.private_posterior(batch, z) if batch.values else {}

    def calibrate(
        self,
        out: str | Path | None = None,
        *,
        items: int = 500,
        epochs: int = 2,
        given: str = "others",
        per: str = "feature",
        exponent: bool = True,
        draws: int = 20,
        seed: int = 0,
    ) -> CalibrationResult:
        """Set the scales of Laplace and Normal likelihoods on validation items, so that predictive intervals hold.

        First the guide is trained on for some epochs by the ELBO, with the decoders frozen and the scales at the mean
        residuals of validation items. Then scale and exponent of each modality are set such that its predictive
        intervals of the levels 0.5 and 0.9 cover these shares of the validation items, see
        :meth:`pyro_mmvae.inference.intervals.Residuals.fit`. The run itself stays as it is.

        Args:
            out: The path of the new run directory; by default that of the run with ``-calibrated`` appended.
            items: The largest number of validation items to set the scales on, and of test items to check, 500 by
                default.
            epochs: The number of epochs in which the guide is trained on, 2 by default; 0 leaves it as it is.
            given: What a modality is predicted from in the intervals that are set: ``"others"``, all other modalities
                (default), or ``"all"``, itself among them.
            per: ``"feature"`` (default) for one scale per feature or pixel, ``"modality"`` for one.
            exponent: If True (default), the exponent is set too, so that both levels hold where the residuals are
                neither Laplace nor Normal; if False, the distribution stays of its family.
            draws: The number of draws of the latent per item, 20 by default.
            seed: The seed of the choice of items and all draws, 0 by default.

        Returns:
            The coverage of test items before and after; its ``path`` is that of the new run directory, which
            :func:`pyro_mmvae.load` opens.

        Raises:
            ValueError: If an option is not allowed, or no modality has a Laplace or Normal likelihood.
            RunError: If ``out`` exists already.
        """
        place = self.path.with_name(f"{self.path.name}-calibrated") if out is None else Path(out)
        return calibrate_run(
            self, place, items=items, epochs=epochs, given=given, per=per, exponent=exponent, draws=draws, seed=seed
        )

    def _condition_on(self, values: Mapping[str, Tensor], given: Sequence[str] | None) -> Batch:
        """Return the batch of the modalities to condition on, on the run's device."""
        batch = Batch.of(dict(values), self.names)
        names = self.names if given is None else tuple(given)
        for name in names if given is not None else ():
            if name not in self.names:
                raise ValueError(f"given: unknown modality {name!r}; the run has {', '.join(self.names)}")
            if name not in batch.values:
                raise ValueError(f"given: modality {name!r} has no values")
        selected = {n: v.to(self.device, torch.float32) for n, v in batch.values.items() if n in names}
        covariates = None if batch.covariates is None else batch.covariates.to(self.device, torch.float32)
        return Batch(selected, {n: m.to(self.device) for n, m in batch.present.items()}, covariates)

    def _check_mixture(self) -> None:
        try:
            self.guide.aggregation.check_bound("mixture", len(self.names))
        except ValueError as error:
            reason = str(error).split(":")[0]
            raise ValueError(
                f"{reason}: use density='joint' for the component of all modalities to condition on"
            ) from None

    def decode(
        self,
        z: Float[Tensor, "*batch latent"],
        private: Mapping[str, Tensor] | None = None,
        covariates: Tensor | Categories | None = None,
    ) -> dict[str, Tensor]:
        """Compute the mean of each modality given the latents.

        Args:
            z: The shared latents, with any leading dimensions.
            private: Private latents `(*batch, private)` by modality name; by default they are drawn from their priors,
                with torch's global generator.
            covariates: Categories by the name of the covariate, one string for all items or one per item; or their
                indicators, which broadcast to `(*batch, covariate)`. The frequencies in the training data take the
                place of those that are left out, by default of all.

        Returns:
            The means `(*batch, *shape)` by modality name, float32, on the run's device, without gradients.
        """
        with torch.no_grad():
            latents = {name: u.to(self.device, torch.float32) for name, u in (private or {}).items()}
            return self.vae.decode(z.to(self.device, torch.float32), private=latents, covariates=covariates)


def load_run(
    path: str | Path,
    *,
    checkpoint: str = "best",
    device: str = "auto",
    allow_changed_data: bool = False,
    plugins: Sequence[str] = (),
) -> Run:
    """Open a run directory.

    Args:
        path: The path of the directory.
        checkpoint: The name of the checkpoint: ``"best"``, which ``train.select`` chooses (default; ``"last"`` if no
            epoch has been completed), or ``"last"``.
        device: The device to load the model onto: ``"auto"`` (default), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        allow_changed_data: If True, :meth:`Run.data` does not compare the data with those of earlier uses of the run.
            False by default.
        plugins: The names of the modules or installed plugins that register custom parts of the run, which are imported
            first. A run directory may come from anyone, so that the modules that it names are not imported by
            themselves; none by default.

    Returns:
        The run, in eval mode, float32.

    Raises:
        RunError: If the path is not a run directory, or one that another version wrote in another format, or it needs
            a plugin that is neither imported nor in ``plugins``, or its training ended before anything was trained.
        ConfigError: If its configuration is not valid.
        CheckpointError: If its checkpoint is missing or damaged.
        ValueError: If the name of the checkpoint or of the device is unknown.
    """
    files = RunFiles(Path(path))
    file = files.checkpoint(checkpoint)
    config = read_config(files.path)
    require_plugins(files.path, config.plugins, plugins)
    if checkpoint == "best" and not file.exists():
        file = files.checkpoint("last")
    chosen = resolve_device(device)
    state = read_state(file)
    check_run_id(files, file, state)
    if checkpoint == "best" and config.train.epochs and state.get("step") == 0:
        raise RunError(
            f"{path}: must be a trained run, got one whose training has saved no step: train --resume goes on, and the "
            "checkpoint 'last' opens the initial weights"
        )
    vae = _build_saved(file, config, state)
    load_checkpoint(file, vae)
    return Run(files.path, config, vae.to(chosen).eval(), state, allow_changed_data)


def _build_saved(file: Path, config: Config, state: Mapping[str, Any]) -> MultimodalVAE:
    """Build the model of a checkpoint, which must not take much more memory than its weights: it may be foreign."""
    try:
        check_state(state)
        specs, covariates = read_specs(state), read_covariates(state)
    except (TypeError, ValueError, AttributeError) as error:
        reason = one_line(error)
        raise CheckpointError(f"{file}: {reason}") from None
    limit = AllocationLimit(_FREE_BYTES + _BYTES_PER_BYTE * file.stat().st_size, _MAX_TENSORS)
    try:
        with torch.random.fork_rng(devices=[]), limit:  # the initial weights are drawn, and then replaced
            return build_vae(config, state["shapes"], specs, covariates)
    except AllocationError as error:
        raise CheckpointError(f"{file}: the model of this configuration {error}") from None
    except (RuntimeError, MemoryError, OverflowError, LookupError, TypeError) as error:
        reason = one_line(error)
        raise CheckpointError(f"{file}: the model of this configuration cannot be built: {reason}") from None
