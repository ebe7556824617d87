"""A runner of the notebooks: ``python -m scripts.run_notebooks --quick`` tries them, ``--write`` renews their outputs.

It needs the extra ``docs``. Each notebook runs in a folder of its own that is removed afterwards.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TIMEOUT = 3600
"""The time in seconds that one cell may take."""

COLORS = 96
"""The number of colours of stored pictures, which makes them a third as large."""

_PROGRESS = re.compile(r"\r?[\w ]+: +\d+%\|[^\r\n]*(?:\r?\n)?")
"""The bars of commands, which share one stream with their results in a notebook."""


def run(notebook: Any, folder: Path, quick: bool) -> None:
    """Execute a notebook, whose cells then have outputs.

    Args:
        notebook: The notebook, which is changed.
        folder: Folder in which its cells run.
        quick: If True, ``PYRO_MMVAE_QUICK`` is set, by which notebooks choose small sizes.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell raises an error.
    """
    environment = {key: value for key, value in os.environ.items() if key not in {"MPLBACKEND", "PYRO_MMVAE_QUICK"}}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment |= {"PYRO_MMVAE_QUICK": "1"} if quick else {}
    client = NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": folder}})
    client.execute(env=environment)


def _small(png: str) -> str:
    """Return a picture, in base64, with few colours."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    stored = io.BytesIO()
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(stored, "PNG", optimize=True)
    return base64.b64encode(stored.getvalue()).decode()


def tidy(notebook: Any, folder: Path) -> None:
    """Reduce the outputs of a notebook to texts and small pictures that do not tell where it ran.

    Args:
        notebook: The notebook, which is changed.
        folder: Folder in which it ran, whose path is left out of texts.
    """
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type != "code":
            continue
        cell.outputs = [item for item in cell.outputs if item.get("name") != "stderr"]
        for item in cell.outputs:
            if "text" in item:
                item["text"] = _PROGRESS.sub("", item["text"].replace(f"{folder}/", ""))
            if "image/png" in item.get("data", {}):
                item["data"] = {"image/png": _small(item["data"]["image/png"])}
                item["metadata"] = {}
            elif "data" in item:
                plain = re.sub(r" at 0x[0-9a-f]+", "", item["data"].get("text/plain", ""))
                item["data"] = {"text/plain": plain}
        cell.outputs = [item for item in cell.outputs if item.get("text") != ""]
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}


@click.command()
@click.argument("names", nargs=-1)
@click.option("--quick", is_flag=True, help="Run with the small sizes of the tests.")
@click.option("--write", is_flag=True, help="Write the outputs into the notebooks.")
def main(names: tuple[str, ...], quick: bool, write: bool) -> None:
    """Run the notebooks, or those of the NAMES given, such as five-minutes."""
    if quick and write:
        raise click.UsageError("--write must store the figures of whole runs, got --quick too: leave one of them out")
    known = {path.stem: path for path in NOTEBOOKS}
    if unknown := sorted(set(names) - set(known)):
        raise click.UsageError(f"NAMES must be among {', '.join(known)}, got {', '.join(unknown)}")
    for path in [known[name] for name in names] or NOTEBOOKS:
        start, notebook = time.monotonic(), nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            run(notebook, Path(folder), quick)
            tidy(notebook, Path(folder))
        if write:
            nbformat.write(notebook, path)
        print(f"{path.stem}: {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
