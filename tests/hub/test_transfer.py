"""Pushing runs to a stand-in for the Hub, and pulling them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

# Before the library is imported: no protocol of its own for large files, no files in the user's home.
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hub-home-")

import pyro_mmvae
from pyro_mmvae.cli import main
from pyro_mmvae.hub import HubError, pull, push
from pyro_mmvae.hub.manifest import shared_files
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import train
from tests.hub.hub_server import LARGE, Hub, serve

pytest.importorskip("huggingface_hub")
NAME = "ada/tiny"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the library's use of its client


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return a stand-in for the Hub, whose token the environment has."""
    with serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


TRAINED: list[Path] = []  # the run that all tests copy


@pytest.fixture
def run_path(toy_config: Callable[..., Config], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a trained run with the summary of an evaluation."""
    if not TRAINED:
        TRAINED.append(train(toy_config(), tmp_path_factory.mktemp("hub") / "run", progress=False).path)
    path = tmp_path / "run"
    shutil.copytree(TRAINED[0], path)
    (path / "evaluation").mkdir()
    means = {"probe": {"joint, 10 points": {"1": 0.5, "2": 0.75}}, "log_likelihood": {"all|of": {"1": -12.34}}}
    summary = {"aggregation": "wb", "means_by_views": means}
    (path / "evaluation" / "summary.json").write_text(json.dumps(summary))
    return path


def test_shared_files_include_every_table_of_an_evaluation(run_path: Path) -> None:
    files = RunFiles(run_path)
    tables = [
        files.evaluation_table, files.check_table, files.readings_table, files.readings_report, files.imputation_table,
        files.imputation_report, files.imputation_latex,
    ]  # fmt: skip
    for table in tables:
        table.write_text("a table")
    assert {str(table.relative_to(run_path)) for table in tables} <= set(shared_files(run_path, items=False))


def damage(hub: Hub, name: str, change: Callable[[bytes], bytes]) -> None:
    hub.files[NAME][name] = change(hub.files[NAME][name])


def relist(hub: Hub, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the list of files of the repository."""
    manifest = json.loads(hub.files[NAME]["files.json"])
    change(manifest["files"])
    hub.files[NAME]["files.json"] = json.dumps(manifest).encode()


def test_pull_of_a_pushed_run_is_equal_and_opens(hub: Hub, run_path: Path, tmp_path: Path) -> None:
    assert push(run_path, NAME) == f"{hub.url}/{NAME}"
    assert any(len(data) >= LARGE for data in hub.files[NAME].values())  # by both ways of uploading
    place = pull(NAME, tmp_path / "pulled")
    pulled = {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}
    assert {"config.yaml", "environment.json", "checkpoint.safetensors", "evaluation/summary.json"} <= set(pulled)
    assert set(pulled) == set(hub.files[NAME]) - {"README.md", "files.json"}
    assert pulled == {name: (run_path / name).read_bytes() for name in pulled}
    assert pyro_mmvae.load(place).names == pyro_mmvae.load(run_path).names
    assert {entry.name for entry in tmp_path.iterdir()} == {"run", "pulled"}  # nothing temporary remains


def test_push_items_of_the_data_only_on_request(hub: Hub, run_path: Path, tmp_path: Path) -> None:
    (run_path / "data").mkdir(exist_ok=True)
    (run_path / "data" / "secret.npy").write_bytes(b"x")
    (run_path / "notes.txt").write_text("private")
    push(run_path, NAME)
    assert "samples.npz" not in hub.files[NAME]
    push(run_path, NAME, items=True)
    assert "samples.npz" in hub.files[NAME]
    assert not {"data/secret.npy", "notes.txt"} & set(hub.files[NAME])
    assert (pull(NAME, tmp_path / "pulled") / "samples.npz").exists()


def test_push_writes_a_card_with_the_evaluation(hub: Hub, run_path: Path) -> None:
    push(run_path, NAME, license_name="mit")
    card = hub.files[NAME]["README.md"].decode()
    assert card.startswith("---\nlibrary_name: pyro_mmvae\n")
    assert 'license: "mit"' in card
    assert "| metric | protocol | 1 | 2 |" in card
    assert "| probe | joint, 10 points | 0.500 | 0.750 |" in card
    assert r"| log\_likelihood | all\|of | -12.3 |  |" in card
    assert f"pyro-mmvae pull {NAME} --out run" in card
    assert "Barycentric View" in card
    assert "@software{pyro_mmvae," in card


def test_pull_private_repository_needs_the_token(
    hub: Hub, run_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(run_path, NAME, private=True)
    assert pull(NAME, tmp_path / "mine").is_dir()
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(
        HubError, match=r"ada/tiny: the repository must exist and be open to your token, got status 401"
    ):
        pull(NAME, tmp_path / "theirs")
    with pytest.raises(HubError, match="got status 401"):
        push(run_path, "ada/other")
    assert not (tmp_path / "theirs").exists()


def test_pull_damaged_file_is_refused_and_nothing_is_left(hub: Hub, run_path: Path, tmp_path: Path) -> None:
    push(run_path, NAME)
    damage(hub, "metrics.jsonl", lambda data: data[:-3] + b"7}\n")
    with pytest.raises(ValueError, match=r"ada/tiny: metrics.jsonl must have the SHA-256 .* it is damaged"):
        pull(NAME, tmp_path / "pulled")
    damage(hub, "metrics.jsonl", lambda data: data + b" ")
    with pytest.raises(ValueError, match=r"ada/tiny: metrics.jsonl must have \d+ bytes, got \d+"):
        pull(NAME, tmp_path / "pulled")
    assert {entry.name for entry in tmp_path.iterdir()} == {"run"}


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "evaluation/../../evil.csv", "evil.py", "plots/..", "data/x.npy", "best.safetensors/x"],
)
def test_pull_list_with_a_foreign_name_is_refused(hub: Hub, run_path: Path, tmp_path: Path, name: str) -> None:
    push(run_path, NAME)
    relist(hub, lambda files: files.update({name: {"bytes": 1, "sha256": "0" * 64}}))
    hub.files[NAME][name] = b"x"
    with pytest.raises(ValueError, match="must name files of a run directory, got"):
        pull(NAME, tmp_path / "pulled")
    assert {entry.name for entry in tmp_path.iterdir()} == {"run"}


