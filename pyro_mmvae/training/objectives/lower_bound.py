"""The evidence lower bound as an objective."""

from __future__ import annotations

from torch import Tensor

from pyro_mmvae.batch import Batch
from pyro_mmvae.guides import stratified
from pyro_mmvae.training.elbo import RecordingELBO, Terms
from pyro_mmvae.training.objectives.base import Objective
from pyro_mmvae.vae.vae import MultimodalVAE


class ELBOObjective(Objective):
    """The evidence lower bound with the bound, β and reconstruction weights w_m of the model and guide.

    With both bounds the drawn subsets are stratified over the batch, see :func:`pyro_mmvae.guides.stratified`.

    Args:
        vae: The model and guide to train.
    """

    def __init__(self, vae: MultimodalVAE) -> None:
        super().__init__(vae)
        self.estimator = RecordingELBO(max_plate_nesting=1)

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Compute the negative ELBO of a batch, see :meth:`Objective.forward`."""
        # Calling a PyroModule makes a pyro.param statement for each parameter at every step. The optimizer has the
        # parameters already, so the programs are called by their forward methods.
        guide = stratified(self.vae.guide.forward)
        loss = self.estimator.differentiable_loss(self.vae.model.forward, guide, batch)
        return loss, self.estimator.terms
