"""The facts about a run in words: sentences about it, its headline figures, its findings, and its environment."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_mmvae._bounded import load_yaml, read_json, read_text
from pyro_mmvae.reports.html.training import History
from pyro_mmvae.run_files import RunFiles

_NAMED = 8  # the largest number of modalities that are named in a sentence
_LONGEST = 2000  # the largest number of characters of a value of the environment


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the configuration of a run as text and as a tree; both are empty if there is none.

    Args:
        path: The path of the run directory.
    """
    file = RunFiles(path).config
    text = read_text(file) if file.exists() else ""
    tree = load_yaml(text) if text else {}
    return text, tree if isinstance(tree, dict) else {}


def setting(config: Mapping[str, Any], *keys: str) -> Any:
    """Return a setting of a configuration, or None if it is not there.

    Args:
        config: The configuration as a tree.
        *keys: The key of each level, outermost first.
    """
    value: Any = config
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def part_name(value: Any) -> str:
    """Return the name of a part that is given by its name, or by its name and options.

    Args:
        value: The setting, such as ``"mwb"`` or ``{"name": "renyi", "parameter": 0.3}``.
    """
    name = value.get("name") if isinstance(value, Mapping) else value
    return str(name) if name is not None else "unknown"


def command_for(verb: str, path: Path, config: Mapping[str, Any], *words: str) -> str:
    """Return a command line that adds what a report lacks.

    Args:
        verb: The name of the command, such as ``"evaluate"``.
        path: The path of the run directory.
        config: The configuration of the run, whose plugins the command must name.
        *words: Further words of the command line.
    """
    plugins = [word for name in config.get("plugins") or () for word in ("--plugin", str(name))]
    return shlex.join(["pyro-mmvae", verb, str(path), *plugins, *words])


def sentences(config: Mapping[str, Any], names: Sequence[str], epochs: int, summary: str) -> list[str]:
    """Return three sentences about what a reader sees.

    Args:
        config: The configuration of the run.
        names: The names of the modalities.
        epochs: The number of epochs that the run was trained for.
        summary: A description of the aggregation in one line; empty if it is unknown.
    """
    data, aggregation = part_name(setting(config, "data", "name")), part_name(setting(config, "model", "aggregation"))
    named = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    count = "one modality" if len(names) == 1 else f"{len(names)} modalities"
    items = f", whose items have {count}: {named}" if names else ""
    rule = f"{aggregation} ({summary[:1].lower()}{summary[1:].rstrip('.')})" if summary else aggregation
    return [
        f"This is a multimodal variational autoencoder, trained for {epochs} {'epoch' if epochs == 1 else 'epochs'} on "
        f"{data}{items}.",
        "One encoder per modality turns what was observed into an expert, a distribution of a shared latent; the "
        f"aggregation {rule} combines the experts of any subset into one posterior, from which decoders generate every "
        "modality.",
        "The page shows its training, what it generates from each subset, where its experts disagree, how good and how "
        "honest its predictions are, and what to do about the faults that were found.",
    ]


def headlines(rows: History, panels: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, str]]:
    """Return the figures that stand at the head of the page, each with a label and a note.

    Args:
        rows: The metrics of each epoch.
        panels: The metrics by number of modalities given; empty without an evaluation.
        names: The names of the modalities.
    """
    tiles = []
    elbos = [row["val"]["elbo"] for row in rows if isinstance(setting(row, "val", "elbo"), int | float)]
    if elbos:
        tiles.append({"value": f"{max(elbos):,.1f}", "label": "largest validation ELBO", "note": "nats per item"})
    for metric, label in (("probe", "linear probe"), ("coherence", "coherence")):
        panel = next((panel for panel in panels if panel["metric"] == metric), None)
        if panel is None:
            continue
        points = panel["series"][0]["points"]
        for point in dict.fromkeys((tuple(points[0]), tuple(points[-1]))):
            views = int(point[0])
            given = "all modalities" if views == len(names) else f"{views} modalit{'y' if views == 1 else 'ies'}"
            note = f"{point[2]:.3f} to {point[3]:.3f}" if point[2] is not None else panel["unit"]
            tiles.append({"value": f"{point[1]:.3f}", "label": f"{label}, given {given}", "note": note})
    seconds = sum(row.get("seconds", 0.0) for row in rows)
    if rows:
        epochs = f"{len(rows)} {'epoch' if len(rows) == 1 else 'epochs'}"
        tiles.append({"value": duration(seconds), "label": "training time", "note": epochs})
    return tiles


def duration(seconds: float) -> str:
    """Return a duration in the largest unit that fits.

    Args:
        seconds: The duration in seconds.

    Example:
        >>> duration(90), duration(7200)
        ('1.5 min', '2.0 h')
    """
    if not math.isfinite(seconds):
        return "unknown"
    return (
        f"{seconds:.0f} s"
        if seconds < 60
        else f"{seconds / 60:.1f} min"
        if seconds < 3600
        else f"{seconds / 3600:.1f} h"
    )


def with_run(
    findings: Sequence[Mapping[str, str]], path: Path, config: Mapping[str, Any], data_words: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Return findings whose command lines name the run, where those of an evaluation have the word ``RUN``.

    Args:
        findings: The findings, each with ``mode``, ``what`` and ``advice``.
        path: The path of the run directory.
        config: The configuration of the run, whose plugins a command must name.
        data_words: The words that choose other items than the test items in a call of ``evaluate``.
    """

    def named(match: re.Match[str]) -> str:
        return command_for(match[1], path, config, *(data_words if match[1] == "evaluate" else ()))

    return [{key: re.sub(r"pyro-mmvae ([\w-]+) RUN\b", named, text) for key, text in one.items()} for one in findings]


def group_findings(findings: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return the findings of an evaluation by failure mode, with the advice that mends them.

    Args:
        findings: The findings, each with ``mode``, ``what`` and ``advice``; one without advice is a note.
    """
    modes: dict[str, dict[str, Any]] = {}
    for finding in findings:
        mode = modes.setdefault(finding["mode"], {"mode": finding["mode"], "cases": [], "advice": ""})
        mode["cases"].append(finding["what"])
        mode["advice"] = mode["advice"] or finding["advice"]
    return sorted(modes.values(), key=lambda mode: not mode["advice"])


def environment_rows(path: Path) -> list[tuple[str, str]]:
    """Return the environment of a run as names and values; empty if it was not recorded.

    Args:
        path: The path of the run directory.
    """
    file = RunFiles(path).environment
    if not file.exists():
        return []
    return [(key.replace("_", " "), _text(value)) for key, value in read_json(file).items()]


def _text(value: Any) -> str:
    """Return a value of the environment as text, cut off if it is long."""
    if isinstance(value, Mapping) and all(isinstance(child, str | int | float | None) for child in value.values()):
        text = ", ".join(f"{key} {child}" for key, child in value.items())
    elif isinstance(value, list) and all(isinstance(child, str) for child in value):
        text = shlex.join(value)
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
