"""User data with attributes from a folder to figures of average precision."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from pyro_mmvae.cli import main

NAMES = ["left", "right", "always", "never"]


def invoke(*words: str) -> str:
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def write(folder: Path) -> None:
    """Write images whose halves are bright or not, and a vector that encodes them; two attributes never vary."""
    generator = np.random.default_rng(0)
    labels = generator.random((160, 4)) < np.array([0.5, 0.3, 2.0, 0.0])
    image = generator.integers(0, 60, (160, 1, 8, 8), dtype=np.uint8)
    image[..., :4] += np.uint8(150) * labels[:, 0].reshape(-1, 1, 1, 1)
    image[..., 4:] += np.uint8(150) * labels[:, 1].reshape(-1, 1, 1, 1)
    folder.mkdir()
    np.save(folder / "image.npy", image)
    np.save(folder / "vector.npy", labels[:, :2] + 0.1 * generator.normal(size=(160, 2)))
    np.save(folder / "labels.npy", labels.astype(np.uint8))
    (folder / "meta.yaml").write_text(f"label_names: {json.dumps(NAMES)}\n")


def test_folder_with_attributes_evaluates_average_precision(elsewhere: Path) -> None:
    write(elsewhere / "mine")
    described = invoke("data", "info", "mine", "--split", "train")
    assert "labels  4 attributes, left: " in described
    assert ", always: 128, never: 0\n" in described
    assert "no problems" in invoke("data", "check", "mine")
    settings = [f"--set=model.{word}" for word in ("latent_size=3", "network.width=4", "network.hidden=8")]
    cpu = ("--quiet", "--threads", "1", "--device", "cpu")
    settings += ["--epochs", "2", "--precision", "fp32"]
    invoke("train", "--data", "mine", "--agg", "wb", "--out", "out", *cpu, *settings)
    parts = ("--khat-items", "0", "--likelihood-items", "0", "--no-quality", "--no-diagnostics")
    printed = invoke("evaluate", "out", *cpu, *parts)
    assert "classifiers' test mean average precision: image 1.000" in printed
    with Path("out/evaluation/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    probes = [row for row in rows if row["metric"] == "probe"]
    assert all(" points, " in row["protocol"] and "average precision" in row["protocol"] for row in probes)
    assert {row["target"] for row in probes} == {"", "left", "right", "always"}  # no test item has "never"
    assert {float(row["value"]) for row in probes if row["target"] == "always"} == {1.0}
    of_means = [row for row in probes if row["protocol"].startswith("per-subset")]
    given_vector = {row["target"]: float(row["value"]) for row in of_means if row["given"] == "vector"}
    assert given_vector["left"] > 0.9
    coherent = {(row["given"], row["target"]) for row in rows if row["metric"] == "coherence"}
    assert coherent == {
        (given, f"{target}.{name}")
        for given, target in (("image", "vector"), ("vector", "image"))
        for name in ("left", "right", "always")
    }
    assert json.loads(Path("out/evaluation/summary.json").read_text())["attribute_frequency"].keys() == set(NAMES)
