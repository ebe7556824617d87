"""The documentation: its Python code runs, and its links, names, settings and command lines exist."""

from __future__ import annotations

import gc
import importlib
import re
import shlex
import sys
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import torch
import yaml
from click.testing import CliRunner

import pyro_mmvae
from pyro_mmvae.cli import main
from pyro_mmvae.data import data_names, resolve_options
from pyro_mmvae.data.own.meta import make_meta
from pyro_mmvae.registry import Registry
from pyro_mmvae.runs.config import make_config, parse_overrides

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
PROSE = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]  # which also names what does not exist any more
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PROGRAMS = {
    "pyro-mmvae": "pyro_mmvae.cli",
    "benchmarks": "benchmarks.__main__",
    "benchmarks.curves": "benchmarks.curves",
    "benchmarks.profile": "benchmarks.profile",
    "benchmarks/gpu.sh": "benchmarks.gpu",
    "scripts/posterior_predictive.py": "scripts.posterior_predictive",
}
"""The programs that the pages call, each with the module of its click command ``main``."""

PLUGINS = (
    "tempered",
    "heavy_tails",
    "linear_networks",
    "noisy_circles",
    "free_bits",
    "small_locs",
    "spread_out",
    "brightest",
)
SMALL = shlex.split(
    "--quiet --epochs 1 --set model.latent_size=4 --set model.network.width=4 --set model.network.hidden=8 "
    "--set train.batch_size=32 --set train.threads=1 --set train.device=cpu"
)
NOT_RUN = {"no-run", "needs-run"}  # words after "python" of a block that is a fragment, or that needs a trained run
NEEDS_OMICS = "needs-omics"  # such a word of a block that runs with the extra omics only


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*) ?([\w-]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(page, text[: match.start()].count("\n") + 2, *match.groups())


def without_code(page: Path) -> str:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def inline_code(page: Path) -> Iterator[str]:
    """Yield the words between single backticks, which may be broken over two lines."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"``.*?``", "", text)
    for match in re.finditer(r"`([^`]+)`", text):
        yield match.group(1).replace("\n", " ")


def shell_lines(page: Path) -> Iterator[str]:
    """Yield the lines of shell blocks, indented commands, comments of configurations, and inline code."""
    if page.suffix == ".yaml":
        yield from re.findall(r"^#   (\S.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        return
    for block in blocks_of(page):
        if block.language == "sh":
            yield from block.text.splitlines()
    yield from re.findall(r"^    (\S.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    yield from inline_code(page)


def commands_of(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the program and the arguments of each command on a page."""
    for line in shell_lines(page):
        if not any(program in line for program in PROGRAMS) or " | " in line:
            continue
        words = shlex.split(line, comments=True)
        for index, word in enumerate(words):
            program = word.removeprefix(".venv/bin/")
            if program in PROGRAMS and (program == words[0] or words[index - 1] in {"&&", "-m", "bash", "python"}):
                rest = words[index + 1 :]
                yield program, rest[: rest.index("&&")] if "&&" in rest else rest


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = [(page, *command) for page in [*PAGES, *CONFIGS] for command in commands_of(page)]


@pytest.fixture
def restored() -> Iterator[None]:
    """Undo what a block registers, in every registry."""
    # Not isinstance, which asks some lazy objects of other packages for their class, and so imports these packages.
    registries = [(item, item.snapshot()) for item in gc.get_objects() if type(item) is Registry]
    modules = set(sys.modules)
    yield
    for item, parts in registries:
        item.restore(parts)
    for name in set(sys.modules) - modules:
        if name in PLUGINS:
            del sys.modules[name]


def run_block(block: Block) -> None:
    torch.manual_seed(0)
    exec(compile(block.text, str(block), "exec"), {"__name__": "__docs__"})


def invoke(arguments: list[str]) -> str:
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, f"pyro-mmvae {' '.join(arguments)}: {result.output}"
    return result.output


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python" and b.mark not in NOT_RUN], ids=str)
@pytest.mark.usefixtures("restored", "elsewhere")
def test_python_block_runs(block: Block) -> None:
    if block.mark != NEEDS_OMICS:
        run_block(block)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata and mudata
        pytest.importorskip("mudata")
        run_block(block)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=str)
def test_python_block_compiles_and_has_a_known_mark(block: Block) -> None:
    compile(block.text, str(block), "exec")
    assert block.mark in {"", NEEDS_OMICS, *NOT_RUN}


@pytest.mark.usefixtures("restored")
def test_readme_trained_run_decodes_images(elsewhere: Path) -> None:
    invoke(["train", "--agg", "mwb", *SMALL, "--set", "data.train_size=64", "--set", "data.val_size=32"])
    assert (elsewhere / "runs" / "polymnist-mini-mwb-seed0").is_dir()
    [block] = [block for block in blocks_of(ROOT / "README.md") if block.mark == "needs-run"]
    scope: dict[str, object] = {}
    exec(compile(block.text, str(block), "exec"), scope)
    images = scope["images"]
    assert isinstance(images, torch.Tensor)
    assert f"# {tuple(images.shape)}" in block.text


