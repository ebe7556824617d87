"""A measurement of which test finds which wrong guide, run as ``python -m scripts.wrong_guides OUT``.

The model is linear and Gaussian with three modalities, so that every posterior is known. A guide is the exact posterior
or wrong in one of four ways. Each is calibrated once on many simulations, which are then divided into experiments of 50
to 800 simulations; the table gives the number of simulations from which a test mostly rejects at the level 0.05. A
second table gives the levels of tests of uniform values that repeat.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from pyro_mmvae.evaluation.calibration import calibrate
from pyro_mmvae.evaluation.dependence import independent_items
from pyro_mmvae.evaluation.local_c2st import local_two_sample_test
from pyro_mmvae.evaluation.ppc import predictive_check
from pyro_mmvae.evaluation.sbc import calibrate_by_simulation
from pyro_mmvae.evaluation.sbc_result import SimulationCalibration, holm
from pyro_mmvae.uniformity import ecdf_p_value, piet_c, pot_c, prit_c, rank_p_value

MAPS = {
    "a": torch.tensor([[1.4, 1.4, 0.0], [1.4, 1.4, 0.0]]),
    "b": torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]),
    "c": torch.tensor([[0.5, -0.5, 0.0], [0.0, 0.0, 0.5]]),
}
"""The map from the latent to the mean of each modality, whose noise has unit variance."""

GUIDES = ("exact", "shifted", "too narrow", "wrong correlation", "wrong joint")
SIZES = (50, 100, 200, 400, 800)
DRAWS, ALPHA, POWER = 99, 0.05, 0.8
_LOCAL_ITEMS, _LOCAL_PERMUTATIONS = 20, 199

Program = Callable[..., None]


def model(a: Tensor, b: Tensor, c: Tensor) -> None:
    """Draw three latents and observe three modalities of two features each."""
    with pyro.plate("data", len(a)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        for name, value in (("a", a), ("b", b), ("c", c)):
            pyro.sample(name, dist.Normal(z @ MAPS[name].T, 1.0).to_event(1), obs=value)


def posterior(seen: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean `(item, 3)` and covariance `(3, 3)` of the exact posterior given some modalities."""
    precision = torch.eye(3) + sum(MAPS[name].T @ MAPS[name] for name in seen)
    covariance = torch.linalg.inv(precision)
    return sum(x @ MAPS[name] for name, x in seen.items()) @ covariance, covariance


def draw_standardised(kind: str, correlation: Tensor, items: int) -> Tensor:
    """Return standardised latents `(item, 3)` of a kind of guide, with the standard deviation 1 but for one of them.

    Those of the kind ``wrong joint`` are a mixture of two Gaussians whose correlations of the first and last latent
    differ from the exact one by ± 0.55: their marginals and all correlations are right.
    """
    if kind == "wrong correlation":
        return torch.randn(items, 3)
    draws = torch.randn(items, 3) @ torch.linalg.cholesky(correlation).T
    if kind == "wrong joint":
        change = torch.zeros(3, 3)
        change[0, 2] = change[2, 0] = 0.55
        factors = torch.stack([torch.linalg.cholesky(correlation + sign * change) for sign in (-1, 1)])
        draws = torch.einsum("nij,nj->ni", factors[torch.randint(2, (items,))], torch.randn(items, 3))
    return {"shifted": draws + 0.3, "too narrow": 0.8 * draws}.get(kind, draws)


def guide(kind: str, a: Tensor, b: Tensor | None = None, c: Tensor | None = None) -> None:
    """Draw the latents given the modalities that are not None."""
    loc, covariance = posterior({name: x for name, x in (("a", a), ("b", b), ("c", c)) if x is not None})
    scale = covariance.diagonal().sqrt()
    z = loc + scale * draw_standardised(kind, covariance / scale.outer(scale), len(a))
    with pyro.plate("data", len(a)):
        pyro.sample("z", dist.Delta(z, event_dim=1))


