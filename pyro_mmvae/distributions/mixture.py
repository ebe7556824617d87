"""A mixture whose samples are reparameterised in its components."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import constraints

from pyro_mmvae._typing import Float, Int, Tensor
from pyro_mmvae.distributions.density import normal_log_prob
from pyro_mmvae.distributions.families import Logistic
from pyro_mmvae.distributions.gaussian import MultivariateNormal


class SubsetMixture(TorchDistribution):
    r"""The mixture :math:`q(z) = \sum_k \pi_k q_k(z)` of one component per subset of modalities.

    A draw picks a component and draws from it, with the gradient of the component's own reparameterised draw. That is
    an unbiased pathwise gradient as long as :math:`\pi` depends on no parameter. Where ``logits`` require a gradient it
    is not: then ``has_rsample`` is False, and Pyro adds what is missing, see :meth:`score_parts`.

    Torch's ``MixtureSameFamily`` has no ``rsample``; a component of zero weight is allowed here and costs nothing in
    accuracy, whatever its parameters, as long as they are finite.

    Args:
        logits: :math:`\log \pi`, `(*batch, component)`, normalised here; ``-inf`` for a dead component, at least one
            finite.
        components: a distribution of batch shape `(*batch, component)`.
        validate_args: as in torch.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> components = dist.Normal(torch.zeros(4, 3, 2), torch.ones(4, 3, 2)).to_event(1)
        >>> mixture = SubsetMixture(torch.zeros(4, 3), components)
        >>> mixture.batch_shape, mixture.event_shape
        (torch.Size([4]), torch.Size([2]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector}
    has_rsample = True

    def __init__(
        self,
        logits: Float[Tensor, "*batch component"],
        components: TorchDistribution,
        validate_args: bool | None = None,
    ) -> None:
        if logits.dim() < 1 or components.batch_shape != logits.shape:
            raise ValueError(
                f"SubsetMixture: logits of shape {tuple(logits.shape)} need components of that batch shape, got "
                f"{tuple(components.batch_shape)}"
            )
        self.logits = logits - logits.logsumexp(-1, keepdim=True)
        self.components = components
        self.has_rsample = bool(components.has_rsample) and not logits.requires_grad
        super().__init__(logits.shape[:-1], components.event_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Where the components have their density."""
        return self.components.support

    @property
    def num_components(self) -> int:
        """How many, dead ones included."""
        return self.logits.shape[-1]

    @property
    def probs(self) -> Float[Tensor, "*batch component"]:
        """Mixture weights, summing to 1."""
        return self.logits.exp()

    def _weighted(self, value: Tensor) -> Tensor:
        weights = self.probs.reshape(self.probs.shape + (1,) * len(self.event_shape))
        return (weights * value).sum(-1 - len(self.event_shape))

    @property
    def mean(self) -> Float[Tensor, "*batch latent"]:
        """Mean of the mixture."""
        return self._weighted(self.components.mean)

    @property
    def variance(self) -> Float[Tensor, "*batch latent"]:
        """Variance of each coordinate: within the components and between their means."""
        axis = -1 - len(self.event_shape)
        centred = self.components.mean - self.mean.unsqueeze(axis)
        return self._weighted(self.components.variance + centred.square())

    def log_prob(self, value: Float[Tensor, "*value_and_event"]) -> Float[Tensor, "*sample"]:
        """Log density of the mixture, in nats: all components are evaluated."""
        if self._validate_args:
            self._validate_sample(value)
        return torch.logsumexp(self._terms(value) + self.logits, -1)

    def _terms(self, value: Tensor) -> Float[Tensor, "*sample component"]:
        """The log density of each component."""
        value = value.unsqueeze(-1 - len(self.event_shape))
        base: Any = getattr(self.components, "base_dist", None)
        if type(self.components) is dist.Independent and type(base) is dist.Normal and len(self.event_shape) == 1:
            return normal_log_prob(value, base.loc, base.scale)
        return self.components.log_prob(value)

    def rsample(self, sample_shape: Any = torch.Size()) -> Float[Tensor, "*sample latent"]:
        """Draws with pathwise gradients; only the component drawn is computed."""
        shape = torch.Size(sample_shape) + self.batch_shape
        return self.component(self.sample_component(sample_shape)).rsample().reshape(shape + self.event_shape)

    def sample(self, sample_shape: Any = torch.Size()) -> Float[Tensor, "*sample latent"]:
        """Draws without gradients."""
        with torch.no_grad():
            return self.component(self.sample_component(sample_shape)).sample()

    def __call__(self, sample_shape: Any = torch.Size()) -> Float[Tensor, "*sample latent"]:
        """A draw as Pyro takes it: pathwise in the components also where the weights are learned."""
        return self.rsample(sample_shape) if self.components.has_rsample else self.sample(sample_shape)

    def score_parts(self, x: Float[Tensor, "*value_and_event"], *args: Any, **kwargs: Any) -> ScoreParts:
        r"""What Pyro's ELBOs need for an unbiased gradient, with learned weights too.

        The component k of a draw z is discrete, so the gradient in :math:`\pi` is that of the score function and the
        gradient in the components' parameters the pathwise one. Given z, the expectation over k of the score is

        .. math:: E[\nabla_\pi \log \pi_k \mid z] = \nabla_\pi \log \sum_k \pi_k \, q_k(z), \qquad z \text{ and } q_k(z) \text{ fixed}

        which has the smaller variance and needs no memory of which component was drawn (Rao–Blackwell). ``Trace_ELBO``
        multiplies it with the item's own part of the ELBO. A value without a gradient, as ``sample`` gives, is treated
        as Pyro treats any distribution that is not reparameterised. ``TraceMeanField_ELBO`` has no score functions and
        refuses learned weights.

        References:
            Schulman, Heess, Weber and Abbeel, 2015. Gradient estimation using stochastic computation graphs. NeurIPS.

        Args:
            x: a draw.
            *args: none.
            **kwargs: none.
        """  # noqa: E501
        if self.has_rsample or not x.requires_grad:
            return super().score_parts(x, *args, **kwargs)
        terms = self._terms(x)
        log_prob = torch.logsumexp(terms + self.logits, -1)
        return ScoreParts(log_prob, torch.logsumexp(terms.detach() + self.logits, -1), log_prob)

    def sample_component(self, sample_shape: Any = torch.Size()) -> Int[Tensor, "*sample"]:
        """Which component each draw comes from."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            probs = self.probs.reshape(-1, self.num_components)
            if shape.numel() == 1:  # what torch.multinomial does then, but for checks that may wait for an accelerator
                drawn = (probs / torch.empty_like(probs).exponential_()).argmax(-1, keepdim=True)
            else:
                drawn = torch.multinomial(probs, shape.numel(), replacement=True)
        return drawn.mT.reshape(shape + self.batch_shape)

    def component(self, index: Int[Tensor, "*sample"]) -> TorchDistribution:
        """The component of the given index, one for each entry of ``index``.

        Args:
            index: `(*sample, *batch)`.

        Returns:
            A distribution of batch shape `(*sample, *batch)`.
        """
        return _take(self.components.expand(index.shape + self.logits.shape[-1:]), index)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SubsetMixture:
        """As in torch."""
        new = self._get_checked_instance(SubsetMixture, _instance)
        shape = torch.Size(batch_shape)
        new.logits = self.logits.expand(shape + self.logits.shape[-1:])
        new.components = self.components.expand(shape + self.logits.shape[-1:])
        new.has_rsample = self.has_rsample
        super(SubsetMixture, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new


_LOCATION_SCALE = {dist.Normal, dist.Laplace, dist.StudentT, dist.Cauchy, dist.Gumbel, dist.Logistic, Logistic}
_MULTIVARIATE = {dist.MultivariateNormal, MultivariateNormal}


def _take(components: Any, index: Tensor) -> Any:
    """Pick one entry of the last batch dimension, without computing the others."""
    if isinstance(components, dist.Independent):
        depth = components.reinterpreted_batch_ndims
        return dist.Independent(_take_base(components.base_dist, index, depth), depth, validate_args=False)
    return _take_base(components, index, 0)


def _take_base(base: Any, index: Tensor, depth: int) -> Any:
    if type(base) in _MULTIVARIATE and not depth:
        depths = {"loc": 1, "scale_tril": 2}
    elif type(base) in _LOCATION_SCALE:
        depths = dict.fromkeys(base.arg_constraints, depth)
    else:
        raise NotImplementedError(
            f"SubsetMixture: components of type {type(base).__name__}; known are "
            f"{sorted({t.__name__ for t in _LOCATION_SCALE | _MULTIVARIATE})}, in Independent or not"
        )
    parameters = {}
    for name, trailing in depths.items():
        value = getattr(base, name)
        where = index.reshape(index.shape + (1,) * (trailing + 1))
        chosen = where.expand(index.shape + (1,) + value.shape[value.dim() - trailing :])
        parameters[name] = value.gather(-1 - trailing, chosen).squeeze(-1 - trailing)
    return type(base)(**parameters, validate_args=False)
