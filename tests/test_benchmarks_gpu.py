"""That the GPU benchmark keeps its limits and leaves its results, whatever becomes of a step; nothing is timed here."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import warnings
import weakref
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest
import torch

from benchmarks import gpu
from benchmarks.byhand import ByHand, stacked
from benchmarks.gpu_steps import commands, graph, kinds, machine, polymnist, report, times, waits
from benchmarks.gpu_steps.plan import Figures, Plan, read_figures
from benchmarks.gpu_steps.runner import Outcome, Step, run_all, run_limited
from benchmarks.settings import new_vae, random_data
from pyro_mmvae.data import make_batch
from pyro_mmvae.data.sets.idx import find_mnist, read_mnist
from pyro_mmvae.training import Trainer
from tests.digit_samples import arrays, write_npz

WRITES = "from pathlib import Path; Path({file!r}).write_text('{{\"found\": 3}}')"


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def plan_in(folder: Path, **options: Any) -> Plan:
    return Plan(**{"out": folder, "work": folder, "device": "cpu", "tiny": True, "seconds": 600.0, **options})


def test_run_all_continues_after_failed_and_slow_steps(tmp_path: Path) -> None:
    codes = {
        "fails": "print('about to'); raise SystemExit('it broke')",
        "hangs": WRITES.format(file=str(tmp_path / "hangs.json")) + "; import time; time.sleep(600)",
        "works": WRITES.format(file=str(tmp_path / "works.json")),
        "skips": f"open({str(tmp_path / 'skips.json')!r}, 'w').write('{{\"skipped\": \"no data\"}}')",
    }
    steps = [Step(name, name, 5.0 if name == "hangs" else 60.0) for name in codes]
    reports: list[list[str]] = []

    def record(outcomes: list[Outcome]) -> None:
        reports.append([outcome.state for outcome in outcomes])

    log = tmp_path / "log.txt"
    outcomes = run_all(steps, lambda step, _: python(codes[step.name]), tmp_path, log, 300, record)
    assert [outcome.state for outcome in outcomes] == ["failed", "stopped", "done", "skipped"]
    fails, hangs, works, skips = outcomes
    assert fails.note == "exit status 1: it broke"
    assert (hangs.figures, works.figures) == ({"found": 3}, {"found": 3})
    assert "5 s were over" in hangs.note
    assert skips.note == "no data"
    assert ["failed", "not run", "not run", "not run"] in reports  # written as soon as it is known
    assert "about to" in log.read_text(encoding="utf-8")


def test_run_all_keeps_the_total_limit(tmp_path: Path) -> None:
    steps = [Step("one", "one", float("inf")), Step("two", "two", float("inf"))]
    started = time.monotonic()
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    outcomes = run_all(steps, lambda *_: python(code), tmp_path, tmp_path / "log", 11, lambda _: None)
    assert time.monotonic() - started < 60  # of a busy machine; without the limit it were 600
    assert [outcome.state for outcome in outcomes] == ["stopped", "not run"]
    assert 4 <= outcomes[0].limit <= 5
    assert outcomes[1].note == "no time was left"


def test_run_limited_ends_the_children_of_a_step(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(file)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    assert run_limited(python(code), 4, tmp_path / "log")[0] == "stopped"
    pid = int(file.read_text())
    for _ in range(100):
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "\nState:\tZ" in status.read_text():
            break
        time.sleep(0.1)
    else:
        os.kill(pid, 9)
        pytest.fail("the step's own process lives on")


def test_steps_of_have_limits_in_proportion_to_the_minutes() -> None:
    full, tiny = gpu.steps_of(False, 12, ()), gpu.steps_of(True, gpu.TINY_MINUTES, ())
    assert [step.name for step in full] == ["machine", "waits", "kinds", "times", "commands", "polymnist"]
    assert sum(step.limit for step in full[:-1]) < 12 * 60
    assert sum(step.limit for step in tiny[:-1]) < gpu.TINY_MINUTES * 60
    assert [step.limit for step in gpu.steps_of(False, 6, ("waits",))] == [full[1].limit / 2]
    with pytest.raises(click.BadParameter, match="there is no step 'nap'; there are machine, waits"):
        gpu.steps_of(False, 12, ("nap",))


def test_results_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(steps: Any, command: Any, work: Any, log: Any, total: float, write: Any) -> list[Outcome]:
        outcome = Outcome("waits", "Waits", "running", figures={"runs": []})
        words = command(Step("waits", "Waits", 9.0), 9.0)
        assert words[1:5] == ["-m", "benchmarks.gpu", str(tmp_path), "--work"]
        assert words[-4:] == ["--step", "waits", "--seconds", "9.0"]
        write([outcome])
        assert json.loads((tmp_path / "results.json").read_text())["steps"][0]["state"] == "running"
        outcome.state = "done"
        write([outcome])
        assert total == 60
        return [outcome]

    monkeypatch.setattr(gpu, "run_all", run)
    gpu.measure(plan_in(tmp_path), gpu.steps_of(True, 1, ("waits",)), 1)
    assert "| Waits | done |" in (tmp_path / "gpu.md").read_text()


def test_steps_that_never_wait(tmp_path: Path) -> None:
    figures = Figures(tmp_path / "waits.json")
    waits.run(plan_in(tmp_path), figures)
    found = read_figures(tmp_path / "waits.json")
    assert found["note"] == waits.UNCHECKED
    assert len({(r["setting"], r["aggregation"], r["bound"]) for r in found["runs"]}) == 8
    assert {r["result"] for r in found["runs"]} == {"ran"}
    assert "| recipe | mwb | mixture |" in page("waits", found)


def test_twenty_returns_the_error_of_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(waits, "watch", broken)
    assert waits.twenty(plan_in(tmp_path), "mini", "wb", "mixture") == {"result": "RuntimeError: device lost"}


class Waiting:
    """Data that warns, as torch does where it waits for a GPU, when it is asked for whether it is complete."""

    modalities: ClassVar[dict[str, Any]] = {}
    covariates: ClassVar[dict[str, Any]] = {}

    @property
    def complete(self) -> bool:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return True


def test_places_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    (place,) = waits.places_that_wait(lambda: make_batch(Waiting(), slice(None)))  # type: ignore[arg-type]
    assert place.startswith("pyro_mmvae/data/dataset.py:")
    assert place.endswith("if not data.complete: (called a synchronizing CUDA operation)")
    assert modes == ["warn", "default"]


def test_sync_debug_survives_the_warning_of_torch_and_ends_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []

    def set_mode(mode: str) -> None:
        modes.append(mode)
        if mode != "default":
            warnings.warn("Synchronization debug mode is a prototype feature", UserWarning, stacklevel=1)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    with pytest.raises(RuntimeError, match="synchronizing"), waits.sync_debug("error"):
        raise RuntimeError("called a synchronizing CUDA operation")
    assert modes == ["error", "default"]


def test_kinds_of_training(tmp_path: Path) -> None:
    figures = Figures(tmp_path / "kinds.json")
    kinds.run(plan_in(tmp_path), figures)
    found = read_figures(tmp_path / "kinds.json")
    assert found["states"] == {"ran": 5, "refused": 1}
    (refused,) = [case for case in found["cases"] if case["state"] == "refused"]
    assert (refused["aggregation"], refused["setting"]) == ("wb", "learned subsets")
    assert [row["batch_size"] for row in found["throughput"]] == [8, 16]
    assert all(row["items_per_second"] > 0 for row in found["throughput"])
    assert "Cases: 5 ran, 1 refused." in page("kinds", found)


def test_kinds_say_which_cases_wait_and_which_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_in(tmp_path)

    def broken(self: Any, batch: Any) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(kinds, "places_that_wait", lambda step: ["pyro_mmvae/x.py:1: y"])
    failed = {"aggregation": "wb", "setting": "z", "precision": "fp32", **kinds.attempt(plan, "wb", {}, "fp32")}
    assert failed["state"] == "ran"
    monkeypatch.setattr(Trainer, "step", broken)
    assert kinds.attempt(plan, "wb", {}, "fp32") == {"state": "failed", "note": "RuntimeError: device lost"}
    waiting = {**failed, "state": "waits", "places": ["pyro_mmvae/x.py:1: y"]}
    text = page("kinds", {"cases": [waiting, {**failed, "state": "failed", "note": "lost"}], "states": {"waits": 1}})
    assert "- waits: `pyro_mmvae/x.py:1: y` in wb z" in text
    assert "- `wb z`, fp32, failed: lost" in text


class StandInGraph:
    """A CUDA graph that records nothing."""


class Recorded:
    """A tensor on a GPU, for code that only copies it."""

    device = torch.device("cuda")

    def clone(self) -> Recorded:
        return self


def test_graph_keeps_the_loop_whose_memory_it_writes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        def wait_stream(self, other: object) -> None: ...

    class Loop:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))])

        def step(self, images: object) -> torch.Tensor:
            return torch.zeros(())

    for name, value in {
        "Stream": Stream, "current_stream": Stream, "CUDAGraph": StandInGraph,
        "stream": nullcontext, "graph": nullcontext,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    loop = Loop()
    alive = weakref.ref(loop)
    graphed = graph.Graphed(loop, Recorded())  # type: ignore[arg-type]
    del loop
    gc.collect()
    assert alive() is not None
    assert isinstance(graphed.graph, StandInGraph)


def test_step_times(tmp_path: Path) -> None:
    figures = Figures(tmp_path / "times.json")
    times.run(plan_in(tmp_path), figures)
    found = read_figures(tmp_path / "times.json")
    assert {s["result"] for s in found["same"]} == {"the same"}
    assert len(found["rows"]) == 8
    for row in found["rows"]:
        assert set(row["milliseconds"]) == {times.OURS, times.HAND, times.PYRO}
        assert all(0 < ms["least"] <= ms["median"] <= ms["greatest"] for ms in row["milliseconds"].values())
        assert (set(row["ratio"]), row["busy"], row["problems"]) == ({times.HAND, times.PYRO}, {}, {})
    text = page("times", found)
    assert "| mini | mwb | bf16 | by hand |" in text
    assert times.GRAPH not in text


def test_compare_leaves_out_a_failing_contestant() -> None:
    problems: dict[str, str] = {}
    found = dict(times.built({"one": lambda: lambda: 1, "two": lambda: lambda: 1 / 0}, problems))
    assert list(found) == ["one"]
    assert problems == {"two": "ZeroDivisionError: division by zero"}


def test_kernel_milliseconds_is_the_union_of_intervals() -> None:
    assert times.covered([]) == 0
    assert times.covered([(5, 6), (0, 2), (1, 4), (2, 3)]) == 5


def test_float32_and_tf32_are_put_back() -> None:
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    for tf32, name in ((True, "tf32"), (False, "ieee")):
        with times.float32(tf32=tf32):
            assert [backend.fp32_precision for backend in backends] == [name, name]
    assert [backend.fp32_precision for backend in backends] == before


def test_graphed_on_the_cpu_raises(tmp_path: Path) -> None:
    config = plan_in(tmp_path).config("mini", "wb", "mixture")
    hand = ByHand(new_vae(config), config)
    with pytest.raises(ValueError, match="the batch is on cpu, a CUDA graph needs one on a CUDA device"):
        graph.Graphed(hand, stacked(random_data(4), torch.arange(4)))


def test_cpu_figures_equal_those_of_the_repository() -> None:
    found = commands.cpu_figures(("mwb", "wb"))
    assert found["source"] == "docs/results/comparison.csv"
    assert found["two_cores_seconds"] == 125
    probe = [r for r in found["rows"] if (r["aggregation"], r["metric"], r["views"]) == ("mwb", "probe", 5)]
    assert [row["seeds"] for row in probe] == [5, 5, 5, 5]
    run = {
        "epochs": 10, "train_seconds": 9.5, "items_per_second": 21000, "elbo": -7000.0, "precision": "bf16",
        "metrics": [{"metric": "probe", "protocol": "per-subset, 5000 points", "views": 5, "mean": 0.9876}],
    }  # fmt: skip
    text = page("commands", {"cpu": found, "commands": [], "mwb": run})
    assert "| probe | per-subset, 5000 points | 5 | 0.988 | 0.992 ± 0.000 |" in text
    assert "Training takes 125 s on two cores" in text


def test_figures_of_a_repository_without_results(tmp_path: Path) -> None:
    assert commands.cpu_figures(("mwb",), tmp_path / "comparison.csv")["rows"] == []


def test_commands_continue_after_a_failed_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def call(name: str, words: Any, limit: float) -> dict[str, Any]:
        called.append(words[0])
        return {"state": "failed", "note": "exit status 1", "seconds": 0.1}

    monkeypatch.setattr(commands, "call", call)
    figures = Figures(tmp_path / "commands.json")
    with pytest.raises(SystemExit, match="3 commands did not end well"):
        commands.run(plan_in(tmp_path, tiny=False), figures)
    assert called == ["train"]  # without a run there is nothing to evaluate
    notes = [row["note"] for row in figures.values["commands"]]
    assert notes == ["exit status 1", "there is no trained run", "there is no trained run"]


def test_polymnist_without_its_sources_is_skipped(tmp_path: Path) -> None:
    figures = Figures(tmp_path / "polymnist.json")
    polymnist.run(plan_in(tmp_path), figures)
    assert figures.values == {"skipped": polymnist.MISSING}
    assert "Skipped: it needs MNIST and five photographs" in page("polymnist", figures.values)


def test_mnist_from_arrays(tmp_path: Path) -> None:
    write_npz(tmp_path)
    folder = polymnist.mnist_folder(tmp_path / "mnist.npz", tmp_path)
    found = read_mnist(find_mnist(folder), "train")
    images, labels = arrays(28, "train", 0)
    assert (found.images == images).all()
    assert (found.labels == labels).all()
    assert polymnist.mnist_folder(folder, tmp_path) == folder


def test_machine_step_describes_machine_and_reads_the_report(tmp_path: Path) -> None:
    about = machine.describe_machine(plan_in(tmp_path))
    assert (about["device"], about["torch"]) == ("the CPU", torch.__version__)
    assert {"test_devices.py", "test_on_device.py"} <= {
        file.name for file in machine.marked_files(Path(__file__).parent)
    }
    file = tmp_path / "tests.xml"
    file.write_text(
        '<testsuites><testsuite><testcase classname="tests.a" name="one"/>'
        '<testcase classname="tests.a" name="two"><failure message="assert 1\n== 2">long</failure></testcase>'
        '<testcase classname="tests.b" name="three"><skipped message="no GPU"/></testcase></testsuite></testsuites>'
    )
    counts, failures = machine.read_report(file)
    assert counts == {"passed": 1, "failed": 1, "skipped": 1}
    assert failures == [{"test": "tests.a::two", "message": "assert 1 == 2"}]
    tests = {"exit_status": 1, "files": 2, **counts}
    text = page("machine", {"machine": about, "packages": machine.packages(), "tests": tests, "failures": failures})
    assert text.startswith("# Measured on the CPU\n")
    assert "1 passed, 1 failed, 1 skipped" in text


def page(name: str, figures: dict[str, Any]) -> str:
    """Return the page of a trial with one step."""
    step = Outcome(name, f"Step {name}", "done", figures=figures).as_row()
    about = {"version": "0", "device": "cpu", "tiny": True, "minutes": 3, "started": "now", "seconds": 9.0}
    text = report.markdown({**about, "steps": [step]})
    assert f"## Step {name}" in text
    assert "None" not in text.replace("| cuda | None |", "")
    return text
