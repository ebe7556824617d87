"""One broken aggregation per clause of the contract, and its error message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import constraints

from pyro_mmvae import Experts, register_aggregation, unregister_aggregation
from pyro_mmvae.testing import check_aggregation
from tests.strategies import wasserstein_rule


class Sound(TorchDistribution):
    """A Gaussian that keeps the contract; each subclass below breaks one clause of it."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, base: Any) -> None:
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base.support

    @property
    def mean(self) -> torch.Tensor:
        return self.base.mean

    @property
    def variance(self) -> torch.Tensor:
        return self.base.variance

    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        return self.base.sample(torch.Size(sample_shape))

    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        return self.base.rsample(torch.Size(sample_shape))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return self.base.log_prob(value)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return type(self)(self.base.expand(torch.Size(batch_shape)))


def as_(kind: type[Sound]) -> Callable[[Experts], Any]:
    return lambda experts: kind(wasserstein_rule(experts))


class NoMean(Sound):
    @property
    def mean(self) -> torch.Tensor:
        raise NotImplementedError("no mean")


class WideVariance(Sound):
    @property
    def variance(self) -> torch.Tensor:
        return self.base.variance.sum(-1)


class KeepsLatent(Sound):
    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return self.base.base_dist.log_prob(value)


class ForgetsSampleShape(Sound):
    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        return self.base.sample()


class NoExpand(Sound):
    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        raise NotImplementedError("no expand")


class ExpandsTuplesOnly(Sound):
    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return type(self)(self.base.expand(() + batch_shape))


class ExpandsToTheMiddle(Sound):
    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        base = self.base.expand(torch.Size(batch_shape)).base_dist
        return type(self)(dist.Normal(base.loc.mean() + 0 * base.loc, base.scale).to_event(1))


class ForgetsHasRsample(Sound):
    has_rsample = False

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return Sound(self.base.expand(torch.Size(batch_shape)))


class NoSupport(Sound):
    support = None


class OtherSupport(Sound):
    support = constraints.independent(constraints.greater_than(40.0), 1)


class NoDensity(Sound):
    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return self.base.log_prob(value) * torch.inf


class NoSpread(Sound):
    @property
    def variance(self) -> torch.Tensor:
        return -self.base.variance


class MultipliesInAutocast(Sound):
    @property
    def mean(self) -> torch.Tensor:
        one = torch.eye(self.base.mean.shape[-1]).to(self.base.mean)
        return self.base.mean @ one


class Unnormalised(Sound):
    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        nothing = (self.base.mean == 0).all(-1)  # the prior is left as it is
        return torch.where(nothing, 0.0, 0.1) + self.base.log_prob(value)


class OtherMean(Sound):
    @property
    def mean(self) -> torch.Tensor:
        return 1.1 * self.base.mean


class OtherVariance(Sound):
    @property
    def variance(self) -> torch.Tensor:
        return torch.where(self.base.mean == 0, 1.0, 1.1) * self.base.variance


class SamplesTooWide(Sound):
    def sample(self, sample_shape: Any = ()) -> torch.Tensor:
        return self.base.mean + 1.1 * (self.base.sample(torch.Size(sample_shape)) - self.base.mean)


class RsamplesElsewhere(Sound):
    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        return self.base.rsample(torch.Size(sample_shape)) + 0.1 * self.base.stddev


class RsampleOfNoGradient(Sound):
    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        return self.base.rsample(torch.Size(sample_shape)).detach()


class RsampleOfNan(Sound):
    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        z, scale = self.base.rsample(torch.Size(sample_shape)), self.base.stddev
        return z + (scale - scale.detach()).abs().sqrt()  # nothing, with a slope of 0 / 0


def scaled(experts: Experts, loc: Any, scale: Any = 1.0) -> Any:
    """Return the Wasserstein rule with loc and scale multiplied where anything is present."""
    base: Any = wasserstein_rule(experts).base_dist  # type: ignore[attr-defined]
    some = experts.mask.any(-1, keepdim=True)
    return dist.Normal(torch.where(some, base.loc * loc, base.loc), torch.where(some, base.scale * scale, base.scale))


def modifies(experts: Experts) -> Any:
    posterior = wasserstein_rule(experts)
    with torch.no_grad():
        experts.scale.mul_(2)
    return posterior


def modifies_presence(experts: Experts) -> Any:
    posterior = wasserstein_rule(experts)
    experts.mask.fill_(True)
    return posterior


def of_torch(experts: Experts) -> Any:
    base: Any = wasserstein_rule(experts).base_dist  # type: ignore[attr-defined]
    return torch.distributions.Independent(torch.distributions.Normal(base.loc, base.scale), 1)


def poisoned(experts: Experts) -> Any:
    """Select after a division: values are finite, but the gradient of an absent slot is 0 times infinity."""
    total = (experts.scale * experts.mask.unsqueeze(-1)).sum(-2, keepdim=True)
    ratio = torch.where(experts.mask.unsqueeze(-1), total / experts.loc, 0.0).sum(-2)
    q: Any = scaled(experts, 1.0)
    return dist.Normal(q.loc + 0 * ratio, q.scale).to_event(1)


def counts_absent(experts: Experts) -> Any:
    return dist.Normal(
        experts.loc.mean(-2), torch.where(experts.mask.any(-1, keepdim=True), experts.scale.mean(-2), 1.0)
    ).to_event(1)


