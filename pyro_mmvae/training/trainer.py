"""Stochastic variational inference over a data set in memory, one step or one epoch at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyro
import torch
from torch import Tensor

from pyro_mmvae.batch import Batch
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.device import autocast
from pyro_mmvae.runs.config import TrainConfig
from pyro_mmvae.training.elbo import RecordingELBO
from pyro_mmvae.vae.vae import MultimodalVAE


class NonFiniteError(ArithmeticError):
    """The loss or a gradient was NaN or infinite.

    Args:
        step: the first such step, counted from 0.
        where: what was not finite, modalities named.
    """

    def __init__(self, step: int, where: str) -> None:
        super().__init__(f"step {step}: {where} not finite")
        self.step, self.where = step, where


@dataclass
class Averages:
    """Means over items, in nats, kept on the device until they are read."""

    items: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, items: int, values: dict[str, Tensor]) -> None:
        """Take in sums over a batch."""
        self.items += items
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.double()

    def read(self) -> dict[str, float]:
        """The means so far, read in one go: it waits for the device once."""
        sums = torch.stack(list(self.sums.values())).tolist() if self.sums else []
        return {name: value / max(self.items, 1) for name, value in zip(self.sums, sums, strict=True)}


class Trainer:
    """Adam on ``Trace_ELBO()(model, guide)``.

    Args:
        vae: what to train, on its device.
        config: rates and sizes.
        total_steps: over the whole training, for the schedule.
        precision: ``fp32`` or ``bf16``.
        optimizer: another than a fused Adam.
    """

    def __init__(
        self,
        vae: MultimodalVAE,
        config: TrainConfig,
        *,
        total_steps: int,
        precision: str = "fp32",
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.vae, self.config, self.precision = vae, config, precision
        self.total_steps, self.steps = total_steps, 0
        self.estimator = RecordingELBO(max_plate_nesting=1)
        self.elbo = self.estimator(vae.model, vae.guide)
        self.parameters = list({id(p): p for p in self.elbo.parameters()}.values())
        device = self.parameters[0].device
        self.device = device
        fused = device.type in {"cpu", "cuda"}
        self.optimizer = optimizer or torch.optim.Adam(self.parameters, lr=config.lr, betas=config.betas, fused=fused)
        self._check_every = 1 if device.type == "cpu" else 50
        self._first_bad = torch.tensor(-1, device=device)
        self._bad: Tensor | None = None

    def rate(self, step: int) -> float:
        """Learning rate of a step: a linear warm-up, then constant or half a cosine down to 0."""
        warmup = self.config.warmup * self.total_steps
        if self.config.schedule == "constant":
            return self.config.lr
        if step < warmup:
            return self.config.lr * (step + 1) / (warmup + 1)
        done = (step - warmup) / max(self.total_steps - warmup, 1)
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def step(self, batch: Batch) -> Tensor:
        """One step of stochastic variational inference.

        Args:
            batch: items on the trainer's device.

        Returns:
            The loss: the negative objective of the batch, in nats, still on the device.

        Raises:
            NonFiniteError: if the loss or a gradient is not finite. On a GPU this is looked at every 50 steps.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.steps)
        with autocast(self.precision, self.device):
            loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self._watch(loss.detach())
        self.optimizer.step()
        self.steps += 1
        return loss.detach()

    def loss(self, batch: Batch) -> Tensor:
        """The negative objective of a batch, to be differentiated.

        It is ``elbo(batch)``, without the statement that Pyro makes at every step for each parameter of a module that
        is called: the optimiser has them all.

        Args:
            batch: items on the trainer's device.
        """
        return self.estimator.differentiable_loss(self.vae.model.forward, self.vae.guide.forward, batch)

    def _watch(self, loss: Tensor) -> None:
        """Note the first step of which something is not finite, without waiting for the device."""
        with_grad = [p.grad for p in self.parameters if p.grad is not None]
        if self._check_every == 1:  # nothing to wait for: a sum is finite only if its terms are
            total = torch.stack([loss, *(gradient.sum() for gradient in with_grad)]).sum()
            if bool(total.isfinite()):
                return
        found = torch._foreach_norm(with_grad)
        zero = loss.new_zeros(())
        terms = [self.estimator.terms.get(name, zero).float() for name in (*self.vae.names, "kl")]
        norms = iter(found)
        gradients = [zero if p.grad is None else next(norms).float() for p in self.parameters]
        bad = ~torch.stack([loss.float(), *terms, *gradients]).isfinite()
        first = (self._first_bad < 0) & bad.any()
        self._first_bad = torch.where(first, self.steps, self._first_bad)
        self._bad = bad if self._bad is None else torch.where(first, bad, self._bad)
        if (self.steps + 1) % self._check_every == 0:
            self.check()

    def check(self) -> None:
        """Raise NonFiniteError if any step so far was not finite."""
        step = int(self._first_bad)
        if step < 0 or self._bad is None:
            return
        loss, *rest = self._bad.tolist()
        names = self.vae.names
        named = [f"log p({name} | z)" for name, bad in zip(names, rest, strict=False) if bad]
        named += ["the KL"] if rest[len(names)] else []
        known = {id(p): name for name, p in self.vae.named_parameters()}
        gradients = [known[id(p)] for p, bad in zip(self.parameters, rest[len(names) + 1 :], strict=True) if bad]
        if not named and loss:
            named = ["the loss"]
        if not named:
            named = [f"the gradient of {gradients[0]}" + (f" and {len(gradients) - 1} more" if gradients[1:] else "")]
        raise NonFiniteError(step, ", ".join(named))

    def epoch(
        self,
        data: MultimodalDataset,
        epoch: int,
        *,
        skip: int = 0,
        after_step: Callable[[int, Averages], None] | None = None,
    ) -> Averages:
        """One pass in an order that depends on the seed and the epoch alone.

        Args:
            data: on the trainer's device.
            epoch: counted from 0.
            skip: how many batches were done already.
            after_step: called with the number of batches done and the averages so far.

        Returns:
            Means over the items of this pass: ``loss``, ``kl``, ``items_per_second`` is not among them.
        """
        averages = Averages()
        data = data.at_epoch(epoch)
        # The order moves to the device once: to move each batch's indices would wait for the steps before it.
        order = batches(len(data), self.config.batch_size, self.config.seed, epoch, self.device)
        for number, index in enumerate(order):
            if number < skip:
                continue
            loss = self.step(make_batch(data, index))
            averages.add(len(index), {"loss": loss, **self.estimator.terms})
            if after_step is not None:
                after_step(number + 1, averages)
        self.check()
        return averages


