"""A handler that stratifies the components of mixtures over the items of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pyro.poutine.messenger import Messenger

from pyro_mmvae.distributions import SubsetMixture


class _Stratify(Messenger):
    """A handler that replaces the mixtures at sample sites by their stratified twins."""

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], SubsetMixture):
            msg["fn"] = msg["fn"].stratified()


def stratified(guide: Callable[..., Any]) -> Callable[..., Any]:
    """Return a guide that stratifies the components of its mixtures over the items of a batch.

    With the bound ``"mixture"`` each item draws a component of its own. Over the batch the shares of the components are
    then nearly the expected ones, as they always are with the bound ``"component"``, and a loss that is a sum over
    items has a smaller variance and the same expectation. The items of one call are not independent, so that the
    result is meant for training with ELBOs, and not for draws of statistics over several items.

    Args:
        guide: The guide, any callable with sample statements; those of a
            :class:`~pyro_mmvae.distributions.SubsetMixture` are changed.

    Returns:
        The guide as a function of the arguments of ``guide``.

    Example:
        >>> import torch
        >>> from pyro_mmvae import BarycentricGuide, Experts
        >>> experts = Experts(torch.tensor([[-9.0], [9.0]]).expand(6, 2, 1), torch.ones(6, 2, 1))
        >>> guide = BarycentricGuide(lambda: experts, "moe")
        >>> (stratified(guide)() > 0).sum()  # half of the items draw the second expert
        tensor(3)
    """
    return cast("Callable[..., Any]", _Stratify()(guide))
