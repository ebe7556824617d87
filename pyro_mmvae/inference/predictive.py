"""Posterior predictive distributions of modalities that were not observed, summarised over draws of the latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.inference.posteriors import draws_at_once
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.vae.vae import MultimodalVAE

_BLOCKS = 4
"""The number of blocks of latents to decode at once. Few modalities are decoded at a time here, which then still fit
into the processor's cache."""


@dataclass(frozen=True)
class PredictiveFigures:
    """The figures of a posterior predictive distribution to compute.

    Args:
        quantiles: The levels of the quantiles, between 0 and 1; empty for none.
        draws: If True, draws of the observations are kept.
    """

    quantiles: tuple[float, ...] = ()
    draws: bool = False


@dataclass
class Summary:
    """The figures of one modality.

    Attributes:
        mean: The mean `(item, *shape)`; of a categorical likelihood class probabilities `(item, *shape, classes)`.
        sd: The standard deviation `(item, *shape)`; None for a categorical likelihood.
        quantiles: The quantiles `(item, *shape)` by level; empty for a categorical likelihood.
        draws: Draws `(draw, item, *shape)`, if they were asked for; else None.
    """

    mean: Tensor
    sd: Tensor | None = None
    quantiles: dict[float, Tensor] = field(default_factory=dict)
    draws: Tensor | None = None


@torch.no_grad()
def summarise_predictive(
    vae: MultimodalVAE,
    z: Float[Tensor, "draw item latent"],
    names: Sequence[str],
    figures: PredictiveFigures,
    *,
    covariates: Float[Tensor, "item covariate"] | None = None,
    private: Mapping[str, Tensor] | None = None,
) -> dict[str, Summary]:
    r"""Summarise the posterior predictive distributions of modalities that were not observed.

    Private latents that are not given are drawn from their priors. The mean is that of the likelihoods' means over the
    draws of z. The variance is by the law of total variance, with the variance of the likelihood as its distribution
    has it:

    .. math:: \mathrm{Var}\, x = E_z[\mathrm{Var}(x \mid z)] + \mathrm{Var}_z(E[x \mid z])

    Where the distribution has no variance, that of one draw of x per draw of z takes its place. Quantiles are those of
    one draw of x per draw of z.

    Args:
        vae: The model, in eval mode.
        z: Draws of the latent, two or more.
        names: The modalities to summarise.
        figures: The figures to compute in addition to mean and standard deviation.
        covariates: The indicators of the items' categories; frequencies take the place of unknown ones, by default of
            all.
        private: Modality name to draws of private latents `(draw, item, private)`; none by default.

    Returns:
        The figures by name of the modality.
    """
    totals = {name: _Totals(cast("Likelihood", vae.model.likelihoods[name]), figures) for name in names}
    size = max(_BLOCKS * draws_at_once(z.device) // z.shape[1], 1)
    for start in range(0, len(z), size):
        part = slice(start, start + size)
        known = {name: u[part] for name, u in (private or {}).items()}
        parameters = vae.model.parameters_given(z[part], names, known, covariates)
        for name, total in totals.items():
            total.add(parameters[name])
    return {name: total.summary() for name, total in totals.items()}


class _Totals:
    """The sums over draws from which the figures of one modality are computed."""

    def __init__(self, likelihood: Likelihood, figures: PredictiveFigures) -> None:
        self.likelihood, self.figures = likelihood, figures
        self.count = 0
        self.draws: list[Tensor] = []
        self.has_variance = True
        self.shift: Tensor

    def add(self, parameters: Tensor) -> None:
        """Add draws of the parameters of the likelihood, `(draw, item, *parameter_shape)`."""
        means, distribution = self.likelihood.mean(parameters).float(), self.likelihood(parameters)
        if not self.count:
            # Sums of differences from a typical value lose fewer digits than sums of the values.
            self.shift = means.mean(0)
            self.total, self.squares = torch.zeros_like(self.shift), torch.zeros_like(self.shift)
            self.variance = torch.zeros_like(self.shift)
        self.count += len(means)
        difference = means - self.shift
        self.total += difference.sum(0)
        if self.likelihood.is_categorical:
            if self.figures.draws:
                self.draws.append(distribution.sample())
            return
        self.squares += difference.square_().sum(0)
        variance = _variance(distribution) if self.has_variance else None
        self.has_variance = variance is not None
        if variance is not None:
            self.variance += variance.sum(0)
        if self.figures.draws or self.figures.quantiles or not self.has_variance:
            self.draws.append(distribution.sample())

    def summary(self) -> Summary:
        """Return the figures."""
        mean = self.shift + self.total / self.count
        draws = torch.cat(self.draws) if self.draws else None
        result = Summary(mean, draws=draws if self.figures.draws else None)
        if self.likelihood.is_categorical:
            return result
        if self.has_variance:
            between = (self.squares - self.total.square() / self.count).clamp(min=0) / (self.count - 1)
            result.sd = (self.variance / self.count + between).sqrt()
        elif draws is not None:
            result.sd = draws.float().std(0)
        if self.figures.quantiles and draws is not None:
            result.quantiles = _quantiles(draws.float(), self.figures.quantiles)
        return result


def _variance(distribution: TorchDistribution) -> Tensor | None:
    """Return the variance of a distribution, or None if it does not have one."""
    try:
        return cast("Tensor", distribution.variance)
    except (NotImplementedError, AttributeError):
        return None


def _quantiles(draws: Float[Tensor, "*draw_and_value"], levels: Sequence[float]) -> dict[float, Tensor]:
    """Return quantiles over the draws, interpolated linearly between order statistics."""
    # torch.quantile refuses more than 16 million elements.
    ordered, result = draws.sort(0).values, {}
    for level in levels:
        position = level * (len(ordered) - 1)
        lower = min(int(position), len(ordered) - 2)
        result[level] = torch.lerp(ordered[lower], ordered[lower + 1], position - lower)
    return result
