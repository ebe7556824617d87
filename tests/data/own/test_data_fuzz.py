"""Fuzz tests of files of data: tables, their YAML, folders with labels and masks, and text are read or explained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_mmvae.data import load_data, make_batch
from tests.fuzzing import files_in, fuzz, returns_or_explains, values

COLUMNS = ["id", "label", "split", "a", "b", "photo", "", "a", "label_1", "ä", "x\x1b[31m", "present_a", "1", "name"]
CELLS = [
    "0", "1", "2", "-1", "0.5", "1e400", "nan", "NaN", "inf", "", " ", "word", "train", "val", "test", "photo.png",
    "../photo.png", "missing.png", "/etc/passwd", "true", "None", '"', "'", "a,b", '"a,b"', "9" * 30, "2020-01-01",
    "\x1b[31m", "é", "x" * 300, "[1, 2]", "=1+1", "\x00",
]  # fmt: skip
RAGGED = st.lists(st.lists(st.sampled_from(CELLS), max_size=5), min_size=1, max_size=14)
KEYS = ["columns", "image_size", "labels", "ids", "split_by", "kinds", "modalities", "covariates", "a", "class_names"]
SMALL_VALUES = values().filter(lambda text: len(text) < 100)


@st.composite
def tables(draw: st.DrawFn) -> str:
    """Draw a table of comma-separated values, rectangular as a rule."""
    header = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4, unique=draw(st.booleans())))
    if draw(st.integers(0, 4)) == 0:
        rows = draw(RAGGED)
    else:
        kinds = draw(st.lists(st.integers(0, 3), min_size=len(header), max_size=len(header)))
        pools = [[CELLS[:5], ["red", "blue"], ["train", "val", "test"], CELLS][kind] for kind in kinds]
        row = st.tuples(*[st.sampled_from(pool) for pool in pools]).map(list)
        rows = draw(st.lists(row, min_size=1, max_size=14))
    return "\n".join(",".join(cells) for cells in [header, *rows])


def read(path: Path, **options: Any) -> None:
    """Read the first items of the training split and all items, and check that nothing is written."""
    before = files_in(path.parent)
    for split in ("train", "all"):
        data = returns_or_explains(lambda split=split: load_data(str(path), split, **options))
        if data is not None and len(data):
            returns_or_explains(lambda data=data: make_batch(data, slice(0, 3)))
    assert files_in(path.parent) == before


@fuzz(60)
@given(
    tables() | st.text(max_size=60), st.sampled_from(["csv", "tsv"]), st.none() | st.sampled_from(KEYS), SMALL_VALUES
)
def test_load_data_of_any_table_returns_or_raises_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: str, suffix: str, key: str | None, value: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "table"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    file = folder / f"t.{suffix}"
    file.write_bytes((text if suffix == "csv" else text.replace(",", "\t")).encode("utf-8", "surrogatepass"))
    if key is not None:
        (folder / "t.yaml").write_bytes(f"{key}: {value}\n".encode("utf-8", "surrogatepass"))
    read(file)


arrays = st.tuples(
    st.sampled_from(["f8", "f4", "f2", "i8", "u1", "i1", "?", "c8", "U3", "S3", "M8[s]", "i4,f4", ">f8", "V3"]),
    st.lists(st.sampled_from([0, 1, 2, 3, 12]), max_size=4).map(lambda shape: [12, *shape] if shape != [1] else []),
    st.sampled_from(["zeros", "count", "special", "random"]),
)


def array_of(kind: str, shape: list[int], content: str) -> Any:
    """Return an array of a type, with a content that the type may have."""
    size = int(np.prod(shape))
    plain = {
        "zeros": np.zeros(size),
        "count": np.arange(size) % 3,
        "special": np.resize([np.nan, np.inf, -np.inf, 1.0], size),
        "random": np.random.default_rng(0).normal(size=size),
    }[content]
    with np.errstate(all="ignore"):
        try:
            return plain.astype(kind).reshape(shape)
        except (TypeError, ValueError):
            return np.zeros(shape, dtype=kind)


@pytest.mark.filterwarnings("ignore")
@fuzz(60)
@given(
    arrays,
    arrays,
    st.sampled_from(["labels", "present", "split", "ids", "b", "present_a", "label_names", "x\x1b"]),
    st.none() | st.sampled_from(["modalities", "class_names", "allow_constant", "label_names", "kinds", "a"]),
    SMALL_VALUES,
    st.booleans(),
)
def test_load_data_of_any_arrays_returns_or_raises_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, one: Any, two: Any, name: str, key: str | None, value: str, packed: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "arrays"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    found = {"a": array_of(*one), name: array_of(*two)}
    if packed:
        np.savez(folder / "d.npz", **found)
        read(folder / "d.npz")
        return
    for stem, array in found.items():
        np.save(folder / f"{stem}.npy", array)
    if key is not None:
        (folder / "meta.yaml").write_bytes(f"{key}: {value}\n".encode("utf-8", "surrogatepass"))
    read(folder)
