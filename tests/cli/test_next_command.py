"""The commands that ``train`` prints run as printed, and ``evaluate`` ends, for data of every shape."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pyro_mmvae.cli import main

PLUGIN = '''
"""Data of many shapes."""
import torch
from pyro_mmvae import ModalitySpec, MultimodalDataset
from pyro_mmvae.data import register_data

KINDS = {
    "image": lambda n, g: torch.rand(n, 1, 8, 8, generator=g),
    "table": lambda n, g: torch.randn(n, 3, generator=g),
    "text": lambda n, g: torch.randint(0, 5, (n, 6), generator=g),
}


@register_data("shapes")
def load_shapes(split, *, cache=True, kinds=("image", "table"), test_size=12, absent=0):
    size = {"train": 20, "val": 4, "test": test_size}[split]
    generator = torch.Generator().manual_seed(len(split))
    values = {f"m{i}": KINDS[kind](size, generator) for i, kind in enumerate(kinds)}
    present = torch.ones(size, len(kinds), dtype=torch.bool)
    if split == "test":
        present[:, :absent] = False
    specs = {f"m{i}": ModalitySpec(data_type="tokens", classes=5) for i, kind in enumerate(kinds) if kind == "text"}
    labels = torch.arange(size) % 2
    return MultimodalDataset(values, labels, present, "shapes", split, modality_specs=specs)
'''

SHAPES = {
    "one-test-item": ("image", "table", {"data.test_size": 1}),
    "two-test-items": ("image", "table", {"data.test_size": 2}),
    "first-modality-untested": ("image", "table", "text", {"data.absent": 1}),
    "no-modality-tested": ("image", "table", {"data.absent": 2}),
    "one-modality": ("image", {}),
    "vectors": ("table", "table", {}),
    "texts": ("text", "text", {"data.test_size": 3}),
    "one-latent-dimension": ("image", "table", {"model.latent_size": 1}),
    "private-latents": ("image", "table", {"model.private_size": 1, "data.test_size": 5}),
    "too-many-components": (*["table"] * 13, {"data.test_size": 3}),
    "a folder with spaces": ("image", "text", {}),
}


@pytest.fixture
def place(elsewhere: Path, registered: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (elsewhere / "shapes_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(elsewhere)
    monkeypatch.setenv("PYRO_MMVAE_CACHE", str(elsewhere / "cache"))
    yield elsewhere
    sys.modules.pop("shapes_plugin", None)


def invoke(*words: str) -> Result:
    result = CliRunner().invoke(main, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def trained(shape: str, aggregation: str = "mwb") -> Result:
    """Train a small model on data of a shape into a run directory named after it."""
    *kinds, settings = SHAPES[shape]
    values = {"model.latent_size": 2, "model.network.width": 4, "model.network.hidden": 8, "train.threads": 1}
    values |= {"train.device": "cpu", "data.kinds": json.dumps(kinds), **settings}  # type: ignore[dict-item]
    words = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    words += ["--data", "shapes", "--plugin", "shapes_plugin", "--epochs", "1", "--out", shape, "--quiet"]
    return invoke("train", "--agg", aggregation, *words)


@pytest.mark.parametrize("shape", SHAPES)
def test_train_next_command_runs_as_printed(place: Path, shape: str) -> None:
    last = trained(shape).output.splitlines()[-2]
    program, *words = shlex.split(last.removeprefix("next: "))
    assert (program, words[:2]) == ("pyro-mmvae", ["sample", shape])
    before = set(place.iterdir())
    output = invoke(*words).output
    assert {file.name for file in set(place.iterdir()) - before} <= {"grid.png", "grid.npz"}
    assert "draws " in output


def test_train_next_command_names_a_file_that_does_not_exist(place: Path) -> None:
    (place / "grid.png").write_bytes(b"of an earlier run")
    (place / "grid-2.npz").write_bytes(b"of another one")
    last = trained("one-test-item").output.splitlines()[-2]
    assert last.endswith("--out grid-3.png")
    invoke(*shlex.split(last.removeprefix("next: "))[1:])
    assert (place / "grid.png").read_bytes() == b"of an earlier run"


@pytest.mark.parametrize("shape", SHAPES)
def test_train_last_command_writes_a_report_as_printed(place: Path, shape: str) -> None:
    last = trained(shape).output.splitlines()[-1]
    assert last.startswith("next: pyro-mmvae report ")
    words = shlex.split(last.removeprefix("next: pyro-mmvae "))
    assert f"{shape}/report.html" in invoke(*words, "--quiet").output
    page = (place / shape / "report.html").read_text(encoding="utf-8")
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    kinds = {"image": "image", "table": "numbers", "text": "text"}
    assert [modality["kind"] for modality in data["items"]["modalities"]] == [
        kinds[str(kind)] for kind in SHAPES[shape][:-1]
    ]
    assert len(data["map"]["ids"]) == len(data["items"]["ids"]) > 0


@pytest.mark.parametrize("shape", ["one-test-item", "one-latent-dimension", "two-test-items"])
def test_evaluate_ends_for_the_smallest_data_and_latents(place: Path, shape: str) -> None:
    trained(shape)
    words = ["--quiet", "--threads", "1", "--khat-items", "1", "--likelihood-items", "2", "--samples", "2"]
    assert "latent.png" in invoke("evaluate", shape, *words).output
