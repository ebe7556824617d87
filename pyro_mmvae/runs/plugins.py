"""Plugins, modules that register user-defined parts: they are imported if the caller names them, never by a file."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from pyro_mmvae.runs.layout import RunError

GROUP = "pyro_mmvae.plugins"
"""The group of entry points by which an installed package gives its plugins names."""

_modules: dict[str, str] = {}  # of the installed plugins that were imported


def installed_plugins() -> dict[str, EntryPoint]:
    """Return the plugins of installed packages by name, without importing them."""
    return {found.name: found for found in entry_points(group=GROUP)}


def import_plugins(names: Sequence[str]) -> None:
    """Import the modules that register custom parts, such as aggregations, data sets or objectives.

    Args:
        names: The names of the modules, as an import statement has them, or of installed plugins. They must come from
            the caller, not from a file.

    Raises:
        RunError: If a module cannot be imported.
    """
    installed = installed_plugins() if names else {}
    for name in names:
        if not name or name.startswith("."):
            raise RunError(f"plugin must be the name of a module or of an installed plugin, got {name!r}")
        try:
            if name in installed:
                installed[name].load()
                _modules[name] = installed[name].module
            else:
                importlib.import_module(name)
        except ImportError as error:
            known = f" (installed plugins: {', '.join(sorted(installed))})" if installed else ""
            raise RunError(f"plugin {name!r} cannot be imported: {error}{known}") from None
        except Exception as error:  # whatever the code of the plugin raises
            raise RunError(f"plugin {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def require_plugins(source: str | Path, needed: Sequence[str], given: Sequence[str] = ()) -> None:
    """Import the plugins that the caller names, and check that all that a file names are imported.

    Args:
        source: The run directory or file that names plugins, which the message begins with.
        needed: The names of the plugins in the file, which are not imported.
        given: The names of the plugins from the caller, which are imported; none by default.

    Raises:
        RunError: If a plugin is missing; the message names the option that imports it. Or if one cannot be imported.
    """
    import_plugins(given)
    missing = [name for name in needed if _modules.get(name, name) not in sys.modules]
    if missing:
        options = " ".join(f"--plugin {shlex.quote(name)}" for name in missing)
        listed = ", ".join(map(repr, missing))
        what = f"plugin {listed}, which is" if len(missing) == 1 else f"plugins {listed}, which are"
        raise RunError(
            f"{source} needs the {what} code and not imported because a file names it: if you trust it, pass {options} "
            f"(in Python, plugins=[{listed}])"
        )
