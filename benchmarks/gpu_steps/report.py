"""The results as a page, in the form of ``docs/results/gpu.md``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Lines = Iterator[str]

TRIAL = (
    "**A trial of the script on {device}, in small sizes: none of its times and figures says anything about the "
    "package.**"
)
DECIMALS = {"log_likelihood": 0, "kl": 1}


def markdown(results: Mapping[str, Any]) -> str:
    """Return the page for the results available so far.

    Args:
        results: The contents of ``results.json``.
    """
    steps = {step["name"]: step for step in results["steps"]}
    machine = steps.get("machine", {}).get("figures", {}).get("machine", {})
    name = machine.get("device", "the CPU" if results["device"] == "cpu" else "a GPU")
    lines = [f"# Measured on {name}", ""]
    if results["tiny"]:
        lines += [TRIAL.format(device=name), ""]
    lines += [
        f"Made by `bash benchmarks/gpu.sh OUT{_options(results)}`, version {results['version']}, started "
        f"{results['started']}, {results['seconds']:.0f} s of {60 * results['minutes']:.0f}.",
        "",
        *_table(
            ("step", "", "seconds", "limit", "note"),
            [
                (step["title"], step["state"], f"{step['seconds']:.0f}", f"{step['limit']:.0f}", step["note"])
                for step in results["steps"]
            ],
        ),
    ]
    for key, section in SECTIONS.items():
        if steps.get(key, {}).get("figures"):
            lines += ["", f"## {steps[key]['title']}", "", *section(steps[key]["figures"])]
    return "\n".join(lines) + "\n"


def _options(results: Mapping[str, Any]) -> str:
    return (" --device cpu" if results["device"] == "cpu" else "") + (" --tiny" if results["tiny"] else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Lines:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"


def _machine(found: Mapping[str, Any]) -> Lines:
    yield from _table(("", ""), list(found.get("machine", {}).items()))
    yield ""
    yield "Packages: " + ", ".join(f"{name} {version}" for name, version in found.get("packages", {}).items()) + "."
    tests = found.get("tests")
    if tests and "passed" in tests:
        yield ""
        yield (
            f"Tests marked `gpu` or `device`: {tests['passed']} passed, {tests['failed']} failed, {tests['skipped']} "
            "skipped."
        )
        for failure in found.get("failures", []):
            yield f"- `{failure['test']}`: {failure['message']}"
    elif tests:
        yield ""
        yield f"The tests did not run: exit status {tests['exit_status']}, see the log."


def _waits(found: Mapping[str, Any]) -> Lines:
    if "note" in found:
        yield from (f"Note: {found['note']}.", "")
    yield "Twenty steps each, private latents, 30 % of the modalities missing."
    yield ""
    runs = found.get("runs", [])
    rows = [
        (r["setting"], r["aggregation"], r["bound"], r.get("precision", ""), r.get("milliseconds", ""), r["result"])
        for r in runs
    ]
    yield from _table(("setting", "aggregation", "bound", "precision", "ms per step", "result"), rows)
    for run in runs:
        for place in run.get("places", []):
            yield f"- {run['setting']}, {run['aggregation']}, {run['bound']}: `{place}`"


def _kinds(found: Mapping[str, Any]) -> Lines:
    rows = [
        (r["batch_size"], r["precision"], f"{r['milliseconds']:.3g}", f"{r['items_per_second']:,}")
        for r in found.get("throughput", [])
    ]
    yield "Training with `mwb` and the defaults, by batch size:"
    yield ""
    yield from _table(("batch", "precision", "ms per step", "items per second"), rows)
    yield ""
    yield "Cases: " + ", ".join(f"{count} {state}" for state, count in found.get("states", {}).items()) + "."
    waiting: dict[str, list[str]] = {}
    for case in found.get("cases", []):
        name = f"{case['aggregation']} {case['setting']}"
        if case["state"] == "failed":
            yield f"- `{name}`, {case['precision']}, failed: {case['note']}"
        for place in case.get("places", []):
            waiting.setdefault(place, []).append(name)
    for place, names in waiting.items():
        yield f"- waits: `{place}` in {', '.join(dict.fromkeys(names))}"


def _times(found: Mapping[str, Any]) -> Lines:
    if "note" in found:
        yield from (f"Note: {found['note']}.", "")
    yield (
        "Milliseconds per step, medians over rounds in turn (least to greatest), mixture bound; then the time of ours "
        "divided by that of the other one, and the share of the step in which a kernel runs on the GPU."
    )
    yield ""
    rows = []
    for row in found.get("rows", []):
        for name, ms in row["milliseconds"].items():
            ratio, busy = row["ratio"].get(name), row["busy"].get(name)
            rows.append(
                (
                    row["setting"], row["aggregation"], row["precision"], name,
                    f"{ms['median']:.3g} ({ms['least']:.3g} to {ms['greatest']:.3g})",
                    f"{ratio['median']:.2f}" if ratio else "",
                    f"{busy['share']:.0%}, {busy['milliseconds']:.3g} ms" if busy else "",
                )
            )  # fmt: skip
        rows += [
            (row["setting"], row["aggregation"], row["precision"], n, "", "", p) for n, p in row["problems"].items()
        ]
    yield from _table(("setting", "aggregation", "precision", "loop", "ms per step", "ours / it", "GPU busy"), rows)
    for same in found.get("same", []):
        if same["result"] != "the same":
            yield f"- {same['setting']}, {same['aggregation']}: {same['result']}"


def _commands(found: Mapping[str, Any]) -> Lines:
    cpu = found.get("cpu", {})
    rows = [
        (c["aggregation"], c["command"], c["state"], f"{c['seconds']:.1f}", c["note"])
        for c in found.get("commands", [])
    ]
    yield from _table(("aggregation", "command", "", "seconds", "note"), rows)
    if cpu.get("two_cores_seconds"):
        yield ""
        yield f"Training takes {cpu['two_cores_seconds']} s on two cores of a CPU (`docs/results/README.md`)."
    for aggregation in ("mwb", "wb"):
        run = found.get(aggregation)
        if run:
            yield ""
            yield f"**{aggregation}**: {_run(run)}"
            if run.get("metrics"):
                yield ""
                yield from _beside(run["metrics"], aggregation, cpu)


def _run(run: Mapping[str, Any]) -> str:
    """Describe a training in one line."""
    epochs = f"{run['epochs']} epoch{'s' * (run['epochs'] > 1)}"
    said = (
        f"{epochs} in {run['train_seconds']:g} s, at best {run['items_per_second']:,} items/s, "
        f"{run['precision']}, best validation ELBO {run['elbo']:g} nats per item."
    )
    parts = run.get("evaluation_seconds", {})
    slow = sorted(parts.items(), key=lambda part: -part[1])[:4]
    return said + (" Evaluation: " + ", ".join(f"{name} {value:.1f} s" for name, value in slow) + "." if slow else "")


def _beside(metrics: Sequence[Mapping[str, Any]], aggregation: str, cpu: Mapping[str, Any]) -> Lines:
    """Return the figures of a run, beside those of the CPU with equal metric and protocol."""
    known = {
        (row["metric"], row["protocol"], row["views"]): row
        for row in cpu.get("rows", [])
        if row["aggregation"] == aggregation
    }
    rows = []
    for row in metrics:
        other = known.get((row["metric"], row["protocol"], row["views"]))
        digits = DECIMALS.get(row["metric"], 3)
        beside = f"{other['mean']:.{digits}f} ± {other['se']:.{digits}f}" if other else ""
        if other or not known:
            rows.append((row["metric"], row["protocol"], row["views"], f"{row['mean']:.{digits}f}", beside))
    if not rows:
        yield "No figure of this run was computed by a protocol of the CPU's table."
        return
    seeds = next((row["seeds"] for row in known.values()), 0)
    title = f"CPU, mean ± standard error of {seeds} seeds (`{cpu['source']}`)" if known else "CPU"
    yield from _table(("metric", "protocol", "views", "here, one seed", title), rows)


def _polymnist(found: Mapping[str, Any]) -> Lines:
    if "skipped" in found:
        yield f"Skipped: {found['skipped']}."
        return
    yield f"Photographs: {', '.join(found.get('photographs', []))}; these are not the numbers of the published set."
    train = found.get("train")
    if train:
        yield ""
        yield f"{train['epochs']} of {train['of']} epochs, {train['state']} after {train['seconds']:g} s."
    run = found.get("run", {})
    if run.get("epochs"):
        yield ""
        yield _run(run)
    if run.get("metrics"):
        yield ""
        rows = [(m["metric"], m["protocol"], m["views"], f"{m['mean']:.3f}") for m in run["metrics"]]
        yield from _table(("metric", "protocol", "views", "mean"), rows)


SECTIONS: dict[str, Callable[[Mapping[str, Any]], Lines]] = {
    "machine": _machine,
    "waits": _waits,
    "kinds": _kinds,
    "times": _times,
    "commands": _commands,
    "polymnist": _polymnist,
}
