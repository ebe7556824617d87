"""The notebooks as they are stored, and the script that runs them."""

from __future__ import annotations

import ast
import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 500_000
"""The number of bytes that a stored notebook may have."""


def cells_of(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def outputs_of(path: Path) -> list[dict[str, Any]]:
    return [output for cell in cells_of(path, "code") for output in cell["outputs"]]


def without_magics(source: str) -> str:
    """Return the Python of a cell, with magics and shell commands as ``pass``."""
    return re.sub(r"^( *)[%!].*$", r"\1pass", source, flags=re.MULTILINE)


def test_there_are_four_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["cite-seq", "five-minutes", "own-table", "swapping-guides"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_first_cell_installs_in_a_hosted_notebook_only(path: Path) -> None:
    first = "".join(cells_of(path, "code")[0]["source"])
    [guard] = [node for node in ast.parse(without_magics(first)).body if isinstance(node, ast.If)]
    assert "google.colab" in ast.unparse(guard.test)
    index = re.search(r"^    %pip install --quiet \"?pyro-mmvae(\[\w+\])?\"?$", first, re.MULTILINE)
    checkout = re.search(r"^    # %pip install --quiet \"\./pyro_mmvae(\[\w+\])?\"$", first, re.MULTILINE)
    assert index
    assert checkout
    assert index[1] == checkout[1]


def test_five_minutes_describes_each_panel_of_its_training(tmp_path: Path) -> None:
    from pyro_mmvae.plots import plot_training

    row = {
        "epoch": 0, "objective": -2.0, "kl": 1.0, "beta": 1.0, "log_likelihood": {"m0": -1.0}, "penalties": {"a": 1.0},
        "val": {"elbo": -2.0, "kl": 1.0, "log_likelihood": {"m0": -1.0}},
    }  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    titles = [axis.get_title() for axis in plot_training(tmp_path).axes]
    [path] = [path for path in NOTEBOOKS if path.stem == "five-minutes"]
    sources = ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    text = sources[next(i for i, source in enumerate(sources) if "plot_training(run)" in source) + 1]
    text = " ".join(text.split())
    words = {
        "evidence": "evidence lower bound", "KL": "KL divergence", "reconstruction": "log likelihood of each modality",
        "penalty": "a penalty that the recipe adds to the loss",
    }  # fmt: skip
    assert len(titles) == len(words)
    assert [title for title in titles if words[re.split(r"\W", title)[0]] not in text] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_compile_and_know_the_quick_mode(path: Path) -> None:
    sources = ["".join(cell["source"]) for cell in cells_of(path, "code")]
    for source in sources:
        compile(without_magics(source), path.name, "exec")
    assert sum("PYRO_MMVAE_QUICK" in source for source in sources) == 1
    assert sum(bool(re.search(r"\bif QUICK else\b", source)) for source in sources) >= 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_small_pictures_and_texts_without_errors(path: Path) -> None:
    assert path.stat().st_size < LARGEST
    outputs = outputs_of(path)
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert pictures or not outputs  # all are stored, or none
    for picture in pictures:
        colors = Image.open(io.BytesIO(base64.b64decode("".join(picture)))).convert("RGB").getcolors(100_000)
        assert colors is not None
        assert len(colors) > 2
    assert not re.search(r"/(root|home|tmp|work)/", json.dumps([o for o in outputs if "image/png" not in str(o)[:200]]))
    explained = sum("**What to see.**" in "".join(cell["source"]) for cell in cells_of(path, "markdown"))
    assert explained >= 2


def test_run_notebooks_refuses_unknown_names_and_quick_outputs() -> None:
    pytest.importorskip("nbclient")
    from scripts.run_notebooks import main

    unknown = CliRunner().invoke(main, ["nothing"])
    assert unknown.exit_code == 2
    assert "must be among cite-seq, five-minutes, own-table, swapping-guides, got nothing" in unknown.output
    assert CliRunner().invoke(main, ["--quick", "--write"]).exit_code == 2


def test_tidy_notebook_keeps_texts_and_small_pictures_only(tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    from scripts.run_notebooks import tidy

    stored = io.BytesIO()
    Image.effect_noise((60, 60), 80).convert("RGB").save(stored, "PNG")
    picture = base64.b64encode(stored.getvalue()).decode()
    v4 = nbformat.v4
    outputs = [
        v4.new_output("stream", name="stderr", text="progress"),
        v4.new_output("stream", name="stdout", text="\rimpute:   0%|     | 0/8 [00:00<?, ? items/s]\r\n"),
        v4.new_output("stream", name="stdout", text=f"{tmp_path}/run\n"),
        v4.new_output("display_data", data={"image/png": picture, "text/plain": "<Figure>"}),
        v4.new_output("execute_result", data={"text/plain": "<Axes at 0x7f00>", "text/html": "<b>"}, execution_count=1),
    ]
    notebook = v4.new_notebook(cells=[v4.new_code_cell("x", outputs=outputs, metadata={"execution": {"a": "b"}})])
    tidy(notebook, tmp_path)
    [cell] = notebook.cells
    assert cell.metadata == {}
    text, image, result = cell.outputs
    assert text["text"] == "run\n"
    assert list(image["data"]) == ["image/png"]
    assert len(image["data"]["image/png"]) < len(picture)
    assert result["data"] == {"text/plain": "<Axes>"}
