"""The message from the process of a comparison to that of a cell, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pyro_mmvae.evaluation import EvaluationOptions
from pyro_mmvae.experiments.compare import Cell
from pyro_mmvae.experiments.failures import FailureBook
from pyro_mmvae.experiments.tasks import Task
from pyro_mmvae.runs import import_plugins
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.setting_values import plain_values


def encode_message(task: Task, cell: Cell, book: FailureBook) -> str:
    """Return a task, a cell and the failures of the comparison in one line of JSON, without its line break.

    Args:
        task: The task to do, an instance of a class at the top level of a module; its fields, if it is a dataclass, are
            options of the evaluation or values that JSON can represent.
        cell: The cell of the comparison.
        book: The failures of the comparison.
    """
    kind = type(task)
    message = {
        "task": f"{kind.__module__}:{kind.__qualname__}",
        "fields": asdict(task) if is_dataclass(task) else {},
        "path": str(cell.path),
        "config": plain_values(cell.config),
        "variant": cell.variant,
        "settings": cell.settings,
        "folder": str(book.folder),
    }
    return json.dumps(message)


def decode_message(text: str) -> tuple[Task, Cell, FailureBook]:
    """Return the task, the cell and the failures of a message of :func:`encode_message`.

    The plugins of the configuration, which the caller of the comparison has named and imported, are imported first.

    Args:
        text: The message, as one line of JSON.

    Raises:
        ValueError: If the text is not JSON, or the configuration is not valid.
        KeyError: If a part of the message is missing.
    """
    message = json.loads(text)
    import_plugins(message["config"]["plugins"])
    module, _, name = message["task"].partition(":")
    task = getattr(import_module(module), name)(**{key: _field(key, value) for key, value in message["fields"].items()})
    config = Config.model_validate(message["config"])
    cell = Cell(Path(message["path"]), config, message["variant"], tuple(message["settings"]))
    return task, cell, FailureBook(Path(message["folder"]))


def _field(name: str, value: Any) -> Any:
    if name == "options" and isinstance(value, Mapping):
        return EvaluationOptions(**value)
    return tuple(value) if isinstance(value, list) else value
