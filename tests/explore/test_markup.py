"""Tests of the HTML of values, posteriors and components."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from pyro_mmvae.explore import Component, Explorer
from pyro_mmvae.explore.markup import (
    cards_html,
    components_html,
    disagreement_html,
    posterior_html,
    values_html,
)

HOSTILE = "\"><script>alert('x')</script>"


def test_values_html_of_an_image_holds_its_pixels() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    markup = values_html(pixels, is_image=True, alt="photo")
    [data] = re.findall(r"base64,([^\"]+)", markup)
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    np.testing.assert_array_equal(image, pixels.transpose(1, 2, 0))


def test_values_html_of_grey_floats_scales_and_clips_them() -> None:
    markup = values_html(np.array([[[-1.0, 0.5], [1.0, np.nan]]]), is_image=True, alt="photo")
    [data] = re.findall(r"base64,([^\"]+)", markup)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), [[0, 128], [255, 0]])


@pytest.mark.parametrize(("size", "mark"), [(5, "rect"), (60, "polyline")])
def test_values_html_of_a_vector_draws_bars_or_a_line(size: int, mark: str) -> None:
    markup = values_html(np.linspace(-1, 3, size), is_image=False, alt="rna")
    assert markup.count(f"<{mark}") == (size if mark == "rect" else 1)
    assert f"rna: {size} numbers from -1 to 3" in markup


def test_values_html_of_zeros_has_no_undefined_number() -> None:
    assert "nan" not in values_html(np.zeros(4), is_image=False, alt="rna")


@pytest.mark.parametrize("values", [HOSTILE, np.zeros(3), np.zeros((1, 2, 2))], ids=["text", "vector", "image"])
def test_values_html_of_hostile_words_keeps_them_text(values: object) -> None:
    markup = values_html(values, is_image=getattr(values, "ndim", 0) == 3, alt=HOSTILE)
    assert "<script" not in markup
    assert "&lt;script" in markup


def test_cards_html_of_hostile_names_and_texts_keeps_them_text(explorer: Explorer) -> None:
    item = next(i for i in range(len(explorer)) if len(explorer.present(i)) == 3)
    view = explorer.view(item, ["photo"], draws=2)
    images = {"photo": True, "caption": False, "sensors": False}
    observed = {**explorer.observed(item), "caption": HOSTILE}
    markup = cards_html(view, observed, images, {"caption": [HOSTILE, "b"]})
    assert "<script" not in markup
    assert markup.count("&lt;script") == 2
    assert markup.count("<section") == 3
    assert "observed, given" in markup
    assert "observed, not given" in markup
    assert "<script" not in posterior_html(view, explorer.names)


def test_components_html_says_how_many_are_left_out() -> None:
    markup = components_html([Component((HOSTILE, "b"), 0.75), Component((), 0.25)], 9)
    assert "<script" not in markup
    assert "0.750" in markup
    assert "unnamed" in markup
    assert "prior" in components_html([Component((), 1.0)], 1)
    assert "and 7 more" in markup


def test_disagreement_html_lists_the_largest_distance_first() -> None:
    markup = disagreement_html({("a", "b"): 1.0, ("a", "c"): 3.0})
    assert markup.index("3.00") < markup.index("1.00")
    assert "Two modalities must be given" in disagreement_html({})
