"""The loop by hand as one CUDA graph: no Python and no dispatch in a step, the least that a GPU can take for it."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.byhand import ByHand

WARM_UP = 3


class Graphed:
    """A step of the loop by hand that is recorded once and replayed.

    Args:
        hand: the loop, with ``capturable=True``, on a GPU.
        images: a batch `(item, modality, channel, height, width)` of the size of all later ones, on the same GPU.

    Raises:
        ValueError: if ``images`` are not on a GPU.
    """

    def __init__(self, hand: ByHand, images: Tensor) -> None:
        if images.device.type != "cuda":
            raise ValueError(f"Graphed: the batch is on {images.device}, a CUDA graph needs one on a CUDA device")
        self.images = images.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # on another stream than the default one, as capture wants it
            for _ in range(WARM_UP):
                hand.step(self.images)
        torch.cuda.current_stream().wait_stream(stream)
        hand.optimizer.zero_grad(set_to_none=True)  # so that gradients are allocated from the graph's own memory
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = hand.step(self.images)

    def step(self, images: Tensor) -> Tensor:
        """Run one step on a batch and return its loss, in nats, which the next step overwrites."""
        self.images.copy_(images)
        self.graph.replay()
        return self.loss
