"""The content of safetensors files, and the memory that saving and loading checkpoints takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from pyro_mmvae.runs.tensor_file import TensorFile, tensor_bytes

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.float8_e5m2, torch.float8_e4m3fn, torch.int16, torch.uint16,
    torch.float16, torch.bfloat16, torch.int32, torch.uint32, torch.float32, torch.complex64, torch.float64,
    torch.int64, torch.uint64,
]  # fmt: skip


def test_tensor_file_equals_the_file_of_the_library() -> None:
    tensors = {f"{number % 3}.é{number}": torch.arange(6).reshape(2, 3).to(d) for number, d in enumerate(DTYPES)}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    assert b"".join(TensorFile(tensors, {"a": 'b "é'})) == save(tensors, metadata={"a": 'b "é'})


def test_tensor_file_of_shared_and_strided_tensors_is_read_back() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": base, "shared": base, "strided": base.T, "one": base[1:2, 3:], "part": base[:, 1]}
    file = TensorFile(tensors, {})
    first = b"".join(file)
    assert first == b"".join(file)
    found = load(first)
    assert set(found) == set(tensors)
    for name, value in tensors.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_tensor_file_sorts_its_metadata() -> None:
    names = ["c", "a", "d", "b"]
    contents = {b"".join(TensorFile({}, dict.fromkeys(order, "x"))) for order in (names, sorted(names))}
    assert len(contents) == 1


def test_tensor_file_of_a_type_that_the_format_lacks_raises() -> None:
    with pytest.raises(TypeError, match=r"tensor 'a' must be of a type of safetensors, got torch\.complex128"):
        TensorFile({"a": torch.zeros(1, dtype=torch.complex128)}, {})


def test_tensor_bytes_of_a_contiguous_tensor_are_not_copied() -> None:
    tensor = torch.zeros(3)
    view = tensor_bytes(tensor)
    tensor[0] = 1.0
    assert bytes(view[:4]) == torch.tensor(1.0).numpy().tobytes()


SCRIPT = """
import ctypes, gc, resource, sys, threading, time
import torch
from pathlib import Path
from pyro_mmvae.runs.checkpoint import load_checkpoint, save_checkpoint

def resident():
    # Not VmRSS, which counts pages of the mapped file as well: the system reads as many of them ahead as it likes.
    fields = dict(line.split(":") for line in open("/proc/self/status"))
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024

def peak_of(function):
    gc.collect()
    done, peak, before = threading.Event(), [0], resident()
    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], resident())
            time.sleep(0.0005)
    thread = threading.Thread(target=watch)
    thread.start()
    function()
    done.set()
    thread.join()
    return max(peak[0], resident()) - before

torch.set_num_threads(1)
def build():
    module = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(4)])
    optimizer = torch.optim.Adam(module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return module, optimizer

file = Path(sys.argv[1])
module, optimizer = build()
save_checkpoint(file, *build())
print(file.stat().st_size, peak_of(lambda: save_checkpoint(file, module, optimizer)),
      peak_of(lambda: load_checkpoint(file, module)), peak_of(lambda: load_checkpoint(file, module, optimizer)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
def test_save_and_load_checkpoint_take_at_most_the_memory_of_the_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "a.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size, saving, loading, resuming = map(int, done.stdout.split())
    assert size > 48 * 2**20
    assert saving < 0.75 * size, saving / size  # one block that is compared with the disk, twice
    assert loading < 0.75 * size, loading / size
    assert resuming < 0.9 * size, resuming / size  # the new slots of Adam, two thirds of the file, beside the old ones
