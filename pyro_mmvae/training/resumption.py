"""The checks of a resumed training: its settings, the position in its checkpoint, and its arithmetic."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.checkpoint import CheckpointError, read_state
from pyro_mmvae.runs.config import Config, ConfigError, make_config
from pyro_mmvae.runs.layout import RunError, with_relative_data
from pyro_mmvae.runs.setting_values import plain_values
from pyro_mmvae.runs.verification import check_types

_FREE = ("data.name", "plugins", "train.callbacks", "train.device", "train.fit_prior", "train.threads")
"""Settings that do not change what is trained, or of which :func:`warn_of_arithmetic` says what they change.

The content of the data is compared, not their place.
"""

_EPOCHS = "train.epochs"
_MAX_LISTED = 5  # changes in a message


class SettingsChangedError(ValueError):
    """An error about settings that have changed since the last checkpoint; the message is one line and lists them.

    Args:
        path: The path of the run directory.
        changes: The changed settings, one line each, at least one.
    """

    def __init__(self, path: Path, changes: tuple[str, ...]) -> None:
        self.path, self.changes = path, changes
        more = len(changes) - _MAX_LISTED
        listed = "; ".join(changes[:_MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")
        remedy = "restore them, or pass --force (in Python, force=True) to go on with them and record it"
        if all(change.startswith(f"{_EPOCHS}:") for change in changes):
            remedy = "restore it, and pass --epochs N (in Python, epochs=N) for another number of epochs"
        super().__init__(
            f"{RunFiles(path).config}: the settings have changed since the last checkpoint: {listed}: {remedy}"
        )


def read_last(path: Path) -> dict[str, Any]:
    """Return the state of the last checkpoint of a run.

    Args:
        path: The path of the run directory.

    Raises:
        CheckpointError: If the file is missing or damaged, or is not the one that a training goes on from.
    """
    file = RunFiles(path).checkpoint("last")
    state = read_state(file)
    if "batch" not in state:
        raise CheckpointError(f"{file}: holds no optimizer; training can be resumed from {file.name} only")
    for name in ("epoch", "batch", "step"):
        value = state.get(name)
        if type(value) is not int or value < 0:
            raise CheckpointError(f"{file}: {name} must be an integer of at least 0, got {value!r}")
    try:
        check_types(state)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None
    return state


def plain_settings(config: Config, path: Path) -> dict[str, Any]:
    """Return the settings of a run as its checkpoint keeps them, independent of the place of its directory.

    Args:
        config: The resolved configuration of the run.
        path: The path of the run directory.
    """
    settings: dict[str, Any] = json.loads(json.dumps(plain_values(with_relative_data(config, path))))
    return settings


def choose_settings(
    path: Path, config: Config, state: Mapping[str, Any], *, epochs: int | None, force: bool
) -> tuple[Config, tuple[str, ...]]:
    """Return the configuration to go on with, and what it changes.

    Args:
        path: The path of the run directory.
        config: The configuration in its file.
        state: The state of its last checkpoint; one of an earlier version holds no settings, which are not compared.
        epochs: The total number of epochs that was asked for; None for that of the configuration.
        force: If True, settings that were changed in the file are accepted.

    Raises:
        SettingsChangedError: If a setting was changed in the file, and changes are not accepted.
        RunError: If ``epochs`` is less than the run has trained already.
    """
    in_file = plain_settings(config, path)
    recorded = state.get("config", in_file)
    if in_file == state.get("config_before"):
        config = _parse(path, recorded, config)  # a kill kept the accepted change from reaching the file
    lines = dict(_differences(path, recorded, config))
    if epochs is not None:
        lines.pop(_EPOCHS, None)
    if lines and not force:
        raise SettingsChangedError(path, tuple(lines.values()))
    if epochs is not None:
        started = state["epoch"] + (state["batch"] > 0)
        if epochs < started:
            raise RunError(
                f"{path}: epochs must be at least {started}, which the run has trained already, got {epochs}"
            )
        config = config.model_copy(update={"train": config.train.model_copy(update={"epochs": epochs})})
        lines = dict(_differences(path, recorded, config))
    return config, tuple(lines.values())


def check_position(
    file: Path, state: Mapping[str, Any], epochs: int, steps_per_epoch: int, *, is_forced: bool = False
) -> None:
    """Check the position of a training in its checkpoint.

    Args:
        file: The path of the checkpoint.
        state: The state of the checkpoint, from :func:`read_last`.
        epochs: The number of epochs of the whole training.
        steps_per_epoch: The number of steps in each epoch.
        is_forced: If True, settings or data were changed, so that the epochs before may have had other numbers of
            steps. False by default.

    Raises:
        CheckpointError: If the epoch, the batch or the step does not fit the training.
    """
    limits = {"epoch": epochs, "batch": steps_per_epoch - 1, "step": epochs * steps_per_epoch}
    was_forced = is_forced or bool(state.get("accepted"))
    if was_forced:
        limits |= {"batch": 2**53, "step": 2**53}
    for name, limit in limits.items():
        if state[name] > limit:
            raise CheckpointError(f"{file}: {name} must be an integer from 0 to {limit}, got {state[name]!r}")
    expected = state["epoch"] * steps_per_epoch + state["batch"]
    if not was_forced and state["step"] != expected:
        raise CheckpointError(
            f"{file}: step must be {expected}, after {state['epoch']} epochs of {steps_per_epoch} steps and "
            f"{state['batch']} more, got {state['step']}"
        )


def warn_of_arithmetic(path: Path, state: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Warn if the result will not be that of an uninterrupted training bit for bit, and return the reasons.

    Args:
        path: The path of the run directory.
        state: The state of its last checkpoint; one of an earlier version holds no description of the machine.
        now: The description of the machine, see :func:`pyro_mmvae.training.environment.describe_arithmetic`.
    """
    before = state.get("arithmetic") or {}
    changed = [f"{key}: {before[key]} → {now[key]}" for key in now if key in before and before[key] != now[key]]
    if changed:
        warnings.warn(
            f"{path}: the result will differ in rounding from that of an uninterrupted training, since it goes on with "
            f"another arithmetic ({', '.join(changed)})",
            UserWarning,
            stacklevel=4,
        )
    return tuple(changed)


def _differences(path: Path, recorded: Mapping[str, Any], config: Config) -> Iterator[tuple[str, str]]:
    """Yield key and line of each setting that differs from the recorded one and matters to the result."""
    before = dict(_leaves(plain_settings(_parse(path, recorded, config), path)))
    now = dict(_leaves(plain_settings(config, path)))
    for key in dict.fromkeys([*before, *now]):
        is_free = any(key == name or key.startswith(f"{name}.") for name in _FREE)
        if before.get(key) != now.get(key) and not is_free:
            yield key, f"{key}: {json.dumps(before.get(key))} → {json.dumps(now.get(key))}"


def _parse(path: Path, recorded: Mapping[str, Any], config: Config) -> Config:
    """Return the recorded settings as a configuration, with the place of the data in a moved run directory."""
    try:
        parsed = make_config(None, dict(recorded), use_recipe=False)
    except ConfigError as error:
        file = RunFiles(path).checkpoint("last")
        raise CheckpointError(f"{file}: the settings in it must be those of a run, got an error: {error}") from None
    is_here = with_relative_data(config, path).data.name == parsed.data.name
    return (
        parsed.model_copy(update={"data": config.data}) if is_here and parsed.data.name != config.data.name else parsed
    )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and values of a tree of sections; an empty mapping is a value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
