"""Tests of accelerators, with fake CUDA tensors on every machine and with real ones on a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.gpu_steps.times import float32
from benchmarks.gpu_steps.waits import sync_debug
from pyro_mmvae import Batch, Experts, Modality, MultimodalDataset, MultimodalVAE, Run, SubsetMixture
from pyro_mmvae.device import autocast, resolve_device, resolve_precision, threads
from pyro_mmvae.guides.barycentric import BarycentricGuide
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.train_settings import TrainConfig
from pyro_mmvae.training import Terms, Trainer
from pyro_mmvae.training.elbo import local_pyro
from tests.fake_cuda import needs_fake_cuda

ITEMS, LATENT = 6, 3
EACH = pytest.mark.parametrize(
    ("aggregation", "bound"),
    [("poe", "mixture"), ("moe", "mixture"), ("mwb", "mixture"), ("mopoe", "component")],
)


def make(aggregation: str, bound: str) -> MultimodalVAE:
    return MultimodalVAE(
        [
            Modality("a", (3, 8, 8)),
            Modality("b", (3, 8, 8), likelihood="normal", scale="learned"),
            Modality("c", (2,), likelihood="categorical", classes=3),
        ],
        LATENT,
        aggregation,
        bound=bound,
        network=NetworkOptions(width=4, hidden=8, norm="group"),
        expert_weights=(1.0, 2.0, 0.5),
        prior=(0.5, 2.0),
    )


def on_fake_cuda(module: nn.Module) -> None:
    """Replace parameters and buffers by fake ones on a GPU, to which ``Module.to`` cannot move real ones."""

    def blank(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")

    for part in module.modules():
        for name, parameter in part._parameters.items():
            part._parameters[name] = None if parameter is None else nn.Parameter(blank(parameter))
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else blank(buffer)


def dataset(device: str) -> MultimodalDataset:
    return MultimodalDataset(
        {
            "a": torch.zeros(ITEMS, 3, 8, 8, dtype=torch.uint8, device=device),
            "b": torch.rand(ITEMS, 3, 8, 8, device=device),
            "c": torch.zeros(ITEMS, 2, dtype=torch.int64, device=device),
        },
        None,
        torch.rand(ITEMS, 3, device=device) < 0.6,
        "toy",
        "train",
    )


def batch_of(device: str) -> Batch:
    data = dataset(device)
    return Batch(data.modalities, dict(zip(data.names, data.present.unbind(1), strict=True)))


@needs_fake_cuda
@EACH
def test_step_on_fake_cuda_stays_on_device_without_waiting(
    aggregation: str, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the value of a fake tensor raises, and so does arithmetic across devices; only backward needs a GPU."""
    vae = make(aggregation, bound)
    with FakeTensorMode(), local_pyro():
        on_fake_cuda(vae)
        trainer = Trainer(vae, TrainConfig(batch_size=4), total_steps=10)

        def backward(_: Tensor) -> None:
            for parameter in trainer.parameters:
                parameter.grad = torch.empty_like(parameter)

        monkeypatch.setattr(Tensor, "backward", backward)
        for _ in range(2):
            loss = trainer.step(batch_of("cuda"))
            assert loss.device.type == "cuda"
            assert loss.shape == ()
        assert all(term.device.type == "cuda" for term in (trainer.terms.kl, *trainer.terms.log_likelihood.values()))
        monkeypatch.setattr(trainer, "check", lambda: None)  # the end of an epoch waits by design
        data = dataset("cuda")
        object.__setattr__(data, "complete", False)
        assert trainer.epoch(data, 0).items == ITEMS


@needs_fake_cuda
@EACH
def test_posterior_draws_and_decoding_stay_on_device(aggregation: str, bound: str) -> None:
    vae = make(aggregation, bound)
    with FakeTensorMode(), local_pyro():
        on_fake_cuda(vae)
        batch = batch_of("cuda")
        for z in (
            vae.guide(batch), vae.guide(batch.select(("c",))), vae.guide(num_items=4),
            vae.model(num_items=4), vae.model(batch),
            vae.posterior(batch).mean, vae.posterior(batch).variance, vae.posterior(batch).rsample((2,)),
            vae.posterior(batch, "component").mean,
        ):  # fmt: skip
            assert z.device.type == "cuda"
            assert z.shape[-1] == LATENT
        z = vae.posterior(batch).mean
        assert {value.device.type for value in vae.decode(z).values()} == {"cuda"}
        run = Run(Path(), Config(), vae, {})
        assert run.device.type == "cuda"
        here = {"a": torch.zeros(ITEMS, 3, 8, 8, dtype=torch.uint8), "c": torch.zeros(ITEMS, 2, dtype=torch.int64)}
        for given in (("a",), ("a", "c"), ()):
            assert run.posterior(here, given).mean.device.type == "cuda"
        assert {value.device.type for value in run.decode(torch.zeros(2, LATENT)).values()} == {"cuda"}


