"""Items and run directories of reports, made without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from pyro_mmvae.exhibits import Exhibits, LatentMap, ShownModality

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(2)</script>",
    "a'b&amp;`${1}`",
    "\u202eevil\u202c",
    "שלום עולם",
    "x" * 400,
    "<!--",
    "\u2028",
)
"""Names that a page must show as they are: markup, quotes, other directions of writing, long ones, ends of scripts."""


def make_exhibits(
    names: Sequence[str] = ("photo", "caption", "sensor"), items: int = 6, labels: Sequence[str] = ("cat", "dog"),
    side: int = 8, limit: int = 31,
) -> Exhibits:  # fmt: skip
    """Return items of images, texts and numbers in turn, the last of which lacks its first modality."""
    rng = np.random.default_rng(0)
    count = len(names)
    every = [subset for size in range(1, count + 1) for subset in combinations(range(count), size)]
    subsets = tuple(every if len(every) <= limit else [*every[: limit - 1], every[-1]])
    modalities = []
    for number, name in enumerate(names):
        kind = ("image", "text", "numbers")[number % 3]
        if kind == "image":
            observed: Any = rng.integers(0, 255, (items, 3, side, side), dtype=np.uint8)
            generated: Any = rng.integers(0, 255, (len(subsets), items, 3, side, side), dtype=np.uint8)
            more: dict[str, Any] = {"size": (side, side)}
        elif kind == "text":
            observed = np.array([f"text {item} {HOSTILE[item % len(HOSTILE)]}" for item in range(items)])
            generated = np.array([[f"says {subset} {item}" for item in range(items)] for subset in subsets])
            more = {}
        else:
            observed = rng.normal(size=(items, 4)).astype(np.float32)
            generated = rng.normal(size=(len(subsets), items, 4)).astype(np.float32)
            more = {"features": ("a", "b", HOSTILE[0], "d"), "unit": "standard deviations", "num_features": 9}
        modalities.append(ShownModality(name=name, kind=kind, observed=observed, generated=generated, **more))
    present = np.ones((items, count), dtype=bool)
    present[-1, 0] = count == 1
    distances = np.abs(rng.normal(size=(items, count, count)))
    distances[-1, 0, :] = distances[-1, :, 0] = np.nan
    points = rng.normal(size=(len(subsets), items + 20, 2))
    texts = np.array([labels[item % len(labels)] if item % 7 != 6 else "" for item in range(items + 20)])
    latent = LatentMap(
        subsets=subsets, points=points, seen=np.ones((len(subsets), items + 20), dtype=bool),
        explained=np.array([0.5, 0.2]), labels=texts, title="", disagreement=np.abs(rng.normal(size=items + 20)),
        ids=np.arange(items + 20).astype(str),
    )  # fmt: skip
    ids = np.array([HOSTILE[item % len(HOSTILE)] for item in range(items)])
    return Exhibits(
        names=tuple(names), subsets=subsets, modalities=tuple(modalities), ids=ids, labels=texts[:items],
        present=present, distances=distances, expected=np.ones_like(distances),
        spread=np.ones((len(subsets), items)), protocol="posterior mean", latent=latent,
    )  # fmt: skip


def write_run(
    path: Path, names: Sequence[str] = ("photo", "caption", "sensor"), *, seed: int = 0, aggregation: str = "mwb",
    evaluated: bool = True, quality: float = 0.6,
) -> Path:  # fmt: skip
    """Write the files of a run directory that a report reads."""
    path.mkdir(parents=True)
    config = {"data": {"name": "toy"}, "model": {"aggregation": aggregation}, "train": {"seed": seed}, "plugins": []}
    (path / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    environment = {"versions": {"torch": "2"}, "command": ["pyro-mmvae", "train", HOSTILE[0]], "nested": {"a": [1]}}
    (path / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    rows = [
        {
            "epoch": epoch, "objective": -9.0 + epoch, "kl": 2.0, "beta": 1.0, "seconds": 3.0, "step": 100 * epoch,
            "log_likelihood": dict.fromkeys(names, -3.0 + epoch), "penalties": {"infonce": 0.5},
            "val": {"elbo": -8.0 + epoch, "kl": 2.1, "log_likelihood": dict.fromkeys(names, -2.5)},
        }
        for epoch in range(4)
    ]  # fmt: skip
    (path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    if evaluated:
        _write_evaluation(path / "evaluation", names, aggregation, seed, quality)
    return path


def _write_evaluation(folder: Path, names: Sequence[str], aggregation: str, seed: int, quality: float) -> None:
    folder.mkdir()
    lines = ["metric,protocol,given,target,views,value,n,seed"]
    subsets = [s for size in range(1, len(names) + 1) for s in combinations(names, size)]
    means: dict[str, dict[str, float]] = {"probe": {}, "coherence": {}}
    for subset in subsets:
        given, value = "+".join(subset), quality + 0.1 * len(subset) + 0.001 * seed
        quoted = f'"{given.replace(chr(34), chr(34) * 2)}"'
        lines.append(f"probe,per-subset,{quoted},,{len(subset)},{value},200,0")
        means["probe"][str(len(subset))] = value
        for target in (name for name in names if name not in subset):
            lines.append(f'coherence,one draw,{quoted},"{target.replace(chr(34), chr(34) * 2)}",1,{value - 0.1},200,0')
            means["coherence"][str(len(subset))] = value - 0.1
    lines.append("joint_coherence,prior draws,,,0,0.4,1000,0")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    findings = [
        {"mode": "experts far apart", "what": "experts a and b are far apart", "advice": "a mixture (--agg mwb)"},
        {"mode": "unfit guide", "what": f"log likelihoods given {HOSTILE[0]} are lower bounds", "advice": ""},
        {"mode": "unfit guide", "what": "log likelihoods given b are lower bounds", "advice": ""},
    ]
    summary = {
        "aggregation": aggregation, "train_seed": seed, "options": {"khat_samples": 1000, "seed": 0},
        "means_by_views": {"probe": {"per-subset": means["probe"]}, "coherence": {"one draw": means["coherence"]}},
        "classifier_accuracy": {names[0]: 0.9}, "warnings": findings,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    rng = np.random.default_rng(0)
    arrays = {f"khat.{name}": rng.normal(size=20) for name in names} | {
        f"khat.{'+'.join(names)}": np.array([np.inf, 3])
    }
    np.savez(
        folder / "arrays.npz", khat_threshold=0.7, latent=rng.normal(size=(30, 2)), explained=np.array([0.4, 0.3]),
        labels=np.arange(30) % 2, class_names=np.array(["cat", "dog"]), **arrays,
    )  # fmt: skip