def batches(count: int, size: int, seed: int, epoch: int, device: torch.device | str = "cpu") -> list[Tensor]:
    """A random order of ``count`` items in batches on a device, the same for the same seed and epoch on all devices."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return list(torch.randperm(count, generator=generator).to(device).split(size))


@contextmanager
def deterministic(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators inside, and put them back after."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def local_pyro() -> Iterator[None]:
    """Parameters belong to their modules, not to Pyro's global store; Pyro's checks are off."""
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
        yield


def evaluate_elbo(
    vae: MultimodalVAE, data: MultimodalDataset, *, batch_size: int = 500, seed: int = 0
) -> dict[str, float]:
    r"""The evidence lower bound on a data set: one draw an item, β = w = 1, float32.

    The guide's density is the full mixture; above 4,096 components it is one drawn component, whose ELBO has the
    component bound as its mean.

    Args:
        vae: in any mode; it is put back.
        data: on the same device.
        batch_size: items at once; the result depends on it only by rounding and noise.
        seed: of the draws.

    Returns:
        Means over items in nats: ``elbo``, ``kl``, and log p(x_m | z) of each modality by its name; ``seconds``.
    """
    device = next(vae.parameters()).device
    bound = "mixture" if vae.guide.has_mixture(len(vae.names)) else "component"
    estimator = RecordingELBO(max_plate_nesting=1)
    averages, started, mode = Averages(), time.perf_counter(), vae.training
    vae.eval()
    with torch.no_grad(), local_pyro(), deterministic(seed, device):
        for start in range(0, len(data), batch_size):
            batch = make_batch(data, slice(start, start + batch_size))
            estimator.differentiable_loss(vae.model, vae.guide, batch, weighted=False, bound=bound)
            averages.add(len(batch), estimator.terms)
    vae.train(mode)
    means = averages.read()
    elbo = sum(value for name, value in means.items() if name != "kl") - means["kl"]
    return {"elbo": elbo, **means, "seconds": time.perf_counter() - started}