def test_sample_component_of_one_draw_equals_multinomial_without_calling_it() -> None:
    """The checks of ``torch.multinomial`` read values, which waits for a GPU in some versions of torch."""
    logits = torch.randn(ITEMS, 7)
    mixture = SubsetMixture(logits, dist.Normal(torch.zeros(ITEMS, 7, 2), 1.0).to_event(1))
    torch.manual_seed(3)
    expected = torch.multinomial(mixture.probs, 1, replacement=True)
    torch.manual_seed(3)
    with patch.object(torch, "multinomial", side_effect=AssertionError):
        assert torch.equal(mixture.sample_component(), expected.squeeze(-1))
    assert mixture.sample_component((5,)).shape == (5, ITEMS)


@needs_fake_cuda
def test_epoch_moves_its_order_to_device_once() -> None:
    vae, moved = make("wb", "mixture"), list[torch.Size]()
    to = Tensor.to

    def note(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = to(tensor, *args, **kwargs)
        if tensor.device.type == "cpu" and result.device.type == "cuda":
            moved.append(tensor.shape)
        return result

    with FakeTensorMode(), local_pyro():
        on_fake_cuda(vae)
        trainer = Trainer(vae, TrainConfig(batch_size=2), total_steps=3)
        data = dataset("cuda")
        object.__setattr__(data, "complete", True)
        with (
            patch.object(Tensor, "to", note),
            patch.object(trainer, "step", lambda _: torch.zeros((), device="cuda")),
            patch.object(trainer, "check"),
            patch.object(trainer, "terms", Terms({}, torch.zeros((), device="cuda")), create=True),
        ):
            assert trainer.epoch(data, 0).items == ITEMS
    assert moved == [torch.Size([ITEMS])]


@needs_fake_cuda
def test_fake_cuda_raises_on_mixed_devices_and_on_waiting() -> None:
    vae = make("wb", "mixture")
    with FakeTensorMode(), local_pyro():
        on_fake_cuda(vae)
        with pytest.raises(RuntimeError, match=r"cuda:0, (cuda:0, )?cpu|device"):
            vae.guide({"a": torch.zeros(ITEMS, 3, 8, 8)})
        with pytest.raises(Exception, match="item|data-dependent|_local_scalar_dense"):
            float(vae.guide(batch_of("cuda")).sum())


@needs_fake_cuda
def test_guide_with_subsampling_keeps_experts_on_device() -> None:
    def encode() -> Experts:
        return Experts(torch.zeros(ITEMS, 2, LATENT, device="cuda"), torch.ones(ITEMS, 2, LATENT, device="cuda"))

    with FakeTensorMode(), local_pyro():
        guide = BarycentricGuide(encode, "wb", plate_size=ITEMS, subsample_size=2)
        on_fake_cuda(guide)
        assert guide().device.type == "cuda"


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, False, "cuda"), (True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_resolve_device_auto_prefers_cuda_then_mps_then_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto") == torch.device(expected)


def test_resolve_precision_on_mps_is_fp32_and_refuses_bf16() -> None:
    assert resolve_precision("auto", torch.device("mps")) == "fp32"
    assert resolve_precision("fp32", torch.device("mps")) == "fp32"
    with pytest.raises(ValueError, match="precision must be fp32 or auto on device mps, got bf16"):
        resolve_precision("bf16", torch.device("mps"))


def test_resolve_device_refuses_unknown_names_in_one_line() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    for name in ("warp", "cuda:999", "", "cpu:x", "hpu"):
        with pytest.raises(ValueError, match=re.escape(f"device {name!r} is unavailable: ")) as error:
            resolve_device(name)
        assert "\n" not in str(error.value)
        assert str(error.value).endswith("It must be auto, cpu, cuda or mps, or a device torch can use")


def test_resolve_precision_auto_depends_on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert (resolve_precision("fp32", cpu), resolve_precision("bf16", cpu)) == ("fp32", "bf16")
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    for has, expected in (((False, False), "fp32"), ((True, False), "bf16"), ((False, True), "bf16")):
        for name, value in zip(names, has, strict=True):
            monkeypatch.setattr(torch.cpu, name, lambda value=value: value, raising=False)
        assert resolve_precision("auto", cpu) == expected
    for name in names:
        monkeypatch.delattr(torch.cpu, name)
    assert resolve_precision("auto", cpu) == "fp32"
    for supported, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, yes=supported: yes)
        assert resolve_precision("auto", torch.device("cuda")) == expected
    product = torch.nn.Linear(2, 2)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with autocast(precision, cpu):
            assert product(torch.zeros(1, 2)).dtype == dtype


