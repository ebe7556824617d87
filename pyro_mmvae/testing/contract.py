"""The contract of aggregations, clause by clause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin

from pyro_mmvae._typing import Tensor
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.functional import AggregationLike, make_aggregation
from pyro_mmvae.aggregation.kinds import check_kind
from pyro_mmvae.distributions import location_scale
from pyro_mmvae.experts import Experts
from pyro_mmvae.testing.cases import (
    cast_experts,
    default_experts,
    first_dimension,
    scale_name,
    select_modalities,
    tensors,
)

_DRAWS = torch.Size([5])
_STANDARD_ERRORS = 6.0


def check_aggregation(
    aggregation: AggregationLike,
    experts: Experts | None = None,
    *,
    kind: str = "normal",
    seed: int = 0,
    samples: int = 20_000,
) -> None:
    r"""Check that an aggregation keeps every clause of its contract, and say which one it breaks and by how much.

    The clauses, in this order. *inputs*: the experts are not modified. *interface*: a Pyro ``TorchDistribution`` of
    batch shape `batch` and event shape `(latent,)` with ``sample``, ``rsample`` (where ``has_rsample``), ``log_prob``,
    ``mean``, ``variance``, ``expand`` and ``support`` of the right shapes. *finite*: all values are finite. *dtype*:
    float64 stays float64, bfloat16 gives float32 at least, and autocast changes nothing. *absent*: an absent modality
    is as good as a removed one. *NaN* in an absent slot reaches neither a value nor a gradient. *permutation*: the
    order of modalities changes nothing (this and *absent* are not checked for a user-defined family of subsets, which
    tells modalities apart, and *absent* not with ``prior_expert="complete"``). *prior*: where nothing is present the
    result is the prior, the standard one by default. *density*: in one latent dimension :math:`\int q = 1`, and mean
    and variance are those of the density. *samples*: mean and variance are those of the draws, within six standard
    errors. *gradient*: ``log_prob`` and ``rsample`` have finite gradients in present experts. *component*: draws of the
    component bound, if there is one, have the interface and are finite.

    Args:
        aggregation: An :class:`~pyro_mmvae.Aggregation`, any module or callable from experts to a distribution, or a
            name.
        experts: The experts to try it on, checked in float64; by default random ones of several batch shapes and latent
            sizes, with absent modalities and an item of which nothing is present.
        kind: The kind of the default experts, see :attr:`Experts.kind <pyro_mmvae.Experts.kind>`; ``"normal"``,
            diagonal Gaussians, by default.
        seed: The seed of the default experts and of all draws. Torch's global random state is restored afterwards.
        samples: The number of draws to compare the moments with, 20,000 by default.

    Raises:
        AssertionError: If a clause is broken, or anything raises on the way.
        ValueError: If there is no aggregation of that name, or it is not defined for experts of that kind.

    Example:
        >>> check_aggregation("wb")
        >>> check_aggregation("moment", kind="full")
        >>> check_aggregation("wb", kind="laplace")
    """
    checked = make_aggregation(aggregation)
    check_kind(checked.name, kind if experts is None else experts.kind, checked.accepts)
    subsets = checked.subsets
    is_ordered = subsets is not None and not isinstance(subsets, str)
    num_modalities = subsets.shape[-1] if isinstance(subsets, Tensor) else 3
    for case in (
        default_experts(seed, num_modalities, kind) if experts is None else [cast_experts(experts, torch.float64)]
    ):
        cuda = [case.loc.device] if case.loc.is_cuda else []
        with torch.random.fork_rng(devices=cuda):
            for generator in (torch.default_generator, *(torch.cuda.default_generators[d.index] for d in cuda)):
                generator.manual_seed(seed)
            for clause, check in _CLAUSES.items():
                # The prior expert of complete items alone tells an absent modality from a removed one, by definition.
                excluded = {"absent", "permutation"} if is_ordered else set()
                if checked.values_for(case).prior_expert == "complete":
                    excluded.add("absent")
                if clause not in excluded:
                    _Subject(checked, case, samples).run(clause, check)


class _Subject:
    """An aggregation on some experts, and the assertions about it."""

    def __init__(self, aggregation: Aggregation, experts: Experts, samples: int) -> None:
        self.aggregation, self.experts, self.samples = aggregation, experts, samples

    def run(self, clause: str, check: Callable[[_Subject, Experts], Any]) -> None:
        self.clause = clause
        try:
            check(self, self.experts)
        except Exception as error:
            if isinstance(error, AssertionError):
                raise
            raise AssertionError(self.message(f"raised {type(error).__name__}: {error}")) from error

    def message(self, detail: str) -> str:
        shape = tuple(self.experts.loc.shape)
        name = self.aggregation.name
        return f"aggregation {name!r} breaks the contract, clause {self.clause!r}: {detail} (experts {shape})"

    def holds(self, condition: bool | Tensor, detail: str) -> None:
        if not condition:
            raise AssertionError(self.message(detail))

    def finite(self, values: dict[str, Tensor]) -> None:
        for what, value in values.items():
            wrong = int((~value.isfinite()).sum())
            self.holds(wrong == 0, f"{what} has {wrong} of {value.numel()} values that are not finite")

    def close(self, what: str, got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6) -> None:
        for name, value in got.items():
            try:
                torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance, check_dtype=False)
            except AssertionError as error:
                self.holds(False, f"{what}, {name}: {error}")

    def same(self, what: str, got: Any, expected: Any) -> None:
        self.close(what, _values(got, _points(expected)), _values(expected, _points(expected)))

    def posterior(self, experts: Experts) -> Any:
        inputs = tensors(experts)
        before = {what: tensor.clone() for what, tensor in inputs.items()}
        posterior = self.aggregation(experts)
        if changed := [what for what, tensor in inputs.items() if not torch.equal(tensor, before[what])]:
            self.clause = "inputs"
            self.holds(False, f"{' and '.join(changed)} of the experts modified in place")
        return posterior

    def leaves(self, experts: Experts, absent: float) -> tuple[Any, dict[str, Tensor]]:
        """Return the posterior of copies of the experts that require gradients, and those copies."""
        leaves = {}
        for name in ("loc", scale_name(experts)):
            tensor = getattr(experts, name).detach()
            slot = ~experts.mask.reshape(experts.mask.shape + (1,) * (tensor.dim() - experts.mask.dim()))
            leaves[name] = tensor.masked_fill(slot, absent).requires_grad_()
        loc, scale = leaves.values()
        return self.posterior(experts.like(loc, scale, experts.mask)), leaves

    def finite_gradient(self, what: str, value: Tensor, leaves: dict[str, Tensor]) -> None:
        self.holds(value.requires_grad, f"{what} has no gradient in the experts")
        gradients = torch.autograd.grad(value.sum(), [*leaves.values()], retain_graph=True, allow_unused=True)
        for name, gradient in zip(leaves, gradients, strict=True):
            self.finite({} if gradient is None else {f"the gradient of {what} in {name}": gradient})


def _interface(subject: _Subject, experts: Experts) -> None:
    posterior, batch = subject.posterior(experts), experts.batch_shape
    _has_interface(subject, posterior, batch)
    values = posterior.sample((*_DRAWS, 2))
    expected = {"log_prob()": posterior.log_prob(values)}
    for shape in (torch.Size([2, *batch]), [2, *batch]):  # Pyro's broadcast hands over a list
        wide = posterior.expand(shape)
        _has_interface(subject, wide, torch.Size(shape), "expand(): ")
        subject.holds(wide.has_rsample == posterior.has_rsample, "expand() changes has_rsample")
        subject.close("expand()", {"log_prob()": wide.log_prob(values)}, expected)


def _has_interface(subject: _Subject, posterior: Any, batch: torch.Size, prefix: str = "") -> None:
    def shaped(what: str, shape: torch.Size, expected: torch.Size) -> None:
        message = f"{prefix}{what} must have shape {tuple(expected)}, got {tuple(shape)}"
        subject.holds(shape == expected, message)

    event, kind = torch.Size([subject.experts.latent_size]), type(posterior).__name__
    is_pyros = isinstance(posterior, TorchDistributionMixin)
    subject.holds(is_pyros, f"{prefix}the posterior must be a TorchDistribution of Pyro, got {kind}")
    shaped("batch_shape", posterior.batch_shape, batch)
    shaped("event_shape", posterior.event_shape, event)
    is_bool = isinstance(posterior.has_rsample, bool)
    subject.holds(is_bool, f"{prefix}has_rsample must be a bool, got {posterior.has_rsample!r}")
    shaped("mean", posterior.mean.shape, batch + event)
    shaped("variance", posterior.variance.shape, batch + event)
    for method in ("sample", "rsample")[: 1 + posterior.has_rsample]:
        value = getattr(posterior, method)(_DRAWS)
        shaped(f"{method}()", value.shape, _DRAWS + batch + event)
        shaped("log_prob()", posterior.log_prob(value).shape, _DRAWS + batch)
        inside = posterior.support.check(value)
        shaped("support.check()", inside.shape, _DRAWS + batch)
        subject.holds(inside.all(), f"{prefix}{method}() draws values outside the support")


def _finite(subject: _Subject, experts: Experts) -> None:
    posterior = subject.posterior(experts)
    subject.finite(_values(posterior))
    subject.holds(
        posterior.variance.min() > 0, f"the smallest variance must be positive, got {posterior.variance.min().item()}"
    )


def _dtype(subject: _Subject, experts: Experts) -> None:
    def check(posterior: Any, source: str, least: torch.dtype) -> None:
        for what, got in _values(posterior).items():
            enough = torch.finfo(got.dtype).bits >= torch.finfo(least).bits
            subject.holds(enough, f"{source} gives {what} of {got.dtype}, expected {least}")

    check(subject.posterior(experts), "float64", torch.float64)
    check(subject.posterior(cast_experts(experts, torch.bfloat16)), "bfloat16", torch.float32)
    device, outside = experts.loc.device.type, subject.posterior(cast_experts(experts, torch.float32))
    if torch.amp.is_autocast_available(device):
        expected = _values(outside, _points(outside))
        with torch.autocast(device, dtype=torch.bfloat16):
            inside = subject.posterior(cast_experts(experts, torch.float32))
            check(inside, "autocast", torch.float32)
            got = _values(inside, expected["sample()"])
        subject.close("autocast", got, expected, 1e-4)


def _absent(subject: _Subject, experts: Experts) -> None:
    every = range(experts.num_modalities)
    for rest in ([i for i in every if i != m] for m in every if len(every) > 1):
        cut, less = subject.posterior(experts.condition_on(rest)), subject.posterior(select_modalities(experts, rest))
        subject.same(f"only modalities {rest} present, against the others removed", cut, less)


def _nan(subject: _Subject, experts: Experts) -> None:
    clean = experts.condition_on(range(experts.num_modalities - 1))
    (expected, _), (got, leaves) = subject.leaves(clean, 1.0), subject.leaves(clean, torch.nan)
    subject.same("NaN in an absent slot", got, expected)
    total = got.log_prob(_points(expected)).sum() + got.mean.sum() + got.variance.sum()
    if total.requires_grad:
        subject.finite_gradient("log_prob, mean and variance", total, leaves)


def _permutation(subject: _Subject, experts: Experts) -> None:
    expected, order = subject.posterior(experts), list(range(experts.num_modalities))
    for permuted in (order[::-1], order[1:] + order[:1]):
        subject.same(
            f"modalities in the order {permuted}", subject.posterior(select_modalities(experts, permuted)), expected
        )


def _prior(subject: _Subject, experts: Experts) -> None:
    zeros = torch.zeros_like(experts.loc[..., 0, :])
    family = subject.aggregation.posterior_family(experts.kind)
    loc, scale = (0.0, 1.0) if subject.aggregation.prior is None else subject.aggregation.prior
    prior = location_scale(family, zeros + loc, zeros + scale, experts.df)
    what = "the prior" if subject.aggregation.prior is not None else f"the standard {family}"
    subject.same(f"nothing present, so {what}", subject.posterior(experts.condition_on([])), prior)


def _density(subject: _Subject, experts: Experts) -> None:
    posterior = subject.posterior(first_dimension(experts))
    z = _nodes(posterior)
    density = posterior.log_prob(z.unsqueeze(-1)).exp()
    centred = (z - posterior.mean.squeeze(-1)) / posterior.stddev.squeeze(-1)
    mass, first, second = (torch.trapezoid(density * centred**k, z, dim=0) for k in range(3))
    expected = {"integral": torch.ones_like(mass), "mean": torch.zeros_like(mass), "variance": torch.ones_like(mass)}
    got = {"integral": mass, "mean": first, "variance": second}  # of the standardised density
    subject.close("standardised density in one latent dimension", got, expected, 5e-3)


def _samples(subject: _Subject, experts: Experts) -> None:
    posterior, count = subject.posterior(experts), subject.samples
    for method in ("sample", "rsample")[: 1 + posterior.has_rsample]:
        value = getattr(posterior, method)((count,)).detach()
        mean, var = value.mean(0), value.var(0)
        fourth = (value - mean).pow(4).mean(0)
        # The variance of the sample variance; its first term is 0 for a distribution on two points.
        error = (fourth - var.square()).clamp(min=0) + 25 * var.square() / count
        moments = ("mean", mean, posterior.mean, var), ("variance", var, posterior.variance, error)
        for what, got, expected, variance in moments:
            errors = ((got - expected).abs() / (variance / count).sqrt().clamp(min=1e-12)).flatten()
            one, other, worst = (t.flatten()[errors.argmax()].item() for t in (got, expected, errors))
            detail = f"{method}() has {what} {one:.6g} over {count} draws, but {what} is {other:.6g}"
            subject.holds(worst <= _STANDARD_ERRORS, f"{detail}, {worst:.1f} standard errors away")


def _gradient(subject: _Subject, experts: Experts) -> None:
    posterior, leaves = subject.leaves(experts, 1.0)
    if experts.mask.any():
        subject.finite_gradient("log_prob()", posterior.log_prob(_points(posterior)), leaves)
        if posterior.has_rsample:
            subject.finite_gradient("rsample()", posterior.rsample(_DRAWS), leaves)


def _component(subject: _Subject, experts: Experts) -> None:
    try:
        subject.aggregation.check_bound("component", experts.num_modalities)
    except ValueError:
        return
    drawn: Any = subject.aggregation.component(experts)
    _has_interface(subject, drawn, experts.batch_shape, "component(): ")
    subject.finite(_values(drawn))


_CLAUSES: dict[str, Callable[[_Subject, Experts], Any]] = {
    "inputs": _Subject.posterior, "interface": _interface, "finite": _finite, "dtype": _dtype, "absent": _absent,
    "NaN": _nan, "permutation": _permutation, "prior": _prior, "density": _density, "samples": _samples,
    "gradient": _gradient, "component": _component,
}  # fmt: skip


def _values(posterior: Any, points: Tensor | None = None) -> dict[str, Tensor]:
    z = posterior.sample() if points is None else points
    return {"mean": posterior.mean, "variance": posterior.variance, "sample()": z, "log_prob()": posterior.log_prob(z)}


def _points(posterior: Any) -> Tensor:
    """Return points to compare densities at: around the mean, up to three standard deviations on both sides."""
    steps = torch.linspace(-3.0, 3.0, 7).to(posterior.mean)
    return (posterior.mean + posterior.stddev * steps.reshape(-1, *(1 for _ in posterior.mean.shape))).detach()


def _nodes(posterior: Any, rounds: int = 24, bisected: int = 128) -> Tensor:
    """Return a wide grid for each item, `(node, *batch)`, refined where the trapezoid rule errs most."""
    side = torch.logspace(-4, 3.3, 200).to(posterior.mean)
    steps = torch.cat([-side, side]).reshape(-1, *(1 for _ in posterior.mean.shape))
    nodes = torch.cat([posterior.mean + posterior.stddev * steps, posterior.sample((200,))]).squeeze(-1).sort(0).values
    for _ in range(rounds):
        middle = (nodes[1:] + nodes[:-1]) / 2
        ends, between = (posterior.log_prob(z.unsqueeze(-1)).exp() for z in (nodes, middle))
        error = (ends[1:] + ends[:-1] - 2 * between).abs() * nodes.diff(dim=0)
        if not error.sum(0).max() > 1e-4:
            break
        nodes = torch.cat([nodes, middle.gather(0, error.topk(bisected, dim=0).indices)]).sort(0).values
    return nodes.detach()
