"""The content of a safetensors file, one tensor after the other, so that saving does not copy all tensors at once."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

_CODES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3", torch.int16: "I16", torch.uint16: "U16", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.int32: "I32", torch.uint32: "U32", torch.float32: "F32", torch.complex64: "C64",
    torch.float64: "F64", torch.int64: "I64", torch.uint64: "U64",
}  # fmt: skip
"""The names of types in the format, of which the library writes the later ones first, so that tensors are aligned."""


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, without a copy if it is contiguous and on the CPU.

    Args:
        tensor: The tensor, of any shape and on any device.
    """
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    # A tensor of one value may have any stride, of which the view of its bytes takes 1 only.
    flat = flat.clone(memory_format=torch.contiguous_format) if flat.numel() == 1 else flat
    return flat.view(torch.uint8).numpy().data


class TensorFile:
    """The content of a safetensors file as an iterable of bytes, which can be read any number of times.

    The order of everything in the file is determined by the names, so that equal tensors give equal files.

    Args:
        tensors: Tensors by name, of any device, which may share memory and need not be contiguous.
        metadata: Texts by name for the header of the file.

    Raises:
        TypeError: If the format does not have the type of a tensor.
    """

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        for name, tensor in tensors.items():
            if tensor.dtype not in _CODES:
                raise TypeError(f"tensor {name!r} must be of a type of safetensors, got {tensor.dtype}")
        rank = {dtype: -number for number, dtype in enumerate(_CODES)}
        names = sorted(tensors, key=lambda name: (rank[tensors[name].dtype], name))
        self._tensors = [tensors[name] for name in names]
        header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
        offset = 0
        for name, tensor in zip(names, self._tensors, strict=True):
            end = offset + tensor.numel() * tensor.element_size()
            shape = list(tensor.shape)
            header[name] = {"dtype": _CODES[tensor.dtype], "shape": shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._header = struct.pack("<Q", len(text)) + text

    def __iter__(self) -> Iterator[memoryview]:
        """Yield the header, and the bytes of each tensor in the order of the file."""
        yield memoryview(self._header)
        for tensor in self._tensors:
            yield tensor_bytes(tensor)
