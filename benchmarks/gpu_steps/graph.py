"""The loop by hand as one CUDA graph: without Python and dispatch, a lower bound for the time of a step."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.byhand import ByHand

WARM_UP = 3


class Graphed:
    """A step of the loop by hand that is recorded once and replayed.

    Args:
        hand: The loop by hand, made with ``capturable=True``, on a GPU.
        images: A batch `(item, modality, channel, height, width)` on the same GPU; later batches must have its size.

    Raises:
        ValueError: If ``images`` are not on a GPU.
    """

    def __init__(self, hand: ByHand, images: Tensor) -> None:
        if images.device.type != "cuda":
            raise ValueError(f"Graphed: the batch is on {images.device}, a CUDA graph needs one on a CUDA device")
        # The graph reads and writes the memory of the model and the optimiser, which must live as long as it does.
        self.hand = hand
        self.images = images.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # capture is not allowed on the default stream
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
