"""Optimizers and learning-rate schedules by name: the classes of ``torch.optim``, and two schedules with a warm-up."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.optim import lr_scheduler

Part = TypeVar("Part")
Spec: TypeAlias = str | Mapping[str, Any]
"""A name, or a mapping with ``name`` and options."""

BUILT_IN_SCHEDULES = ("constant", "cosine")

_UNSUITABLE_OPTIMIZERS = {
    "LBFGS": "it evaluates the loss several times per step",
    "Muon": "it updates matrices only, and the model has vectors too",
    "SparseAdam": "it takes sparse gradients only",
}
_UNSUITABLE_SCHEDULES = {
    "LambdaLR": "it takes a Python function",
    "MultiplicativeLR": "it takes a Python function",
    "SequentialLR": "it takes other schedulers",
    "ChainedScheduler": "it takes other schedulers",
}
_SETTINGS_OF_OPTIMIZERS = {"lr": "train.lr", "weight_decay": "train.weight_decay"}
_NOT_OFFERED = {"maximize", "differentiable"}  # the loss is minimised, outside of autograd
_IMPLEMENTATIONS = {"fused", "foreach", "capturable"}
_STEPPED_BY_STEP = {"OneCycleLR", "CyclicLR"}  # torch defines their options in steps
_EVERY = ("step", "epoch")


def _classes(module: Any, base: type) -> dict[str, Any]:
    return {
        name: item
        for name, item in vars(module).items()
        if inspect.isclass(item) and issubclass(item, base) and item is not base and not name.startswith("_")
    }


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    name: item
    for name, item in _classes(torch.optim, torch.optim.Optimizer).items()
    if name not in _UNSUITABLE_OPTIMIZERS
}
"""The optimizers of torch that can train a model, by name."""

SCHEDULERS: dict[str, Callable[..., lr_scheduler.LRScheduler]] = {
    name: item
    for name, item in _classes(lr_scheduler, lr_scheduler.LRScheduler).items()
    if name not in _UNSUITABLE_SCHEDULES
}
"""The learning-rate schedulers of torch that take numbers only, by name."""


def check_optimizer(value: Any) -> str | dict[str, Any]:
    """Check the name and the options of an optimizer.

    Args:
        value: The name of the optimizer in any case, or a mapping with ``name`` and options.

    Returns:
        The value with numbers in place of strings such as ``"1e-3"``, which YAML reads as text.

    Raises:
        ValueError: If the name or an option is unknown, or a value is not valid.
    """
    spec = _numbers(value, "an optimizer")
    make_optimizer(spec, [torch.zeros(1, requires_grad=True)], lr=1e-3, betas=(0.9, 0.95))
    return spec


def check_schedule(value: Any) -> str | dict[str, Any]:
    """Check the name and the options of a learning-rate schedule.

    Args:
        value: The name of the schedule in any case, or a mapping with ``name`` and options.

    Returns:
        The value with numbers in place of strings such as ``"1e-3"``, which YAML reads as text.

    Raises:
        ValueError: If the name or an option is unknown, or a value is not valid.
    """
    spec = _numbers(value, "a schedule")
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    scheduler, _ = make_scheduler(spec, optimizer, warmup=0.0, total_steps=1, epochs=1)
    optimizer.step()
    # Some schedulers look at their options in the first step only.
    figure: Any = 0.0 if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else None
    _made(type(scheduler).__name__, lambda: scheduler.step(figure), _split(spec)[1])
    return spec


def make_optimizer(
    spec: Spec,
    parameters: Iterable[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float | None = None,
) -> torch.optim.Optimizer:
    """Make an optimizer of torch.

    Args:
        spec: The name of the optimizer in any case, or a mapping with ``name`` and options.
        parameters: The parameters to train, on one device.
        lr: The learning rate, which the options may not set.
        betas: The decay rates of the moments, for an optimizer that takes ``betas`` and has none in its options.
        weight_decay: The weight decay, decoupled from the gradient where the optimizer offers that; by default the
            optimizer's own.

    Returns:
        The optimizer; Adam and AdamW are fused on CPUs and CUDA devices.

    Raises:
        ValueError: If the name or an option is unknown, or a value is not valid.
    """
    given, options = _split(spec)
    name = _find(given, OPTIMIZERS, "optimizer", _UNSUITABLE_OPTIMIZERS)
    factory, parameters = OPTIMIZERS[name], list(parameters)
    accepted = set(inspect.signature(factory).parameters)
    for option, setting in _SETTINGS_OF_OPTIMIZERS.items():
        if option in options:
            raise ValueError(f"{name}: {option} must be given as {setting}, got it as an option")
    _check_options(name, options, accepted - {"params", *_NOT_OFFERED, *_SETTINGS_OF_OPTIMIZERS})
    keywords: dict[str, Any] = {"lr": lr}
    if "betas" in accepted:
        keywords["betas"] = betas
    if weight_decay is not None:
        if "weight_decay" not in accepted:
            raise ValueError(f"{name} has no weight decay: train.weight_decay must be null, got {weight_decay}")
        keywords["weight_decay"] = weight_decay
        if "decoupled_weight_decay" in accepted:
            keywords["decoupled_weight_decay"] = True
    if name in {"Adam", "AdamW"} and not _IMPLEMENTATIONS & set(options):
        keywords["fused"] = parameters[0].device.type in {"cpu", "cuda"}
    return _made(name, lambda: factory(parameters, **(keywords | options)), options)


def make_scheduler(
    spec: Spec, optimizer: torch.optim.Optimizer, *, warmup: float, total_steps: int, epochs: int
) -> tuple[lr_scheduler.LRScheduler, str]:
    """Make a learning-rate scheduler of an optimizer.

    Options that say how long the training is or what its highest rate is (``T_max``, ``total_steps``, ``max_lr``) have
    the training's own values as defaults.

    Args:
        spec: The name of the schedule in any case, or a mapping with ``name`` and options; the option ``every`` is
            ``step`` or ``epoch``, by default the latter but for ``OneCycleLR`` and ``CyclicLR``.
        optimizer: The optimizer, with the learning rate that the schedule starts from.
        warmup: The share of the training during which the rate of ``cosine`` rises linearly.
        total_steps: The number of steps of the whole training.
        epochs: The number of epochs of the whole training.

    Returns:
        The scheduler, and ``step`` or ``epoch``, after each of which it is to be stepped.

    Raises:
        ValueError: If the name or an option is unknown, or a value is not valid.
    """
    given, options = _split(spec)
    if given.lower() in BUILT_IN_SCHEDULES:
        if options:
            raise ValueError(f"{given} takes no options, got {', '.join(map(repr, options))}")
        factor = _cosine(warmup * total_steps, total_steps) if given.lower() == "cosine" else _constant
        return lr_scheduler.LambdaLR(optimizer, factor), "step"
    name = _find(given, SCHEDULERS, "schedule", _UNSUITABLE_SCHEDULES, BUILT_IN_SCHEDULES)
    factory = SCHEDULERS[name]
    every = options.pop("every", "step" if name in _STEPPED_BY_STEP else "epoch")
    if every not in _EVERY:
        raise ValueError(f"{name}: every must be 'step' or 'epoch', got {every!r}")
    accepted = set(inspect.signature(factory).parameters) - {"optimizer", "last_epoch", "verbose"}
    defaults: dict[str, Any] = {}
    if name == "ReduceLROnPlateau":
        if every == "step":
            raise ValueError(f"{name}: every must be 'epoch', after which the validation figure is known, got 'step'")
        accepted.discard("mode")  # the trainer passes the negative figure, which is to fall
        # A relative threshold has the wrong sign for a negative loss.
        defaults["threshold_mode"] = "abs"
    _check_options(name, options, accepted, "every")
    count = max(total_steps if every == "step" else epochs, 1)
    lengths = {"T_max": count, "max_lr": optimizer.param_groups[0]["lr"]}
    lengths |= {} if {"epochs", "steps_per_epoch"} & set(options) else {"total_steps": count}
    defaults |= {option: value for option, value in lengths.items() if option in accepted}
    for option in sorted(accepted - set(defaults) - set(options)):
        if inspect.signature(factory).parameters[option].default is inspect.Parameter.empty:
            raise ValueError(f"{name} needs the option {option!r}, got none of that name")
    scheduler = _made(name, lambda: factory(optimizer, **(defaults | options)), options)
    longest = getattr(scheduler, "total_steps", count)
    if longest < count:
        raise ValueError(f"{name}: total_steps must be at least {count}, the length of the training, got {longest}")
    return scheduler, every


def _constant(_: int) -> float:
    return 1.0


def _cosine(warmup: float, total: int) -> Callable[[int], float]:
    """Return the factor of the learning rate by step: a linear warm-up, then half a cosine down to 0."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(total - warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    return factor


