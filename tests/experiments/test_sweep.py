"""Variants that a sweep makes from the values of settings."""

from __future__ import annotations

import re

import pytest

from pyro_mmvae.experiments.sweep import SweepPoint, parse_sweeps, sweep_variants


def test_parse_sweeps_splits_at_commas_outside_of_brackets_and_quotes() -> None:
    found = parse_sweeps(["model.beta=0.5, 1,2.5", "a=[1, 2],{x: 1, y: (2,3)},'b,c',d=e"])
    assert found == {"model.beta": ("0.5", "1", "2.5"), "a": ("[1, 2]", "{x: 1, y: (2,3)}", "'b,c'", "d=e")}
    assert parse_sweeps([]) == {}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["model.beta"], "sweep must be KEY=VALUE,VALUE,…, as in model.beta=0.5,1,2, got 'model.beta'"),
        (["=1,2"], "sweep must be KEY=VALUE"),
        (["model.beta=1,,2"], "got 'model.beta=1,,2'"),
        (["model.beta="], "sweep must be KEY=VALUE"),
        (["model.beta=1", "model.beta=2"], "different settings, got 'model.beta' twice"),
        (["model.beta=1,2,1"], "sweep of model.beta must have different values"),
    ],
)
def test_parse_sweeps_wrong_text_raises(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_sweeps(texts)


def test_sweep_variants_is_the_product_of_variants_and_values() -> None:
    sweeps = {"model.beta": ("0.5", "1"), "train.lr": ("1e-3",)}
    settings, points = sweep_variants(sweeps, {"plain": (), "warm": ("train.beta_warmup=0.2",)})
    assert settings == {
        "plain-beta_0.5-lr_1e-3": ("model.beta=0.5", "train.lr=1e-3"),
        "plain-beta_1-lr_1e-3": ("model.beta=1", "train.lr=1e-3"),
        "warm-beta_0.5-lr_1e-3": ("train.beta_warmup=0.2", "model.beta=0.5", "train.lr=1e-3"),
        "warm-beta_1-lr_1e-3": ("train.beta_warmup=0.2", "model.beta=1", "train.lr=1e-3"),
    }
    assert points["warm-beta_1-lr_1e-3"] == SweepPoint("warm", {"model.beta": "1", "train.lr": "1e-3"})
    assert list(points) == list(settings)


def test_sweep_variants_without_a_sweep_are_the_variants() -> None:
    assert sweep_variants({}, {"": ()})[0] == {"": ()}


def test_sweep_variants_names_are_distinct_and_fit_a_folder() -> None:
    lists, _ = sweep_variants({"model.sizes": ("[1, 2]", "[1/2]", "x" * 90)}, {"": ()})
    assert list(lists) == ["sizes_1_2", "sizes_1_2-1", "sizes_" + "x" * 40]
    names, _ = sweep_variants({"data.name": ("a",), "model.name": ("b",)}, {"": ()})
    assert list(names) == ["data.name_a-model.name_b"]
