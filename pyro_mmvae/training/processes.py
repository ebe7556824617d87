"""The processes that train together: one, or several that ``torchrun`` has started."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from pyro_mmvae._shards import Shard, SharedShard, loss_weight
from pyro_mmvae.batch import Batch
from pyro_mmvae.likelihoods.calibrated import CalibratedScale
from pyro_mmvae.training.elbo import Terms
from pyro_mmvae.training.finiteness import TrainingError
from pyro_mmvae.training.team import LossFunction, T, Team

TIMEOUT_VARIABLE = "PYRO_MMVAE_PROCESS_TIMEOUT"
"""The environment variable with the seconds after which a process that does not answer in a step counts as lost."""

_TIMEOUT = 50.0
_PATIENCE = timedelta(hours=6)  # for data that are prepared, and for what the first process writes
_CLOSED, _SILENT = "its connection is closed", "it does not answer"
_SIGNS_OF_LOSS = {
    "timed out": _SILENT, "timeout": _SILENT, "connection": _CLOSED, "broken pipe": _CLOSED, "gloo": _CLOSED,
    "nccl": _CLOSED,
}  # fmt: skip


class ProcessLostError(TrainingError):
    """Training that ended since another of its processes has ended or does not answer; the message is one line."""


class Several(Team):
    """Several processes, which exchange tensors by ``torch.distributed``.

    Args:
        device: The device of this process.
        backend: The backend of what is exchanged in steps, by default that of the process group that exists.
    """

    def __init__(self, device: torch.device, backend: str | None = None) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self.size_here = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        self.device, self.backend = device, backend or distributed.get_backend()
        # What is not part of a step may take long, and goes over the CPU, so that it does not wait for a GPU.
        self.slow = cast("distributed.ProcessGroup", distributed.new_group(backend="gloo", timeout=_PATIENCE))
        seconds = timedelta(seconds=_timeout())
        self.steps = cast("distributed.ProcessGroup", distributed.new_group(backend=self.backend, timeout=seconds))
        self.generators = {"cpu": torch.Generator()}
        if device.type == "cuda":
            self.generators["cuda"] = torch.Generator(device)
        self._scales: list[CalibratedScale] = []
        self._layouts: set[tuple[str, ...]] = set()
        self.adopt_draws()

    def describe(self) -> dict[str, Any]:
        """Return the number of processes and their backend, see :meth:`Team.describe`."""
        return {"count": self.size, "per_machine": self.size_here, "backend": self.backend}

    def device_name(self, name: str) -> str:
        """Return the name of the device of this process, see :meth:`Team.device_name`."""
        return str(self.device)

    def shard(self, count: int) -> Shard:
        """Return the part of a batch that this process computes, see :meth:`Team.shard`."""
        return SharedShard(count, self.rank, self.size, self.generators, self.steps)

    def wrap(self, objective: nn.Module) -> LossFunction:
        """Return a function to the loss with ``DistributedDataParallel``, see :meth:`Team.wrap`."""
        self._scales = [module for module in objective.modules() if isinstance(module, CalibratedScale)]
        normalized = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in objective.modules())
        # Buffers are in equal states, but for those of normalisation layers.
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {sync: normalized}
        # The items of one process may lack a modality.
        parallel = nn.parallel.DistributedDataParallel(
            _Differentiable(objective), process_group=self.steps, find_unused_parameters=True, **options
        )
        # A loss is a sum over items and not a mean. The hook may not have annotations that are strings.
        parallel.register_comm_hook(None, lambda state, bucket: self._sum_gradients(bucket))
        return cast("LossFunction", parallel)

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, and exchange the residuals of calibrated scales, see :meth:`Team.backward`."""
        (loss * loss_weight()).backward()
        for scale in self._scales:
            scale.update_together(self.sum)

    def add_up(self, loss: Tensor, terms: Terms) -> tuple[Tensor, Terms]:
        """Return the loss and the terms of the whole batch, see :meth:`Team.add_up`."""
        likelihoods, penalties = sorted(terms.log_likelihood), sorted(terms.penalties)
        self._check_layout((*likelihoods, "", *penalties))
        parts = [loss, terms.kl, *(terms.log_likelihood[name] for name in likelihoods)]
        parts += [terms.penalties[name] for name in penalties]
        total, kl, *sums = self.sum(torch.stack([part.double() for part in parts]) * loss_weight()).unbind()
        return total.to(loss.dtype), Terms(
            dict(zip(likelihoods, sums, strict=False)),
            kl,
            dict(zip(penalties, sums[len(likelihoods) :], strict=True)),
        )

    def _check_layout(self, layout: tuple[str, ...]) -> None:
        """Check that the terms have equal names on all processes, when they are seen first."""
        if layout in self._layouts:
            return
        others = self._gather(layout)
        if set(others) != {layout}:
            raise TrainingError(f"the terms of an objective must be those of all processes, got {sorted(set(others))}")
        self._layouts.add(layout)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, see :meth:`Team.sum`."""
        values = values.clone()
        distributed.all_reduce(values, group=self.steps)
        return values

    def _sum_gradients(self, bucket: Any) -> torch.futures.Future[Tensor]:
        """Add up the gradients of one bucket over the processes."""
        work = distributed.all_reduce(bucket.buffer(), group=self.steps, async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    def largest(self, number: int) -> int:
        """Return the largest of the numbers that the processes have, see :meth:`Team.largest`."""
        value = torch.tensor(number)
        distributed.all_reduce(value, distributed.ReduceOp.MAX, group=self.slow)
        return int(value)

    def share(self, function: Callable[[], T]) -> T:
        """Call a function on the first process only, see :meth:`Team.share`."""
        result: list[Any] = [None]

        def call() -> None:
            result[0] = function() if self.rank == 0 else None

        self.together(call)
        distributed.broadcast_object_list(result, src=0, group=self.slow)
        return cast("T", result[0])

    def together(self, function: Callable[[], T]) -> T:
        """Call a function on all processes, see :meth:`Team.together`."""
        result, error = None, None
        try:
            result = function()
        except Exception as raised:  # noqa: BLE001  (raised below, when all processes know of it)
            error = raised
        texts = self._gather(None if error is None else str(error) or type(error).__name__)
        failed = [rank for rank, text in enumerate(texts) if text is not None]
        if not failed:
            return result  # type: ignore[return-value]
        if self.rank:
            raise SystemExit(2)
        raise error or ValueError(f"process {failed[0]}: {texts[failed[0]]}")

    def _gather(self, content: Any) -> list[Any]:
        contents: list[Any] = [None] * self.size
        distributed.all_gather_object(contents, content, group=self.slow)
        return contents

    @contextmanager
    def common_draws(self) -> Iterator[None]:
        """Begin the common stream at torch's generators, see :meth:`Team.common_draws`."""
        before = self._states()
        self.adopt_draws()
        try:
            yield
        finally:
            for kind, state in before.items():
                self.generators[kind].set_state(state)

    def adopt_draws(self) -> None:
        """Let the common stream go on where torch's generators are, see :meth:`Team.adopt_draws`."""
        for kind, state in self._default_states().items():
            self.generators[kind].set_state(state)
        # Draws that are not common must differ between the processes. The seed follows from the state.
        self._seed_own_draws()

    def _seed_own_draws(self) -> None:
        copy = torch.Generator()
        copy.set_state(self.generators["cpu"].get_state())
        seed = int(torch.randint(2**62, (), generator=copy)) + self.rank
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)

    @contextmanager
    def lent_draws(self) -> Iterator[None]:
        """Let torch's generators be where the common stream is, see :meth:`Team.lent_draws`."""
        before = self._default_states()
        self._set_default_states(self._states())
        try:
            yield
        finally:
            self._set_default_states(before)

    def _states(self) -> dict[str, Tensor]:
        return {kind: generator.get_state() for kind, generator in self.generators.items()}

    def _default_states(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def _set_default_states(self, states: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)

    @contextmanager
    def losses_explained(self, path: Path | None = None) -> Iterator[None]:
        """Turn an error of a connection into a :class:`ProcessLostError`, see :meth:`Team.losses_explained`."""
        try:
            yield
        except TrainingError:
            raise
        except RuntimeError as error:
            if not _is_loss(error):
                raise
            for scale in self._scales:
                scale.drop_pending()
            of_run, remedy = ("", "") if path is None else (f" of {path}", f" with --resume {path}")
            raise ProcessLostError(
                f"process {self.rank} of {self.size} has lost another process of the training{of_run} "
                f"({_reason(error)}): torchrun --max-restarts goes on by itself, otherwise start the command again"
                f"{remedy}"
            ) from error


def _is_loss(error: RuntimeError) -> bool:
    """Return True for an error of the connection between processes."""
    return isinstance(error, distributed.DistError) or any(sign in str(error).lower() for sign in _SIGNS_OF_LOSS)


def _reason(error: BaseException) -> str:
    """Return what an error of a connection says about the other process."""
    text = str(error).lower()
    return next((reason for sign, reason in _SIGNS_OF_LOSS.items() if sign in text), text.split("\n")[0][:200])


class _Differentiable(nn.Module):
    """An objective whose loss can always be differentiated, also where no item of this process has a modality."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective
        # Torch writes to standard error if no parameter is unused, which is not an error here.
        self.unused = nn.Parameter(torch.zeros((), device=next(objective.parameters()).device))

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        loss, terms = self.objective(batch)
        if not loss.requires_grad:
            loss = loss + 0.0 * next(p for p in self.objective.parameters() if p.requires_grad).sum()
        return loss, terms


def is_first_process() -> bool:
    """Return True unless ``torchrun`` has started this process as another one than the first."""
    return os.environ.get("RANK", "0") == "0" or "WORLD_SIZE" not in os.environ


def launch_words() -> list[str]:
    """Return the words of a command line that starts the package as this process was started."""
    size = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if size == "1" == os.environ.get("WORLD_SIZE", "1"):
        return ["pyro-mmvae"]
    return ["torchrun", "--nproc-per-node", size, "-m", "pyro_mmvae"]


def restarts() -> int:
    """Return how often ``torchrun`` has started this training again after a failure."""
    number = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return int(number) if number.isdecimal() else 0


def launched() -> dict[str, str]:
    """Return the identity of the launcher of this process under ``launch``; nothing without ``torchrun``."""
    return {"launch": launch_id()} if "TORCHELASTIC_RUN_ID" in os.environ else {}


def launch_id() -> str:
    """Return the identity of the launcher of this process, which stays when it starts the process again."""
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR")
    return ":".join([*(os.environ.get(name, "") for name in names), str(os.getppid()), *sys.argv[1:]])


@contextmanager
def joined(device: str) -> Iterator[Team]:
    """Join the processes that train together, if ``torchrun`` has started several.

    A process group of ``torch.distributed`` that exists already is used as it is. Otherwise NCCL connects processes on
    GPUs of their own, and Gloo all others.

    Args:
        device: The device that ``train.device`` names.

    Yields:
        The processes.

    Raises:
        ValueError: If this machine has fewer GPUs than processes, or torch was built without ``torch.distributed``.
        ProcessLostError: If the others do not appear.
    """
    is_available = distributed.is_available()
    if is_available and distributed.is_initialized():
        yield Several(torch.device(own_device(device)))
        return
    if not all(os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        yield Team()
        return
    if int(os.environ["WORLD_SIZE"]) == 1:
        yield Team()
        return
    if not is_available:
        raise ValueError("torch must be built with torch.distributed for several processes, got a build without it")
    name = own_device(device)
    backend = "nccl" if name.startswith("cuda") and name != device and distributed.is_nccl_available() else "gloo"
    if name.startswith("cuda"):
        torch.cuda.set_device(torch.device(name))
    _timeout()  # a wrong one is an error before the processes meet
    try:
        api: Any = distributed  # whose names depend on how torch was built
        store, rank, size = next(api.rendezvous("env://", timeout=_PATIENCE))
        # A launcher that starts processes again keeps its store, with the addresses of those that have ended.
        store = api.PrefixStore(f"pyro_mmvae/{restarts()}", store)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_PATIENCE)
        team = Several(torch.device(name), backend)
    except RuntimeError as error:
        raise ProcessLostError(
            f"the processes must find each other, got an error: {str(error).splitlines()[0][:200]}"
        ) from error
    try:
        with warnings.catch_warnings(), team.losses_explained():
            if team.rank:
                warnings.simplefilter("ignore")  # the first process gives them
            yield team
    except ProcessLostError:
        raise  # there is nobody to say goodbye to
    except BaseException:
        distributed.destroy_process_group()
        raise
    distributed.destroy_process_group()


def own_device(device: str) -> str:
    """Return the device of this process, where ``torchrun`` has started several.

    Args:
        device: The setting ``train.device``; ``auto`` and ``cuda`` are the GPU with the number of the process on its
            machine, and a GPU with a number is shared by all processes.

    Raises:
        ValueError: If this machine has fewer GPUs than processes.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cuda":
        return device
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise ValueError(
            f"device 'cuda' must have a GPU per process, got {count} GPUs for "
            f"{os.environ.get('LOCAL_WORLD_SIZE', number + 1)} processes on this machine: start {count}, or pass "
            "--device cpu"
        )
    return f"cuda:{number}"


def _timeout() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(text or _TIMEOUT)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e6:
        raise ValueError(f"{TIMEOUT_VARIABLE} must be a number of seconds above 0, got {text!r}")
    return seconds
