"""The commands ``pyro-mmvae data info``, ``check`` and ``build``."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from pyro_mmvae.cli import main
from pyro_mmvae.data import load_data
from tests.data.samples import mnist_arrays, random_set, write_mnist, write_photographs, write_tree


def invoke(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["data", *words])
    assert result.exit_code == code, result.output
    return result


def refused(*words: str) -> str:
    result = invoke(*words, code=2)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture
def sources(elsewhere: Path) -> list[str]:
    write_mnist(elsewhere / "mnist" / "MNIST" / "raw", mnist_arrays(), packed=True)
    write_photographs(elsewhere / "photographs", (0, 60, 200))
    return ["--mnist", "mnist", "--photographs", "photographs", "--train-size", "200", "--test-size", "50"]


def test_data_build_info_and_check_agree(sources: list[str], elsewhere: Path) -> None:
    words = ["build", "polymnist", *sources, "--out", "data/mine", "--modalities", "3", "--seed", "5"]
    built = invoke(*words)
    assert built.stdout.splitlines()[:3] == ["m0: a.png", "m1: b.bmp", "m2: c.PNG"]
    assert "data/mine: train 180, val 20, test 50 items" in built.stdout
    assert "pyro-mmvae train --data data/mine" in built.stdout
    assert len([line for line in built.stderr.splitlines() if line.startswith("warning: ")]) == 4
    assert len(load_data("data/mine", "val")) == 20
    assert refused(*words) == "error: data/mine must not exist yet: choose another folder"

    described = invoke("info", "data/mine", "--sheet", "pictures/sheet.png", "-n", "6").stdout
    assert described.startswith("data/mine: format polymnist-built\n  splits: train, val, test\n")
    assert "train: 180 items\n  m0  3 x 28 x 28 uint8, none missing\n" in described
    assert "labels  10 classes, 0: " in described
    assert "seed: 5" in described
    assert described.count("a.png") == 1  # what the splits share is printed once
    assert "val from:" in described
    with Image.open(elsewhere / "pictures" / "sheet.png") as sheet:
        assert sheet.width > 6 * 56
    one = invoke("info", "data/mine", "--split", "test").stdout
    assert "test: 50 items" in one
    assert "train: 180 items" not in one

    *table, last = invoke("check", "data/mine").stdout.splitlines()
    assert last == "data/mine: train, val, test: no problems"
    assert table[0].split("  ")[0] == "modality"
    assert len(table) == 3 + 1
    (elsewhere / "data" / "mine" / "val.safetensors").write_bytes(b"")
    problems = invoke("check", "data/mine", code=1).stdout.splitlines()
    assert len(problems) == 1
    assert problems[0].startswith("val: data/mine/val.safetensors: must be a readable safetensors file")


def test_data_info_lists_names_and_formats() -> None:
    listed = invoke("info").stdout
    assert "polymnist-mini" in listed.splitlines()[0]
    for name in ("polymnist-built", "polymnist-pt", "polymnist-png"):
        assert name in listed.splitlines()[1]


def test_data_check_published_tree_reports_equal_images(elsewhere: Path) -> None:
    write_tree(elsewhere / "MMNIST" / "train", *random_set(30))
    write_tree(elsewhere / "MMNIST" / "test", *random_set(8))
    assert "MMNIST: format polymnist-png" in invoke("info", "MMNIST").stdout
    assert "no problems" in invoke("check", ".").stdout
    for file in (elsewhere / "MMNIST" / "test" / "m1").iterdir():
        Image.new("RGB", (28, 28)).save(file)
    assert (
        invoke("check", "MMNIST", code=1).stdout
        == "test: modality 'm1' must vary between items, got one value in all of them\n"
    )


def test_data_invalid_arguments_fail_in_one_line(sources: list[str]) -> None:
    assert "unknown data set 'nothing'" in refused("info", "nothing")
    assert "unknown data set 'nothing'" in refused("check", "nothing")
    assert (
        "split of 'polymnist-mini' must be one of train, val, test, got 'dev'"
        in CliRunner().invoke(main, ["data", "info", "polymnist-mini", "--split", "dev"]).stderr
    )
    message = refused("info", "--sheet", "a.png")
    assert message == "error: --split, --sheet and --set must come with the name or the path of a data set"
    words = ["build", "polymnist", "--out", "out"]
    assert "photographs must hold at least 10 image files, one per modality, got 3" in refused(
        *words, *sources, "--modalities", "10"
    )
    message = refused(*words, "--mnist", "none", "--photographs", "photographs", "--modalities", "3")
    assert "put train-images-idx3-ubyte.gz" in message
    assert "into none/MNIST/raw" in message
    assert not Path("out").exists()


def test_data_build_downloads_only_with_the_flag(
    sources: list[str], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(root: str, *, download: bool) -> None:
        assert download
        write_mnist(Path(root) / "MNIST" / "raw", mnist_arrays())

    module = types.ModuleType("torchvision.datasets")
    module.MNIST = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    sources[1] = "new"
    words = ["build", "polymnist", *sources, "--modalities", "2", "--out", "out"]
    assert "MNIST: new must hold train-images-idx3-ubyte, got no such file" in refused(*words)
    assert not (elsewhere / "new").exists()
    invoke(*words, "--download")
    assert len(load_data("out", "test")) == 50


@pytest.fixture
def mine(elsewhere: Path) -> Path:
    generator = np.random.default_rng(0)
    folder = elsewhere / "mine"
    folder.mkdir()
    np.save(folder / "rna.npy", generator.poisson(3.0, (60, 4)))
    np.save(folder / "atac.npy", generator.poisson(3.0, (60, 4)))
    np.save(folder / "vector.npy", generator.normal(size=(60, 4)))
    return folder


def test_data_check_reports_each_problem_of_all_modalities_once(mine: Path) -> None:
    np.save(mine / "vector.npy", np.full((60, 4), np.nan))
    lines = invoke("check", "mine", code=1).stdout.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("train, val, test: mine/") for line in lines)
    for name, line in zip(("atac", "rna", "vector"), lines, strict=True):
        assert f"modality {name!r}" in line
    with pytest.raises(ValueError, match=r"modality 'atac'.* \(and 2 more problems: see pyro-mmvae data check\)"):
        load_data("mine")


def test_data_info_and_check_take_settings_as_train_does(mine: Path) -> None:
    kinds = ("--set", "data.kinds={rna: counts, atac: tokens}", "--set", "data.split_seed=3")
    assert "no problems" in invoke("check", "mine", *kinds).stdout
    described = invoke("info", "mine", *kinds, "--split", "val").stdout
    assert "seed: 3" in described
    assert "option of 'mine' must be one of" in refused("check", "mine", "--set", "data.nothing=1")


def test_data_check_reports_what_training_would_refuse(mine: Path) -> None:
    kinds = ("--set", "data.kinds={rna: counts, atac: counts}")
    lines = invoke("check", "mine", *kinds, "--set", "model.modalities.vector.network=conv", code=1).stdout.splitlines()
    assert lines == ["train: network 'conv' needs images (channel, height, width), got shape (4,)"]


def test_data_check_ends_in_a_table_of_modalities(mine: Path) -> None:
    present = np.ones((60, 4), dtype=bool)
    present[:15, 2] = False
    np.save(mine / "present.npy", present)
    np.save(mine / "photo.npy", np.random.default_rng(0).integers(3, 200, (60, 12, 10), dtype=np.uint8))
    (mine / "atac.npy").unlink()
    np.save(mine / "word.npy", np.array(["yes", "maybe"] * 30))
    np.save(mine / "split.npy", np.zeros(60, dtype=int))
    lines = invoke("check", "mine", "--set", "data.kinds={rna: counts}", code=1).stdout.splitlines()
    assert lines == [
        f"{split}: mine/split.npy: split {split!r} must have at least one item, got none" for split in ("val", "test")
    ]
    np.save(mine / "split.npy", np.array([0] * 40 + [1, 2, 2, 1] * 5))
    header, *rows, last = invoke("check", "mine", "--set", "data.kinds={rna: counts}").stdout.splitlines()
    cells = [[cell.strip() for cell in row.split("  ") if cell] for row in rows]
    assert [row[0] for row in cells] == ["photo", "rna", "vector", "word"]
    assert cells[0][1:3] == ["image", "1 x 12 x 10"]
    assert cells[0][3].startswith("3 to 199, mean 10")
    assert cells[0][4:] == ["0.0%", "laplace, scale 0.75", "conv"]
    assert cells[1][5:] == ["negative_binomial", "mlp"]
    assert cells[2][4:] == ["37.5%", "normal, learned scale, standardized", "mlp"]
    assert cells[3][1:] == ["text", "8", "3 to 5 characters, mean 4", "0.0%", "categorical", "text"]
    assert last == "mine: train, val, test: no problems"


def test_data_check_names_every_image_that_cannot_be_read(elsewhere: Path) -> None:
    (elsewhere / "pics").mkdir()
    for row in range(12):
        image = Image.fromarray(np.random.default_rng(row).integers(0, 255, (8, 8), dtype=np.uint8))
        image.save(elsewhere / "pics" / f"{row}.png")
    for row in (3, 5):
        (elsewhere / "pics" / f"{row}.png").write_bytes(b"none")
    rows = "".join(f"i{row},pics/{row}.png,train\n" for row in range(10)) + "v,pics/10.png,val\nt,pics/11.png,test\n"
    (elsewhere / "a.csv").write_text("id,pic,split\n" + rows)
    lines = invoke("check", "a.csv", code=1).stdout.splitlines()
    assert len(lines) == 2
    for line, row in zip(lines, (3, 5), strict=True):
        assert line.startswith(f"train: a.csv: column 'pic': item 'i{row}': pics/{row}.png must be a readable image")


def test_train_says_that_floats_of_two_axes_are_not_images(mine: Path) -> None:
    for name in ("rna", "atac"):
        (mine / f"{name}.npy").unlink()
    np.save(mine / "scan.npy", np.random.default_rng(0).normal(size=(60, 8, 9)))
    words = ["train", "--data", "mine", "--epochs=0", "--quiet", "--threads=1", "--device=cpu", "--out", "run"]
    printed = CliRunner().invoke(main, words).stdout
    assert "note: scan of shape (8, 9) is a vector: grey images need a channel axis (1, 8, 9)" in printed
    assert printed.count("note:") == 1
