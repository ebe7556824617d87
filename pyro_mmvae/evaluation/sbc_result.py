"""The result of simulation-based calibration, and the correction of its p-values for their number."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.uniformity import rank_p_value


@dataclass(frozen=True, eq=False)
class SimulationCalibration:
    """Ranks of the latents that generated the data among the guide's draws given the data.

    Attributes:
        quantities: The names of the ranked quantities: ``z[0]``, …, ``log_p``, the log density of the latents and the
            observations given, and ``tarp``, the distance from a random point, see
            :mod:`~pyro_mmvae.evaluation.tarp`.
        ranks: Ranks from 0 to ``draws`` of shape `(simulation, quantity)`, uniform if the guide is the exact posterior.
        draws: The number of draws of the guide per simulation.
        given: The modalities that the guide saw.
        density: The density that the guide's draws came from.
        seed: The seed of everything random.
        note: A caveat for the interpretation, or ``""``.
        data: The real modalities around which was simulated, for posterior SBC; empty for prior SBC.
        truth: The latents that generated the data, of shape `(simulation, latent)`.
        drawn: The guide's draws of the latents, of shape `(draw, simulation, latent)`.
    """

    quantities: tuple[str, ...]
    ranks: NDArray[np.int64]
    draws: int
    given: tuple[str, ...]
    density: str
    seed: int
    note: str = ""
    data: tuple[str, ...] = ()
    truth: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)), repr=False)
    drawn: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0, 0)), repr=False)

    @property
    def simulations(self) -> int:
        """The number of simulated data sets."""
        return len(self.ranks)

    @property
    def protocol(self) -> str:
        """The way in which the ranks were computed, in words."""
        kind = f"posterior SBC around {', '.join(self.data)}" if self.data else "simulation-based calibration"
        text = f"{kind}, {self.density} density, {self.draws} draws"
        return f"{text}; {self.note}" if self.note else text

    def p_values(self) -> NDArray[np.float64]:
        """Return p-values `(quantity,)` of uniform ranks by the exact :func:`~pyro_mmvae.uniformity.rank_p_value`."""
        return np.array([rank_p_value(column, self.draws) for column in self.ranks.T])

    def p_value(self) -> float:
        """Return the single p-value of all quantities, the least one after Holm's correction for their number."""
        return float(holm(self.p_values()).min())

    def metrics(self) -> list[Metric]:
        """Return the p-values as rows of figures: per quantity, with and without Holm's correction, and of all."""
        prefix, p_values = "posterior_sbc" if self.data else "sbc", self.p_values()
        rows = [(f"{prefix}_overall_p_value", "", self.p_value())]
        for name, values in ((f"{prefix}_p_value", p_values), (f"{prefix}_holm_p_value", holm(p_values))):
            rows += [(name, quantity, float(v)) for quantity, v in zip(self.quantities, values, strict=True)]
        return [Metric(n, self.protocol, self.given, target, v, self.simulations, self.seed) for n, target, v in rows]


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values corrected by Holm's method for their number, which holds for dependent tests too.

    References:
        Holm, 1979. A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6.

    Args:
        p_values: The p-values of several tests, of shape `(test,)`.

    Returns:
        The corrected p-values in the order of the tests, at most 1; the least of them is that of Bonferroni.
    """
    order = np.argsort(p_values)
    steps = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty_like(steps)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected
