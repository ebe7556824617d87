"""Conditional and prior draws of a trained run: images, texts, and, of what is no image, arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.runs.pictures import to_pixels
from pyro_mmvae.runs.run import Run


@dataclass(frozen=True)
class Samples:
    """One set of draws.

    Attributes:
        given: images and texts that were conditioned on, modality name to uint8 `(item, channel, height, width)`, or
            to strings `(item,)` for tokens with an alphabet.
        generated: images and texts that were drawn, likewise.
        arrays: what is no image, ``given.NAME`` and ``generated.NAME`` to `(item, …)`: tokens as the most probable
            class at each position, everything else as the likelihood's mean. Where tokens have an alphabet, the strings
            that they stand for are ``given.NAME.string`` and ``generated.NAME.string``.
    """

    given: dict[str, NDArray[Any]]
    generated: dict[str, NDArray[Any]]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def every_array(self) -> dict[str, NDArray[Any]]:
        """``arrays``, and the images by names of the same form."""
        parts = {"given": self.given, "generated": self.generated}
        images = {f"{part}.{name}": row for part, rows in parts.items() for name, row in rows.items() if row.ndim == 4}
        return images | self.arrays


def draw_samples(
    run: Run, given: Sequence[str] = (), generate: Sequence[str] = (), count: int = 8, seed: int = 0
) -> Samples:
    """Draw modalities given others: z from the posterior of what is given, then the likelihood's mean.

    The private latent of a modality that is generated though it is given is drawn from its posterior, others from their
    priors.

    Args:
        run: a trained run.
        given: modalities to condition on, of test items that have them; none for draws from the prior.
        generate: modalities to draw; by default all that are not given.
        count: how many items.
        seed: which items, and which draws.

    Returns:
        The images and texts, and what is no image.

    Raises:
        ValueError: for an unknown modality, or too few items that have what is given.
    """
    generate = tuple(generate) or tuple(name for name in run.names if name not in given) or run.names
    for name in (*given, *generate):
        if name not in run.names:
            raise ValueError(f"unknown modality {name!r}; the run has {', '.join(run.names)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if not given:
            return _samples(run, {}, run.decode(run.model.prior().sample(torch.Size((count,)))), generate)
        data = run.data("test")
        columns = [data.names.index(name) for name in given]
        items = data.present[:, columns].all(-1).nonzero().squeeze(-1)
        if len(items) < count:
            raise ValueError(f"only {len(items)} test items have {', '.join(given)}, {count} were asked for")
        some = data.subset(items[torch.randperm(len(items))[:count]])
        shown = {name: some.tensors[name] for name in given}
        z = run.posterior(shown, given).sample()
        private = {name: posterior.sample() for name, posterior in run.private_posterior(shown, given).items()}
        return _samples(run, shown, run.decode(z, private), generate)


def _samples(run: Run, given: dict[str, Tensor], decoded: dict[str, Tensor], generate: Sequence[str]) -> Samples:
    samples = Samples({}, {})
    for name, value in given.items():
        if _is_image(run, name):
            samples.given[name] = to_pixels(value) if value.is_floating_point() else value.numpy()
        else:
            samples.arrays[f"given.{name}"] = value.numpy()
            _add_text(run, name, value, samples, "given")
    for name in generate:
        if _is_image(run, name):
            samples.generated[name] = to_pixels(decoded[name])
        else:
            value = cast("Likelihood", run.model.likelihoods[name]).point(decoded[name])
            samples.arrays[f"generated.{name}"] = value.cpu().numpy()
            _add_text(run, name, value, samples, "generated")
    return samples


def _add_text(run: Run, name: str, tokens: Tensor, samples: Samples, part: str) -> None:
    """Add what tokens stand for, to be shown and to be kept, where they are text."""
    if run.alphabet(name) is not None:
        texts = run.texts(name, tokens)
        getattr(samples, part)[name] = texts
        samples.arrays[f"{part}.{name}.string"] = texts


def _is_image(run: Run, name: str) -> bool:
    shape = run.state["shapes"][name]
    return len(shape) == 3 and shape[0] in {1, 3} and run.model.likelihoods[name].parameter_shape == tuple(shape)
