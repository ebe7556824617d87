"""The pages of the site that are made and not written: the API, commands, settings, examples and notebooks."""

from __future__ import annotations

import ast
import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pyro_mmvae.cli import main
from pyro_mmvae.runs.settings import list_settings
from scripts.site_links import ROOT_PAGES, for_site

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pyro_mmvae"
INTERNAL = (
    "chunks", "cli", "device", "files", "locks", "reports", "run_files", "signatures", "streams", "uniformity",
)  # fmt: skip
"""The rooms without an API for users: the command line has a page, and ``plots`` has the functions of reports."""

DOCUMENTED = ("reports.html", "reports.styles")
"""The modules of rooms without an API that pages name nevertheless."""


def _source(room: str) -> Path:
    """Return the file of a room: that of its module, or the ``__init__.py`` of its package."""
    place = PACKAGE.joinpath(*room.split("."))
    package = place / "__init__.py"
    return package if package.exists() else place.with_suffix(".py")


def rooms() -> list[str]:
    """Return the names of the public rooms and modules, sorted, with a dot before that of a module in a room."""
    found = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    found += [path.stem for path in PACKAGE.glob("*.py") if not path.name.startswith("_")]
    return sorted([*DOCUMENTED, *(name for name in found if name not in INTERNAL and public_names(name))])


def public_names(room: str) -> list[str]:
    """Return what a room offers to users: its ``__all__``, what it re-exports by ``as``, or what it defines.

    Args:
        room: Name of a package or module in ``pyro_mmvae``, or ``""`` for the package itself. Of a module in a room
            the constants are listed too.
    """
    tree = ast.parse(_source(room).read_text(encoding="utf-8"))
    for node in tree.body if room else ():
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value))
    if _source(room).name != "__init__.py":
        kinds = (ast.ClassDef, ast.FunctionDef)
        found = [node.name for node in tree.body if isinstance(node, kinds)]
        if room in DOCUMENTED:
            values = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
            found += [ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target) for node in values]
        return sorted(name for name in found if not name.startswith("_"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {alias.asname for node in imports for alias in node.names if alias.asname}
    second = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name)]
    names |= {ast.unparse(node.targets[0]) for node in second}  # second names, as in load = load_run
    return sorted(name for name in names if not name.startswith("_"))


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def api_pages() -> Iterator[tuple[str, str]]:
    """Yield path and Markdown of a page per public room, with the documentation of all its names."""
    for room in rooms():
        parts = [f"# pyro_mmvae.{room}", _docstring(_source(room))]
        parts += [f"::: pyro_mmvae.{room}.{name}" for name in public_names(room)]
        yield f"reference/api/{room}.md", "\n\n".join(parts) + "\n"


def api_index() -> str:
    """Return the Markdown of the list of rooms and of the names that ``pyro_mmvae`` itself has."""
    homes = {name: room for room in reversed(rooms()) for name in public_names(room)}
    top = [name for name in public_names("") if name in homes]
    lines = ["# API", "", "Every public name, by the room of the package that it belongs to. The names in the last",
             "column can be imported from `pyro_mmvae` itself.", "", "| room | content | from `pyro_mmvae` |",
             "|---|---|---|"]  # fmt: skip
    for room in rooms():
        summary = _docstring(_source(room)).split("\n\n")[0]
        names = ", ".join(f"[`{name}`]({room}.md#pyro_mmvae.{room}.{name})" for name in top if homes[name] == room)
        lines.append(f"| [`{room}`]({room}.md) | {' '.join(summary.split())} | {names} |")
    return "\n".join(lines) + "\n"


def root_pages() -> Iterator[tuple[str, str]]:
    """Yield path and Markdown of the pages in the root of the repository, but the README."""
    for name, page in ROOT_PAGES.items():
        if page != "index.md":
            yield page, for_site((ROOT / name).read_text(encoding="utf-8"), "", page)


def example_pages() -> Iterator[tuple[str, str]]:
    """Yield path and Markdown of a page per example: the words of its docstring, and the script."""
    for path in sorted((ROOT / "examples").glob("*.py")):
        code = path.read_text(encoding="utf-8")
        title, _, rest = _docstring(path).partition("\n")
        lines = [f"# {path.name}", title + rest, "", "```sh", f"python examples/{path.name}", "```", "", "```python"]
        yield f"examples/{path.stem}.md", "\n".join([*lines, code.rstrip(), "```", ""])


