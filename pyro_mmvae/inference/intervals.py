"""The coverage of predictive intervals, and scales of likelihoods at which they cover what they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Float, Int, Tensor
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.inference.posteriors import density_of, private_posteriors
from pyro_mmvae.likelihoods import Likelihood, StandardizedLikelihood, generalized_normal_cdf
from pyro_mmvae.likelihoods.heads import _LocationLikelihood
from pyro_mmvae.vae.vae import MultimodalVAE

LEVELS = (0.5, 0.9)
"""The levels of the predictive intervals that scale and exponent are fitted to."""

GIVEN = ("others", "all")
"""What a modality may be predicted from: the other modalities, or all of them, itself among them."""

_PAIRS = 6_000  # residuals that a fit looks at, each of all draws: the standard error of a coverage is then below .007
_ITEMS_AT_ONCE = 50
_EXPONENTS = (0.2, 12.0)
_SCALES = (1e-4, 1e4)
_STEPS = 14  # of a bisection in logarithms, which leaves a factor of 1.001


@dataclass(frozen=True)
class ErrorLaw:
    """The distribution of the residual x − μ(z) of a modality: exp(−(|r| / scale)ᵖ) up to a factor.

    Attributes:
        scale: The scale, a scalar or one per feature `(*shape)`; σ√2 for a normal distribution.
        exponent: The exponent p: 1 for a Laplace, 2 for a normal distribution.
    """

    scale: Tensor
    exponent: float


@dataclass(frozen=True)
class Residuals:
    """Residuals x − μ(z) of one modality of some items, in standardised units if it is standardized.

    Attributes:
        values: Residuals of draws of z, `(draw, pair)`, of randomly chosen pairs of an item and a feature.
        feature: The number of the feature of each pair, `(pair,)`.
        energy: The mean of |x − μ(z)|ᵏ of each feature over all items and draws, `(*shape)`, where k is 1 for a Laplace
            and 2 for a Normal likelihood.
        items: The number of items.
    """

    values: Float[Tensor, "draw pair"]
    feature: Int[Tensor, " pair"]
    energy: Tensor
    items: int

    def coverage(self, law: ErrorLaw, levels: Sequence[float] = LEVELS) -> list[float]:
        r"""Return the share of pairs whose observation lies in each central predictive interval.

        The predictive distribution of a pair is the mixture over the draws, whose distribution function
        :math:`u = \frac1S \sum_s F(x - \mu(z_s))` needs no draws of x; the interval of level L holds x where
        :math:`|u - \frac12| \le L/2`.

        Args:
            law: The distribution of the residuals.
            levels: The levels of the intervals, each between 0 and 1; by default ``LEVELS``.
        """
        scale = law.scale.flatten()[self.feature] if law.scale.dim() else law.scale
        return self._coverage(self.values / scale, law.exponent, levels)

    def _coverage(self, values: Tensor, exponent: float, levels: Sequence[float] = LEVELS) -> list[float]:
        u = generalized_normal_cdf(values, torch.tensor(exponent, dtype=values.dtype, device=values.device)).mean(0)
        distance = (u - 0.5).abs()
        return [float((distance <= level / 2).double().mean()) for level in levels]

    def closed_form(self, power: int, *, per_feature: bool) -> Tensor:
        """Return the scale of the family with the highest likelihood: the mean residual, see :class:`CalibratedScale`.

        Args:
            power: 1 for a Laplace, 2 for a Normal likelihood.
            per_feature: If True, there is one scale per feature.
        """
        return (self.energy if per_feature else self.energy.mean()).pow(1 / power)

    def fit(self, power: int, *, per_feature: bool, fit_exponent: bool) -> ErrorLaw:
        """Fit a distribution whose predictive intervals have their nominal coverage.

        With a free exponent the intervals of both ``LEVELS`` cover as they say, if that is possible with exponents
        between 0.2 and 12: for each exponent a bisection finds the scale at which half of the observations lie in the
        interval of level 0.5, and another one the exponent at which those of level 0.9 are right as well. With the
        exponent of the family, the scale is that where the errors of both levels, over their variances, cancel. Scales
        of features are in proportion to their mean residuals.

        Args:
            power: The exponent of the family, 1 for a Laplace, 2 for a Normal likelihood.
            per_feature: If True, there is one scale per feature.
            fit_exponent: If True, the exponent is fitted too.
        """
        relative = self.closed_form(power, per_feature=per_feature).clamp(min=_SCALES[0])
        values = self.values / (relative.flatten()[self.feature] if per_feature else relative)

        def error(scale: float, exponent: float) -> float:
            pairs = zip(self._coverage(values / scale, exponent), LEVELS, strict=True)
            return sum((value - level) / (level * (1 - level)) for value, level in pairs)

        def half_covered(exponent: float) -> float:
            return _bisect(lambda scale: self._coverage(values / scale, exponent)[0] - LEVELS[0], _SCALES)

        exponent = float(power)
        if fit_exponent:
            # Heavier tails make the wide interval wider where the narrow one stays.
            exponent = _bisect(
                lambda p: LEVELS[1] - self._coverage(values / half_covered(p), p)[1], _EXPONENTS, steps=8
            )
        at_end = not fit_exponent or min(abs(math.log(exponent / end)) for end in _EXPONENTS) < 0.05
        scale = _bisect(lambda value: error(value, exponent), _SCALES) if at_end else half_covered(exponent)
        return ErrorLaw(scale * relative, exponent)


def location_likelihood(likelihood: Likelihood) -> _LocationLikelihood | None:
    """Return the Laplace or Normal likelihood behind a likelihood, or None if it is another one.

    Args:
        likelihood: The likelihood of a modality, standardized or not.
    """
    base = likelihood.base if isinstance(likelihood, StandardizedLikelihood) else likelihood
    return base if isinstance(base, _LocationLikelihood) else None


def error_law(likelihood: _LocationLikelihood) -> ErrorLaw:
    """Return the distribution of the residuals under a Laplace or Normal likelihood in eval mode."""
    calibration = likelihood.calibration
    if calibration is not None and calibration.is_generalized:
        return ErrorLaw(calibration.scale, float(calibration.exponent))
    zeros = torch.zeros(likelihood.shape, device=next(iter(likelihood.state_dict().values()), torch.zeros(())).device)
    scale: Tensor = likelihood(zeros).scale.detach()
    return ErrorLaw(scale * likelihood.power ** (1 / likelihood.power), float(likelihood.power))


@torch.no_grad()
def collect_residuals(
    vae: MultimodalVAE,
    data: MultimodalDataset,
    rows: Sequence[int],
    *,
    given: str = "others",
    draws: int = 20,
    seed: int = 0,
) -> dict[str, Residuals]:
    """Return the residuals of every modality with a Laplace or Normal likelihood.

    Args:
        vae: The model, in eval mode.
        data: The data set that holds the items.
        rows: The numbers of the items. An item counts for the modalities that it has; with ``others``, if it also has
            another one.
        given: What a modality is predicted from: ``"others"``, the default, or ``"all"``. Private latents are drawn
            from their priors, or with ``all`` from their posteriors.
        draws: The number of draws of z per item, 20 by default.
        seed: The seed of the draws and of the choice of pairs, 0 by default.

    Returns:
        Residuals by name of the modality; those that no item counts for are left out.
    """
    result = {}
    for number, name in enumerate(vae.names):
        likelihood = cast("Likelihood", vae.model.likelihoods[name])
        base = location_likelihood(likelihood)
        if base is None:
            continue
        device = cast("Tensor", vae.model.prior_loc).device
        names = tuple(other for other in vae.names if given == "all" or other != name)
        kept = data.present[:, number].cpu() & data.present[:, [vae.names.index(n) for n in names]].any(-1).cpu()
        chosen = [row for row in rows if bool(kept[row])]
        if not chosen:
            continue
        with seeded(seed + 1_000_003 * number, device):
            parts = [
                _residuals_of(vae, name, base, names, data.subset(chosen[start : start + _ITEMS_AT_ONCE]), draws)
                for start in range(0, len(chosen), _ITEMS_AT_ONCE)
            ]
            result[name] = _merge(parts, base, len(chosen))
    return result


def _residuals_of(
    vae: MultimodalVAE,
    name: str,
    base: _LocationLikelihood,
    names: tuple[str, ...],
    data: MultimodalDataset,
    draws: int,
) -> Float[Tensor, "draw item feature"]:
    """Return the residuals of one modality of a few items given others."""
    device = cast("Tensor", vae.model.prior_loc).device
    batch = make_batch(data, slice(None)).to(device)
    given = batch.select(names)
    posterior = vae.guide.posterior(vae.guide.experts(given, num_items=len(batch)), density_of(vae, len(vae.names)))
    count = torch.Size((draws,))
    z = posterior.sample(count)
    indices = [vae.names.index(other) for other in names]
    private = {n: q.sample() for n, q in private_posteriors(vae, given, indices, [name])(z).items()}
    parameters = vae.model.parameters_given(z, [name], private, batch.covariates)[name]
    likelihood = cast("Likelihood", vae.model.likelihoods[name])
    residual = likelihood.features(batch.values[name]) - base.mean(parameters)
    return residual.float().flatten(2) if base.shape else residual.float().unsqueeze(-1)


def _merge(parts: Sequence[Tensor], base: _LocationLikelihood, items: int) -> Residuals:
    """Return the residuals of all items: those of some pairs, and the mean energy of all."""
    size = parts[0].shape[-1]
    per_item = min(-(-_PAIRS // items), size)
    values, features = [], []
    energy = torch.zeros(size, dtype=torch.float64, device=parts[0].device)
    for part in parts:
        chosen = torch.rand(part.shape[1], size, device=part.device).topk(per_item, -1).indices
        values.append(part.gather(-1, chosen.expand(len(part), -1, -1)).flatten(1))
        features.append(chosen.flatten())
        energy += part.abs().pow(base.power).double().mean(0).sum(0)
    mean = (energy / items).to(parts[0].dtype).reshape(base.shape)
    return Residuals(torch.cat(values, 1), torch.cat(features), mean, items)


def _bisect(function: Callable[[float], float], ends: tuple[float, float], steps: int = _STEPS) -> float:
    """Return the zero of an increasing function of a positive number, or the end that is nearest to it."""
    low, high = map(math.log, ends)
    for _ in range(steps):
        middle = (low + high) / 2
        if function(math.exp(middle)) < 0:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)
