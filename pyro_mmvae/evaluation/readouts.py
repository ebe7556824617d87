"""The read-outs of a posterior: the vector per item that a probe is fitted on.

With equal weights the mean of the whole posterior is one average of locations for ``moe``, ``wb``, ``mwb`` and
``moment``: a probe of means sees only what training did to the encoders. The other two read-outs also see how the
aggregation spreads the posterior.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.distributions import SubsetMixture
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.posteriors import density_of, posterior_draws, posterior_means, posteriors, subset_family
from pyro_mmvae.vae.vae import MultimodalVAE

READOUTS = ("mean", "component", "draw")
"""The names of the read-outs, see :func:`read_posterior`."""


def check_readout(readout: str) -> None:
    """Check that a read-out has one of the names in ``READOUTS``.

    Args:
        readout: The name of the read-out.

    Raises:
        ValueError: If the name is unknown.
    """
    if readout not in READOUTS:
        raise ValueError(f"readout must be one of {', '.join(map(repr, READOUTS))}, got {readout!r}")


@torch.no_grad()
def read_posterior(
    vae: MultimodalVAE, experts: Experts, subset: Sequence[int], readout: str = "mean"
) -> Float[Tensor, "item latent"]:
    """Return the vector per item that a read-out takes from the posterior given a subset.

    The read-out ``mean`` is the mean of the whole posterior. The read-out ``component`` is the mean of one component,
    as in the code of Sutter et al. (2021) and in the tables that were made with it: the component of the subset itself
    if the mixture contains it, as ``mopoe`` and ``mwb`` do; otherwise one component per item, selected with its weight,
    which for ``moe`` is the expert of one modality. The read-out ``draw`` is one draw from the whole posterior.
    Selections and draws use torch's global generator.

    Args:
        vae: The model whose guide aggregates the experts.
        experts: Experts of some items.
        subset: Indices of the modalities to condition on.
        readout: The read-out: ``mean`` (the default), ``component`` or ``draw``.

    Returns:
        One vector per item, without gradients.

    Raises:
        ValueError: If the read-out is unknown.

    References:
        Sutter, Daunhawer and Vogt, 2021. Generalized multimodal ELBO. ICLR, arXiv 2105.02470, with the code
        https://github.com/thomassutter/MoPoE (``utils/BaseMMVae.py``, ``eval_metrics/representation.py``), where the
        items of a batch are divided among the experts of ``moe`` by position instead of at random.
    """
    check_readout(readout)
    if readout == "mean":
        return posterior_means(vae, experts, subset)
    if readout == "draw":
        return posterior_draws(vae, experts, subset)
    density = density_of(vae, experts.num_modalities)
    if subset_family(vae) in {"all", "powerset"}:
        density = "joint"
    return torch.cat([_component_mean(q) for q in posteriors(vae, experts, subset, density)])


def _component_mean(posterior: TorchDistribution) -> Float[Tensor, "item latent"]:
    """Return the mean of one component per item, selected with its weight; of anything else than a mixture its mean."""
    if isinstance(posterior, SubsetMixture):
        return posterior.component(posterior.sample_component()).mean
    return posterior.mean
