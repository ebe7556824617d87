"""Tests on every supported version of Python, and with the oldest versions of the dependencies.

``nox`` runs all sessions, ``nox -s tests-3.12`` one of them. Interpreters that are not installed are skipped with a
message; ``uv python install 3.12 3.13`` installs them. ``nox`` and ``uv`` are on the package index.
"""

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = False


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the tests with the newest versions of the dependencies."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python="3.11", venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest versions of the dependencies that ``pyproject.toml`` allows."""
    session.install("--resolution", "lowest-direct", "-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)
