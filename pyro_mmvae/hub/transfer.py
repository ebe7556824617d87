"""The transfer of run directories to and from the Hugging Face Hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyro_mmvae._bounded import read_json
from pyro_mmvae.hub.card import model_card
from pyro_mmvae.hub.manifest import MANIFEST, check_file, check_manifest, make_manifest, shared_files

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_MAX_MANIFEST = 2**20  # bytes
_NETWORK = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "hf_xet", "huggingface_hub"}


class HubError(OSError):
    """An error of a transfer; the message is one line and names the repository."""


def push(
    run: Path | str,
    repository: str,
    *,
    private: bool = False,
    items: bool = False,
    license_name: str | None = None,
    message: str = "Upload a run of pyro_mmvae",
) -> str:
    """Push a run directory to a repository of the Hugging Face Hub, which is created if it does not exist.

    The repository receives the configuration, the environment, the metrics, the checkpoints, the tables of the
    evaluation, ``files.json`` with the SHA-256 of each file, and a model card ``README.md``. The data of the run are
    never pushed, and files that show items of it only on request. The token is the one of the library
    ``huggingface_hub``: that of ``hf auth login`` or of the environment variable ``HF_TOKEN``.

    Args:
        run: The path of the run directory.
        repository: The repository as ``USER/NAME``.
        private: If True, a repository that is created is private; False by default.
        items: If True, ``samples.npz``, pictures, posterior means and predictive checks are pushed too, which show or
            describe items of the data; False by default.
        license_name: The licence of the weights as the Hub names it, such as ``"mit"``; none is stated by default.
        message: The message of the commit.

    Returns:
        The URL of the repository.

    Raises:
        HubError: If the Hub refuses the transfer or cannot be reached.
        ImportError: If ``huggingface_hub`` is not installed.
        ValueError: If the repository is not named ``USER/NAME``, or the directory is not that of a trained run.
    """
    _check_repository(repository)
    path = Path(run)
    names = shared_files(path, items=items)
    hub, api = _client()
    card = model_card(path, repository, license_name=license_name)
    texts = {"README.md": card, MANIFEST: json.dumps(make_manifest(path, names), indent=1) + "\n"}
    operations = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path / name)) for name in names]
    operations += [
        hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=text.encode()) for name, text in texts.items()
    ]
    with _hub_errors(repository):
        url = str(api.create_repo(repository, private=private or None, exist_ok=True))
        api.create_commit(repository, operations, commit_message=message)
    return url


def pull(repository: str, out: Path | str | None = None, *, revision: str | None = None) -> Path:
    """Pull a run directory from a repository of the Hugging Face Hub.

    Only files that ``files.json`` of the repository lists and that belong to a run directory are taken. Their sizes and
    checksums are checked, links are refused, and no file is opened as a run, so that no plugin is imported. The files
    are written under a temporary name, and the directory appears when it is complete.

    Args:
        repository: The repository as ``USER/NAME``, which ``push`` has filled.
        out: The run directory to create; by default ``runs/NAME``.
        revision: The branch, the tag or the commit to pull; by default the main branch.

    Returns:
        The path of the run directory.

    Raises:
        HubError: If the repository does not exist, cannot be read with the token, or the Hub cannot be reached.
        ImportError: If ``huggingface_hub`` is not installed.
        ValueError: If the repository is not named ``USER/NAME``, does not hold a run, or a file is damaged.
        FileExistsError: If the path ``out`` exists.
    """
    _check_repository(repository)
    target = Path("runs", repository.partition("/")[2]) if out is None else Path(out)
    _refuse(target)
    api = _client()[1]
    target.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{target.name[:100]}.", dir=target.parent))
    try:
        _download(api, repository, revision, place)
        _refuse(target)
        (place / "run").rename(target)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return target


def _refuse(target: Path) -> None:
    """Raise an error if the directory to create exists."""
    if target.exists() or target.is_symlink():
        raise FileExistsError(f"{target} must not exist, got an existing path: choose another --out")


def _download(api: Any, repository: str, revision: str | None, place: Path) -> None:
    """Download the files of a run to ``place/run``, all of one commit.

    Args:
        api: The client of the Hub.
        repository: The repository as ``USER/NAME``.
        revision: The branch, the tag or the commit; None for the main branch.
        place: An empty folder, which files in progress are written to.
    """
    with _hub_errors(repository):
        info = api.repo_info(repository, revision=revision, files_metadata=True)
        sizes = {entry.rfilename: entry.size for entry in info.siblings or ()}

    def fetch(name: str) -> Path:
        with _hub_errors(repository):
            return Path(api.hf_hub_download(repository, name, revision=info.sha, local_dir=place / "download"))

    if MANIFEST not in sizes:
        raise ValueError(f"{repository}: a repository must have {MANIFEST}, which 'pyro-mmvae push' writes, got none")
    if (sizes[MANIFEST] or 0) > _MAX_MANIFEST:
        raise ValueError(f"{repository}: {MANIFEST} must have at most {_MAX_MANIFEST} bytes, got {sizes[MANIFEST]}")
    files = check_manifest(read_json(fetch(MANIFEST)), repository)
    for name, about in files.items():
        if sizes.get(name) not in {None, about["bytes"]} or name not in sizes:  # before hours of downloads
            raise ValueError(f"{repository}: {name} must have {about['bytes']} bytes, got {sizes.get(name, 'no file')}")
    for name, about in files.items():
        file = fetch(name)
        check_file(file, name, about, repository)
        goal = place / "run" / name
        goal.parent.mkdir(parents=True, exist_ok=True)
        file.rename(goal)


def _check_repository(repository: str) -> None:
    if not _REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
        raise ValueError(f"a repository must be named USER/NAME, as in 'ada/mwb-polymnist', got {repository!r}")


def _client() -> tuple[Any, Any]:
    """Return the library of the Hub and a client of the endpoint that ``HF_ENDPOINT`` names."""
    try:
        import huggingface_hub  # noqa: PLC0415  (an optional dependency)
    except ImportError:
        raise ImportError(
            "push and pull must have huggingface_hub, got an environment without it: pip install 'pyro-mmvae[hub]'"
        ) from None
    return huggingface_hub, huggingface_hub.HfApi(
        endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="pyro_mmvae"
    )


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Turn errors of the Hub and of the network into one line that says what to do."""
    try:
        yield
    except Exception as error:
        module = type(error).__module__.partition(".")[0]
        if module not in _NETWORK and not isinstance(error, RuntimeError):  # which a failed upload of a file raises
            raise
        raise HubError(f"{repository}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return what went wrong on the Hub, and what to do."""
    error = error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception) else error
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in {401, 403, 404}:
        kind = type(error).__name__
        what = "revision" if kind.startswith("Revision") else "repository"
        return (
            f"the {what} must exist and be open to your token, got status {status} from the Hub: check the name, and "
            "log in by 'hf auth login' or HF_TOKEN"
        )
    if status is not None:
        return f"the Hub must accept the request, got status {status}: {str(error).splitlines()[0]}"
    return f"the Hub must be within reach, got {type(error).__name__}: {' '.join(str(error).split())[:200]}"
