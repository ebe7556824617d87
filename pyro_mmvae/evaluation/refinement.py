"""Posteriors of single items refined from the answer of the encoders, so that models are compared on equal terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Tensor
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.proposals import GaussianProposal, GuideProposal, LatentTarget, Proposal, starting_gaussian
from pyro_mmvae.evaluation.psis import MIN_DRAWS, khat_threshold, psis_khat
from pyro_mmvae.evaluation.reference import gaussian_kl, sample_reference
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.importance import effective_sample_size, log_mean_exp
from pyro_mmvae.inference.posteriors import (
    density_of,
    has_several_components,
    indices_with_all,
    select,
    subset_names,
)
from pyro_mmvae.vae.vae import MultimodalVAE

_LR = 0.1
"""The learning rate at the first step, in units of the scales of the encoder's answer; it falls to 0 as a cosine."""

_STEP_DRAWS = 8
"""The number of draws per item and step. With the gradient below, which vanishes at the posterior, few suffice."""

_KL_DRAWS = 4000
"""The number of draws of a proposal from which its moments are computed."""


@dataclass(frozen=True, eq=False)
class Refinement:
    """The figures of some items under the proposals of the guide and the refined one.

    Attributes:
        rows: The figures ``proposal_log_likelihood``, ``proposal_elbo``, ``proposal_ess``, ``proposal_khat`` and
            ``proposal_khat_share`` of each proposal, named in the protocol; with a reference ``proposal_kl`` and
            ``reference_rhat``.
        arrays: For items with a reference ``reference_mean.GIVEN`` and ``reference_sd.GIVEN`` of the exact posterior,
            each of shape `(item, size)`.
    """

    rows: list[Metric]
    arrays: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def refine(target: LatentTarget, start: GaussianProposal, steps: int) -> GaussianProposal:
    r"""Return Gaussians with full covariance that maximise the ELBO of each item, from a start.

    In the coordinates :math:`w = \mu_0 + L_0 y`, the Gaussian :math:`y \sim N(m, A A^\top)` starts at the standard one,
    and Adam takes steps along the gradient of :math:`\log p(x, w) - \log q(w)` with the parameters of q held fixed
    in its log density, whose variance vanishes where q is the posterior.

    References:
        Roeder, Wu and Duvenaud, 2017. Sticking the landing. NeurIPS.
        Kim, Wiseman, Miller, Sontag and Rush, 2018. Semi-amortized variational autoencoders. ICML.

    Args:
        target: The density of the items.
        start: The Gaussians to start from.
        steps: The number of gradient steps; with 0 the start is returned.
    """
    loc = torch.zeros_like(start.loc).requires_grad_()
    log_diagonal = torch.zeros_like(start.loc).requires_grad_()
    lower = torch.zeros_like(start.scale_tril).requires_grad_()
    parameters = [loc, log_diagonal, lower]
    # Adam moves all entries alike, and the entries of a row of the factor add up.
    rates = [_LR, _LR, _LR / math.sqrt(target.size)]
    groups = [{"params": [p], "lr": rate} for p, rate in zip(parameters, rates, strict=True)]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps or 1)
    for _ in range(steps):
        tril = lower.tril(-1) + torch.diag_embed(log_diagonal.exp())
        y = loc + torch.einsum("kij,nkj->nki", tril, torch.randn(_STEP_DRAWS, *loc.shape, device=loc.device))
        w = start.loc + torch.einsum("kij,nkj->nki", start.scale_tril, y)
        residual = (y - loc.detach()).unsqueeze(-1)
        noise = torch.linalg.solve_triangular(tril.detach(), residual, upper=False).squeeze(-1)
        # Items whose density is not finite at a draw keep their parameters in this step.
        elbo = (target(w) + 0.5 * noise.square().sum(-1)).mean(0)
        gradients = torch.autograd.grad(torch.where(elbo.isfinite(), elbo, 0.0).sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = -gradient.nan_to_num(0.0, 0.0, 0.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        tril = lower.tril(-1) + torch.diag_embed(log_diagonal.exp())
        shifted = start.loc + torch.einsum("kij,kj->ki", start.scale_tril, loc)
        return GaussianProposal(shifted, start.scale_tril @ tril)


def refined_figures(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    *,
    subset: Sequence[int],
    steps: int,
    items: int = 20,
    reference_items: int = 0,
    samples: int = MIN_DRAWS,
    seed: int = 0,
) -> Refinement:
    """Compare the guide's answer with Gaussians refined item by item, as proposals for the posterior given a subset.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items of ``data``.
        data: The items to choose from.
        subset: The indices of the modalities to condition on.
        steps: The number J of gradient steps per item, at least 1.
        items: The largest number of items, 20 by default, chosen at random among those with every modality of the
            subset.
        reference_items: The number of these items, the first ones, whose exact posterior is sampled by NUTS; 0, the
            default, for none.
        samples: The number of draws per item for k̂ and log likelihoods, at least ``MIN_DRAWS``.
        seed: The seed of the choice, the steps and the draws, 0 by default; the states of torch's generators are
            restored afterwards.

    Returns:
        The figures of each proposal: the mixture density of the guide, its joint component where that is another one,
        and the refined Gaussian.

    Raises:
        ValueError: If there are too few draws or steps, or no item has every modality of the subset.
    """
    if samples < MIN_DRAWS or steps < 1:
        raise ValueError(f"steps must be at least 1 and samples at least {MIN_DRAWS}, got {steps} and {samples}")
    index = indices_with_all(experts, subset).cpu().numpy()
    chosen = np.sort(np.random.default_rng(seed).choice(index, min(items, len(index)), replace=False))
    device, given = experts.loc.device, subset_names(subset, vae.names)
    rows, arrays = list[Metric](), dict[str, NDArray[np.float32]]()
    with seeded(seed, device):
        of_chosen = select(experts, torch.as_tensor(chosen, device=device))
        batch = make_batch(data, torch.as_tensor(chosen, device=data.present.device)).to(device)
        target = LatentTarget(vae, batch, subset)
        proposals = _guide_proposals(target, of_chosen, subset)
        refined = refine(target, starting_gaussian(target, of_chosen, subset), steps)
        proposals[f"Gaussian refined by {steps} step{'s' * (steps > 1)}"] = refined
        for label, proposal in proposals.items():
            weights = target.log_weights(proposal, samples)
            protocol = f"{label}, S={samples}, {len(chosen)} of {len(index)} items"
            for metric, value in _figures(weights, samples).items():
                rows.append(Metric(f"proposal_{metric}", protocol, given, "", value, len(chosen), seed))
        if reference_items:
            found = _with_reference(target, refined, proposals, reference_items)
            number, draws = len(found.mean), found.draws
            protocol = f"NUTS, {draws} draws, items: {number}"
            rows += [
                Metric("proposal_kl", f"{label}, from {protocol}", given, "", kl, number, seed)
                for label, kl in found.kl.items()
            ]
            rows.append(Metric("reference_rhat", protocol, given, "", found.rhat, number, seed))
            arrays = {"reference_mean": found.mean, "reference_sd": found.sd}
    return Refinement(rows, arrays)


def _guide_proposals(target: LatentTarget, experts: Experts, subset: Sequence[int]) -> dict[str, Proposal]:
    """Return the proposals of the guide by their labels."""
    vae = target.vae
    densities = [density_of(vae, experts.num_modalities)]
    if has_several_components(vae, experts, subset):
        densities.append("joint")
    labels = {"mixture": "mixture density of the guide", "joint": "joint component of the guide"}
    return {labels[d]: GuideProposal(vae, experts, target.batch, subset, d) for d in densities}


def _figures(weights: Tensor, samples: int) -> dict[str, float]:
    """Return the figures of the log weights `(sample, item)` of one proposal."""
    shapes = psis_khat(weights)
    return {
        "log_likelihood": float(log_mean_exp(weights).mean()),
        "elbo": float(weights.mean()),
        "ess": float(effective_sample_size(weights).mean()),
        "khat": float(np.median(shapes)),
        "khat_share": float((shapes > khat_threshold(samples)).mean()),
    }


@dataclass(frozen=True, eq=False)
class _Compared:
    """The moments of the exact posterior of some items, and the divergences of proposals from it."""

    mean: NDArray[np.float32]
    sd: NDArray[np.float32]
    rhat: float
    draws: int
    kl: dict[str, float]


def _with_reference(
    target: LatentTarget, refined: GaussianProposal, proposals: dict[str, Proposal], items: int
) -> _Compared:
    """Sample the exact posterior of the first items, and compare the moments of proposals with its moments."""
    references = [sample_reference(target, refined, item) for item in range(min(items, len(refined.loc)))]
    kl = {}
    for label, proposal in proposals.items():
        with torch.no_grad():
            latents = proposal.draw(_KL_DRAWS)[0]
        divergences = [gaussian_kl(latents[:, item], reference.draws) for item, reference in enumerate(references)]
        kl[label] = float(np.mean(divergences))
    mean = torch.stack([reference.draws.mean(0) for reference in references])
    sd = torch.stack([reference.draws.std(0) for reference in references])
    return _Compared(
        mean.float().cpu().numpy(),
        sd.float().cpu().numpy(),
        max(reference.rhat for reference in references),
        len(references[0].draws),
        kl,
    )
