"""Tests of the processes that the suite runs in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

SOURCES = pytest.Config.ArgsSource


@pytest.fixture
def conftest(request: pytest.FixtureRequest) -> Any:
    """Return the module of the conftest of the whole suite."""
    path = str(Path(__file__).with_name("conftest.py"))
    return next(p for p in request.config.pluginmanager.get_plugins() if getattr(p, "__file__", None) == path)


def options_of(
    conftest: Any,
    source: SOURCES,
    *,
    numprocesses: int | None = None,
    dist: str = "no",
    xdist: bool = True,
    **extra: Any,
) -> tuple[Any, str]:
    option = SimpleNamespace(numprocesses=numprocesses, dist=dist)
    plugins = SimpleNamespace(hasplugin=lambda _: xdist)
    conftest.pytest_cmdline_main(SimpleNamespace(args_source=source, pluginmanager=plugins, option=option, **extra))
    return option.numprocesses, option.dist


def test_whole_suite_runs_in_worker_processes(conftest: Any) -> None:
    assert options_of(conftest, SOURCES.TESTPATHS) == ("auto", "worksteal")
    assert options_of(conftest, SOURCES.TESTPATHS, dist="loadfile") == ("auto", "loadfile")


def test_named_paths_and_explicit_options_are_left_alone(conftest: Any) -> None:
    assert options_of(conftest, SOURCES.ARGS) == (None, "no")
    assert options_of(conftest, SOURCES.TESTPATHS, numprocesses=0) == (0, "no")
    assert options_of(conftest, SOURCES.TESTPATHS, xdist=False) == (None, "no")


def test_worker_starts_no_workers(conftest: Any) -> None:
    assert options_of(conftest, SOURCES.TESTPATHS, workerinput={}) == (None, "no")


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 2), (64, 4)])
def test_auto_num_workers_is_number_of_cores_up_to_four(
    conftest: Any, monkeypatch: pytest.MonkeyPatch, cores: int, expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert conftest.pytest_xdist_auto_num_workers(SimpleNamespace()) == expected


def test_each_process_has_one_torch_thread() -> None:
    assert torch.get_num_threads() == 1
