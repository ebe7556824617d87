"""CelebA from the command line to figures, on a small folder of the official layout."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import yaml
from click.testing import CliRunner

from pyro_mmvae import load
from pyro_mmvae.cli import main
from pyro_mmvae.data import ALPHABET
from pyro_mmvae.runs.run import Run
from tests.data import celeba_files as made

SPLITS = ("train", "val", "test")


def invoke(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_celeba_folder_trains_samples_and_evaluates(elsewhere: Path) -> None:
    home = made.write(elsewhere)
    configs = Path(made.__file__).parents[2] / "configs"
    tree = yaml.safe_load((configs / "celeba-cpu.yaml").read_text())
    tree["model"] |= {"latent_size": 4, "network": {"name": "residual", "width": 4}}
    tree["train"] = {"epochs": 1, "batch_size": 8, "device": "cpu", "threads": 1, "precision": "fp32"}
    Path("small.yaml").write_text(yaml.safe_dump(tree))
    words = ["--config", "small.yaml", "--agg", "mwb", "--set", "data.memory_map=true", "--quiet"]
    invoke("train", *words, "--set", "data.root=.", "--out", "out")
    data = yaml.safe_load(Path("out/config.yaml").read_text())["data"]
    assert (data["name"], data["root"]) == ("celeba", str(home.parent))
    run = load("out")
    assert run.names == ("image", "text")
    check_pictures(run)
    check_samples(run)
    options = ["--samples", "2", "--likelihood-items", "3", "--khat-items", "0", "--threads", "1", "--quiet"]
    printed = invoke("evaluate", "out", *options)
    assert "classifiers' test mean average precision: image" in printed
    with Path("out/evaluation/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    probes = [row for row in rows if row["metric"] == "probe" and row["protocol"].startswith("joint")]
    assert [row["given"] for row in probes if not row["target"]] == ["image", "text", "image+text"]
    assert {row["target"] for row in probes if row["target"]} <= set(made.NAMES)
    coherent = {(row["given"], row["target"]) for row in rows if row["metric"] == "coherence"}
    assert {given for given, _ in coherent} == {"image", "text"}
    assert coherent <= {(g, f"{t}.{name}") for g, t in (("text", "image"), ("image", "text")) for name in made.NAMES}
    assert {row["target"] for row in rows if row["metric"] == "exact_match"} == {"text"}
    summary = json.loads(Path("out/evaluation/summary.json").read_text())
    assert set(summary["attribute_frequency"]) == set(made.NAMES)
    assert Path("out/plots/latent.png").exists()


def texts_of(run: Run, split: str) -> list[str]:
    rows = made.attributes()[[row for row, part in enumerate(made.PARTITION) if part == SPLITS.index(split)]]
    names = [name.replace("_", " ").lower() for name in made.NAMES]
    return [", ".join(name for name, present in zip(names, row, strict=True) if present) for row in rows]


def check_pictures(run: Run) -> None:
    """Check that the pictures of a training show text as text, without its padding."""
    with np.load(run.path / "samples.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert arrays["observed.text"].tolist() == texts_of(run, "val")
    assert arrays["generated.image.text"].dtype.kind == arrays["reconstruction.text"].dtype.kind == "U"
    assert not any(text.endswith("*") for text in arrays["generated.image.text"])
    assert arrays["generated.text.image"].shape == (5, 3, 64, 64)


def check_samples(run: Run) -> None:
    """Check that ``sample`` writes strings to an npz beside the picture or alone, and prints some of them."""
    words = ["sample", str(run.path), "--given", "text", "--generate", "text,image", "-n", "7", "--device", "cpu"]
    printed = invoke(*words, "--out", "grid.png")
    with np.load("grid.npz", allow_pickle=False) as file:
        beside = dict(file)
    assert set(beside) == {"given.text", "given.text.string", "generated.text", "generated.text.string"}
    assert sorted(beside["given.text.string"]) == sorted(texts_of(run, "test"))
    for part in ("given", "generated"):
        strings = ["".join(ALPHABET[token] for token in row) for row in beside[f"{part}.text"]]
        assert beside[f"{part}.text.string"].tolist() == [text.rstrip("*") for text in strings]
    assert Path("grid.png").read_bytes().startswith(b"\x89PNG")
    for number, text in enumerate(beside["given.text.string"]):
        assert (
            f"  {number}\n    given text  {text}\n    text        {beside['generated.text.string'][number]}\n"
            in printed
        )
    invoke(*words, "--out", "alone.npz")
    assert not Path("alone.png").exists()
    with np.load("alone.npz", allow_pickle=False) as file:
        assert set(file) == {*beside, "generated.image"}
        assert file["generated.image"].shape == (7, 3, 64, 64)
    assert "labels  4 attributes, 5_o_Clock_Shadow: " in invoke(
        "data", "info", "./celeba", "--split", "test", "--sheet", "sheet.png"
    )
    assert "no problems" in invoke("data", "check", "./celeba")