@pytest.mark.parametrize("name", PLUGINS)
@pytest.mark.usefixtures("restored", "opened")
def test_plugin_of_extending_page_serves_its_command(
    name: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = list(blocks_of(ROOT / "docs" / "extending.md"))
    [index] = [i for i, block in enumerate(blocks) if block.text.startswith(f"# {name}.py")]
    (elsewhere / f"{name}.py").write_text(blocks[index].text)
    monkeypatch.syspath_prepend(str(elsewhere))
    command, *arguments = shlex.split(blocks[index + 1].text)[1:]
    toy = [] if "--data" in arguments else ["--data", "toy", "--set", "data.train_size=64"]
    if command == "train":
        invoke(["train", *SMALL, *toy, *arguments, "--out", "run"])
        assert name in (elsewhere / "run" / "config.yaml").read_text()
    else:
        invoke(["train", *SMALL, *toy, "--agg", "wb", "--out", "run"])
        arguments[arguments.index("RUN")] = "run"
        invoke([command, *arguments, "--quiet", "--items", "8", "--num-samples", "5", "--threads", "1"])
        assert name in (elsewhere / "run" / "evaluation" / "ppc.csv").read_text()


def test_every_python_block_of_extending_page_is_a_plugin_with_a_command() -> None:
    blocks = list(blocks_of(ROOT / "docs" / "extending.md"))
    assert [block.language for block in blocks] == ["python", "sh"] * len(PLUGINS)
    assert [block.text.split(".py")[0] for block in blocks[::2]] == [f"# {name}" for name in PLUGINS]


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_of_page_exist(page: Path) -> None:
    for target, _, anchor in re.findall(r"\]\(([^)#\s]*)(#([^)\s]*))?\)", without_code(page)):
        if target.startswith("http"):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page}: {target}"
        assert path.is_relative_to(ROOT), f"{page}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page}: {target}#{anchor}"


def test_commands_are_found_on_the_pages() -> None:
    assert {program for _, program, _ in COMMANDS} == set(PROGRAMS)
    assert (ROOT / "README.md", "pyro-mmvae", ["train", "--agg", "mwb"]) in COMMANDS
    assert len(COMMANDS) > 50


@pytest.mark.parametrize(
    ("page", "program", "arguments"),
    COMMANDS,
    ids=[f"{page.name}-{program} {' '.join(arguments)}" for page, program, arguments in COMMANDS],
)
def test_command_line_has_existing_commands_and_options(page: Path, program: str, arguments: list[str]) -> None:
    command: click.Command = importlib.import_module(PROGRAMS[program]).main
    words = list(arguments)
    while isinstance(command, click.Group) and words:
        child = command.get_command(click.Context(command), words[0])
        assert child is not None, f"there is no command {words[0]!r}"
        command, words = child, words[1:]
    context = click.Context(command)
    options, extra, _ = command.make_parser(context).parse_args(args=words)  # raises on an unknown option
    assert not extra
    for parameter in command.params:
        value = options.get(str(parameter.name))
        if isinstance(parameter, click.Argument) and parameter.required and words:
            assert isinstance(value, str), f"{parameter.name} is missing"
        if isinstance(parameter, click.Option) and isinstance(value, str):
            for choice in value.split("|") if isinstance(parameter.type, (click.Choice, click.IntRange)) else ():
                parameter.type.convert(choice, parameter, context)


def options_of(words: list[str], name: str) -> list[str]:
    """Return the values of an option that may be repeated."""
    return [value for option, value in zip(words, words[1:], strict=False) if option == name]


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_of_page_exist(page: Path) -> None:
    for line in shell_lines(page):
        words = shlex.split(line, comments=True) if "--set " in line or "--config " in line else []
        data = options_of(words, "--data") or [name for name in (page.stem,) if name in data_names()]
        overrides = [f"data.name={name}" for name in data]
        overrides += [f"model.aggregation={name}" for name in options_of(words, "--agg") if "," not in name]
        overrides += options_of(words, "--set")
        for path in options_of(words, "--config") or [None]:
            config = make_config(ROOT / path if path and Path(path).suffix else path, parse_overrides(overrides))
            if config.data.name in data_names():
                resolve_options(config.data.name, config.data.options())


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=str)
def test_yaml_block_is_valid(block: Block, elsewhere: Path) -> None:
    tree = yaml.safe_load(block.text)
    if "modalities" in tree:
        assert make_meta(str(block), tree).modalities
    else:
        (elsewhere / "config.yaml").write_text(block.text)
        make_config(elsewhere / "config.yaml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_and_paths_in_code_of_page_exist(page: Path) -> None:
    for code in inline_code(page):
        for dotted in re.findall(r"^@?(pyro_mmvae(?:\.\w+)+)", code):
            resolve(dotted)
        if re.fullmatch(r"(pyro_mmvae|examples|benchmarks|docs|configs|scripts|tests)/[\w/.\-]+", code):
            assert (ROOT / code).exists(), f"{page}: {code}"


def resolve(dotted: str) -> object:
    """Return the object of a dotted name."""
    value: object = pyro_mmvae
    for count, name in enumerate(dotted.split(".")[1:], 2):
        if not hasattr(value, name):
            importlib.import_module(".".join(dotted.split(".")[:count]))
        value = getattr(value, name)
    return value


def test_architecture_page_shows_the_layers_of_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract.get("containers") == ["pyro_mmvae"]]
    shown = [block.text.splitlines() for block in blocks_of(ROOT / "docs" / "architecture.md")]
    assert layers in shown


def test_architecture_page_names_every_room() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## The way of the data")[0]
    named = set(re.findall(r"`([\w/.]+)`", table))
    for path in (ROOT / "pyro_mmvae").iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"{path.name}/" in named
        elif path.suffix == ".py" and path.name != "__init__.py":
            assert path.name in named
