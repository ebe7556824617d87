"""The base class of penalties, their names, and penalties from whatever describes one."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from torch import nn

from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.experts import Experts
from pyro_mmvae.registry import Registry
from pyro_mmvae.signatures import Option, check_arguments, describe_options, summary_line

if TYPE_CHECKING:
    from pyro_mmvae.guides.barycentric import BarycentricGuide


class Penalty(nn.Module):
    """A term that a guide adds to the loss of each item in training; the base class of all penalties.

    A subclass overrides :meth:`forward`, and :meth:`check` if it does not have a meaning for every aggregation. It may
    hold parameters, which are trained and saved with the guide. :class:`~pyro_mmvae.BarycentricGuide` takes penalties
    with ``penalties=``; :func:`register_penalty` gives one a name for configurations and the command line.

    Attributes:
        name: The name in metrics, where it stands behind the name of the latent site, as in ``z_frechet``; the name of
            the class if empty. A penalty by name has the name that it is registered under.

    Example:
        >>> class SmallLocs(Penalty):
        ...     def forward(self, experts, members, guide):
        ...         return 0.1 * (experts.loc.square().sum(-1) * experts.mask).sum(-1)
        >>> import torch
        >>> from pyro_mmvae import BarycentricGuide
        >>> experts = Experts(torch.ones(8, 2, 3), torch.ones(8, 2, 3))
        >>> guide = BarycentricGuide(lambda: experts, "wb", penalties=[SmallLocs()])
        >>> guide.penalty_terms(experts)["z_SmallLocs"].shape
        torch.Size([8])
    """

    name: str = ""

    @abstractmethod
    def forward(
        self, experts: Experts, members: Bool[Tensor, "*batch modality"] | None, guide: BarycentricGuide
    ) -> Float[Tensor, "*batch"]:
        """Return the penalty of each item, in nats, which is added to the loss.

        Args:
            experts: The unimodal posteriors of the items. Absent slots hold loc 0 and scale 1 and must get no weight.
            members: The subset that was drawn for each item, with the bounds that draw subsets, see
                :meth:`pyro_mmvae.BarycentricGuide.draws_subsets`; None with the others.
            guide: The guide, whose ``aggregation`` combines the experts.

        Returns:
            A tensor of the batch shape of the experts.
        """

    def check(
        self, aggregation: Aggregation, *, expert_kind: str | None = None, num_modalities: int | None = None
    ) -> None:
        """Check that the penalty has a meaning for an aggregation; a subclass raises ValueError if it does not.

        Args:
            aggregation: The aggregation of the guide.
            expert_kind: The kind of the experts, one of ``EXPERT_KINDS``; None if it is not known yet.
            num_modalities: The number of modalities; None if it is not known yet.
        """


PenaltyLike: TypeAlias = str | Mapping[str, Any] | Penalty
"""A name, a mapping with a name and options, or a penalty."""

PENALTIES: Registry[Callable[..., Penalty]] = Registry(
    "penalty", "Register a custom one with pyro_mmvae.guides.register_penalty, or give the object itself"
)


def register_penalty(name: str, factory: Callable[..., Penalty]) -> None:
    """Register a custom penalty under a name, for ``train.penalties`` in a configuration.

    Args:
        name: The name of the penalty, not taken yet.
        factory: The class of the penalty, or a function that returns one; it is called with the options of the
            configuration as keywords.

    Raises:
        ValueError: If the name is taken or is not a non-empty string.

    Example:
        >>> class SmallLocs(Penalty):
        ...     def __init__(self, weight=0.1):
        ...         super().__init__()
        ...         self.weight = weight
        ...     def forward(self, experts, members, guide):
        ...         return self.weight * (experts.loc.square().sum(-1) * experts.mask).sum(-1)
        >>> register_penalty("small_locs", SmallLocs)
        >>> make_penalty({"name": "small_locs", "weight": 0.5}).weight
        0.5
        >>> unregister_penalty("small_locs")
    """
    PENALTIES.register(name, factory)


def unregister_penalty(name: str) -> None:
    """Remove a custom penalty.

    Args:
        name: The name under which it was registered.

    Raises:
        ValueError: If the name is unknown or belongs to the package.
    """
    PENALTIES.unregister(name)


def penalty_names() -> tuple[str, ...]:
    """Return the names of all penalties, those of the package first."""
    return tuple(PENALTIES)


def penalty_options(name: str) -> tuple[Option, ...]:
    """Return the options of a penalty by name.

    Args:
        name: The name of a penalty, one of :func:`penalty_names`.

    Returns:
        The options with their defaults, annotations and descriptions.

    Raises:
        ValueError: If the name is unknown.
    """
    return tuple(describe_options(PENALTIES.lookup(name)))


def describe_penalty(name: str) -> str:
    """Return a one-line summary of a penalty by name.

    Args:
        name: The name of a penalty, one of :func:`penalty_names`.

    Raises:
        ValueError: If the name is unknown.
    """
    return summary_line(PENALTIES.lookup(name), name)


def make_penalty(penalty: PenaltyLike) -> Penalty:
    """Return a penalty from whatever describes one.

    Args:
        penalty: The name of the penalty; a mapping with ``name`` and its options, as an entry of ``train.penalties``
            has it; or a :class:`Penalty`, which is returned as it is.

    Returns:
        The penalty.

    Raises:
        ValueError: If the name is unknown, or an option is unknown, lacks a value or has a wrong one.
        TypeError: If it is anything else, or the registered factory does not return a penalty.

    Example:
        >>> make_penalty({"name": "frechet", "gamma": 0.5}).gamma
        0.5
    """
    if isinstance(penalty, (str, Mapping)):
        options = {"name": penalty} if isinstance(penalty, str) else dict(penalty)
        name = cast("str", options.pop("name", None))
        factory = PENALTIES.lookup(name)
        check_arguments(f"penalty {name!r}", factory, options)
        penalty = factory(**options)
        if isinstance(penalty, Penalty):
            penalty.name = name
    if not isinstance(penalty, Penalty):
        raise TypeError(f"a penalty must be a name, a mapping with a name, or an instance of Penalty, got {penalty!r}")
    return penalty


def make_penalties(penalties: Iterable[PenaltyLike]) -> list[Penalty]:
    """Return several penalties from whatever describes them.

    Args:
        penalties: A list whose entries :func:`make_penalty` takes.

    Returns:
        The penalties in order.

    Raises:
        TypeError: If ``penalties`` is not a list or tuple.
        ValueError: If an entry is given twice, or as for :func:`make_penalty`.
    """
    if not isinstance(penalties, Sequence) or isinstance(penalties, str):
        raise TypeError(f"penalties must be a list of names, mappings with a name, or penalties, got {penalties!r}")
    made = [make_penalty(penalty) for penalty in penalties]
    if len({id(penalty) for penalty in made}) < len(made):
        raise ValueError("penalties must be different objects, got one of them twice")
    return made


def site_names(site: str, penalties: Iterable[Penalty]) -> list[str]:
    """Return the names of the sites of penalties, numbered from the second one of a name on.

    Args:
        site: The name of the latent site.
        penalties: The penalties of a guide.
    """
    names = list[str]()
    for penalty in penalties:
        name = stem = f"{site}_{penalty.name or type(penalty).__name__}"
        count = 2
        while name in names:
            name, count = f"{stem}_{count}", count + 1
        names.append(name)
    return names


def check_positive(owner: str, name: str, value: float) -> float:
    """Check that an option of a penalty is a positive finite number.

    Args:
        owner: The name of the penalty, for the message.
        name: The name of the option.
        value: The value that was given.

    Returns:
        The value as a float.

    Raises:
        ValueError: If it is not a number, not positive or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"penalty {owner!r}: {name} must be a positive finite number, got {value!r}")
    return float(value)


def check_several(owner: str, num_modalities: int | None) -> None:
    """Check that there are at least two modalities, between which experts can differ.

    Args:
        owner: The name of the penalty, for the message.
        num_modalities: The number of modalities; None if it is not known yet.

    Raises:
        ValueError: If there is only one.
    """
    if num_modalities is not None and num_modalities < 2:
        raise ValueError(
            f"penalty {owner!r} must have at least two modalities, since it compares experts with each other, got one"
        )
