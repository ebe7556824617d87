"""The memory that a training would take, which is compared with that of the machine before anything is built."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pyro_mmvae import runs
from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training.finiteness import TrainingError
from pyro_mmvae.training.objectives.iwae import IWAEObjective
from pyro_mmvae.vae.priors import make_prior

_COPIES = 4  # of the weights: themselves, their gradients, and two running means of the optimizer
_SUSPICIOUS = 2**27  # weights of the largest layer, half a gigabyte
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def check_memory(
    config: Config,
    shapes: Mapping[str, Sequence[int]],
    specs: Mapping[str, ModalitySpec],
    covariates: Mapping[str, Sequence[str]] | None,
    device: torch.device,
) -> None:
    """Check that the weights of a model, their gradients and their optimizer fit into the memory of a device.

    Only models with a layer of more than half a gigabyte are looked at, by building them without memory.

    Args:
        config: The configuration of the run.
        shapes: The shape of one item of each modality, by name.
        specs: The description of each modality, by name.
        covariates: The names of the categories of each covariate, by name, or None.
        device: The device of the training.

    Raises:
        ValueError: If they do not fit; the message says how much memory they would take.
    """
    sizes, largest = _largest_layer(config, shapes, specs)
    if largest <= _SUSPICIOUS:
        return
    available = total_memory(device)
    # Hidden layers are counted without building them, since that takes long for very many.
    hidden = config.model.network.depth * config.model.network.hidden**2
    needed = _COPIES * 4 * hidden
    if needed <= available:
        needed = _COPIES * 4 * _count_weights(config, shapes, specs, covariates, largest)
    if needed > available:
        raise ValueError(
            f"the model must fit into the memory of {device}, {in_words(available)}, got weights, gradients and "
            f"optimizer of {in_words(needed)}: choose smaller sizes, above all {sizes[0]}"
        )


def check_draws(
    config: Config,
    shapes: Mapping[str, Sequence[int]],
    specs: Mapping[str, ModalitySpec],
    items: int,
    device: torch.device,
) -> None:
    """Check that the draws of one step fit into the memory of a device, before a run directory exists.

    Only the samples of ``iwae`` and the components of a learned prior are looked at. Counted are one draw of the
    latent, its density under each component and one parameter per element of all modalities, which is less than a step
    takes.

    Args:
        config: The configuration of the run.
        shapes: The shape of one item of each modality, by name.
        specs: The description of each modality, by name.
        items: The number of items of a step on this device.
        device: The device of the training.

    Raises:
        ValueError: If they do not fit; the message says how much memory they would take.
    """
    samples, components = _count_samples(config.train.objective), _count_components(config.model.prior)
    if samples == components == 1:
        return
    elements = sum(math.prod(shape) * (specs[name].classes or 1) for name, shape in shapes.items())
    needed = 4 * samples * items * (config.model.latent_size + components + elements)
    available = total_memory(device)
    if needed > available:
        most = max((samples, "samples of train.objective"), (components, "components of model.prior"))[1]
        raise ValueError(
            f"the draws of a step must fit into the memory of {device}, {in_words(available)}, got at least "
            f"{in_words(needed)} for {items} items: choose fewer {most} or a smaller train.batch_size"
        )


@contextmanager
def memory_errors_explained(subject: str = "the model", remedy: str = "choose smaller sizes") -> Iterator[None]:
    """Turn an error of torch's allocator or of sizes beyond 64 bits into a ValueError in one line.

    Args:
        subject: The words that the message begins with, for the thing that must fit; the model by default.
        remedy: The advice that the message ends with, an imperative.
    """
    try:
        yield
    except MemoryError:
        raise ValueError(f"{subject} must fit into memory, got no room: {remedy}") from None
    except (RuntimeError, OverflowError, TypeError) as error:
        text = str(error).split("\n")[0].strip()
        if not any(word in text for word in ("allocate", "out of memory", "verflow", "too large", "too big")):
            raise
        raise ValueError(f"{subject} must fit into memory, got an error: {text[:200]}: {remedy}") from None


@contextmanager
def steps_out_of_memory_explained(files: RunFiles, epoch: int) -> Iterator[None]:
    """Turn an error of memory that runs out in an epoch into a :class:`TrainingError` in one line.

    Args:
        files: The files of the run, whose last checkpoint the message names.
        epoch: The number of the epoch, counted from 0.
    """
    try:
        yield
    except TrainingError:
        raise
    except (RuntimeError, MemoryError) as error:
        text = (str(error) or "no room").split("\n")[0].strip()
        if not isinstance(error, MemoryError) and "allocate" not in text and "out of memory" not in text:
            raise
        last = files.checkpoint("last")
        saved = f"the last checkpoint is {last}" if last.exists() else "no checkpoint was saved"
        raise TrainingError(
            f"epoch {epoch + 1}: memory must hold a step and its gradients, got {text[:200]}; {saved}. Try a smaller "
            "train.batch_size, fewer samples of train.objective or a smaller model"
        ) from None


def check_samples(count: int, latent_size: int, shapes: Iterable[Sequence[int]], device: torch.device) -> None:
    """Check that draws of all modalities fit into the memory of a device, before they are drawn.

    Args:
        count: The number of draws.
        latent_size: The number of latent dimensions.
        shapes: The shape of one item of each modality.
        device: The device of the model.

    Raises:
        ValueError: If they do not fit; the message says how much memory they would take.
    """
    needed, available = 4 * count * (latent_size + sum(map(math.prod, shapes))), total_memory(device)
    if needed > available:
        raise ValueError(
            f"the samples must fit into the memory of {device}, {in_words(available)}, got {count} draws of "
            f"{in_words(needed)}: draw fewer (-n)"
        )


def total_memory(device: torch.device) -> int:
    """Return the bytes of memory of a device, for a CPU those that this process may use.

    Args:
        device: The device; of a kind that cannot be asked, the memory is taken to be unlimited.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    if device.type != "cpu":
        return 2**62
    limits = [2**62]
    with suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in _LIMITS:
        with suppress(OSError, ValueError):
            limits.append(int(Path(file).read_text(encoding="ascii")))
    return min(limits)


