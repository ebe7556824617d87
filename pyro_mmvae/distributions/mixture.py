"""A mixture whose draws are reparameterised in its components."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import Distribution, constraints, register_kl

from pyro_mmvae._typing import Float, Int, Tensor
from pyro_mmvae.distributions.density import normal_log_prob
from pyro_mmvae.distributions.families import Logistic
from pyro_mmvae.distributions.gaussian import MultivariateNormal
from pyro_mmvae.distributions.stratified import stratified_uniform


class SubsetMixture(TorchDistribution):
    r"""The mixture :math:`q(z) = \sum_k \pi_k q_k(z)` of one component per subset of modalities.

    A draw picks a component and draws from it, with the gradient of the reparameterised draw of the component. This
    pathwise gradient is unbiased if :math:`\pi` does not depend on a parameter. If ``logits`` require a gradient, it is
    biased; ``has_rsample`` is then False, and Pyro adds the missing term, see :meth:`score_parts`.

    Torch's ``MixtureSameFamily`` does not have ``rsample``. Components of weight zero are allowed here and do not
    affect the accuracy as long as their parameters are finite.

    Args:
        logits: The logarithms of the weights :math:`\pi`, `(*batch, component)`, normalised here; ``-inf`` for a
            component of weight zero, with at least one finite logit per item.
        components: A distribution of batch shape `(*batch, component)`.
        validate_args: If True, check the arguments; by default as torch's distributions do.

    Raises:
        ValueError: If the batch shape of the components is not the shape of the logits.

    Example:
        >>> components = dist.Normal(torch.zeros(4, 3, 2), torch.ones(4, 3, 2)).to_event(1)
        >>> mixture = SubsetMixture(torch.zeros(4, 3), components)
        >>> mixture.batch_shape, mixture.event_shape
        (torch.Size([4]), torch.Size([2]))
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector}
    has_rsample = True
    _strata_dims = 0

    def __init__(
        self,
        logits: Float[Tensor, "*batch component"],
        components: TorchDistribution,
        validate_args: bool | None = None,
    ) -> None:
        if logits.dim() < 1 or components.batch_shape != logits.shape:
            raise ValueError(
                f"SubsetMixture: the batch shape of the components must be the shape of the logits, "
                f"{tuple(logits.shape)}, got {tuple(components.batch_shape)}"
            )
        self.logits = logits - logits.logsumexp(-1, keepdim=True)
        self.components = components
        self.has_rsample = bool(components.has_rsample) and not logits.requires_grad
        super().__init__(logits.shape[:-1], components.event_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Return the support of the components."""
        return self.components.support

    @property
    def num_components(self) -> int:
        """The number of components, including those of weight zero."""
        return self.logits.shape[-1]

    @property
    def probs(self) -> Float[Tensor, "*batch component"]:
        """The weights of the components, which sum to 1."""
        return self.logits.exp()

    def _weighted(self, value: Tensor) -> Tensor:
        weights = self.probs.reshape(self.probs.shape + (1,) * len(self.event_shape))
        return (weights * value).sum(-1 - len(self.event_shape))

    @property
    def mean(self) -> Float[Tensor, "*batch latent"]:
        """The mean of the mixture."""
        return self._weighted(self.components.mean)

    @property
    def variance(self) -> Float[Tensor, "*batch latent"]:
        """The variance of each coordinate, within the components and between their means."""
        axis = -1 - len(self.event_shape)
        centred = self.components.mean - self.mean.unsqueeze(axis)
        return self._weighted(self.components.variance + centred.square())

    def log_prob(self, value: Float[Tensor, "*value_and_event"]) -> Float[Tensor, "*sample"]:
        """Return the log density of the mixture, in nats, which evaluates all components."""
        if self._validate_args:
            self._validate_sample(value)
        return torch.logsumexp(self._terms(value) + self.logits, -1)

    def _terms(self, value: Tensor) -> Float[Tensor, "*sample component"]:
        """Return the log density of each component."""
        value = value.unsqueeze(-1 - len(self.event_shape))
        base: Any = getattr(self.components, "base_dist", None)
        # Independent Normals, the usual case, have a log density that keeps fewer large tensors for the backward pass.
        if type(self.components) is dist.Independent and type(base) is dist.Normal and len(self.event_shape) == 1:
            return normal_log_prob(value, base.loc, base.scale)
        return self.components.log_prob(value)

    def rsample(self, sample_shape: Any = torch.Size()) -> Float[Tensor, "*sample latent"]:
        """Draw with pathwise gradients, computing only the components that are drawn."""
        shape = torch.Size(sample_shape) + self.batch_shape
        return self.component(self.sample_component(sample_shape)).rsample().reshape(shape + self.event_shape)

    def sample(self, sample_shape: Any = torch.Size()) -> Float[Tensor, "*sample latent"]:
        """Draw without gradients."""
        with torch.no_grad():
            return self.component(self.sample_component(sample_shape)).sample()

    def __call__(self, sample_shape: Any = torch.Size()) -> Float[Tensor, "*sample latent"]:
        """Draw for a sample site of Pyro, with pathwise gradients in the components even if the weights are learned."""
        return self.rsample(sample_shape) if self.components.has_rsample else self.sample(sample_shape)

    def score_parts(self, x: Float[Tensor, "*value_and_event"], *args: Any, **kwargs: Any) -> ScoreParts:
        r"""Return the terms that Pyro's ELBOs need for an unbiased gradient, also if the weights are learned.

        The component k of a draw z is discrete. The gradient with respect to :math:`\pi` is therefore that of the score
        function, and the gradient with respect to the parameters of the components is the pathwise one. Given z, the
        expectation of the score over k is

        .. math:: E[\nabla_\pi \log \pi_k \mid z] = \nabla_\pi \log \sum_k \pi_k \, q_k(z), \qquad z \text{ and } q_k(z) \text{ fixed}

        which has a smaller variance than the score and does not depend on which component was drawn (Rao–Blackwell).
        ``Trace_ELBO`` multiplies it by the part of the ELBO that belongs to the item. A value without a gradient, as
        returned by ``sample``, is treated as Pyro treats any distribution without reparameterisation.
        ``TraceMeanField_ELBO`` does not support score functions and refuses learned weights.

        References:
            Schulman, Heess, Weber and Abbeel, 2015. Gradient estimation using stochastic computation graphs. NeurIPS.

        Args:
            x: The draw at which the terms are evaluated.
            *args: Arguments of the method of the base class.
            **kwargs: Keyword arguments of the method of the base class.
        """  # noqa: E501
        if self.has_rsample or not x.requires_grad:
            return super().score_parts(x, *args, **kwargs)
        terms = self._terms(x)
        log_prob = torch.logsumexp(terms + self.logits, -1)
        return ScoreParts(log_prob, torch.logsumexp(terms.detach() + self.logits, -1), log_prob)

    def sample_component(self, sample_shape: Any = torch.Size()) -> Int[Tensor, "*sample"]:
        """Draw the index of a component for each draw, without gradients."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            if self._strata_dims:
                return self._stratified_component(shape + self.batch_shape)
            probs = self.probs.reshape(-1, self.num_components)
            # A single draw is the one of torch.multinomial, without its checks, which may wait for an accelerator.
            if shape.numel() == 1:
                drawn = (probs / torch.empty_like(probs).exponential_()).argmax(-1, keepdim=True)
            else:
                drawn = torch.multinomial(probs, shape.numel(), replacement=True)
        return drawn.mT.reshape(shape + self.batch_shape)

    def _stratified_component(self, shape: torch.Size) -> Int[Tensor, "*sample"]:
        u = stratified_uniform(shape, self.logits.device, self._strata_dims)
        cumulative = self.probs.to(u).cumsum(-1)
        cumulative = (cumulative / cumulative[..., -1:]).expand(*shape, -1)
        # The first component whose cumulative weight exceeds u has a positive weight.
        return torch.searchsorted(cumulative.contiguous(), u.unsqueeze(-1), right=True).squeeze(-1)

    def stratified(self) -> SubsetMixture:
        """Return the mixture with draws whose components are stratified over the batch.

        Each entry of a draw still follows its own mixture, but together the entries have nearly the expected share of
        every component, so that sums over the batch have a smaller variance. Entries of one draw are therefore not
        independent. Entries that differ in a sample dimension, or in a dimension that is added by a later
        :meth:`expand`, such as that of vectorised particles, are independent.
        """
        new = self.expand(self.batch_shape)
        new._strata_dims = len(self.batch_shape)
        return new

    def component(self, index: Int[Tensor, "*sample"]) -> TorchDistribution:
        """Return the distribution of one component per entry of ``index``.

        Args:
            index: The indices of components, `(*sample, *batch)`.

        Returns:
            A distribution of batch shape `(*sample, *batch)`.
        """
        return _select(self.components.expand(index.shape + self.logits.shape[-1:]), index)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SubsetMixture:
        """Return the mixture expanded to a batch shape, as the method of the base class does."""
        new = self._get_checked_instance(SubsetMixture, _instance)
        shape = torch.Size(batch_shape)
        new.logits = self.logits.expand(shape + self.logits.shape[-1:])
        new.components = self.components.expand(shape + self.logits.shape[-1:])
        new.has_rsample = self.has_rsample
        new._strata_dims = self._strata_dims
        super(SubsetMixture, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new


@register_kl(SubsetMixture, Distribution)  # type: ignore[untyped-decorator]
def _kl_mixture(p: SubsetMixture, _q: Distribution) -> Tensor:
    """Raise an error: there is no closed form, and with learned weights the estimate in its place has no gradient."""
    if p.components.has_rsample and not p.has_rsample:
        raise ValueError(
            "SubsetMixture: TraceMeanField_ELBO gives learned subset weights (for moe: learned expert weights) no "
            "gradient: use Trace_ELBO"
        )
    raise NotImplementedError


_LOCATION_SCALE = {dist.Normal, dist.Laplace, dist.StudentT, dist.Cauchy, dist.Gumbel, dist.Logistic, Logistic}
_MULTIVARIATE = {dist.MultivariateNormal, MultivariateNormal}


def _select(components: Any, index: Tensor) -> Any:
    """Select one entry of the last batch dimension, without computing the others."""
    if isinstance(components, dist.Independent):
        depth = components.reinterpreted_batch_ndims
        return dist.Independent(_select_base(components.base_dist, index, depth), depth, validate_args=False)
    return _select_base(components, index, 0)


def _select_base(base: Any, index: Tensor, depth: int) -> Any:
    if type(base) in _MULTIVARIATE and not depth:
        depths = {"loc": 1, "scale_tril": 2}
    elif type(base) in _LOCATION_SCALE:
        depths = dict.fromkeys(base.arg_constraints, depth)
    else:
        raise NotImplementedError(
            f"SubsetMixture: components must be of type "
            f"{', '.join(sorted({t.__name__ for t in _LOCATION_SCALE | _MULTIVARIATE}))} or Independent of these, got "
            f"{type(base).__name__}"
        )
    parameters = {}
    for name, trailing in depths.items():
        value = getattr(base, name)
        where = index.reshape(index.shape + (1,) * (trailing + 1))
        chosen = where.expand(index.shape + (1,) + value.shape[value.dim() - trailing :])
        parameters[name] = value.gather(-1 - trailing, chosen).squeeze(-1 - trailing)
    return type(base)(**parameters, validate_args=False)
