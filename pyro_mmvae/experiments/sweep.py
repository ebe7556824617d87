"""Sweeps over the values of settings: variants of a comparison that are made by a rule."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

_MAX_LETTERS = 40  # of a value in the name of a folder


@dataclass(frozen=True)
class SweepPoint:
    """A variant that a sweep has made.

    Attributes:
        variant: The name of the variant that the sweep starts from, empty if the comparison has none.
        values: The value of each setting of the sweep, as it was written.
    """

    variant: str
    values: Mapping[str, str]


def parse_sweeps(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the values of the settings to sweep.

    Args:
        texts: The sweeps as ``KEY=VALUE,VALUE,…``. Commas inside of brackets, braces or quotes belong to a value.

    Returns:
        Setting to values, in the order given.

    Raises:
        ValueError: If a setting or a value is missing, or a setting or one of its values is given twice.

    Example:
        >>> parse_sweeps(["model.beta=0.5,1", "model.aggregation={name: holder, rho: 1},poe"])
        {'model.beta': ('0.5', '1'), 'model.aggregation': ('{name: holder, rho: 1}', 'poe')}
    """
    sweeps: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, equals, rest = (part.strip() for part in text.partition("="))
        values = _split(rest)
        if not key or not equals or not all(values):
            raise ValueError(f"sweep must be KEY=VALUE,VALUE,…, as in model.beta=0.5,1,2, got {text!r}")
        if key in sweeps:
            raise ValueError(f"sweeps must have different settings, got {key!r} twice")
        if len(set(values)) < len(values):
            raise ValueError(f"sweep of {key} must have different values, got {text!r}")
        sweeps[key] = values
    return sweeps


def _split(text: str) -> tuple[str, ...]:
    """Return the parts between commas that are outside of brackets, braces and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return tuple(part.strip() for part in parts)


def sweep_variants(
    sweeps: Mapping[str, Sequence[str]], variants: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, tuple[str, ...]], dict[str, SweepPoint]]:
    """Return the product of the variants of a comparison with all values of a sweep.

    Args:
        sweeps: The values of each setting, see :func:`parse_sweeps`; of several settings every combination is used.
        variants: The settings of the variants to start from, see
            :func:`~pyro_mmvae.experiments.compare.parse_variants`.

    Returns:
        Name to settings of the variants, as words ``key=value``, and name to point. A name consists of the last part of
        each key and the value, as in ``beta_0.5``, with characters that a folder's name should not have replaced.

    Example:
        >>> settings, points = sweep_variants({"model.beta": ("0.5", "1")}, {"": ()})
        >>> settings
        {'beta_0.5': ('model.beta=0.5',), 'beta_1': ('model.beta=1',)}
        >>> points["beta_1"]
        SweepPoint(variant='', values={'model.beta': '1'})
    """
    settings, points = dict[str, tuple[str, ...]](), dict[str, SweepPoint]()
    ends = [key.rsplit(".", 1)[-1] for key in sweeps]
    short = ends if len(set(ends)) == len(ends) else list(sweeps)
    for variant, words in variants.items():
        for values in product(*sweeps.values()):
            parts = [f"{key}_{_plain(value)}" for key, value in zip(short, values, strict=True)]
            name = "-".join([variant] * bool(variant) + parts)
            if name in settings:  # values such as [1, 2] and [1 2] have the same letters
                name = f"{name}-{len(settings)}"
            chosen = dict(zip(sweeps, values, strict=True))
            settings[name] = (*words, *(f"{key}={value}" for key, value in chosen.items()))
            points[name] = SweepPoint(variant, chosen)
    return settings, points


def _plain(value: str) -> str:
    """Return a value as part of the name of a folder."""
    return re.sub(r"[^\w+.-]+", "_", value).strip("_")[:_MAX_LETTERS]