def test_pull_bad_list_is_refused(hub: Hub, run_path: Path, tmp_path: Path) -> None:
    push(run_path, NAME)
    relist(hub, lambda files: files["config.yaml"].update(bytes=2**40))
    with pytest.raises(ValueError, match="must have at most 21474836480 bytes together"):
        pull(NAME, tmp_path / "pulled")
    relist(hub, lambda files: files["config.yaml"].update(bytes=-1))
    with pytest.raises(ValueError, match="must have the size and the SHA-256 of 'config.yaml'"):
        pull(NAME, tmp_path / "pulled")
    relist(hub, lambda files: files.pop("config.yaml"))
    with pytest.raises(ValueError, match=r"a run must have \['config.yaml'\]"):
        pull(NAME, tmp_path / "pulled")
    hub.files[NAME]["files.json"] = b"[]"
    with pytest.raises(ValueError, match=r"files\.json"):
        pull(NAME, tmp_path / "pulled")
    del hub.files[NAME]["files.json"]
    with pytest.raises(ValueError, match="a repository must have files.json"):
        pull(NAME, tmp_path / "pulled")


def test_pull_names_what_is_missing(hub: Hub, run_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubError, match="ada/none: the repository must exist"):
        pull("ada/none", tmp_path / "pulled")
    push(run_path, NAME)
    with pytest.raises(HubError, match="the revision must exist .* got status 404"):
        pull(NAME, tmp_path / "pulled", revision="v9")
    with pytest.raises(FileExistsError, match="must not exist"):
        pull(NAME, run_path)
    with pytest.raises(ValueError, match="must be named USER/NAME, as in 'ada/mwb-polymnist', got '../x'"):
        pull("../x", tmp_path / "pulled")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="the Hub must be within reach"):
        pull(NAME, tmp_path / "pulled")
    done = CliRunner().invoke(main, ["pull", NAME, "--out", str(tmp_path / "pulled")])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)


def test_push_other_folders_and_links_are_refused(hub: Hub, run_path: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must be the directory of a trained run"):
        push(tmp_path / "empty", NAME)
    shutil.move(run_path / "metrics.jsonl", tmp_path / "elsewhere")
    (run_path / "metrics.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="symbolic link"):
        push(run_path, NAME)
    assert not hub.files


def test_commands_push_and_pull_name_plugins_and_import_none(hub: Hub, run_path: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["push", str(run_path), NAME])
    assert done.exit_code == 0, done.output
    assert f"pushed to {hub.url}/{NAME}" in done.output
    plugin = tmp_path / "evil_plugin.py"
    plugin.write_text("raise SystemExit('imported')")
    text = hub.files[NAME]["config.yaml"].decode().replace("plugins: []", "plugins: [evil_plugin]").encode()
    assert b"evil_plugin" in text
    hub.files[NAME]["config.yaml"] = text
    from pyro_mmvae.hub.manifest import checksum

    (tmp_path / "config").write_bytes(text)
    new = {"bytes": len(text), "sha256": checksum(tmp_path / "config")}
    relist(hub, lambda files: files.update({"config.yaml": new}))
    done = CliRunner().invoke(
        main, ["pull", NAME, "--out", str(tmp_path / "pulled")], env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.exit_code == 0, done.output
    assert "note: the run needs plugins, which are code: look at evil_plugin" in done.output
    assert "--plugin evil_plugin" in done.output