def test_threads_restores_state_after_an_error() -> None:
    def inside() -> None:
        with threads(2) as count:
            assert count == torch.get_num_threads() == 2
            assert (torch.tensor(2e-308, dtype=torch.float64) * 0.1).item() == 0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        inside()
    assert torch.get_num_threads() == 1
    assert (torch.tensor(2e-308, dtype=torch.float64) * 0.1).item() != 0
    with threads(None) as count:
        assert count >= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@EACH
def test_step_on_gpu_never_waits(aggregation: str, bound: str) -> None:
    vae = make(aggregation, bound).cuda()
    before = {name: value.detach().clone() for name, value in vae.named_parameters()}
    batch = batch_of("cuda")
    trainer = Trainer(vae, TrainConfig(), total_steps=10)
    with local_pyro():
        trainer.step(batch)  # the first step initialises libraries
        with sync_debug("error"):
            loss: Any = trainer.step(batch)
        trainer.check()
    assert loss.isfinite()
    assert any(not torch.equal(value, before[name]) for name, value in vae.named_parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_posterior_and_decoding_on_gpu_equal_those_on_cpu() -> None:
    here = make("mwb", "mixture")
    there = make("mwb", "mixture").cuda()
    there.load_state_dict(here.state_dict())
    batch = batch_of("cpu")
    ours = here.posterior(batch)
    with float32(tf32=False):  # cuDNN convolves in TF32 by default, with an error of up to 1e-3
        theirs, decoded = there.posterior(batch.to("cuda")), there.decode(ours.mean.cuda())
    torch.testing.assert_close(theirs.mean.cpu(), ours.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(theirs.variance.cpu(), ours.variance, rtol=1e-3, atol=1e-4)
    for name, value in decoded.items():
        torch.testing.assert_close(value.cpu(), here.decode(ours.mean)[name], rtol=1e-3, atol=1e-4)


TOUCHES = """
import resource, torch
from pyro_mmvae.device import kept_heap
with kept_heap() as kept:
    faults = []
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(16 << 20) for _ in range(2)]
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        del tensors
print(kept, min(faults))
"""
"""A program that prints the smallest number of page faults of two tensors of 64 MB that were allocated before."""


def first_touches(**environment: str) -> tuple[bool, int]:
    inherited = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES" and not k.startswith("MALLOC_")}
    command = [sys.executable, "-c", TOUCHES]
    output = subprocess.run(command, env=inherited | environment, check=True, capture_output=True, text=True).stdout
    kept, faults = output.split()
    return kept == "True", int(faults)


def test_kept_heap_reuses_freed_memory() -> None:
    kept, faults = first_touches()
    if not kept:
        pytest.skip("not glibc")
    assert faults < 100
    kept, faults = first_touches(MALLOC_ARENA_MAX="2")  # the environment configures malloc
    assert not kept
    assert faults > 1000


def test_threads_without_a_number_takes_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRO_MMVAE_THREADS", "3")
    with threads(None) as count:
        assert count == torch.get_num_threads() == 3
    with threads(2) as count:
        assert count == 2


def test_threads_above_the_largest_number_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("it must not be set"))
    with pytest.raises(ValueError, match="threads must be at most 4096, got 4097"), threads(4097):
        pass
    monkeypatch.setenv("PYRO_MMVAE_THREADS", "1" + "0" * 30)
    with pytest.raises(ValueError, match="PYRO_MMVAE_THREADS must be at most 4096, got '1000"), threads(None):
        pass


@pytest.mark.parametrize("text", ["0", "two", "-1"])
def test_threads_of_a_wrong_environment_raises(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRO_MMVAE_THREADS", text)
    with (
        pytest.raises(ValueError, match=f"PYRO_MMVAE_THREADS must be a positive integer, got '{text}'"),
        threads(None),
    ):
        pass
