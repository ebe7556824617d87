"""The interface of training objectives."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from pyro_mmvae.batch import Batch
from pyro_mmvae.training.elbo import Terms
from pyro_mmvae.vae.vae import MultimodalVAE


class Objective(nn.Module):
    """A training objective of a multimodal VAE, as a module that maps a batch to a loss and its terms.

    A subclass implements :meth:`forward`. It may have further parameters, which are trained, saved and restored
    together with those of the model. Since the loss comes from calling the module,
    ``torch.nn.parallel.DistributedDataParallel`` can wrap it.

    Args:
        vae: The model and guide to train.
    """

    def __init__(self, vae: MultimodalVAE) -> None:
        super().__init__()
        self.vae = vae

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Compute the loss of a batch.

        Args:
            batch: Items on the device of the model.

        Returns:
            The loss, which is the negative objective, a scalar summed over the items of the batch, in nats, to be
            differentiated; and its terms, detached.
        """

    def extra_state_dict(self) -> dict[str, Tensor]:
        """Return the parameters and buffers of the objective that do not belong to the model and guide, by name."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("vae.")}
