"""User-defined callables as aggregations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.experts import EXPERT_KINDS, Experts


class FunctionAggregation(Aggregation):
    """A callable from experts to a distribution, as an aggregation.

    The callable is the whole posterior; inside a :class:`MixtureOverSubsets` it is the rule for one subset. Absent
    slots come to it filled with loc 0 and scale 1. It must give them no weight, and return the prior, N(0, I), where
    nothing is present. A rule that needs expert weights or another prior is a subclass of :class:`Aggregation` instead.

    Args:
        function: The callable; a module is a submodule, so that its parameters are trained and saved.
        kinds: The kinds of experts that the callable takes, see :attr:`pyro_mmvae.Experts.kind`: ``"normal"`` (diagonal
            Gaussians), which is the default, ``"full"``, ``"laplace"``, ``"student_t"``, ``"logistic"``. Others are
            refused before it is called.
        **options: The keywords of :class:`Aggregation`, of which only ``prior`` may be given.

    Raises:
        ValueError: If kinds are unknown, or an option is given that a callable cannot use.
        TypeError: If the function is not callable.
    """

    def __init__(
        self, function: Callable[[Experts], TorchDistribution], kinds: Sequence[str] = ("normal",), **options: Any
    ) -> None:
        super().__init__(**options)
        if isinstance(function, type) or not callable(function):
            raise TypeError(f"an aggregation must be an object, a callable of experts or a name, got {function!r}")
        check_kinds(kinds)
        for name, default in (("expert_weights", None), ("subset_weights", "uniform"), ("prior_expert", None)):
            if getattr(self, name) is not default and getattr(self, name) != default:
                raise ValueError(
                    f"{name} must be left out for an aggregation that is a callable, which does not see it: make it a "
                    "subclass of Aggregation, or a rule for one subset with MixtureOverSubsets"
                )
        self.function, self.accepts = function, tuple(kinds)
        self.name = str(getattr(function, "__name__", type(function).__name__))

    def forward(self, experts: Experts) -> TorchDistribution:
        """Return what the callable makes of the experts."""
        return self.function(experts)


def check_kinds(kinds: Sequence[str]) -> None:
    """Check that kinds of experts exist.

    Args:
        kinds: Names of kinds, at least one.

    Raises:
        ValueError: If there are none, or one is unknown.
    """
    if isinstance(kinds, str) or not kinds or not set(kinds) <= set(EXPERT_KINDS):
        raise ValueError(f"kinds must be a selection of {', '.join(EXPERT_KINDS)}, got {kinds!r}")


def as_rule(rule: Callable[[Experts], TorchDistribution]) -> Aggregation:
    """Return an aggregation as it is, and any other callable as a :class:`FunctionAggregation`.

    Args:
        rule: An aggregation, a module or a function of experts.

    Raises:
        TypeError: If it is not callable.
    """
    return rule if isinstance(rule, Aggregation) else FunctionAggregation(rule)
