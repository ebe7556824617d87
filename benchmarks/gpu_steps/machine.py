"""Step 1: a description of the machine, and the tests on its device."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from benchmarks.gpu_steps.plan import ROOT, Figures, Plan

PACKAGES = ("pyro-ppl", "numpy", "torchvision", "pydantic", "scikit-learn", "scikit-image", "mlxtend", "arviz")
MARKS = ("gpu", "device")


def run(plan: Plan, figures: Figures) -> None:
    """Describe the machine and run the tests that are marked ``gpu`` or ``device`` on it."""
    figures.put(machine=describe_machine(plan), packages=packages())
    files = marked_files(ROOT / "tests")
    report = plan.work / "tests.xml"
    words = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", " or ".join(MARKS),
        "--device", plan.device, f"--junitxml={report}", *(str(file) for file in files),
    ]  # fmt: skip
    done = subprocess.run(words, cwd=ROOT, timeout=max(plan.left() - 1, 1), check=False)
    counts, failures = read_report(report) if report.exists() else ({}, [])
    figures.put(tests={"exit_status": done.returncode, "files": len(files), **counts}, failures=failures)
    if done.returncode:
        raise SystemExit(f"the tests ended with status {done.returncode}, {len(failures)} of them failed")


def describe_machine(plan: Plan) -> dict[str, Any]:
    """Return a description of the machine for the results."""
    found: dict[str, Any] = {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "device": "the CPU",
    }
    if plan.on_gpu:
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "cudnn": torch.backends.cudnn.version(),
            "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
            "driver": driver(),
        }
    return found


def processor() -> str:
    """Return the name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def driver() -> str | None:
    """Return the version of the GPU's driver; None if ``nvidia-smi`` does not report it."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.split()[0]
    return None


def packages() -> dict[str, str]:
    """Return the versions of the packages that the figures depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def marked_files(folder: Path) -> list[Path]:
    """Return the test files that use one of the marks, since collecting all files takes longer than running these."""
    marks = [f"mark.{mark}" for mark in MARKS]
    texts = ((file, file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("test_*.py")))
    return [file for file, text in texts if any(mark in text for mark in marks)]


def read_report(file: Path) -> tuple[dict[str, int], list[dict[str, str]]]:
    """Return how many tests passed, failed and were skipped in a JUnit report, and the failures with their first line.

    Args:
        file: An XML file of ``pytest --junitxml``.
    """
    cases = list(ElementTree.parse(file).getroot().iter("testcase"))  # noqa: S314  (written by the process above)
    failures = list(_failures(cases))
    skipped = sum(case.find("skipped") is not None for case in cases)
    counts = {"passed": len(cases) - len(failures) - skipped, "failed": len(failures), "skipped": skipped}
    return counts, failures


def _failures(cases: list[ElementTree.Element]) -> Iterator[dict[str, str]]:
    for case in cases:
        for found in (case.find("failure"), case.find("error")):
            if found is not None:
                message = " ".join(found.get("message", "").split())[:300]
                yield {"test": f"{case.get('classname')}::{case.get('name')}", "message": message}
                break
