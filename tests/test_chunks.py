from __future__ import annotations

import pytest
import torch

from pyro_mmvae.chunks import chunks, has_first_dimension, select_chunk

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(1000, 40, 200), (5, 10**7), (2**20 + 3,), (7, 31, 64), (0, 4), (3, 0, 2)])
def test_chunks_cover_every_item_once(shape: tuple[int, ...]) -> None:
    parts = [range(shape[0])[chunk] for chunk in chunks(shape, CPU)]
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == shape[0]


def test_chunks_divide_large_shapes_on_the_cpu_only() -> None:
    assert len(chunks((1000, 40, 200), CPU)) > 1
    assert chunks((1000, 40, 200), torch.device("cuda")) == [slice(None)]
    assert chunks((10, 40, 200), CPU) == [slice(None)]


def test_select_chunk_keeps_tensors_that_lack_the_first_dimension() -> None:
    shape, chunk = (4, 3, 2), slice(1, 3)
    whole, shared, single = torch.arange(24.0).reshape(shape), torch.zeros(3, 2), torch.zeros(1, 3, 2)
    assert torch.equal(select_chunk(whole, chunk, shape), whole[1:3])
    assert select_chunk(shared, chunk, shape) is shared
    assert select_chunk(single, chunk, shape) is single
    assert [has_first_dimension(tensor, shape) for tensor in (whole, shared, single)] == [True, False, False]
