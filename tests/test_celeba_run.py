"""CelebA from the command line to figures, on a small folder of its official layout."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import yaml
from click.testing import CliRunner

from pyro_mmvae import load
from pyro_mmvae.cli import main
from tests.data import celeba_files as made


def invoke(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_train_and_evaluate(elsewhere: Path) -> None:
    home = made.write(elsewhere)
    configs = Path(made.__file__).parents[2] / "configs"
    small = {"model": {"latent_size": 4, "network": {"name": "residual", "width": 4}}}
    recipe = configs / "celeba-cpu.yaml"
    tree = yaml.safe_load(recipe.read_text()) if recipe.exists() else {"data": {"name": "celeba"}, "model": {}}
    tree["model"] |= small["model"]
    tree["train"] = {"epochs": 1, "batch_size": 8, "device": "cpu", "threads": 1, "precision": "fp32"}
    Path("small.yaml").write_text(yaml.safe_dump(tree))
    words = ["--config", "small.yaml", "--agg", "mwb", "--set", "data.memory_map=true", "--quiet"]
    invoke("train", *words, "--set", "data.root=.", "--out", "out")
    data = yaml.safe_load(Path("out/config.yaml").read_text())["data"]
    assert (data["name"], data["root"]) == ("celeba", str(home.parent))
    run = load("out")
    assert run.names == ("image", "text")
    fast = ["--samples", "2", "--likelihood-items", "3", "--khat-items", "0", "--threads", "1", "--quiet"]
    shown = invoke("evaluate", "out", *fast)
    assert "classifiers' test mean average precision: image" in shown
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