def experiments(values: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    """Yield consecutive parts of some rows, without the remainder."""
    yield from (values[i : i + size] for i in range(0, len(values) - size + 1, size))


def part_of(result: SimulationCalibration, rows: slice) -> SimulationCalibration:
    """Return the calibration of some of the simulations."""
    return SimulationCalibration(
        result.quantities, result.ranks[rows], result.draws, result.given, result.density, result.seed,
        truth=result.truth[rows], drawn=result.drawn[:, rows],
    )  # fmt: skip


def local_p_values(result: SimulationCalibration, size: int) -> list[float]:
    """Return the p-values of the local test, trained on each experiment, at items of the next one."""
    count, values = result.simulations, []
    for start in range(0, count - size + 1, size):
        items = result.drawn[:, (start + size + np.arange(_LOCAL_ITEMS)) % count]
        part = part_of(result, slice(start, start + size))
        values.append(local_two_sample_test(part, items, permutations=_LOCAL_PERMUTATIONS, seed=start).p_value)
    return values


def p_values(kind: str, total: int, seed: int, sizes: tuple[int, ...]) -> dict[tuple[str, int], list[float]]:
    """Return the p-values of all experiments by test and number of simulations."""
    torch.manual_seed(seed)
    blank = tuple(torch.zeros(total, 2) for _ in MAPS)
    program = partial(guide, kind)
    prior = calibrate_by_simulation(
        model, program, lambda x: ((x["a"], x["b"], x["c"]), {}), *blank, draws=DRAWS, seed=seed
    )
    z = torch.randn(total, 3)
    data = {name: z @ A.T + torch.randn(total, 2) for name, A in MAPS.items()}
    around = calibrate_by_simulation(
        model, program, lambda x: ((data["a"], x["b"], x["c"]), {}), *blank, draws=DRAWS, seed=seed,
        latents=lambda: program(data["a"]), data=("a",),
    )  # fmt: skip
    check = predictive_check(
        model, program, *data.values(), guide_args=(data["a"], data["b"]), given=["a", "b"], samples=DRAWS, seed=seed,
        statistics=["mean"],
    )  # fmt: skip
    pit = next(row.pit for row in calibrate(check) if row.statistic == "c.mean")

    def corrected(ranks: NDArray[np.int64]) -> float:
        return float(holm(np.array([rank_p_value(column, DRAWS) for column in ranks.T])).min())

    results = {}
    for size in sizes:
        results["PIT of c given a, b", size] = [ecdf_p_value(part) for part in experiments(pit, size)]
        columns = {"SBC of z": slice(0, 3), "SBC of log p": slice(3, 4), "TARP": slice(4, 5), "SBC, all": slice(0, 5)}
        for name, column in columns.items():
            results[name, size] = [corrected(part) for part in experiments(prior.ranks[:, column], size)]
        results["posterior SBC, all", size] = [corrected(part) for part in experiments(around.ranks, size)]
        results["L-C2ST", size] = local_p_values(prior, size)
    return results


def find_least(rates: dict[tuple[str, int], float], test: str, sizes: tuple[int, ...]) -> str:
    """Return the least number of simulations from which a test rejects in most experiments, or a dash."""
    enough = [size for size in sizes if all(rates[test, s] >= POWER for s in sizes if s >= size)]
    return str(enough[0]) if enough else "–"


def table(rates: dict[str, dict[tuple[str, int], float]], sizes: tuple[int, ...]) -> str:
    """Return the table in Markdown: numbers of simulations, and for the exact guide the share of rejections."""
    tests = list(dict.fromkeys(test for test, _ in next(iter(rates.values()))))
    lines = ["| guide | " + " | ".join(tests) + " |", "|---" * (len(tests) + 1) + "|"]
    for kind, rate in rates.items():
        if kind == "exact":
            cells = [f"{np.mean([rate[test, size] for size in sizes[:3]]):.0%} rejected" for test in tests]
        else:
            cells = [find_least(rate, test, sizes) for test in tests]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def repeated_levels(trials: int, seed: int, items: int = 200) -> str:
    """Return a table in Markdown: the share of samples of uniform values, each repeated, that a test rejects."""
    tests: dict[str, Callable[[NDArray[np.float64], int], float]] = {
        "Kolmogorov–Smirnov": lambda u, _: float(stats.kstest(u, "uniform").pvalue),
        "POT-C": lambda u, _: pot_c(u),
        "PRIT-C": lambda u, _: prit_c(u),
        "PIET-C": lambda u, _: piet_c(u),
        "ECDF band, all items": lambda u, _: ecdf_p_value(u),
        "ECDF band, items that share nothing": lambda u, repeats: ecdf_p_value(
            u[independent_items([np.arange(items) // repeats], items)]
        ),
    }
    rng, columns = np.random.default_rng(seed), (1, 2, 5)
    samples = {repeats: np.repeat(rng.random((trials, items // repeats)), repeats, axis=1) for repeats in columns}
    lines = ["| test | every value once | twice | five times |", "|---|---|---|---|"]
    for name, test in tests.items():
        rates = [np.mean([test(u, repeats) <= ALPHA for u in samples[repeats]]) for repeats in columns]
        lines.append(f"| {name} | " + " | ".join(f"{rate:.2f}" for rate in rates) + " |")
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--total", default=6400, show_default=True, help="Number of simulations per guide.")
@click.option("--trials", default=1000, show_default=True, help="Number of samples for the levels of tests.")
@click.option("--seed", default=0, show_default=True, help="Seed of everything random.")
def main(out: Path, total: int, trials: int, seed: int) -> None:
    """Write the shares of rejections to OUT/wrong_guides.csv, and tables to OUT/wrong_guides.md and OUT/levels.md."""
    sizes = tuple(size for size in SIZES if size <= total)
    rates = {}
    for kind in GUIDES:
        values = p_values(kind, total, seed, sizes)
        rates[kind] = {key: float((np.array(p) <= ALPHA).mean()) for key, p in values.items()}
        click.echo(f"{kind}: {', '.join(f'{t} {s}: {r:.2f}' for (t, s), r in rates[kind].items())}")
    out.mkdir(parents=True, exist_ok=True)
    with (out / "wrong_guides.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["guide", "test", "simulations", "experiments", "rejected"])
        for kind, rate in rates.items():
            writer.writerows([kind, test, size, total // size, f"{r:.4f}"] for (test, size), r in rate.items())
    (out / "wrong_guides.md").write_text(table(rates, sizes), encoding="utf-8")
    (out / "levels.md").write_text(repeated_levels(trials, seed), encoding="utf-8")
    click.echo(f"  {out / 'wrong_guides.md'}\n  {out / 'levels.md'}")


if __name__ == "__main__":
    main()