def _numbers(value: Any, kind: str) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError(f"must be the name of {kind}, or a mapping with name and its options, got {value!r}")
    return {str(key): item if key == "name" else _number(item) for key, item in value.items()}


def _number(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_number(item) for item in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _split(spec: Spec) -> tuple[str, dict[str, Any]]:
    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("name")
    return name, {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}


def _find(
    name: str, table: Mapping[str, Any], kind: str, unsuitable: Mapping[str, str], more: tuple[str, ...] = ()
) -> str:
    """Return the name of a class in its own spelling."""
    spelling = {key.lower(): key for key in (*more, *table, *unsuitable)}
    found = spelling.get(name.lower())
    if found is not None and found in unsuitable:
        raise ValueError(f"{kind} {found!r} cannot be used: {unsuitable[found]}. Available: {_names(table, more)}")
    if found is None:
        close = difflib.get_close_matches(name.lower(), [key for key in spelling if spelling[key] not in unsuitable], 1)
        suggestion = f", did you mean {spelling[close[0]]!r}?" if close else "."
        raise ValueError(f"unknown {kind} {name!r}{suggestion} Available: {_names(table, more)}")
    return found


def _names(table: Mapping[str, Any], more: tuple[str, ...]) -> str:
    return ", ".join((*more, *sorted(table)))


def _check_options(name: str, options: Mapping[str, Any], accepted: set[str], *more: str) -> None:
    known = sorted({*accepted, *more})
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            suggestion = f", did you mean {close[0]!r}?" if close else "."
            raise ValueError(f"{name} has no option {option!r}{suggestion} Available: {', '.join(known)}")


def _made(name: str, make: Callable[[], Part], options: Mapping[str, Any]) -> Part:
    """Call a function of torch, whose errors are reported in one line with the options that were given."""
    try:
        return make()
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        reason, given = " ".join(str(error).split()), ", ".join(f"{key}={item!r}" for key, item in options.items())
        raise ValueError(f"{name}: {reason}" + (f" (options: {given})" if given else "")) from None
