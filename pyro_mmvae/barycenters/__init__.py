r"""The mathematics of aggregation on plain tensors, which any torch code can use without Pyro.

Diagonal Gaussians are a loc and a scale (standard deviation), each `(*batch, modality, latent)`. Weights are
`(*batch, component, modality)`, with one row per subset and 0 for modalities that are not in it. One call computes all
subsets of all items.

The closed forms are functions of (weights, loc, scale) that do not normalise the weights: :func:`natural` (products and
log-linear pools), :func:`wasserstein` and :func:`moment`. :func:`solve` computes the barycenter under any divergence:

>>> import torch
>>> from pyro_mmvae import barycenters
>>> loc, scale = torch.randn(8, 3, 2), torch.ones(8, 3, 2)  # 8 items, 3 modalities, 2 latent dimensions
>>> members = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])  # two subsets, shared by all items
>>> joint_loc, joint_scale = barycenters.solve(members, loc, scale, "hellinger")
>>> joint_loc.shape
torch.Size([8, 2, 2])

It normalises the rows. The divergence is one of :func:`divergences`, such as ``"renyi:0.5"``, or a function of two
``torch.distributions.Normal``:

>>> def squared_difference(q, p):
...     return (q.loc - p.loc) ** 2 / p.scale + (q.scale.log() - p.scale.log()) ** 2
>>> *_, info = barycenters.solve(members, loc, scale, squared_difference, return_info=True)
>>> bool(info.converged.all())
True

Derivatives with respect to weights, loc and scale are exact. ``get_divergence("hellinger")(q, p)`` returns the value of
the divergence.
"""

from pyro_mmvae.barycenters.bures import barycenter as bures_barycenter  # noqa: F401  (re-exported under another name)
from pyro_mmvae.barycenters.diagonal import moment as moment
from pyro_mmvae.barycenters.diagonal import natural as natural
from pyro_mmvae.barycenters.diagonal import wasserstein as wasserstein
from pyro_mmvae.barycenters.divergences import Divergence as Divergence
from pyro_mmvae.barycenters.newton import Convergence as Convergence
from pyro_mmvae.barycenters.registry import divergences as divergences
from pyro_mmvae.barycenters.registry import find_divergence as find_divergence
from pyro_mmvae.barycenters.registry import get_divergence as get_divergence
from pyro_mmvae.barycenters.registry import register_divergence as register_divergence
from pyro_mmvae.barycenters.registry import unregister_divergence as unregister_divergence
from pyro_mmvae.barycenters.solving import ConvergenceWarning as ConvergenceWarning
from pyro_mmvae.barycenters.solving import solve as solve
