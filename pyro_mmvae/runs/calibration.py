"""Calibration of a trained run: scales by held-out items, and a guide that is trained on for them."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro.infer import Trace_ELBO

from pyro_mmvae._bounded import read_json
from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Tensor
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.files import write_text
from pyro_mmvae.guides import stratified
from pyro_mmvae.inference.importance import log_mean_exp, sample_importance
from pyro_mmvae.inference.intervals import (
    GIVEN,
    LEVELS,
    ErrorLaw,
    Residuals,
    collect_residuals,
    error_law,
    location_likelihood,
)
from pyro_mmvae.likelihoods import Likelihood, StandardizedLikelihood, calibrated_name
from pyro_mmvae.likelihoods.heads import _LocationLikelihood
from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.data_record import DataChangedError
from pyro_mmvae.runs.layout import RunError, RunWriter, check_new
from pyro_mmvae.runs.priors import refit_prior
from pyro_mmvae.vae.vae import MultimodalVAE

if TYPE_CHECKING:
    from pyro_mmvae.runs.run import Run

PER = ("feature", "modality")
_LIKELIHOOD_ITEMS, _IMPORTANCE_SAMPLES = 100, 32
_LEARNING_RATE = 1e-3

Progress = Callable[[str, int], Callable[[int], object]]
"""A function from the title and the length of a part of the work to a callback that receives finished units."""


@dataclass(frozen=True)
class CalibrationRow:
    """The predictive intervals of one modality before and after the calibration.

    Attributes:
        modality: The modality that is predicted.
        given: What it is predicted from, ``"others"`` or ``"all"``.
        split: The split of the items, ``"test"``, or ``"val"``, in sample, if the run has no test items.
        items: The number of items.
        scale: The scale before and after; the mean over the features if there is one per feature.
        exponent: The exponent before and after.
        coverage: The coverage by level, before and after.
    """

    modality: str
    given: str
    split: str
    items: int
    scale: tuple[float, float]
    exponent: tuple[float, float]
    coverage: dict[float, tuple[float, float]]


@dataclass(frozen=True)
class CalibrationResult:
    """The figures of a calibration.

    Attributes:
        rows: One row per modality with a Laplace or Normal likelihood and kind of prediction.
        log_likelihood: The importance-weighted log p(x) of items given everything, before and after, in nats per item;
            the proposal is the guide, whose k̂ is usually large, so that both are lower bounds. These are means over
            items, which a single outlying item can determine.
        uncalibrated: The modalities whose likelihoods do not have a scale.
        path: The new run directory; None if nothing was written.
        median_log_likelihood: The medians of the same values over items, before and after.
    """

    rows: tuple[CalibrationRow, ...]
    log_likelihood: tuple[float, float]
    uncalibrated: tuple[str, ...]
    path: Path | None
    median_log_likelihood: tuple[float, float]


def calibrate_run(
    run: Run,
    out: str | Path | None,
    *,
    items: int = 500,
    epochs: int = 2,
    given: str = "others",
    per: str = "feature",
    exponent: bool = True,
    draws: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> CalibrationResult:
    """Calibrate the scales of a trained run, see :meth:`pyro_mmvae.Run.calibrate`.

    Args:
        run: The run, which is not changed.
        out: The new run directory; None to write nothing.
        items: The largest number of validation items that the scales are set on, and of test items that are checked.
        epochs: The number of epochs in which the guide is trained on; 0 leaves the guide as it is.
        given: What the fitted intervals of a modality are predicted from, ``"others"`` or ``"all"``.
        per: ``"feature"`` for one scale per feature, ``"modality"`` for one.
        exponent: If True, the exponent of the distribution is fitted too.
        draws: The number of draws of the latent per item.
        seed: The seed of the choice of items and all draws.
        progress: A function that follows the work; none by default.

    Raises:
        ValueError: If an option is not allowed, or there is nothing to calibrate.
        RunError: If ``out`` exists already, or the training of the guide diverges.
    """
    for name, value, allowed in (("given", given, GIVEN), ("per", per, PER)):
        if value not in allowed:
            raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")
    if given == "others" and len(run.names) < 2:
        raise ValueError(f"given must be 'all' for the only modality {run.names[0]!r}, got 'others'")
    if out is not None:
        check_new(Path(out))
    before, names = run.vae, _calibrated_names(run.vae)
    after = _with_calibrated_scales(before, names, per_feature=per == "feature")
    val = _some_items(run.data("val"), items, seed)
    test, split = _test_items(run, items, seed)
    follow = progress or (lambda _title, _total: lambda _count: None)
    fits = _Fits(given, per == "feature", exponent, draws, seed)
    if epochs:
        _set_scales(after, fits.residuals(after, val), names, fits, by_likelihood=True)
        _refresh_guide(after, run, epochs, seed, follow)
    update = follow("calibrate", 4)
    _set_scales(after, fits.residuals(after, val), names, fits, by_likelihood=False)
    update(1)
    rows = []
    for kind in GIVEN[len(run.names) < 2 :]:
        pair = [replace(fits, given=kind).residuals(vae, test) for vae in (before, after)]
        rows += [_row(name, kind, split, (before, after), pair) for name in names if name in pair[0]]
        update(1)
    densities = [_log_likelihoods(vae, test, seed) for vae in (before, after)]
    means, medians = ((float(f(densities[0])), float(f(densities[1]))) for f in (np.mean, np.median))
    update(1)
    others = tuple(name for name in run.names if name not in names)
    result = CalibrationResult(tuple(rows), means, others, None if out is None else Path(out), medians)
    if out is not None:
        options = {"items": items, "epochs": epochs, "given": given, "per": per, "exponent": exponent, "draws": draws}
        _write(run, after, Path(out), names, {**options, "seed": seed}, result)
    return result


@dataclass(frozen=True)
class _Fits:
    """The options of the fits of scales."""

    given: str
    per_feature: bool
    fit_exponent: bool
    draws: int
    seed: int

    def residuals(self, vae: MultimodalVAE, data: MultimodalDataset) -> dict[str, Residuals]:
        """Return the residuals of all items of a data set."""
        rows = range(len(data))
        return collect_residuals(vae, data, rows, given=self.given, draws=self.draws, seed=self.seed)


def _calibrated_names(vae: MultimodalVAE) -> tuple[str, ...]:
    names = tuple(n for n in vae.names if location_likelihood(_likelihood(vae, n)) is not None)
    if not names:
        kinds = sorted({type(_likelihood(vae, name)).__name__ for name in vae.names})
        raise ValueError(f"a modality must have the likelihood 'laplace' or 'normal', got {', '.join(kinds)} only")
    return names


def _likelihood(vae: MultimodalVAE, name: str) -> Likelihood:
    return cast("Likelihood", vae.model.likelihoods[name])


def _location(vae: MultimodalVAE, name: str) -> _LocationLikelihood:
    return cast("_LocationLikelihood", location_likelihood(_likelihood(vae, name)))


def _with_calibrated_scales(vae: MultimodalVAE, names: Sequence[str], *, per_feature: bool) -> MultimodalVAE:
    """Return a copy of a model in which some modalities have calibrated scales, trained with the scale they had."""
    result = copy.deepcopy(vae)
    modalities = {modality.name: modality for modality in result.modalities}
    for name in names:
        old = _location(vae, name)
        training_scale = old.calibration.training_scale if old.calibration else float(_family_scale(old))
        scale = calibrated_name(per_feature, training_scale)
        new = type(old)(old.shape, scale, old.output).to(cast("Tensor", vae.model.prior_loc).device)
        likelihood = _likelihood(result, name)
        if isinstance(likelihood, StandardizedLikelihood):
            likelihood.base = new
        else:
            result.model.likelihoods[name] = new
        modalities[name] = replace(modalities[name], scale=scale)
    result.modalities = tuple(modalities.values())
    return result.eval()


def _family_scale(likelihood: _LocationLikelihood) -> Tensor:
    return error_law(likelihood).scale / likelihood.power ** (1 / likelihood.power)


def _some_items(data: MultimodalDataset, items: int, seed: int) -> MultimodalDataset:
    count = min(items, len(data))
    rows = np.random.default_rng(seed).choice(len(data), count, replace=False)
    return data.subset(np.sort(rows).tolist())


def _test_items(run: Run, items: int, seed: int) -> tuple[MultimodalDataset, str]:
    """Return test items and their split; validation items if the run was trained without test items."""
    try:
        return _some_items(run.data("test"), items, seed), "test"
    except DataChangedError:
        raise
    except (OSError, ValueError):
        return _some_items(run.data("val"), items, seed), "val"


def _set_scales(
    vae: MultimodalVAE, residuals: Mapping[str, Residuals], names: Sequence[str], fits: _Fits, *, by_likelihood: bool
) -> None:
    """Set the scales of the modalities by their residuals: in closed form, or by the coverage of intervals."""
    missing = [name for name in names if name not in residuals]
    if missing:
        raise ValueError(f"validation items must have {missing[0]!r} and, to predict it, another modality, got none")
    for name in names:
        likelihood, found = _location(vae, name), residuals[name]
        calibration = likelihood.calibration
        if calibration is None:
            raise TypeError(f"modality {name!r} must have a calibrated scale")
        if by_likelihood:
            calibration.set(found.closed_form(likelihood.power, per_feature=fits.per_feature))
        else:
            law = found.fit(likelihood.power, per_feature=fits.per_feature, fit_exponent=fits.fit_exponent)
            calibration.set(law.scale, law.exponent)


def _refresh_guide(vae: MultimodalVAE, run: Run, epochs: int, seed: int, progress: Progress) -> None:
    """Train the guide for some epochs by the ELBO with its own bound, β and w_m; model and scales stay as they are."""
    data, size = run.data("train"), run.config.train.batch_size
    device = cast("Tensor", vae.model.prior_loc).device
    trained = [parameter.requires_grad for parameter in vae.model.parameters()]
    vae.train()
    vae.model.eval()  # after the guide, whose encoders hold the likelihoods too: their scales stay
    for parameter in vae.model.parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in vae.guide.parameters() if p.requires_grad], lr=_LEARNING_RATE)
    steps = epochs * -(-len(data) // size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    estimator, update = Trace_ELBO(max_plate_nesting=1), progress("refresh the guide", epochs * len(data))
    guide = stratified(vae.guide.forward)
    with seeded(seed, device), pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
        for epoch in range(epochs):
            items = data.at_epoch(epoch)
            for index in torch.randperm(len(items)).split(size):
                batch = make_batch(items, index.to(items.present.device)).to(device)
                loss = cast("Tensor", estimator.differentiable_loss(vae.model.forward, guide, batch))
                optimizer.zero_grad()
                loss.backward()
                if not math.isfinite(float(loss.detach())):
                    raise RunError(f"{run.path}: the loss must stay finite while the guide is trained, got {loss}")
                optimizer.step()
                schedule.step()
                update(len(index))
    vae.eval()
    for parameter, is_trained in zip(vae.model.parameters(), trained, strict=True):
        parameter.requires_grad_(is_trained)


def _row(
    name: str,
    given: str,
    split: str,
    models: tuple[MultimodalVAE, MultimodalVAE],
    residuals: Sequence[Mapping[str, Residuals]],
) -> CalibrationRow:
    laws: list[ErrorLaw] = [error_law(_location(vae, name)) for vae in models]
    covered = [found[name].coverage(law) for found, law in zip(residuals, laws, strict=True)]
    return CalibrationRow(
        modality=name,
        given=given,
        split=split,
        items=residuals[0][name].items,
        scale=(float(laws[0].scale.mean()), float(laws[1].scale.mean())),
        exponent=(laws[0].exponent, laws[1].exponent),
        coverage={level: (covered[0][i], covered[1][i]) for i, level in enumerate(LEVELS)},
    )


def _log_likelihoods(vae: MultimodalVAE, data: MultimodalDataset, seed: int) -> NDArray[Any]:
    """Return the importance-weighted log p(x) of each of the first items given everything, in nats."""
    device = cast("Tensor", vae.model.prior_loc).device
    batch = make_batch(data, slice(0, _LIKELIHOOD_ITEMS)).to(device)
    with seeded(seed, device), torch.no_grad():
        everything = range(len(vae.names))
        drawn = sample_importance(vae, vae.guide.experts(batch), batch, everything, _IMPORTANCE_SAMPLES)
    return log_mean_exp(drawn.log_weights(tuple(batch.values))).double().cpu().numpy()


def _write(
    run: Run, vae: MultimodalVAE, out: Path, names: Sequence[str], options: Mapping[str, Any], result: CalibrationResult
) -> None:
    """Write a run directory with the calibrated model, first beside its place, so that it is complete or missing."""
    place = out.with_name(f".{out.name}.{uuid4().hex[:8]}.tmp")  # a name that nothing can have
    try:
        _write_into(place, run, vae, names, options, result)
        os.replace(place, out)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write_into(
    place: Path, run: Run, vae: MultimodalVAE, names: Sequence[str], options: Mapping[str, Any],
    result: CalibrationResult,
) -> None:  # fmt: skip
    """Write a run directory with the calibrated model."""
    old, new, writer = RunFiles(run.path), RunFiles(place), RunWriter(place)
    scales = {m.name: ModalitySpec(scale=m.scale) for m in vae.modalities if m.name in names}
    environment = read_json(old.environment)
    writer.create(_with_scales(run.config, scales, old.path, place), {**environment, "calibrated_from": str(run.path)})
    if old.data.is_dir():
        shutil.copytree(old.data, new.data, symlinks=True)
    for source, target in ((old.data_record, new.data_record), (old.metrics, new.metrics)):
        if source.exists():
            shutil.copyfile(source, target)
    specs = {name: spec.updated(scales.get(name, ModalitySpec())) for name, spec in run.modality_specs.items()}
    state = {k: v for k, v in run.state.items() if k not in {"format_version", "package_version", "modality_specs"}}
    writer.save_checkpoint("best", vae, **state, modality_specs={n: spec.settings() for n, spec in specs.items()})
    refit_prior(run, vae, place)
    report = {"options": dict(options), **asdict(result), "path": None}
    write_text(new.calibration, json.dumps(report, indent=1, default=str) + "\n")


def _with_scales(config: Config, scales: Mapping[str, ModalitySpec], old: Path, new: Path) -> Config:
    """Return a configuration with calibrated scales, and with data in the directory of the run in that of the new."""
    modalities = dict(config.model.modalities)
    for name, spec in scales.items():
        modalities[name] = modalities.get(name, ModalitySpec()).updated(spec)
    model = config.model.model_copy(update={"modalities": modalities})
    place = Path(config.data.name)
    if place.is_absolute() and place.is_relative_to(old.resolve()):
        moved = new.resolve() / place.relative_to(old.resolve())
        data = type(config.data).model_validate({"name": str(moved), **config.data.options()})
        return config.model_copy(update={"model": model, "data": data})
    return config.model_copy(update={"model": model})
