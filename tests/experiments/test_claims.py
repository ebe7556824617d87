"""Cells of a comparison that several processes work on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pyro_mmvae.experiments.claims import claim_cells


@dataclass
class StubCell:
    """A cell that is finished when it is told so."""

    path: Path
    finished: bool = False


def claims(cells: list[StubCell], waits: Any = None) -> Any:
    return claim_cells(cast("Any", cells), lambda cell: cast("Any", cell).finished, waits)


def test_claim_cells_of_two_processes_yields_each_cell_once(tmp_path: Path) -> None:
    cells = [StubCell(tmp_path / "out" / name) for name in "abc"]
    first, second = claims(cells), claims(cells)
    assert next(first) is cells[0]
    assert next(second) is cells[1]  # the first one is taken
    cells[0].finished = True
    assert next(first) is cells[2]
    cells[1].finished = cells[2].finished = True
    first.close()
    assert list(second) == []


def test_claim_cells_waits_for_an_unfinished_cell_of_another_process_and_runs_it(tmp_path: Path) -> None:
    cells, waited = [StubCell(tmp_path / name) for name in "ab"], list[Any]()
    first, second = claims(cells[:1]), claims(cells, waited.append)
    next(first)
    assert next(second) is cells[1]
    cells[1].finished = True
    first.close()  # as after a kill
    assert next(second) is cells[0]
    assert waited == [cells[0]]
