"""Hostile ``.h5ad`` and ``.h5mu`` files: links out of the file, bombs, and sparse matrices that are not valid."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from pyro_mmvae.data import load_data, make_batch

N = 40


@pytest.fixture
def file(omics: Any, tmp_path: Path) -> Path:
    anndata, _ = omics
    values = np.random.default_rng(0).poisson(0.5, (N, 6)).astype(np.float32)
    table = anndata.AnnData(scipy.sparse.csr_matrix(values))
    table.layers["columns"] = scipy.sparse.csc_matrix(values)
    table.layers["dense"] = values
    table.obsm["more"] = values[:, :3]
    table.write_h5ad(tmp_path / "a.h5ad")
    return tmp_path / "a.h5ad"


def external_link(tree: Any, folder: Path) -> None:
    import h5py

    with h5py.File(folder / "secret.h5", "w") as other:
        other["X"] = np.ones((N, 6))
    del tree["layers/dense"]
    tree["layers/dense"] = h5py.ExternalLink(str(folder / "secret.h5"), "X")


def external_storage(tree: Any, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(N * 6 * 8))
    del tree["layers/dense"]
    tree["layers"].create_dataset("dense", (N, 6), "f8", external=[(str(folder / "secret"), 0, N * 6 * 8)])


def virtual(tree: Any, folder: Path) -> None:
    import h5py

    with h5py.File(folder / "secret.h5", "w") as other:
        other["X"] = np.ones((N, 6))
    layout = h5py.VirtualLayout((N, 6), "f8")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "X", shape=(N, 6))
    del tree["layers/dense"]
    tree["layers"].create_virtual_dataset("dense", layout)


def soft_link(tree: Any, _: Path) -> None:
    import h5py

    tree["uns/loop"] = h5py.SoftLink("/uns")


def cycle(tree: Any, _: Path) -> None:
    tree["uns/loop"] = tree["uns"]


def deep(tree: Any, _: Path) -> None:
    tree.create_group("uns/" + "/".join("a" * 60))


def bomb(tree: Any, _: Path) -> None:
    del tree["obsm/more"]
    tree["obsm"].create_dataset("more", (N, 10**11), "f8", chunks=(1, 1000), fillvalue=1.0)


def put(name: str, change: Callable[[Any], Any]) -> Callable[[Any, Path], None]:
    """Return a change that replaces an array of a sparse matrix."""

    def attack(tree: Any, _: Path) -> None:
        values = change(tree[name][:])
        del tree[name]
        tree[name] = values

    return attack


def set_shape(tree: Any, _: Path) -> None:
    tree["X"].attrs["shape"] = np.array([N, 10**12])


ATTACKS: dict[str, tuple[Callable[[Any, Path], None], str]] = {
    "external link": (external_link, "/layers/dense: must be stored in the file, got a link"),
    "external storage": (external_storage, "/layers/dense: must be stored in the file, got values of another file"),
    "virtual data set": (virtual, "/layers/dense: must be stored in the file, got values of another file"),
    "soft link": (soft_link, "/uns/loop: must be stored in the file, got a link"),
    "cycle of groups": (cycle, "/uns/loop: must be a group of its own, got one that occurs twice"),
    "deep groups": (deep, "groups must be nested at most 32 deep"),
    "huge array": (bomb, "/obsm/more: an array of .* bytes must be stored in at least"),
    "columns out of range": (
        put("X/indices", lambda i: i + 10**6),
        "/X: indices .* must be from 0 to 5",
    ),
    "negative columns": (put("X/indices", lambda i: i - 10**6), "/X: indices .* must be from 0 to 5"),
    "rows out of range": (
        put("layers/columns/indices", lambda i: i + 10**6),
        "/columns: indices .* must be from 0 to 39",
    ),
    "pointers out of range": (put("X/indptr", lambda p: p * 10**6), "/X: indptr must rise from 0 to"),
    "pointers that fall": (put("X/indptr", lambda p: np.r_[p[:5], 0, p[6:]]), "/X: indptr must rise from 0 to"),
    "pointers of another length": (put("X/indptr", lambda p: p[:-1]), "/X: indptr must have 41 numbers"),
    "pointers of words": (put("X/indptr", lambda p: p.astype(float)), "/X: indices and indptr must be integers"),
    "columns of another shape": (set_shape, "X must be|shape|Dimension|dimension|Length|must have"),
}


def read_all(file: Path, backed: bool) -> list[Any]:
    """Return the values of the matrix and of two layers."""
    found = []
    for layer in (None, "columns", "dense"):
        data = load_data(str(file), "all", backed=backed, kinds={"x": "counts"}, layer=layer)
        found.append(make_batch(data, slice(None)).values["x"].numpy())
    return found


@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize("attack", ATTACKS)
def test_load_omics_of_a_hostile_file_raises_one_line(file: Path, attack: str, backed: bool) -> None:
    import h5py

    change, expected = ATTACKS[attack]
    with h5py.File(file, "a") as tree:
        change(tree, file.parent)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=expected if not backed else ".") as error:
        read_all(file, backed)
    assert "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # kilobytes


@pytest.mark.parametrize("backed", [False, True])
def test_load_omics_of_an_intact_file_reads_every_layer(file: Path, backed: bool) -> None:
    first, *others = read_all(file, backed)
    assert first.any()
    assert all(np.array_equal(first, other) for other in others)