def examples_index() -> str:
    """Return the Markdown of the list of examples."""
    lines = ["# Examples", "", "Scripts of the folder `examples`, which run in seconds and are run by the",
             "tests. [Guides, aggregations and models](../guides.md) says what they show.", "", "| script | content |",
             "|---|---|"]  # fmt: skip
    for path in sorted((ROOT / "examples").glob("*.py")):
        summary = " ".join(_docstring(path).split("\n\n")[0].split())
        lines.append(f"| [`{path.name}`]({path.stem}.md) | {summary} |")
    return "\n".join(lines) + "\n"


def notebooks() -> list[Path]:
    """Return the paths of all notebooks, in the order in which they are read."""
    order = ["five-minutes", "own-table", "cite-seq", "swapping-guides"]
    found = sorted((ROOT / "notebooks").glob("*.ipynb"))
    return sorted(found, key=lambda path: order.index(path.stem) if path.stem in order else len(order))


def notebook_title(path: Path) -> str:
    """Return the heading of a notebook."""
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
    return "".join(first["source"]).splitlines()[0].removeprefix("# ")


def _cell(cell: dict[str, Any], name: str, pictures: dict[str, bytes]) -> Iterator[str]:
    """Yield the Markdown of a cell and of its outputs, and add their pictures to ``pictures``."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            picture = f"{name}-{len(pictures) + 1}.png"
            pictures[f"notebooks/{picture}"] = base64.b64decode("".join(data["image/png"]))
            yield f"![Output of the cell above]({picture})"
        else:
            yield "```text\n" + "".join(output.get("text", data.get("text/plain", ""))).rstrip() + "\n```"


def notebook_pages() -> Iterator[tuple[str, str | bytes]]:
    """Yield path and content of a page per notebook, with the outputs that it stores, and of their pictures."""
    lines = ["# Notebooks", "", "Each runs in minutes, also in a hosted notebook, where its first cell installs the",
             "package once it is in an index, and says what to do before. On your own machine, install a checkout",
             "first, as by `pip install '.[data]'`. The files are in the folder `notebooks` of the",
             "repository.", ""]  # fmt: skip
    for path in notebooks():
        pictures: dict[str, bytes] = {}
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        parts = [part for cell in cells for part in _cell(cell, path.stem, pictures)]
        yield f"notebooks/{path.stem}.md", "\n\n".join(parts) + "\n"
        yield from pictures.items()
        lines.append(f"- [{notebook_title(path)}]({path.stem}.md)")
    yield "notebooks/index.md", "\n".join(lines) + "\n"


def settings_page() -> str:
    """Return the Markdown of the page that lists every setting with its default, type and meaning."""
    lines = ["# All settings", "", "Each is set in a configuration file, or by `--set KEY=VALUE`.",
             "[Settings](../settings.md) explains how they combine. `pyro-mmvae settings` prints this list, with the",
             "options of a data set after `--data`."]  # fmt: skip
    section = ""
    for setting in list_settings():
        head = setting.key.rpartition(".")[0] or "recipe"
        if head != section:
            section = head
            lines += ["", f"## {section}", "", "| key | default | type | meaning |", "|---|---|---|---|"]
        cells = (f"`{setting.key}`", f"`{setting.default_text}`", setting.type, setting.meaning)
        lines.append("| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Return words of a help text as Markdown that shows them as they are, on one line."""
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", " ".join(text.split()))


def _command_section(context: click.Context) -> str:
    """Return heading, meaning, usage and options of a command."""
    command, name = context.command, context.command_path
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    paragraphs = [_escaped(part) for part in (command.help or "").replace("\b\n", "").split("\n\n")]
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    rows = [f"| `{names}` | {_escaped(meaning)} |" for names, meaning in records]
    table = ["| option | meaning |\n|---|---|\n" + "\n".join(rows)] if rows else []
    return "\n\n".join([f"## {name}", *paragraphs, f"```text\n{usage}\n```", *table])


def _command_sections(context: click.Context) -> Iterator[str]:
    """Yield the section of each command below a group, and of the commands of groups in it."""
    group = context.command
    assert isinstance(group, click.Group)
    for name in sorted(group.commands):
        child = click.Context(group.commands[name], info_name=name, parent=context, max_content_width=10_000)
        if isinstance(child.command, click.Group):
            yield from _command_sections(child)
        else:
            yield _command_section(child)


def command_line_page() -> str:
    """Return the Markdown of the page that describes every command with its arguments and options."""
    start = "# All commands and options\n\nEvery command with its options, as `pyro-mmvae COMMAND --help` prints them."
    return "\n\n".join([start, *_command_sections(click.Context(main, info_name="pyro-mmvae"))]) + "\n"
