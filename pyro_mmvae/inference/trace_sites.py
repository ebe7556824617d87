"""Kinds of sites in the traces of Pyro programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro.distributions import Unit


def is_factor(site: Mapping[str, Any]) -> bool:
    """Return True if a site is a ``pyro.factor`` statement.

    A factor is a term of an objective, not the density of a variable, so figures that compare densities leave it out.
    The function of the site tells, since ``poutine.uncondition`` turns a factor into a site that is not observed.

    Args:
        site: A site of a Pyro trace, of any type.
    """
    function: Any = site.get("fn")
    while hasattr(function, "base_dist"):  # a mask or declared event dimensions wrap the distribution
        function = function.base_dist
    return site["type"] == "sample" and isinstance(function, Unit)
