"""The model card of a run that is shared, written from its files alone."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from pyro_mmvae._bounded import load_yaml, read_json, read_text
from pyro_mmvae._citation import CITATION, software_citation
from pyro_mmvae._printable import printable
from pyro_mmvae._version import __version__
from pyro_mmvae.run_files import RunFiles, read_metrics

_SHOWN = ("probe", "coherence", "joint_coherence", "log_likelihood", "frechet_conditional", "frechet_classifier")
_DIGITS = {"log_likelihood": 1, "frechet_conditional": 2, "frechet_classifier": 2}


def model_card(path: Path, repository: str, *, license_name: str | None = None) -> str:
    """Return the model card of a run in Markdown: what it is, its evaluation, how to use it, and what to cite.

    Args:
        path: The path of the run directory.
        repository: The repository that the run is pushed to, as ``USER/NAME``.
        license_name: The licence of the weights as the Hub names it, such as ``"mit"``; none is stated by default.
    """
    files = RunFiles(path)
    config = load_yaml(read_text(files.config))
    model, data = config.get("model", {}), config.get("data", {})
    aggregation = model.get("aggregation", "wb")
    name = str(aggregation.get("name", "") if isinstance(aggregation, dict) else aggregation)
    head = ["---", "library_name: pyro_mmvae", "tags:", "- multimodal", "- variational-autoencoder", "- pyro"]
    head += [f"license: {json.dumps(license_name)}"] if license_name else []
    epochs = read_metrics(path)
    modalities = list(epochs[-1].get("log_likelihood", {})) if epochs else []
    plugins = [str(plugin) for plugin in config.get("plugins") or ()]
    lines = [
        *head,
        "---",
        "",
        f"# {_inline(repository)}",
        "",
        "A multimodal variational autoencoder whose experts are aggregated by a barycenter, trained by pyro_mmvae "
        f"{_version(files)}.",
        "",
        "| | |",
        "|---|---|",
        f"| aggregation | {_inline(name)} |",
        f"| data | {_inline(Path(str(data.get('name', ''))).name)} |",
        f"| modalities | {', '.join(map(_inline, modalities)) or 'see config.yaml'} |",
        f"| latent dimensions | {_inline(str(model.get('latent_size', '')))} |",
        f"| epochs | {len(epochs)} |",
        "",
        "## Evaluation",
        "",
        *_evaluation(files),
        "",
        "## Use",
        "",
        "```sh",
        "pip install 'pyro-mmvae[hub]'",
        f"pyro-mmvae pull {repository} --out run",
        "```",
        "",
        "```python",
        "import pyro_mmvae",
        "",
        f"run = pyro_mmvae.load('run'{f', plugins={plugins!r}' if plugins else ''})",
        "```",
        "",
        *(["The run needs plugins: " + ", ".join(map(_inline, plugins)) + ".", ""] if plugins else []),
        "`files.json` has the SHA-256 of every file, which `pull` checks. Weights are stored as "
        "safetensors, and no file is a pickle.",
        "",
        "## Citation",
        "",
        "```bibtex",
        CITATION,
        "",
        software_citation(__version__),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _version(files: RunFiles) -> str:
    """Return the version of the package that trained a run."""
    versions = read_json(files.environment).get("versions", {})
    return _inline(str(versions.get("pyro_mmvae", __version__) if isinstance(versions, dict) else __version__))


def _evaluation(files: RunFiles) -> list[str]:
    """Return the table of an evaluation by number of modalities given, or a sentence if there is none."""
    if not files.evaluation_summary.exists():
        return ["The run was not evaluated."]
    summary = read_json(files.evaluation_summary)
    found: dict[str, Any] = summary.get("means_by_views", {})
    rows = [(metric, protocol, found[metric][protocol]) for metric in _SHOWN for protocol in found.get(metric, {})]
    views = sorted({int(number) for _, _, means in rows for number in means})
    if not rows:
        return ["The evaluation has none of the metrics that are shown here; see `evaluation/metrics.csv`."]
    lines = ["Means over test items and subsets, by number of modalities given.", ""]
    lines += ["| metric | protocol | " + " | ".join(map(str, views)) + " |", "|---" * (len(views) + 2) + "|"]
    for metric, protocol, means in rows:
        cells = [_figure(means.get(str(number)), _DIGITS.get(metric, 3)) for number in views]
        lines.append(f"| {_inline(metric)} | {_inline(protocol)} | " + " | ".join(cells) + " |")
    return lines


def _figure(value: Any, digits: int) -> str:
    """Return a mean as text, empty if it is missing."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) and math.isfinite(value) else ""


def _inline(text: str) -> str:
    """Return a text that is neither markup nor a cell border in Markdown, since names may come from data of anyone."""
    return re.sub(r"([\\`*_{}\[\]<>#|!&~$])", r"\\\1", printable(" ".join(text.split())))
