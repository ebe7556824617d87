"""Samples of a trained run: conditional and prior draws, and the reconstructions shown after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Tensor
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.data.covariate_matching import set_categories
from pyro_mmvae.data.covariates import one_hot
from pyro_mmvae.inference.items import ItemsLike, select_items
from pyro_mmvae.likelihoods import Likelihood, StandardizedLikelihood
from pyro_mmvae.runs.run import Run

_NUM_DRAWS = 8  # of draw_samples, unless told otherwise
_NUM_ITEMS = 10  # in the samples shown after training


@dataclass(frozen=True)
class Samples:
    """A set of generated modalities, with the observations that they were conditioned on.

    Attributes:
        given: The images and texts conditioned on, by modality name: uint8 `(item, channel, height, width)`, or strings
            `(item,)` for tokens with an alphabet.
        generated: The images and texts that were generated, by modality name, in these two forms.
        arrays: All other values, ``given.NAME`` and ``generated.NAME``, each `(item, …)`: tokens as the most probable
            class at each position, everything else as the mean of its likelihood. Tokens with an alphabet also have
            ``given.NAME.string`` and ``generated.NAME.string``, the strings that they stand for.
        rows: All modalities as rows of a picture, pairs of a label and values: first the classes of the items
            conditioned on, if the data has classes, then what was given and what was generated. Tokens without an
            alphabet are strings of numbers. Vectors that the model standardizes are in standard deviations from the
            mean of the training items, and the label says so.
        num_left_out: The number of items that were chosen and lack a modality given; 0 by default.
    """

    given: dict[str, NDArray[Any]]
    generated: dict[str, NDArray[Any]]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    rows: list[tuple[str, NDArray[Any]]] = field(default_factory=list)
    num_left_out: int = 0

    def every_array(self) -> dict[str, NDArray[Any]]:
        """Return ``arrays`` together with the images, named ``given.NAME`` and ``generated.NAME``."""
        parts = {"given": self.given, "generated": self.generated}
        images = {f"{part}.{name}": row for part, rows in parts.items() for name, row in rows.items() if row.ndim == 4}
        return images | self.arrays


def draw_samples(
    run: Run,
    given: Sequence[str] = (),
    generate: Sequence[str] = (),
    count: int | None = None,
    seed: int = 0,
    *,
    data: MultimodalDataset | None = None,
    items: ItemsLike = None,
    prior: str = "auto",
    covariates: Mapping[str, str] | None = None,
) -> Samples:
    """Generate modalities given others: draw the latent from its posterior, then take the mean of the likelihood.

    The private latent of a modality is drawn from its posterior if the modality is in ``given``, otherwise from its
    prior.

    Args:
        run: The trained run to use.
        given: The names of the modalities to condition on, for test items that have all of them; if empty (default),
            the latent is drawn from ``prior``.
        generate: The names of the modalities to generate; by default all that are not in ``given``.
        count: The number of items; by default 8, or all test items that have the modalities given if those are fewer.
            With ``items`` all of them by default.
        seed: The seed of the choice of items and of the draws, 0 by default.
        data: The data set that holds the items to condition on; by default the test items of the run.
        items: The items to condition on, in this order, see :func:`~pyro_mmvae.inference.items.select_items`; by
            default they are chosen at random.
        prior: The prior to draw from if ``given`` is empty: ``"auto"`` (default) for the fitted prior of the run if
            there is one, otherwise that of the model; ``"fitted"``; or ``"model"``.
        covariates: The category to decode under, by the name of the covariate, such as ``{"donor": "A"}``; by default
            those of the items conditioned on, and for draws from the prior unknown ones.

    Returns:
        The generated modalities and the observations.

    Raises:
        ValueError: If a modality is unknown, fewer than ``count`` test items have all modalities in ``given``, or none
            has.
    """
    generate = tuple(generate) or tuple(name for name in run.names if name not in given) or run.names
    for name in (*given, *generate):
        if name not in run.names:
            raise ValueError(f"unknown modality {name!r}; the run has {', '.join(run.names)}")
    wanted = run.vae.covariate_vector(covariates) if covariates else None
    num_left_out = 0
    with seeded(seed, run.device):
        if not given:
            z = run.prior(prior).sample(torch.Size((count or _NUM_DRAWS,)))
            return _to_samples(run, {}, run.decode(z, covariates=wanted), generate)
        data = run.data("test") if data is None else data
        lacking = [name for name in given if name not in data.names]
        if lacking:
            raise ValueError(f"given must be modalities of the data ({', '.join(data.names)}), got {lacking[0]!r}")
        columns = [data.names.index(name) for name in given]
        has_given = data.present[:, columns].all(-1)
        if items is None:
            rows = has_given.nonzero().squeeze(-1)
        else:
            rows = torch.from_numpy(select_items(data, items).rows)
            num_left_out = int((~has_given[rows]).sum())
            rows = rows[has_given[rows]]
        if not len(rows):
            raise ValueError(f"given must be modalities that a test item has, got {', '.join(given)}, which none has")
        if count is None:
            count = min(_NUM_DRAWS, len(rows)) if items is None else len(rows)
        if len(rows) < count:
            raise ValueError(f"count must be at most {len(rows)}, the test items with {', '.join(given)}, got {count}")
        chosen = rows[torch.randperm(len(rows))[:count]] if items is None else rows[:count]
        subset = data.subset(chosen)
        observed = {name: subset.tensors[name] for name in given}
        values = {**observed, **indicators(subset)}
        # One drawn subset per item gives draws of the same distribution where the mixture has too many components.
        density = "mixture" if run.guide.has_mixture(len(run.names)) else "component"
        z = run.posterior(values, given, density=density).sample()
        private = {name: posterior.sample() for name, posterior in run.private_posterior(values, given, z).items()}
        shown = indicators(set_categories(subset, covariates or {}))
        samples = _to_samples(run, observed, run.decode(z, private, **shown), generate)
        classes = class_strings(subset)
        samples.rows[:0] = [] if classes is None else [("class", classes)]
        return replace(samples, num_left_out=num_left_out)


def training_samples(
    run: Run, data: MultimodalDataset, count: int = _NUM_ITEMS, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """Reconstruct a few items, and generate each of their modalities from every single one.

    The latent is the posterior mean of the joint component, or of the whole mixture if the aggregation has no such
    component; a modality is shown as the mean of its likelihood. The private latent of a modality is the mean of its
    posterior if the modality is conditioned on, otherwise a draw from its prior.

    Args:
        run: The trained run to use.
        data: The data set whose first items are taken, one of each class if there are classes.
        count: The number of items, 10 by default.
        seed: The seed of the draws, 0 by default.

    Returns:
        ``observed.NAME``, ``reconstruction.NAME`` (given every modality) and ``generated.GIVEN.NAME``: images as uint8
        `(item, channel, height, width)`, text as strings `(item,)` of the most probable tokens, tokens without an
        alphabet as strings of numbers, everything else as float32 `(item, …)`. An absent observation is black, empty or
        NaN, and ``present.NAME`` `(item,)` is False for it. ``center.NAME`` and ``spread.NAME`` are the mean and the
        standard deviation by which the model standardizes the modality, if it does. ``classes`` are the names of the
        classes `(item,)`, if there are classes.
    """
    subset = data.subset(one_of_each_class(data, count))
    classes = class_strings(subset)
    images = {name for name, value in data.modalities.items() if value.dim() == 4 and value.shape[1] in {1, 3}}
    arrays = {} if classes is None else {"classes": classes}
    arrays |= {f"observed.{name}": _observed(run, subset, name, name in images) for name in data.names}
    arrays |= {f"present.{name}": subset.present[:, column].cpu().numpy() for column, name in enumerate(data.names)}
    for name, (center, spread) in standard_moments(run).items():
        arrays |= {f"center.{name}": center, f"spread.{name}": spread}
    values = subset.tensors
    if not subset.complete:
        values["present"] = subset.present
    values |= indicators(subset)
    # Private latents are drawn in this order, images and texts first, whatever else the data has.
    order = sorted(data.names, key=lambda name: name not in images and not run.is_text(name))
    with seeded(seed, run.device):
        means = _decode_mean(run, values, run.names)
        arrays |= {f"reconstruction.{name}": _readout(run, name, means[name], name in images) for name in data.names}
        for given in order:
            means = _decode_mean(run, values, (given,))
            arrays |= {
                f"generated.{given}.{name}": _readout(run, name, means[name], name in images) for name in data.names
            }
    return arrays


def indicators(data: MultimodalDataset) -> dict[str, Tensor]:
    """Return the indicators of all items' categories under the key of a batch; empty without covariates.

    Args:
        data: The data set, of which all items are taken.
    """
    one_hots = one_hot(data.covariates, data.covariate_names, slice(None))
    return {} if one_hots is None else {"covariates": one_hots}


def class_strings(data: MultimodalDataset) -> NDArray[np.str_] | None:
    """Return the classes of items as strings: their names, or their numbers if they have no names.

    Args:
        data: A data set, of which all items are taken.

    Returns:
        One string per item, empty for an item without a label; None if the data has no classes.
    """
    if data.labels is None or data.label_names:
        return None
    names = dict(enumerate(data.class_names))
    labels = data.labels.tolist()
    return np.array(["" if label < 0 else names.get(label, str(label)) for label in labels], dtype=np.str_)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Convert images in [0, 1] to uint8 pixels, clipping them and replacing NaN by 0.

    Args:
        images: Images of any shape, floats.

    Returns:
        The pixels, of that shape, on the CPU.
    """
    pixels: NDArray[np.uint8] = (images.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return pixels


def _to_samples(run: Run, observed: dict[str, Tensor], means: dict[str, Tensor], generate: Sequence[str]) -> Samples:
    samples = Samples({}, {})
    for name, value in observed.items():
        _add(run, name, value, samples, "given")
    for name in generate:
        likelihood = cast("Likelihood", run.model.likelihoods[name])
        _add(run, name, means[name] if is_picture(run, name) else likelihood.point(means[name]), samples, "generated")
    return samples


def _add(run: Run, name: str, value: Tensor, samples: Samples, part: str) -> None:
    """Add the values of a modality to the samples, with the strings that tokens with an alphabet stand for."""
    shown = shown_values(run, name, value, is_picture(run, name))
    label = f"given {name}" if part == "given" else name
    moments = standard_moments(run).get(name)
    if moments is None or is_picture(run, name):
        samples.rows.append((label, shown))
    else:
        samples.rows.append((f"{label} (s.d.)", (shown - moments[0]) / moments[1]))
    if is_picture(run, name):
        getattr(samples, part)[name] = shown
        return
    samples.arrays[f"{part}.{name}"] = value.cpu().numpy()
    if run.is_text(name):
        getattr(samples, part)[name] = samples.arrays[f"{part}.{name}.string"] = shown


def shown_values(run: Run, name: str, value: Tensor, is_image: bool) -> NDArray[Any]:
    """Return values of a modality as a row of a picture: pixels, strings, or numbers.

    Args:
        run: The run, whose alphabets and tokenizers turn tokens into strings.
        name: The name of the modality.
        value: Its values `(item, …)`; for tokens the classes.
        is_image: If True, the values are images, which become uint8 pixels.

    Returns:
        Pixels `(item, channel, height, width)`, strings `(item,)`, or floats `(item, …)`.
    """
    if run.is_text(name):
        return run.texts(name, value)
    if is_image:
        return to_pixels(value) if value.is_floating_point() else value.cpu().numpy()
    if cast("Likelihood", run.model.likelihoods[name]).is_categorical:
        codes = value.cpu().reshape(len(value), -1).long().tolist()
        return np.array([" ".join(map(str, row)) for row in codes], dtype=np.str_)
    return value.float().cpu().numpy()


def is_picture(run: Run, name: str) -> bool:
    """Return True if a modality is shown as images: grey or RGB, with a mean per pixel.

    Args:
        run: The run that decodes the modality.
        name: The name of the modality.
    """
    shape = run.state["shapes"][name]
    return len(shape) == 3 and shape[0] in {1, 3} and run.model.likelihoods[name].parameter_shape == tuple(shape)


def standard_moments(run: Run) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Return mean and standard deviation of the training items by the name of each standardized modality.

    Args:
        run: The run, whose likelihoods hold the moments.
    """
    likelihoods = {name: run.model.likelihoods[name] for name in run.names}
    return {
        name: (likelihood.center.cpu().numpy(), likelihood.spread.cpu().numpy())
        for name, likelihood in likelihoods.items()
        if isinstance(likelihood, StandardizedLikelihood)
    }


def _readout(run: Run, name: str, mean: Tensor, is_image: bool) -> NDArray[Any]:
    """Return the mean of a modality as a row of a picture."""
    likelihood = cast("Likelihood", run.model.likelihoods[name])
    return shown_values(run, name, mean if is_image else likelihood.point(mean), is_image)


def _observed(run: Run, data: MultimodalDataset, name: str, is_image: bool) -> NDArray[Any]:
    """Return the observations of a modality as a row of a picture, black, empty or NaN where it is absent."""
    shown, present = shown_values(run, name, data.tensors[name], is_image), data.present[:, data.names.index(name)]
    absent: Any = {"u": np.uint8(0), "U": ""}.get(shown.dtype.kind, np.float32(np.nan))
    return np.where(present.cpu().numpy().reshape(-1, *[1] * (shown.ndim - 1)), shown, absent)


def _decode_mean(run: Run, values: dict[str, Tensor], given: tuple[str, ...]) -> dict[str, Tensor]:
    z = _posterior_mean(run, values, given)
    private = {name: posterior.mean for name, posterior in run.private_posterior(values, given, z).items()}
    return run.decode(z, private, covariates=values.get("covariates"))


def _posterior_mean(run: Run, values: dict[str, Tensor], given: tuple[str, ...]) -> Tensor:
    try:
        return run.posterior(values, given, density="joint").mean
    except ValueError:  # the aggregation has no joint component
        return run.posterior(values, given).mean


def one_of_each_class(data: MultimodalDataset, count: int) -> list[int]:
    """Return the indices of the first item of each class, then of the first of the other items.

    Args:
        data: The data set, with classes or not.
        count: The largest number of indices.
    """
    if data.labels is None or data.label_names:  # several attributes per item are not classes
        return list(range(min(count, len(data))))
    labels = data.labels.cpu().numpy()
    first = np.unique(labels, return_index=True)[1][:count].tolist()
    others = [index for index in range(len(labels)) if index not in first]
    return [*first, *others][:count]
