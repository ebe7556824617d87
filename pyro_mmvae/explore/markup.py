"""HTML of values, posteriors and components; every name and text in it is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pyro_mmvae.explore.explorer import Component, View

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00", "#444444")
"""The colours of experts, those of Okabe and Ito with a darker yellow and grey, in the order of the modalities."""

STYLE = """
<style>
.mm{font:14px/1.45 system-ui,sans-serif;color:#1c2330}
.mm h2{font-size:15px;margin:18px 0 6px} .mm .note{color:#4f5b6b;font-size:13px;margin:2px 0 8px}
.mm .cards{display:flex;flex-wrap:wrap;gap:14px}
.mm .card{border:1px solid #d5dbe3;border-radius:8px;padding:8px 10px;background:#fff;min-width:96px;max-width:100%}
.mm .card.given{border-color:#0072B2;box-shadow:0 0 0 1px #0072B2}
.mm .card h3{font-size:13px;margin:0 0 4px;overflow-wrap:anywhere}
.mm .card small{color:#4f5b6b;display:block;margin:4px 0 2px}
.mm .draws{display:grid;grid-template-columns:repeat(auto-fill,minmax(84px,max-content));gap:6px;max-width:360px}
.mm img{width:84px;height:84px;object-fit:contain;image-rendering:pixelated;background:#eef1f5;border-radius:4px}
.mm .text{max-width:340px;overflow-wrap:anywhere;background:#eef1f5;border-radius:4px;
  padding:2px 6px;white-space:pre-wrap}
.mm svg{display:block;max-width:100%}
.mm .scroll{overflow-x:auto} .mm .scroll svg{max-width:none}
.mm .scroll:focus-visible{outline:2px solid #0072B2}
.mm table{border-collapse:collapse;font-size:13px} .mm td,.mm th{padding:2px 10px 2px 0;text-align:left}
.mm .bar{height:10px;background:#0072B2;border-radius:2px;min-width:1px}
.mm .key{display:inline-block;width:10px;height:10px;border-radius:50%;margin:0 4px 0 10px}
</style>
"""

_BARS = 40  # elements above which a vector is drawn as a line
_DIMENSIONS = 16  # the number of coordinates that are drawn


def values_html(values: Any, *, is_image: bool, alt: str) -> str:
    """Return HTML of one value: an image, a text, or the plot of a vector.

    Args:
        values: Pixels in [0, 1] or uint8 `(channel, height, width)` of one or three channels, a string, or numbers.
        is_image: If True, the value is an image.
        alt: The description of the value for readers of screens.
    """
    if isinstance(values, str):
        return f'<div class="text">{escape(values) or "&nbsp;"}</div>'
    array = np.asarray(values)
    if is_image:
        return f'<img alt="{escape(alt)}" src="{_png(array)}">'
    return _vector_svg(array.reshape(-1).astype(np.float64), alt)


def cards_html(view: View, observed: Mapping[str, Any], images: Mapping[str, bool], texts: Mapping[str, Any]) -> str:
    """Return one card per modality with its observation and its draws.

    Args:
        view: The item as an aggregation sees it.
        observed: The observed values by name, texts as strings; modalities that the item lacks are left out.
        images: A mapping from each modality to True if it is an image.
        texts: The draws of text modalities as strings, by name.
    """
    cards = []
    for name, draws in view.generated.items():
        state = "given" if name in view.given else "not given" if name in observed else "absent"
        shown = values_html(observed[name], is_image=images[name], alt=f"{name}, observed") if name in observed else ""
        rows = texts.get(name, draws)
        drawn = "".join(
            values_html(row, is_image=images[name], alt=f"{name}, draw {i}") for i, row in enumerate(rows, start=1)
        )
        cards.append(
            f'<section class="card {"given" if state == "given" else ""}"><h3>{escape(name)}</h3>'
            f'<small>observed, {state}</small>{shown}<small>draws</small><div class="draws">{drawn}</div></section>'
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def posterior_html(view: View, names: Sequence[str]) -> str:
    """Return a plot of the experts and of the posterior, one column per coordinate.

    Of many coordinates those are drawn whose posterior differs most from N(0, 1).

    Args:
        view: The item as an aggregation sees it.
        names: The names of all modalities, whose order gives the colours.
    """
    divergence = view.scale**2 + view.mean**2 - 1 - 2 * np.log(np.maximum(view.scale, 1e-12))
    chosen = np.sort(np.argsort(-divergence, kind="stable")[:_DIMENSIONS])
    series = [("posterior", "#1c2330", view.mean, view.scale)]
    series += [(name, COLORS[list(names).index(name) % len(COLORS)], *view.experts[name]) for name in view.given]
    low = min(float((loc - scale)[chosen].min()) for _, _, loc, scale in series)
    high = max(float((loc + scale)[chosen].max()) for _, _, loc, scale in series)
    low, high = min(low, -1.0), max(high, 1.0)
    column, height, left = 44, 190, 34
    width = left + column * len(chosen)

    def y(value: float) -> float:
        return 10 + (high - value) / (high - low) * (height - 36)

    marks = [f'<line x1="{left}" x2="{width}" y1="{y(0):.1f}" y2="{y(0):.1f}" stroke="#c3cad4"/>']
    marks += [f'<text x="2" y="{y(v) + 4:.1f}">{v:.1f}</text>' for v in (low, 0.0, high)]
    for i, k in enumerate(chosen):
        start = left + column * i + 6
        marks.append(f'<text x="{start}" y="{height - 6}">z{k}</text>')
        step = (column - 12) / max(len(series) - 1, 1)
        for j, (_, color, loc, scale) in enumerate(series):
            x = start + step * j
            weight = 4 if j == 0 else 2
            marks.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y(loc[k] - scale[k]):.1f}" y2="{y(loc[k] + scale[k]):.1f}" '
                f'stroke="{color}" stroke-width="{weight}"/><circle cx="{x:.1f}" cy="{y(loc[k]):.1f}" r="3" '
                f'fill="{color}"/>'
            )
    keys = "".join(
        f'<span class="key" style="background:{color}"></span>{escape(name)}' for name, color, _, _ in series
    )
    given = ", ".join(view.given) or "nothing"
    plot = (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-size="11" '
        f'fill="#4f5b6b" role="img" aria-label="Experts and posterior given {escape(given)}">{"".join(marks)}</svg>'
    )
    region = '<div class="scroll" tabindex="0" role="region" aria-label="Plot of the posterior">'
    return f"<div>{keys}</div>{region}{plot}</div>"


def components_html(components: Sequence[Component], total: int) -> str:
    """Return a table of the components of a posterior with their weights.

    Args:
        components: The components to show, the heaviest first.
        total: The number of all components.
    """
    unnamed = "prior" if total == 1 else "unnamed"
    rows = "".join(
        f"<tr><td>{escape(' + '.join(part.names)) or unnamed}</td><td>{part.weight:.3f}</td>"
        f'<td><div class="bar" style="width:{100 * part.weight:.0f}px"></div></td></tr>'
        for part in components
    )
    more = f'<div class="note">and {total - len(components)} more</div>' if total > len(components) else ""
    return f"<table><tr><th>component</th><th>weight</th><th></th></tr>{rows}</table>{more}"


def disagreement_html(distances: Mapping[tuple[str, str], float]) -> str:
    """Return a table of the 2-Wasserstein distances between experts, the largest first.

    Args:
        distances: The distance of each pair of modalities.
    """
    if not distances:
        return '<div class="note">Two modalities must be given to compare their experts.</div>'
    rows = "".join(
        f"<tr><td>{escape(first)}, {escape(second)}</td><td>{distance:.2f}</td></tr>"
        for (first, second), distance in sorted(distances.items(), key=lambda pair: -pair[1])
    )
    return f"<table><tr><th>experts</th><th>W₂ distance</th></tr>{rows}</table>"


def _png(array: NDArray[Any]) -> str:
    """Return an image as a data URI."""
    if array.dtype != np.uint8:
        array = (np.nan_to_num(array).clip(0, 1) * 255).round().astype(np.uint8)
    pixels = array[0] if len(array) == 1 else array.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _vector_svg(vector: NDArray[np.float64], alt: str) -> str:
    """Return a plot of numbers: bars from 0, or a line if there are many."""
    finite = np.nan_to_num(vector)
    low, high = min(float(finite.min()), 0.0), max(float(finite.max()), 0.0)
    span = high - low or 1.0
    width, height = 160.0, 48.0
    ys = (high - finite) / span * height
    step = width / len(finite)
    zero = high / span * height
    if len(finite) <= _BARS:
        marks = "".join(
            f'<rect x="{i * step:.1f}" y="{min(y, zero):.1f}" width="{max(step - 1, 1):.1f}" '
            f'height="{abs(y - zero):.1f}"/>'
            for i, y in enumerate(ys)
        )
    else:
        points = " ".join(f"{i * step:.1f},{y:.1f}" for i, y in enumerate(ys))
        marks = f'<polyline points="{points}" fill="none" stroke="#0072B2"/>'
    label = f"{alt}: {len(finite)} numbers from {low:.3g} to {high:.3g}"
    return (
        f'<svg width="{width:.0f}" height="{height:.0f}" fill="#0072B2" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{marks}</svg>"
    )
