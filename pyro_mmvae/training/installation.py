"""The installed software: versions of the package's dependencies, and the git revision of its source."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

_NAME = "pyro-mmvae"


@cache
def installed_versions() -> dict[str, str]:
    """Return the versions of all installed packages that the package depends on, also of its extras, by name.

    Where the package itself is not installed, as in a bare checkout, these are all installed packages.
    """
    try:
        found, waiting = dict[str, str](), [distribution(_NAME)]
    except PackageNotFoundError:
        return dict(sorted((part.name, part.version) for part in distributions()))
    while waiting:
        for name in _requirements(waiting.pop()):
            if name in found or name == _NAME:
                continue
            try:
                part = distribution(name)
            except PackageNotFoundError:  # an extra, or a package of another system
                continue
            found[name] = part.version
            waiting.append(part)
    return dict(sorted(found.items()))


@cache
def git_revision() -> str | None:
    """Return the git revision of the package's source, with ``+changed`` if files differ from it.

    None if the package does not come from a repository, or git cannot be run.
    """
    place = Path(__file__).resolve().parents[2]
    if (place / ".git").exists():
        revision = _git(place, "rev-parse", "HEAD")
        changed = _git(place, "status", "--porcelain", "--untracked-files=no")
        return None if not revision else revision + ("+changed" if changed else "")
    try:
        source = json.loads(distribution(_NAME).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    return source.get("vcs_info", {}).get("commit_id")


def _requirements(part: Distribution) -> list[str]:
    """Return the normalised names of the packages that a package may require."""
    names = (re.match(r"[\w.-]+", requirement) for requirement in part.requires or ())
    return [re.sub(r"[-_.]+", "-", match[0]).lower() for match in names if match]


def _git(place: Path, *arguments: str) -> str | None:
    """Return what a git command prints; None if it fails."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(place), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
