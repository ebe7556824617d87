"""The file of the failures of a comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyro_mmvae.experiments import Failure, FailureBook


def failure(cell: str, signature: str = "a", task: str = "evaluation") -> Failure:
    return Failure(cell, task, "it diverged", f"{cell}.log", signature)


def test_find_of_recorded_failure_needs_cell_task_and_settings(tmp_path: Path) -> None:
    book = FailureBook(tmp_path / "new")
    book.record(failure("wb-seed0"))
    book.record(failure("wb-seed1"))
    found = book.find("wb-seed1", "evaluation", ("b", "a"))
    assert found is not None
    assert (found.cell, found.reason, found.time[-6:]) == ("wb-seed1", "it diverged", "+00:00")
    assert book.find("wb-seed1", "evaluation", ("b",)) is None
    assert book.find("wb-seed1", "readings", ("a",)) is None


def test_record_of_a_cell_twice_keeps_the_last_one(tmp_path: Path) -> None:
    book = FailureBook(tmp_path)
    for signature in "ab":
        book.record(failure("wb-seed0", signature))
    assert [found.signature for found in book.read()] == ["b"]


def test_forget_the_last_failure_removes_the_file(tmp_path: Path) -> None:
    book = FailureBook(tmp_path)
    book.forget("evaluation", ["wb-seed0"])
    assert not book.file.exists()
    for cell in ("wb-seed0", "wb-seed1"):
        book.record(failure(cell))
    book.forget("readings", ["wb-seed0", "wb-seed1"])
    book.forget("evaluation", ["wb-seed0"])
    assert [found.cell for found in book.read()] == ["wb-seed1"]
    book.forget("evaluation", ["wb-seed1"])
    assert not book.file.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"failures": 3}', '{"failures": [3, {"cell": "a"}]}', "[" * 10_000, "\xff"]
)
def test_read_of_a_foreign_file_returns_nothing(text: str, tmp_path: Path) -> None:
    book = FailureBook(tmp_path)
    book.file.write_text(text, encoding="latin-1")
    assert book.read() == []
    book.record(failure("wb-seed0"))
    assert len(json.loads(book.file.read_text())["failures"]) == 1