def in_words(count: int) -> str:
    """Return a number of bytes with a unit, such as ``"1.5 GiB"``.

    Args:
        count: The number of bytes.

    Example:
        >>> in_words(3 * 2**29)
        '1.5 GiB'
    """
    if count >= 2**1000:  # beyond the range of floats
        return "more than 2^1000 bytes"
    unit = min(int(math.log2(max(count, 1)) // 10), len(_UNITS) - 1)
    return f"{count / 1024**unit:,.4g} {_UNITS[unit]}"


def _largest_layer(
    config: Config, shapes: Mapping[str, Sequence[int]], specs: Mapping[str, ModalitySpec]
) -> tuple[list[str], int]:
    """Return the settings that make the largest layer large, and the product of the two largest sizes."""
    sizes = {f"model.network.{name}": v for name, v in asdict(config.model.network).items() if type(v) is int}
    sizes["model.network.depth"] *= config.model.network.hidden
    sizes["model.latent_size"] = config.model.latent_size
    sizes["model.prior.components"] = _count_components(config.model.prior)
    for name, shape in shapes.items():
        classes = specs[name].classes
        sizes[f"modality {name!r}"] = math.prod(shape) * (classes or 1)
        if specs[name].private_size:
            sizes["model.private_size"] = specs[name].private_size or 0
    ordered = sorted(sizes, key=lambda name: -sizes[name])[:2]
    return ordered, math.prod(sizes[name] for name in ordered)


def _count_samples(objective: str | Mapping[str, Any]) -> int:
    """Return the number of draws per item that an objective asks for, 1 unless it is ``iwae``."""
    if not isinstance(objective, Mapping):
        return 1
    samples = objective.get("samples") if objective.get("name") == IWAEObjective.name else None
    return samples if type(samples) is int and samples > 0 else 1  # other values are refused when it is made


def _count_components(prior: str | Mapping[str, Any]) -> int:
    """Return the number of components of the prior that a configuration names, 1 unless it is learned."""
    learned = make_prior(prior)
    return 1 if learned is None else learned.components


def _count_weights(
    config: Config,
    shapes: Mapping[str, Sequence[int]],
    specs: Mapping[str, ModalitySpec],
    covariates: Mapping[str, Sequence[str]] | None,
    largest: int,
) -> int:
    """Return the number of weights of a model, which is built without memory.

    ``largest`` if a size is beyond 64 bits, and 0 if a part of the model cannot be built in this way.
    """
    try:
        with memory_errors_explained(), torch.random.fork_rng(devices=[]), torch.device("meta"):
            vae = runs.build_vae(config, shapes, specs, covariates)
    except ValueError:
        return largest
    except (RuntimeError, NotImplementedError, TypeError):
        return 0
    return sum(parameter.numel() for parameter in vae.parameters())
