"""The numbers on the axes of reports, by the script of the page in Node.js."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib import resources
from typing import Any

import pytest

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs Node.js")


def evaluated(expression: str) -> Any:
    """Return the value of an expression in JavaScript, in which the functions of the page are defined."""
    script = (resources.files("pyro_mmvae.reports.html") / "assets" / "ticks.js").read_text(encoding="utf-8")
    code = f'"use strict";\n{script}\nconsole.log(JSON.stringify({expression}));'
    done = subprocess.run([str(NODE), "-"], input=code, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (-1599.47, -1599.39, ["-1599.46", "-1599.44", "-1599.42", "-1599.40"]),
        (0, 1.5, ["0.0", "0.5", "1.0", "1.5"]),
        (-2000, 1000, ["-2000", "-1000", "0", "1000"]),
        (123456.1, 123457, ["123456.5", "123457.0"]),
        (0, 4e-5, ["0", "1e-5", "2e-5", "3e-5", "4e-5"]),
        (10.0001e6, 10.0004e6, ["1.00001e+7", "1.00002e+7", "1.00003e+7", "1.00004e+7"]),
    ],
)
def test_tick_labels_have_the_decimals_of_the_step(low: float, high: float, labels: list[str]) -> None:
    assert evaluated(f"tickLabels(ticks({low}, {high}, 4))") == labels


def test_tick_labels_of_every_scale_differ_and_are_the_values() -> None:
    found = evaluated(
        "[1e-9, 3e-4, 0.07, 1, 12.5, 999, 4321, 98765, 2e6, 7e12].flatMap(function (middle) {"
        " return [1, 0.1, 1e-3, 1e-5].map(function (share) {"
        " var values = ticks(middle * (1 - share), middle * (1 + share), 4);"
        " return [values, tickLabels(values)]; }); })"
    )
    assert len(found) == 40
    for values, labels in found:
        assert len(set(labels)) == len(labels) > 1
        assert [float(label) for label in labels] == pytest.approx(values, rel=1e-9)


def test_tick_labels_of_one_value_are_short() -> None:
    assert evaluated("tickLabels(ticks(3, 3, 4))") == ["3"]


def test_reader_shows_differences_within_the_figure() -> None:
    assert evaluated("[-1599.41, -1599.43].map(readerOf(-1599.47, -1599.39))") == ["-1599.4100", "-1599.4300"]
    assert evaluated("[-1599.41, -800, null].map(readerOf(-1600, -800))") == ["-1599.4", "-800", "–"]


def test_short_whole_numbers_have_no_decimals() -> None:
    assert evaluated("[3, 1000, 1000.26, 12345, 0.0123456].map(short)") == ["3", "1000", "1000.3", "12345", "0.0123"]