def prefers_the_first(experts: Experts) -> Any:
    """Weight by rank among the present: removing the absent changes nothing, permuting does."""
    rank = (experts.mask.cumsum(-1) * experts.mask).clamp(min=1).to(experts.loc)
    return wasserstein_rule(experts, 1 / rank)


def other_prior(experts: Experts) -> Any:
    q: Any = wasserstein_rule(experts).base_dist  # type: ignore[attr-defined]
    return dist.Normal(q.loc, torch.where(experts.mask.any(-1, keepdim=True), q.scale, 2.0)).to_event(1)


def needs_one_item_dimension(experts: Experts) -> Any:
    batch, _, _ = experts.loc.shape
    return wasserstein_rule(experts)


def detached(experts: Experts) -> Any:
    return wasserstein_rule(Experts(experts.loc.detach(), experts.scale.detach(), experts.mask))


BROKEN: list[tuple[Callable[..., Any], str]] = [
    (modifies, "clause 'inputs': scale of the experts modified in place"),
    (modifies_presence, "clause 'inputs': present of the experts modified in place"),
    (needs_one_item_dimension, "clause 'inputs': raised ValueError: not enough values to unpack"),
    (of_torch, "clause 'interface': the posterior must be a TorchDistribution of Pyro, got Independent"),
    (lambda experts: "wb", "clause 'interface': the posterior must be a TorchDistribution of Pyro, got str"),
    (lambda experts: scaled(experts, 1.0), r"clause 'interface': batch_shape must have shape \(\), got \(2,\)"),
    (lambda experts: wasserstein_rule(experts).expand((3, *experts.batch_shape)), "'interface': batch_shape must"),
    (as_(NoMean), "clause 'interface': raised NotImplementedError: no mean"),
    (as_(WideVariance), r"clause 'interface': variance must have shape \(2,\), got \(\)"),
    (as_(KeepsLatent), r"clause 'interface': log_prob\(\) must have shape \(5,\), got \(5, 2\)"),
    (as_(ForgetsSampleShape), r"clause 'interface': sample\(\) must have shape \(5, 2\), got \(2,\)"),
    (as_(NoExpand), "clause 'interface': raised NotImplementedError: no expand"),
    (as_(ExpandsTuplesOnly), "clause 'interface': raised TypeError: can only concatenate tuple"),
    (as_(ExpandsToTheMiddle), r"clause 'interface': expand\(\), log_prob\(\): .*not close"),
    (as_(ForgetsHasRsample), r"clause 'interface': expand\(\) changes has_rsample"),
    (as_(NoSupport), "clause 'interface': raised AttributeError: 'NoneType' object has no attribute 'check'"),
    (as_(OtherSupport), r"clause 'interface': sample\(\) draws values outside the support"),
    (as_(NoDensity), r"clause 'finite': log_prob\(\) has 1 of 1 values that are not finite"),
    (as_(NoSpread), "clause 'finite': the smallest variance must be positive, got -"),
    (lambda experts: wasserstein_rule(Experts(experts.loc.float(), experts.scale.float(), experts.mask)),
     r"clause 'dtype': float64 gives mean of torch.float32, expected torch.float64"),
    (lambda experts: wasserstein_rule(experts) if experts.loc.dtype == torch.float64 else Sound(dist.Normal(
        experts.loc.mean(-2).half(), experts.scale.mean(-2).half()).to_event(1)),
     r"clause 'dtype': bfloat16 gives mean of torch.float16, expected torch.float32"),
    (as_(MultipliesInAutocast), r"clause 'dtype': autocast gives mean of torch.bfloat16, expected torch.float32"),
    (counts_absent, r"clause 'absent': only modalities \[1, 2\] present, .*mean: .*not close"),
    (poisoned, "clause 'NaN': the gradient of log_prob, mean and variance in scale has .* not finite"),
    (prefers_the_first, r"clause 'permutation': modalities in the order \[2, 1, 0\], mean: .*not close"),
    (other_prior, r"clause 'prior': nothing present, so the standard normal, variance: .*not close"),
    (as_(Unnormalised), "clause 'density': standardised density in one latent dimension, integral: .*not close"),
    (as_(OtherMean), "clause 'density': standardised density in one latent dimension, mean: .*not close"),
    (as_(OtherVariance), "clause 'density': standardised density in one latent dimension, variance: .*not close"),
    (as_(SamplesTooWide), r"clause 'samples': sample\(\) has variance .* over 20000 draws, but variance is .* errors"),
    (as_(RsamplesElsewhere), r"clause 'samples': rsample\(\) has mean .* over 20000 draws, but mean is .* errors"),
    (detached, r"clause 'gradient': log_prob\(\) has no gradient in the experts"),
    (as_(RsampleOfNoGradient), r"clause 'gradient': rsample\(\) has no gradient in the experts"),
    (as_(RsampleOfNan), r"clause 'gradient': the gradient of rsample\(\) in scale has .* not finite"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "match"), BROKEN, ids=[match for _, match in BROKEN])
def test_check_aggregation_names_the_broken_clause(function: Callable[..., Any], match: str) -> None:
    register_aggregation("mine")(function)
    try:
        with pytest.raises(
            AssertionError, match=rf"(?s)aggregation 'mine' breaks the contract, .*{match}.*\(experts \("
        ):
            check_aggregation("mine")
    finally:
        unregister_aggregation("mine")


def test_check_aggregation_passes_the_base_of_the_broken_ones() -> None:
    register_aggregation("mine")(as_(Sound))
    try:
        check_aggregation("mine")
    finally:
        unregister_aggregation("mine")
