r"""The affinity :math:`\int q^a p^{1-a}` of two Gaussians on the line, which Rényi and α-divergences are made of.

With variances v of q and u of p, d the difference of the means and s = a u + (1 - a) v,

.. math::
    -\log \int q^a p^{1-a} = a (1-a) \, \ell_a, \qquad
    \ell_a = \frac{\log s - (1-a) \log v - a \log u}{2 a (1-a)} + \frac{d^2}{2 s}

(Gil, Alajaji and Linder, 2013. Rényi divergence measures for commonly used univariate continuous distributions.
Information Sciences 249). :math:`\ell_0 = KL(p \| q)` and :math:`\ell_1 = KL(q \| p)`; between them :math:`\ell_a`
is smooth in a.
"""

from __future__ import annotations

import torch

from pyro_mmvae._typing import Float, Tensor


def scaled_log_affinity(
    order: float, z: Float[Tensor, "*shape"], log_ratio: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    r"""Return :math:`\ell_a`, which for a > 1 is infinite where the integral is.

    Args:
        order: The order a, positive and not 1.
        z: The difference of the means divided by the scale of q.
        log_ratio: The logarithm of the scale of q divided by the scale of p.
    """
    a, u, infinite = order, 2 * log_ratio, None
    if a < 1:
        inner = torch.log1p(a * torch.expm1(-(1 - a) * u) + (1 - a) * torch.expm1(a * u))
        share = 1 / (a * torch.exp(-u) + (1 - a))
    else:
        infinite = (a - 1) * torch.expm1(u) >= 1
        u = u.masked_fill(infinite, 0.0)
        inner = torch.log1p((1 - a) * torch.expm1(u)) - (1 - a) * u
        share = 1 / (a * torch.exp(-u) + (1 - a))
    value = inner / (2 * a * (1 - a)) + z.square() * share / 2
    return value if infinite is None else value.masked_fill(infinite, torch.inf)


def affinity_terms(
    order: float,
    loc: Float[Tensor, "*#shape"],
    log_scale: Float[Tensor, "*#shape"],
    member_loc: Float[Tensor, "*shape"],
    member_scale: Float[Tensor, "*shape"],
) -> tuple[Tensor, ...]:
    r"""Return :math:`\ell_a` and its first and second derivatives, in the order of :data:`~.newton.Terms`.

    Written with k = v / s and j = u / s, no term cancels as a goes to 0 or to 1.

    Args:
        order: The order a, positive and not 1.
        loc: The loc of q.
        log_scale: The logarithm of the scale of q.
        member_loc: The loc of p.
        member_scale: The scale of p.
    """
    a = order
    z, log_ratio = (loc - member_loc) * torch.exp(-log_scale), log_scale - member_scale.log()
    j = 1 / (a + (1 - a) * torch.exp(2 * log_ratio))
    k = 1 / (a * torch.exp(-2 * log_ratio) + (1 - a))
    far = (1 - a) * (z * k).square()
    value = scaled_log_affinity(a, z, log_ratio)
    return (
        value,
        k * z,
        (k - j) - far,
        k,
        -2 * (1 - a) * z * k.square(),
        2 * k * j - 2 * far * (1 - 2 * (1 - a) * k),
    )
