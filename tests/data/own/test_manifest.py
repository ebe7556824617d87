"""Tests of tables with a row per item: numbers, texts, and paths of images."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pyro_mmvae.data import MappedTensor, find_data, load_data
from pyro_mmvae.data.inspection import check_data
from pyro_mmvae.data.options import DataError
from pyro_mmvae.data.storage.image_files import decode_image, find_format, open_image

N = 10
COLUMNS = {"photo": "file", "sensors": "s*", "caption": "caption"}


def make_table(folder: Path) -> pd.DataFrame:
    """Write images of different sizes, and return a table with empty cells."""
    generator = np.random.default_rng(0)
    (folder / "pics").mkdir()
    for row in range(N):
        size = (20 + row, 16, 3)
        image = Image.fromarray(generator.integers(0, 255, size, dtype=np.uint8))
        image.save(folder / "pics" / f"{row}.{'jpg' if row % 2 else 'png'}")
    table = pd.DataFrame(generator.normal(size=(N, 3)), columns=["s1", "s2", "s3"])
    table["file"] = [f"pics/{row}.{'jpg' if row % 2 else 'png'}" for row in range(N)]
    table["caption"] = ["NA", "null", "a cat", "a dog"] + [f"a {row}" for row in range(4, N)]
    table["label"] = ["cat", "dog"] * (N // 2)
    table["split"] = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2
    table["id"] = [f"00{row}" for row in range(N)]
    table.loc[1, "file"] = ""
    table.loc[2, ["s1", "s2", "s3"]] = np.nan
    table.loc[3, "caption"] = ""
    return table


def write(table: pd.DataFrame, folder: Path, name: str = "manifest.csv") -> str:
    table.to_csv(folder / name, index=False, sep="\t" if name.endswith(".tsv") else ",")
    return str(folder / name)


def test_load_manifest_given_columns_reads_numbers_texts_and_images(tmp_path: Path) -> None:
    table = make_table(tmp_path)
    path = write(table, tmp_path)
    data = load_data(path, "train", columns=COLUMNS, image_size=8)
    assert data.names == ("photo", "sensors", "caption")
    assert data.item_ids is not None
    assert data.item_ids.tolist() == ["000", "001", "002", "003", "004", "005"]
    assert data.present.long().tolist() == [[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]]
    assert data.feature_names == {"sensors": ("s1", "s2", "s3")}
    assert torch.allclose(
        data.tensors["sensors"][0].double(), torch.tensor(table.loc[0, ["s1", "s2", "s3"]].tolist()).double()
    )
    assert data.class_names == ("cat", "dog")
    assert isinstance(data.modalities["photo"], MappedTensor)
    assert data.modalities["photo"].shape == (6, 3, 8, 8)
    alphabet = data.modality_specs["caption"].alphabet
    assert alphabet is not None
    assert [alphabet[token] for token in data.tensors["caption"][0].tolist()] == [*"NA", *"*" * 6]
    assert len(load_data(path, "val", columns=COLUMNS, image_size=8)) == 2


def test_load_manifest_decodes_the_pixels_of_the_file(tmp_path: Path) -> None:
    table = make_table(tmp_path)
    colours = np.zeros((16, 16, 3), dtype=np.uint8)
    colours[:8], colours[8:] = (250, 10, 20), (0, 40, 200)
    for name in table["file"]:
        if name:
            Image.fromarray(colours).save(tmp_path / name, quality=95)
    data = load_data(write(table, tmp_path), "train", columns={"photo": "file"})
    images = data.modalities["photo"][torch.tensor([0, 3])]
    assert images.shape == (2, 3, 16, 16)
    assert images[0, :, 0, 0].tolist() == [250, 10, 20]  # a PNG is exact
    assert (images[1, :, 12, 3].int() - torch.tensor([0, 40, 200])).abs().max() < 12
    assert data.modalities["photo"][torch.tensor([1])].sum() == 0


def test_load_manifest_given_grey_images_has_one_channel(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "b.png")
    path = write(pd.DataFrame({"x": ["a.png", "b.png"] * 5, "split": ["train"] * 10}), tmp_path)
    images = load_data(path, "train").modalities["x"][:2]
    assert images.shape == (2, 1, 8, 8)
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0, 0], torch.from_numpy(values))


def test_load_manifest_without_columns_takes_each_column_as_a_modality(tmp_path: Path) -> None:
    path = write(make_table(tmp_path).drop(columns=["file", "split"]), tmp_path, "mine.tsv")
    data = load_data(path, "train")
    assert data.names == ("s1", "s2", "s3", "caption")
    assert data.modalities["s1"].shape == (8, 1)
    assert data.feature_names["s1"] == ("s1",)


def test_load_manifest_given_yaml_takes_its_keys_and_notes_unread_columns(tmp_path: Path) -> None:
    write(make_table(tmp_path), tmp_path)
    text = (
        "columns: {sensors: [s1, s3], photo: file}\nimage_size: [8, 12]\nmodalities: {sensors: {likelihood: laplace}}\n"
    )
    (tmp_path / "manifest.yaml").write_text(text)
    data = load_data(str(tmp_path), "test")  # the folder of a table called manifest
    assert find_data(str(tmp_path)).format == "manifest"
    assert data.modalities["photo"].shape == (2, 3, 8, 12)
    assert data.modality_specs["sensors"].likelihood == "laplace"
    assert data.feature_names["sensors"] == ("s1", "s3")
    assert data.provenance["notes"] == [f"{tmp_path / 'manifest.csv'}: columns s2, caption are not read"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ids: [[a]]", r"ids must be the name of a column, got \[\['a'\]\]"),
        ("labels: {a: b}", "labels must be the name of a column, or a list of names, got {'a': 'b'}"),
        ("columns: [s1]", "columns must be a mapping from modality names to a column or a list of columns, got"),
        ("columns: {a: [[s1]]}", "columns must be a mapping from modality names"),
        ("image_size: big", "image_size must be a size, a list of height and width, or a mapping"),
    ],
)
def test_load_manifest_given_yaml_of_other_types_raises_and_names_the_key(
    tmp_path: Path, text: str, expected: str
) -> None:
    path = write(pd.DataFrame({"s1": range(20)}), tmp_path)
    (tmp_path / "manifest.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"manifest\.yaml: {expected}"):
        load_data(path, "train")


def test_load_manifest_given_several_labels_reads_attributes(tmp_path: Path) -> None:
    table = make_table(tmp_path)
    table["old"], table["ill"] = [True, False] * 5, [0, 1] * 5
    data = load_data(write(table, tmp_path), "val", columns={"s": "s?"}, labels=("old", "ill"))
    assert data.label_names == ("old", "ill")
    assert data.labels is not None
    assert data.labels.tolist() == [[True, False], [False, True]]


def test_load_manifest_given_integers_reads_a_vector_and_counts_by_kind(tmp_path: Path) -> None:
    table = pd.DataFrame({"age": range(20), "g1": range(20), "g2": [0, 3] * 10})
    data = load_data(write(table, tmp_path), "train", columns={"age": "age", "g": "g*"}, kinds={"g": "counts"})
    assert data.modality_specs["age"].data_type == "vector"
    assert data.modality_specs["g"].data_type == "counts"


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="the extra 'tables' is not installed")
def test_load_manifest_given_parquet_reads_numbers_and_lists(tmp_path: Path) -> None:
    table = make_table(tmp_path)[["s1", "s2", "caption"]].replace({"caption": {"": None}})
    table["list"] = [[float(row), 1.0] for row in range(N)]
    table.to_parquet(tmp_path / "a.parquet")
    data = load_data(str(tmp_path / "a.parquet"), "train", columns={"s": ["s1", "s2"], "c": "caption", "v": "list"})
    assert data.names == ("s", "c", "v")
    assert data.modalities["v"].shape == (8, 2)


def test_load_manifest_given_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr("pyro_mmvae.data.own.manifest.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'pyro-mmvae\[tables\]'"):
        load_data(str(tmp_path / "a.parquet"), "train")


@pytest.mark.parametrize(
    ("row", "column", "cell", "options", "message"),
    [
        (4, "s2", "1,5", {}, "item '004': column 's2' must hold a number, got '1,5'"),
        (4, "s2", "", {}, "item '004': column 's2' of modality 'sensors' must hold a number, as other columns do"),
        (4, "file", "pics/none.png", {}, "column 'file': item '004': .*none.png must be an image file, got no such"),
        (4, "id", "003", {}, "column 'id' must name each item once, got '003' in rows 3 and 4"),
        (4, "id", "", {}, "row 4: column 'id' must hold an identifier, got an empty cell"),
        (4, "split", "holdout", {}, "item 4: split must be 0, 1, 2 or train, val, test, got holdout"),
        (0, "s1", "1", {"columns": {"v": "z*"}}, "columns of modality 'v' must be among s1, s2"),
        (0, "s1", "1", {"labels": "kind"}, "must have a column 'kind', got s1, s2"),
        (0, "s1", "1", {"labels": ["label"]}, "column 'label' must hold a number, got 'cat'"),
        (0, "s1", "1", {"image_size": 0}, "image_size must be a number of pixels, or height and width, got 0"),
    ],
)  # fmt: skip
def test_load_manifest_given_a_bad_cell_raises_one_line(
    tmp_path: Path, row: int, column: str, cell: str, options: dict[str, Any], message: str
) -> None:
    table = make_table(tmp_path).astype(object)
    table.loc[row, column] = cell
    with pytest.raises(ValueError, match=message) as caught:
        load_data(write(table, tmp_path), "train", **{"columns": COLUMNS, "image_size": 8, **options})
    assert "\n" not in str(caught.value)


def test_load_manifest_given_several_bad_cells_reports_all(tmp_path: Path) -> None:
    table = make_table(tmp_path).astype(object)
    table.loc[4, "s2"], table.loc[5, "file"], table.loc[6, "file"] = "x", "a.png", "b.png"
    with pytest.raises(DataError) as caught:
        load_data(write(table, tmp_path), "train", columns=COLUMNS, image_size=8)
    assert len(caught.value.problems) == 3


def test_load_manifest_given_images_of_two_sizes_names_item_and_file_on_reading(tmp_path: Path) -> None:
    data = load_data(write(make_table(tmp_path), tmp_path), "train", columns={"photo": "file"})
    with pytest.raises(ValueError, match="item '002': .*2.png must have height x width 20 x 16 .* got 22 x 16: set"):
        data.modalities["photo"][torch.tensor([0, 2])]


def test_load_manifest_allowing_missing_columns_leaves_them_and_empty_modalities_out(tmp_path: Path) -> None:
    path = write(make_table(tmp_path).drop(columns=["s2", "caption"]), tmp_path)
    columns = {"sensors": ["s1", "s2", "s3"], "caption": "caption", "photo": "f*"}
    with pytest.raises(ValueError, match="columns of modality 'sensors' must be among s1, s3.*, got 's2'"):
        load_data(path, "train", columns=columns, image_size=8)
    data = load_data(path, "train", columns=columns, image_size=8, allow_missing_columns=True)
    assert (data.names, data.feature_names["sensors"]) == (("sensors", "photo"), ("s1", "s3"))


def test_check_data_given_images_of_many_sizes_reports_them_in_one_line(tmp_path: Path) -> None:
    table = make_table(tmp_path).drop(columns="split")
    problems = list(check_data(str(write(table, tmp_path)), {"columns": {"photo": "file"}}))
    of_train = [problem for problem in problems if problem.startswith("train: ")]
    assert len(of_train) == 1
    assert of_train[0].endswith(" other images of the split have another size too")


def test_load_manifest_given_a_damaged_image_names_item_and_file_on_reading(tmp_path: Path) -> None:
    table = make_table(tmp_path)
    content = (tmp_path / "pics" / "4.png").read_bytes()
    (tmp_path / "pics" / "4.png").write_bytes(content[: len(content) // 2])
    data = load_data(write(table, tmp_path), "train", columns={"photo": "file"}, image_size=8)
    with pytest.raises(ValueError, match="column 'file': item '004': .*4.png must be a readable image"):
        data.modalities["photo"][:]


def test_load_manifest_in_memory_gives_equal_tensors(tmp_path: Path) -> None:
    path = write(make_table(tmp_path), tmp_path)
    lazy, eager = (load_data(path, "train", columns=COLUMNS, image_size=8, in_memory=m) for m in (False, True))
    assert isinstance(eager.modalities["photo"], torch.Tensor)
    assert torch.equal(lazy.tensors["photo"], eager.tensors["photo"])


def test_load_table_path_with_line_breaks_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('photo,b\n"\n0\nphoto.png",1\nother.png,2\n')
    with pytest.raises(DataError, match=r"item 0: .*0\\nphoto\.png must be an image file, got no such file") as error:
        load_data(str(tmp_path / "t.csv"), "train")
    assert len(str(error.value).splitlines()) == 1


def test_decode_image_path_with_line_breaks_is_named_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "0\nphoto.png"
    file.write_text("not an image")
    readers = [
        lambda: decode_image("a", file, 3, (8, 8), resize=False),
        lambda: find_format("a", file),
        lambda: open_image("a", file),
        lambda: open_image("a", tmp_path / "1\nphoto.png"),
    ]
    for read in readers:
        with pytest.raises(ValueError, match=r"[01]\\nphoto\.png must be (a readable image|an existing file)") as error:
            read()
        assert len(str(error.value).splitlines()) == 1
