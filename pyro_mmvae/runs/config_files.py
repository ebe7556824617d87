"""The configurations that come with the package, found by name."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def config_folder() -> Path | None:
    """Return the folder of the configurations that come with the package.

    An installed package contains them, copied from ``configs/`` when it was built; in a checkout, and in an editable
    installation, they are in ``configs/`` beside the package.

    Returns:
        The folder, or None if there is none.
    """
    checkout = _PACKAGE.parent
    is_checkout = (checkout / "pyproject.toml").is_file()
    return next((p for p in (_PACKAGE / "configs", *[checkout / "configs"] * is_checkout) if p.is_dir()), None)


def config_names() -> list[str]:
    """Return the names of the configurations that come with the package, in alphabetical order."""
    folder = config_folder()
    return [] if folder is None else sorted(file.stem for file in folder.glob("*.yaml"))


def find_config(path: Path | str) -> Path:
    """Return the path of a configuration file, which may be the name of one that comes with the package.

    Args:
        path: The path of a file, or a name such as ``"polymnist-cpu"``. A file of this name in the current folder takes
            precedence.

    Returns:
        The path of the file. A path with a suffix or a folder is returned as it is, whether it exists or not.

    Raises:
        ValueError: If it is neither a file nor a name; the message lists the names.
    """
    path = Path(path)
    if path.exists() or path.suffix or len(path.parts) != 1:
        return path
    folder, names = config_folder(), config_names()
    if folder is None or path.name not in names:
        raise ValueError(
            f"a configuration must be a YAML file or one of {', '.join(names) or 'none'}, which come with the package, "
            f"got {str(path)!r}"
        )
    return folder / f"{path.name}.yaml"
