"""Damaged contents of ``.h5ad`` and ``.h5mu`` files: every object of a file replaced, renamed or removed in turn."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from pyro_mmvae.data import load_data, make_batch
from tests.fuzzing import returns_or_explains

N = 20
STRIDE = 1 if int(os.environ.get("PYRO_MMVAE_FUZZ", "1")) > 1 else 29
"""Every which object is damaged in every way; all of them with PYRO_MMVAE_FUZZ."""

OPTIONS: dict[str, Any] = {
    "kinds": {"rna": "counts", "protein": "vector"},
    "labels": "kind",
    "covariates": "donor",
    "split_by": "split",
    "modalities_by": "types",
    "highly_variable": True,
    "missing_zero": True,
    "missing_nan": True,
}


def annotated(anndata: Any, size: int) -> Any:
    """Return a table of 20 observations with annotations of all kinds."""
    rng = np.random.default_rng(size)
    table = anndata.AnnData(scipy.sparse.csr_matrix(rng.poisson(0.7, (N, size)).astype(np.float32)))
    table.obs_names = [f"c{number}" for number in range(N)]
    table.obs["kind"] = np.array(["a", "b"])[np.arange(N) % 2]
    table.obs["kind"] = table.obs["kind"].astype("category")
    table.obs["donor"] = np.array(["x", "y"])[np.arange(N) // 10]
    table.obs["split"] = np.array(["train"] * 12 + ["val"] * 4 + ["test"] * 4)
    table.var["types"] = ["one"] * (size - 1) + ["two"]
    table.var["highly_variable"] = np.arange(size) % 3 < 2
    table.layers["raw"] = table.X.toarray()
    table.obsm["more"] = rng.normal(size=(N, 2))
    return table


@pytest.fixture(params=["a.h5ad", "a.h5mu"])
def intact(request: pytest.FixtureRequest, omics: Any, tmp_path: Path) -> Path:
    anndata, mudata = omics
    path = tmp_path / str(request.param)
    table = annotated(anndata, 6)
    if path.suffix == ".h5ad":
        table.write_h5ad(path)
    else:
        both = mudata.MuData({"rna": table, "protein": annotated(anndata, 4)})
        for column in ("kind", "donor", "split"):
            both.obs[column] = table.obs[column].astype(str)
        both.write(path)
    return path


def replaced(make: Callable[[Any], Any]) -> Callable[[Any, str], None]:
    """Return a damage that replaces an object by other content, and keeps its attributes."""

    def damage(file: Any, name: str) -> None:
        old = file[name]
        attributes, content = dict(old.attrs), make(old)
        del file[name]
        file[name] = content
        file[name].attrs.update(attributes)

    return damage


def shape_of(item: Any) -> tuple[int, ...]:
    return tuple(getattr(item, "shape", None) or (3,))


def removed(file: Any, name: str) -> None:
    del file[name]


def as_group(file: Any, name: str) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    file.create_group(name).attrs.update(attributes)


def without_attributes(file: Any, name: str) -> None:
    for key in list(file[name].attrs):
        del file[name].attrs[key]


def with_attribute(key: str, value: Any) -> Callable[[Any, str], None]:
    def damage(file: Any, name: str) -> None:
        file[name].attrs[key] = value

    return damage


def renamed(file: Any, name: str) -> None:
    file.move(name, f"{name}\x1b[31m")


DAMAGES: dict[str, Callable[[Any, str], None]] = {
    "removed": removed,
    "renamed": renamed,
    "an empty group": as_group,
    "no attributes": without_attributes,
    "words": replaced(lambda item: np.full(shape_of(item), b"word")),
    "NaN": replaced(lambda item: np.full(shape_of(item), np.nan)),
    "infinity": replaced(lambda item: np.full(shape_of(item), np.inf)),
    "huge numbers": replaced(lambda item: np.full(shape_of(item), 2**62)),
    "negative numbers": replaced(lambda item: np.full(shape_of(item), -7)),
    "a scalar": replaced(lambda item: 3.0),
    "no items": replaced(lambda item: np.zeros((0, *shape_of(item)[1:]))),
    "more items": replaced(lambda item: np.ones((shape_of(item)[0] + 5, *shape_of(item)[1:]))),
    "three axes": replaced(lambda item: np.ones((*shape_of(item), 2))),
    "complex numbers": replaced(lambda item: np.ones(shape_of(item), np.complex64)),
    "records": replaced(lambda item: np.zeros(shape_of(item), [("a", "f4"), ("b", "i4")])),
    "another encoding": with_attribute("encoding-type", "array"),
    "an encoding of a frame": with_attribute("encoding-type", "dataframe"),
    "an encoding that does not exist": with_attribute("encoding-type", "evil\x1b"),
    "an encoding that is a number": with_attribute("encoding-type", 3),
    "another shape": with_attribute("shape", np.array([-1, 2**40])),
    "another index": with_attribute("_index", "missing"),
    "another order of columns": with_attribute("column-order", np.array(["x", "y"], dtype="S1")),
}


def objects_of(path: Path) -> list[str]:
    import h5py

    names: list[str] = []
    with h5py.File(path) as file:
        file.visit(names.append)
    return names


def read_all(path: Path, backed: bool) -> None:
    options = dict(OPTIONS)
    if path.suffix == ".h5ad":
        options["kinds"] = {"one": "counts", "two": "counts", "more": "vector"}
    else:
        del options["modalities_by"]
    plain = {name: kind for name, kind in options["kinds"].items() if name != "more"}
    for changes in ({"kinds": plain}, {"layer": "raw", "obsm": "more" if path.suffix == ".h5ad" else "rna:more"}):
        for split in ("train", "all"):
            make_batch(load_data(str(path), split, backed=backed, **{**options, **changes}), slice(None))


@pytest.mark.parametrize("backed", [False, True])
def test_load_omics_of_an_intact_annotated_file_returns(intact: Path, backed: bool) -> None:
    read_all(intact, backed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", DAMAGES)
def test_load_omics_of_a_damaged_object_returns_or_raises_in_one_line(intact: Path, kind: str) -> None:
    import h5py

    start = list(DAMAGES).index(kind) % STRIDE
    for number, name in enumerate(objects_of(intact)[start::STRIDE]):
        path = intact.with_name(f"b{number}{intact.suffix}")
        path.write_bytes(intact.read_bytes())
        with h5py.File(path, "a") as file:
            DAMAGES[kind](file, name)
        for backed in (False, True):
            returns_or_explains(lambda path=path, backed=backed: read_all(path, backed))
        path.unlink()
