"""Whether an aggregation, built in or somebody's own, keeps the contract that guides and evaluation rely on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin

from pyro_mmvae._cases import cast_experts, columns, default_experts, first_dimension, spread_name, tensors
from pyro_mmvae._typing import Tensor
from pyro_mmvae.aggregation.functional import aggregate, draw_component, get_aggregation
from pyro_mmvae.aggregation.kinds import check_kind
from pyro_mmvae.aggregation.rules import kinds_of, posterior_family
from pyro_mmvae.distributions import location_scale
from pyro_mmvae.experts import Experts

_DRAWS = torch.Size([5])
_STANDARD_ERRORS = 6.0


def check_aggregation(
    name: str, experts: Experts | None = None, *, kind: str = "normal", seed: int = 0, samples: int = 20_000
) -> None:
    r"""Check every clause of the contract of an aggregation, and say which one is broken and by how much.

    The clauses, in this order. *inputs*: the experts are not modified. *interface*: a Pyro ``TorchDistribution`` of
    batch shape `batch` and event shape `(latent,)` with ``sample``, ``rsample`` (where ``has_rsample``), ``log_prob``,
    ``mean``, ``variance``, ``expand`` and ``support`` of the right shapes. *finite*: so are all values. *dtype*:
    float64 stays float64, bfloat16 gives float32 at least, and autocast changes nothing. *absent* is as good as
    removed. *NaN* in an absent slot reaches neither a value nor a gradient. *permutation*: the order of modalities
    changes nothing (not checked, nor is *absent*, where somebody's own family of subsets tells modalities apart).
    *prior*: where nothing is present it is N(0, I), or the like of another family. *density*: in one latent dimension
    :math:`\int q = 1`, and mean and variance are those of the density. *samples*: and those of the draws, within six
    standard errors. *gradient*: ``log_prob`` and ``rsample`` have finite gradients in present experts. *component*: so
    much for the draws of that bound, if it has it.

    Args:
        name: of a registered aggregation.
        experts: to try it on, checked in float64; by default random ones of several batch shapes and latent sizes, with
            absent modalities and an item of which nothing is present.
        kind: of the default experts, see :attr:`Experts.kind <pyro_mmvae.Experts.kind>`: ``"normal"`` for diagonal
            Gaussians.
        seed: of the default experts and of all draws. Torch's global random state is as before afterwards.
        samples: how many draws to compare the moments with.

    Raises:
        AssertionError: if a clause is broken, or anything raises on the way.
        ValueError: if there is no aggregation of that name, or it has no rule for experts of that kind.

    Example:
        >>> check_aggregation("wb")
        >>> check_aggregation("moment", kind="full")
        >>> check_aggregation("wb", kind="laplace")
    """
    aggregation = get_aggregation(name)
    check_kind(name, kind if experts is None else experts.kind, kinds_of(aggregation))
    family = getattr(aggregation, "family", None)
    ordered = family is not None and not isinstance(family, str)
    num_modalities = family.shape[-1] if isinstance(family, Tensor) else 3
    for case in (
        default_experts(seed, num_modalities, kind) if experts is None else [cast_experts(experts, torch.float64)]
    ):
        cuda = [case.loc.device] if case.loc.is_cuda else []
        with torch.random.fork_rng(devices=cuda):
            for generator in (torch.default_generator, *(torch.cuda.default_generators[d.index] for d in cuda)):
                generator.manual_seed(seed)
            for clause, check in _CLAUSES.items():
                if not (ordered and clause in {"absent", "permutation"}):
                    _Subject(name, case, samples).run(clause, check)


class _Subject:
    """An aggregation on some experts, and the way it is told off."""

    def __init__(self, name: str, experts: Experts, samples: int) -> None:
        self.name, self.experts, self.samples = name, experts, samples

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
        return f"aggregation {self.name!r} breaks the contract, clause {self.clause!r}: {detail} (experts {shape})"

    def holds(self, condition: bool | Tensor, detail: str) -> None:
        if not condition:
            raise AssertionError(self.message(detail))

    def finite(self, values: dict[str, Tensor]) -> None:
        for what, value in values.items():
            wrong = int((~value.isfinite()).sum())
            self.holds(wrong == 0, f"{what} has {wrong} of {value.numel()} values that are not finite")

    def close(self, what: str, got: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = 1e-6) -> None:
        for name, value in got.items():
            try:
                torch.testing.assert_close(value, wanted[name], rtol=tolerance, atol=tolerance, check_dtype=False)
            except AssertionError as error:
                self.holds(False, f"{what}, {name}: {error}")

    def same(self, what: str, got: Any, wanted: Any) -> None:
        self.close(what, _values(got, _points(wanted)), _values(wanted, _points(wanted)))

    def posterior(self, experts: Experts) -> Any:
        given = tensors(experts)
        before = {what: tensor.clone() for what, tensor in given.items()}
        posterior = aggregate(experts, self.name)
        if changed := [what for what, tensor in given.items() if not torch.equal(tensor, before[what])]:
            self.clause = "inputs"
            self.holds(False, f"{' and '.join(changed)} of the experts modified in place")
        return posterior

    def leaves(self, experts: Experts, absent: float) -> tuple[Any, dict[str, Tensor]]:
        """The posterior of copies of the experts that require gradients, and those copies."""
        leaves = {}
        for name in ("loc", spread_name(experts)):
            tensor = getattr(experts, name).detach()
            slot = ~experts.mask.reshape(experts.mask.shape + (1,) * (tensor.dim() - experts.mask.dim()))
            leaves[name] = tensor.masked_fill(slot, absent).requires_grad_()
        loc, spread = leaves.values()
        return self.posterior(experts.like(loc, spread, experts.mask)), leaves

    def finite_gradient(self, what: str, value: Tensor, leaves: dict[str, Tensor]) -> None:
        self.holds(value.requires_grad, f"{what} has no gradient in the experts")
        gradients = torch.autograd.grad(value.sum(), [*leaves.values()], retain_graph=True, allow_unused=True)
        for name, gradient in zip(leaves, gradients, strict=True):
            self.finite({} if gradient is None else {f"the gradient of {what} in {name}": gradient})


def _interface(subject: _Subject, experts: Experts) -> None:
    posterior, batch = subject.posterior(experts), experts.batch_shape
    _has_interface(subject, posterior, batch)
    values = posterior.sample((*_DRAWS, 2))
    wanted = {"log_prob()": posterior.log_prob(values)}
    for shape in (torch.Size([2, *batch]), [2, *batch]):  # Pyro's broadcast hands over a list
        wide = posterior.expand(shape)
        _has_interface(subject, wide, torch.Size(shape), "expand(): ")
        subject.holds(wide.has_rsample == posterior.has_rsample, "expand() changes has_rsample")
        subject.close("expand()", {"log_prob()": wide.log_prob(values)}, wanted)


def _has_interface(subject: _Subject, posterior: Any, batch: torch.Size, prefix: str = "") -> None:
    def shaped(what: str, shape: torch.Size, wanted: torch.Size) -> None:
        subject.holds(shape == wanted, f"{prefix}{what} has shape {tuple(shape)}, not {tuple(wanted)}")

    event, kind = torch.Size([subject.experts.latent_size]), type(posterior).__name__
    subject.holds(isinstance(posterior, TorchDistributionMixin), f"{prefix}{kind} is no TorchDistribution of Pyro")
    shaped("batch_shape", posterior.batch_shape, batch)
    shaped("event_shape", posterior.event_shape, event)
    subject.holds(isinstance(posterior.has_rsample, bool), f"{prefix}has_rsample is {posterior.has_rsample!r}, no bool")
    shaped("mean", posterior.mean.shape, batch + event)
    shaped("variance", posterior.variance.shape, batch + event)
    for method in ("sample", "rsample")[: 1 + posterior.has_rsample]:
        value = getattr(posterior, method)(_DRAWS)
        shaped(f"{method}()", value.shape, _DRAWS + batch + event)
        shaped("log_prob()", posterior.log_prob(value).shape, _DRAWS + batch)
        inside = posterior.support.check(value)
        shaped("support.check()", inside.shape, _DRAWS + batch)
        subject.holds(inside.all(), f"{prefix}what {method}() draws lies outside the support")


def _finite(subject: _Subject, experts: Experts) -> None:
    posterior = subject.posterior(experts)
    subject.finite(_values(posterior))
    subject.holds(posterior.variance.min() > 0, f"the least variance is {float(posterior.variance.min())}")


def _dtype(subject: _Subject, experts: Experts) -> None:
    def check(posterior: Any, given: str, least: torch.dtype) -> None:
        for what, got in _values(posterior).items():
            enough = torch.finfo(got.dtype).bits >= torch.finfo(least).bits
            subject.holds(enough, f"{given} gives {what} of {got.dtype}, expected {least}")

    check(subject.posterior(experts), "float64", torch.float64)
    check(subject.posterior(cast_experts(experts, torch.bfloat16)), "bfloat16", torch.float32)
    device, outside = experts.loc.device.type, subject.posterior(cast_experts(experts, torch.float32))
    if torch.amp.is_autocast_available(device):
        wanted = _values(outside, _points(outside))
        with torch.autocast(device, dtype=torch.bfloat16):
            inside = subject.posterior(cast_experts(experts, torch.float32))
            check(inside, "autocast", torch.float32)
            got = _values(inside, wanted["sample()"])
        subject.close("autocast", got, wanted, 1e-4)


def _absent(subject: _Subject, experts: Experts) -> None:
    every = range(experts.num_modalities)
    for rest in ([i for i in every if i != m] for m in every if len(every) > 1):
        cut, less = subject.posterior(experts.condition_on(rest)), subject.posterior(columns(experts, rest))
        subject.same(f"only modalities {rest} present, against the others removed", cut, less)


def _nan(subject: _Subject, experts: Experts) -> None:
    clean = experts.condition_on(range(experts.num_modalities - 1))
    (wanted, _), (got, leaves) = subject.leaves(clean, 1.0), subject.leaves(clean, torch.nan)
    subject.same("NaN in an absent slot", got, wanted)
    total = got.log_prob(_points(wanted)).sum() + got.mean.sum() + got.variance.sum()
    if total.requires_grad:
        subject.finite_gradient("log_prob, mean and variance", total, leaves)


def _permutation(subject: _Subject, experts: Experts) -> None:
    wanted, order = subject.posterior(experts), list(range(experts.num_modalities))
    for permuted in (order[::-1], order[1:] + order[:1]):
        subject.same(f"modalities in the order {permuted}", subject.posterior(columns(experts, permuted)), wanted)


def _prior(subject: _Subject, experts: Experts) -> None:
    zeros = torch.zeros_like(experts.loc[..., 0, :])
    family = posterior_family(get_aggregation(subject.name), experts.kind)
    standard = location_scale(family, zeros, torch.ones_like(zeros), experts.df)
    what = "N(0, I)" if family == "normal" else f"the standard {family}"
    subject.same(f"nothing present, so {what}", subject.posterior(experts.condition_on([])), standard)


def _density(subject: _Subject, experts: Experts) -> None:
    posterior = subject.posterior(first_dimension(experts))
    z = _nodes(posterior)
    density = posterior.log_prob(z.unsqueeze(-1)).exp()
    centred = (z - posterior.mean.squeeze(-1)) / posterior.stddev.squeeze(-1)
    mass, first, second = (torch.trapezoid(density * centred**k, z, dim=0) for k in range(3))
    wanted = {"integral": torch.ones_like(mass), "mean": torch.zeros_like(mass), "variance": torch.ones_like(mass)}
    got = {"integral": mass, "mean": first, "variance": second}  # of the standardised density
    subject.close("standardised density in one latent dimension", got, wanted, 5e-3)


def _samples(subject: _Subject, experts: Experts) -> None:
    posterior, count = subject.posterior(experts), subject.samples
    for method in ("sample", "rsample")[: 1 + posterior.has_rsample]:
        value = getattr(posterior, method)((count,)).detach()
        mean, spread = value.mean(0), value.var(0)
        fourth = (value - mean).pow(4).mean(0)
        error = (fourth - spread.square()).clamp(min=0) + 25 * spread.square() / count  # two points have 0 + this
        moments = ("mean", mean, posterior.mean, spread), ("variance", spread, posterior.variance, error)
        for what, got, wanted, variance in moments:
            errors = ((got - wanted).abs() / (variance / count).sqrt().clamp(min=1e-12)).flatten()
            one, other, worst = (float(t.flatten()[errors.argmax()]) for t in (got, wanted, errors))
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
        get_aggregation(subject.name).check(experts.num_modalities, "component")
    except ValueError:
        return
    drawn: Any = draw_component(experts, subject.name)
    _has_interface(subject, drawn, experts.batch_shape, "draw_component(): ")
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
    """Where densities are compared: around the mean, on both sides, up to some standard deviations."""
    steps = torch.linspace(-3.0, 3.0, 7).to(posterior.mean)
    return (posterior.mean + posterior.stddev * steps.reshape(-1, *(1 for _ in posterior.mean.shape))).detach()


def _nodes(posterior: Any, rounds: int = 24, bisected: int = 128) -> Tensor:
    """A wide grid `(node, *batch)` for each item, refined where the trapezoid rule errs most."""
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
