"""Callbacks: objects that follow a training, and may stop it, and their registry of names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch

from pyro_mmvae._seeding import seeded
from pyro_mmvae.registry import Registry
from pyro_mmvae.runs.config import Config
from pyro_mmvae.signatures import check_arguments
from pyro_mmvae.vae.vae import MultimodalVAE

_logger = logging.getLogger(__name__)

Outcome: TypeAlias = Literal["finished", "stopped", "interrupted", "failed"]
"""The end of a training: all epochs done, stopped early, interrupted by Ctrl-C and saved, or ended by an error."""


class StopTraining(Exception):  # noqa: N818  (a request, not an error)
    """A request of a callback to stop the training after the current epoch; the message is the reason."""


@dataclass(frozen=True)
class TrainingInfo:
    """The training that a callback follows.

    Args:
        path: The path of the run directory.
        config: The resolved configuration of the run.
        vae: The model and guide, which a callback may read but should not change.
        device: The device that the model is on.
        epochs: The number of epochs of the whole training.
        first_epoch: The number of the epoch that is trained first, counted from 0; above 0 for a resumed training.
        step: The number of steps taken before, 0 unless the training is resumed.
        steps_per_epoch: The number of steps in each epoch.
    """

    path: Path
    config: Config
    vae: MultimodalVAE
    device: torch.device
    epochs: int
    first_epoch: int
    step: int
    steps_per_epoch: int


class Callback:
    """An object that follows a training; a subclass overrides the methods that it needs.

    Callbacks are called in the order of ``train.callbacks``, then of the argument ``callbacks`` of
    :func:`~pyro_mmvae.training.train`. The random numbers that they draw do not change the training.

    Example:
        >>> class StopAt(Callback):
        ...     def __init__(self, elbo):
        ...         self.elbo = elbo
        ...     def on_epoch_end(self, metrics):
        ...         return metrics["val"]["elbo"] > self.elbo
        >>> StopAt(-100.0).on_epoch_end({"val": {"elbo": -90.0}})
        True
    """

    def on_train_start(self, info: TrainingInfo) -> None:
        """Prepare for a training, before its first step.

        Args:
            info: The run directory, the configuration and the model of the training.
        """

    def on_epoch_end(self, metrics: Mapping[str, Any]) -> bool | None:
        """Follow one epoch, after its best checkpoint has been saved.

        Args:
            metrics: The metrics of the epoch, as ``metrics.jsonl`` holds them.

        Returns:
            True to stop the training after this epoch; None or False to go on.

        Raises:
            StopTraining: To stop the training after this epoch, with a reason.
        """

    def on_train_end(self, outcome: Outcome) -> None:
        """Finish, when everything has been saved; called whenever :meth:`on_train_start` was, also after an error.

        Args:
            outcome: The end of the training: ``"finished"``, ``"stopped"``, ``"interrupted"`` or ``"failed"``.
        """


CallbackFactory: TypeAlias = Callable[..., Callback]
"""A class of callbacks, or a function from the options of the configuration, as keywords, to a callback."""

CALLBACKS: Registry[CallbackFactory] = Registry(
    "callback", "Register a custom one with pyro_mmvae.training.register_callback"
)


def register_callback(name: str, factory: CallbackFactory) -> None:
    """Register a custom callback under a name, for ``train.callbacks`` in a configuration.

    Args:
        name: The name of the callback, not taken yet.
        factory: The class of the callback, or a function that returns one; it is called with the options of the
            configuration as keywords.

    Raises:
        ValueError: If the name is taken or is not a non-empty string.

    Example:
        >>> class Silent(Callback):
        ...     pass
        >>> register_callback("silent", Silent)
        >>> "silent" in callback_names()
        True
        >>> unregister_callback("silent")
    """
    CALLBACKS.register(name, factory)


def unregister_callback(name: str) -> None:
    """Remove a custom callback.

    Args:
        name: The name under which it was registered.

    Raises:
        ValueError: If the name is unknown or belongs to the package.
    """
    CALLBACKS.unregister(name)


def callback_names() -> tuple[str, ...]:
    """Return the names of all callbacks, those of the package first."""
    return tuple(CALLBACKS)


def make_callback(callback: str | Mapping[str, Any] | Callback) -> Callback:
    """Make a callback from its name and options.

    Args:
        callback: The name of the callback, or a mapping with ``name`` and its options, as an entry of
            ``train.callbacks`` has it; a callback is returned as it is.

    Returns:
        The callback.

    Raises:
        ValueError: If the name is unknown, or an option is unknown or lacks a value.
        ImportError: If the callback needs a package that is not installed; the message names the extra.
        TypeError: If the registered factory returns something else than a callback.
    """
    if isinstance(callback, (str, Mapping)):
        options = {"name": callback} if isinstance(callback, str) else dict(callback)
        name = cast("str", options.pop("name", None))
        factory = CALLBACKS.lookup(name)
        check_arguments(f"callback {name!r}", factory, options)
        callback = factory(**options)
    if not isinstance(callback, Callback):
        raise TypeError(f"a callback must be an instance of Callback, got {callback!r}")
    return callback


@dataclass
class Callbacks:
    """Several callbacks as one, whose random numbers are independent of those of the training.

    Args:
        callbacks: The callbacks in the order in which they are called.
        seed: The seed of the random numbers that the callbacks draw.
        device: The device of the training, whose generator is restored too.
    """

    callbacks: Sequence[Callback]
    seed: int
    device: torch.device
    _started: list[Callback] = field(default_factory=list)

    @contextmanager
    def following(self, info: TrainingInfo, outcome: Callable[[BaseException | None], Outcome]) -> Iterator[None]:
        """Start all callbacks, and end those that were started when the context is left.

        Args:
            info: The training that they follow.
            outcome: A function from the exception that ends the training, or None, to the outcome.
        """
        error: BaseException | None = None
        try:
            for callback in self.callbacks:
                self._started.append(callback)
                self._call(callback.on_train_start, info)
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._end(outcome(error), error)

    def on_epoch_end(self, metrics: Mapping[str, Any]) -> str | None:
        """Let every callback follow one epoch, also if one of them asks to stop.

        Args:
            metrics: The metrics of the epoch, of which each callback gets a copy.

        Returns:
            The reason to stop that the first callback gives which asks for it; None to go on.
        """
        reasons = []
        for callback in self.callbacks:
            try:
                if self._call(callback.on_epoch_end, dict(metrics)) is True:
                    reasons.append(f"asked for by {type(callback).__name__}")
            except StopTraining as request:
                reasons.append(str(request) or f"asked for by {type(callback).__name__}")
        return reasons[0] if reasons else None

    def _end(self, outcome: Outcome, error: BaseException | None) -> None:
        """End the callbacks that were started; one that fails does not keep the others from their end."""
        failures = []
        while self._started:
            callback = self._started.pop(0)
            try:
                self._call(callback.on_train_end, outcome)
            except Exception as failure:  # noqa: BLE001  (raised below, after the others had their turn)
                _logger.error("callback %s failed at the end: %s", type(callback).__name__, failure)
                failures.append(failure)
        if failures and error is None:
            raise failures[0]

    def _call(self, method: Callable[[Any], Any], argument: Any) -> Any:
        with seeded(self.seed, self.device):
            return method(argument)


def make_callbacks(
    named: Iterable[str | Mapping[str, Any]], given: Iterable[Callback], *, seed: int, device: torch.device
) -> Callbacks:
    """Make the callbacks of a training.

    Args:
        named: The entries of ``train.callbacks``, which are called first.
        given: The callbacks that were passed in Python.
        seed: The seed of the training.
        device: The device of the training.

    Returns:
        The callbacks as one.
    """
    return Callbacks([make_callback(item) for item in (*named, *given)], seed, device)
