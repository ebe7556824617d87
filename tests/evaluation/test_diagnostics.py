"""Findings for each failure mode, provoked on purpose."""

from __future__ import annotations

import math
import re

import pytest
import torch

from pyro_mmvae import Experts, aggregations
from pyro_mmvae.cli.train import train
from pyro_mmvae.evaluation.diagnostics import diagnose
from pyro_mmvae.evaluation.geometry import expert_geometry
from pyro_mmvae.evaluation.latent import latent_usage
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.runs.config import make_config, parse_overrides
from tests.evaluation.toy_experts import LATENT, NAMES, alike, experts_of, figures, vae_of


def check_advice(advice: str) -> None:
    """Check that the settings, options and aggregations that an advice names exist."""
    settings = re.findall(r"\b(?:model|train|data)\.[a-z_.]*[a-z_]", advice)
    assert settings or "--" in advice or "pyro-mmvae fit-prior" in advice
    for setting in settings:
        value = {"expert_weights": "[1, 1, 1]"}.get(setting.split(".")[-1], "1")
        make_config(None, parse_overrides([f"{setting}={value}"]))
    options = {name for parameter in train.params for name in parameter.opts}
    for option in re.findall(r"--[a-z-]+", advice):
        assert option in options
    for name in re.findall(r"--agg ([a-z0-9:]+)", advice):
        assert name in aggregations()
    assert not re.findall(r"(?<![.\w])(?:beta|scale of the|warm|prior to)\b", advice)


def findings_of(experts: Experts, aggregation: str = "wb", *, chance: bool = True) -> list[str]:
    """Return what is found, by default with the correlations of the experts, by which lost pairing is found."""
    vae = vae_of(aggregation)
    rows = [*expert_geometry(vae, experts), *latent_usage(vae, experts, subset=(0, 1, 2), draws=200)]
    findings = diagnose([row for row in rows if chance or row.metric != "expert_correlation"], NAMES)
    assert all(finding.advice for finding in findings)
    for finding in findings:
        check_advice(finding.advice)
    return [finding.what for finding in findings]


@pytest.mark.parametrize("aggregation", ["wb", "mwb", "moe", "poe"])
@pytest.mark.parametrize("scale", [0.3, 0.7])
def test_diagnose_healthy_model_has_no_findings(aggregation: str, scale: float) -> None:
    assert findings_of(alike(300, scale, math.sqrt(1 - scale**2)), aggregation) == []


def test_diagnose_distant_experts_are_found() -> None:
    experts = alike(300, 0.2, 0.8)
    loc = experts.loc.clone()
    loc[:, 2] = 0.2 * torch.randn(300, LATENT) + torch.tensor([2.0, -2.0, 2.0])
    (far,) = (w for w in findings_of(experts_of(loc, 0.2), chance=False) if "apart" in w)
    assert far.split(" are ")[0] in {"experts a and c", "experts b and c"}
    assert "times the distance expected from their scales" in far
    assert far.endswith("; so does 1 other pair")


def test_diagnose_distant_experts_name_the_farthest_pair_and_mixtures_are_not_judged() -> None:
    rows = [Metric("expert_scale", "", (n,), "", 1.0, 9, 0) for n in NAMES]
    rows += [Metric("w2_experts", "", (a,), b, d, 9, 0) for a, b, d in (("a", "b", 9.0), ("a", "c", 20.0))]
    rows += [Metric("khat_share", "", NAMES, "", 0.9, 9, 0)]
    far, unfit = diagnose(rows, NAMES)
    assert (far.mode, unfit.mode) == ("experts far apart", "unfit guide")
    assert far.what.startswith("experts a and c are 20 apart, 14.1 times")
    check_advice(far.advice)
    assert "mwb" in far.advice
    assert "--epochs" not in far.advice  # nothing trains the experts of a single barycenter one by one
    assert unfit.advice == ""  # a note: good guides show it too
    assert diagnose(rows, NAMES, mixture=True) == [unfit]  # whose experts are each trained by themselves


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (0.3, 0.6)])
def test_diagnose_collapsed_modality_is_found(loc: float, scale: float) -> None:
    experts = alike(300, 0.5, 0.9)
    locs, scales = experts.loc.clone(), experts.scale.clone()
    locs[:, 1], scales[:, 1] = loc, scale  # the prior, or another distribution that all items share
    collapsed = [w for w in findings_of(Experts(locs, scales)) if "collapsed" in w]
    assert [w.split(" has ")[0] for w in collapsed] == ["modality b"]


def test_diagnose_collapsed_modality_far_from_the_prior_is_told_a_smaller_learning_rate() -> None:
    rows = [Metric("expert_spread", "", ("a",), "", 0.0, 9, 0), Metric("expert_kl", "", ("a",), "", 300.0, 9, 0)]
    (finding,) = diagnose(rows, NAMES)
    assert finding.mode == "collapsed modality"
    assert finding.advice == "a smaller train.lr"
    (finding,) = diagnose([rows[0], Metric("expert_kl", "", ("a",), "", 0.01, 9, 0)], NAMES)
    assert "model.beta" in finding.advice
    assert "train.lr" not in finding.advice


def test_diagnose_dominating_modality_is_found() -> None:
    experts = alike(300, 0.9, 0.5)
    scale = experts.scale.clone()
    scale[:, 0] = 0.02
    wide = Experts(experts.loc, scale)
    assert [w.split(":")[0] for w in findings_of(wide, "poe") if "dominates" in w] == ["modality a dominates"]
    assert not [w for w in findings_of(wide, "wb") if "dominates" in w]


def test_diagnose_agreeing_experts_do_not_dominate() -> None:
    rows = [Metric("w2_to_barycenter", "", (n,), "", v, 9, 0) for n, v in (("a", 1e-6), ("b", 0.1), ("c", 0.2))]
    assert diagnose([*rows, *(Metric("expert_scale", "", (n,), "", 1.0, 9, 0) for n in NAMES)], NAMES) == []


def test_diagnose_few_active_units_are_found() -> None:
    row = Metric("active_share", "", NAMES, "z", 1 / 32, 100, 0)
    (finding,) = diagnose([row], NAMES)
    check_advice(finding.advice)
    assert finding.what.startswith("only 3% of the latent dimensions")
    assert "latent_size" in finding.advice
    (idle,) = diagnose([Metric("active_share", "", NAMES, "z", 0.0, 100, 0)], NAMES)
    assert "latent_size" not in idle.advice  # a smaller latent would be as idle
    assert diagnose([Metric("active_share", "", ("a",), "z", 1 / 32, 100, 0)], NAMES) == []


def test_diagnose_distant_aggregate_is_found() -> None:
    experts = alike(300, 0.3, 0.3)
    moved = experts_of(experts.loc + 3, 0.3)
    assert [w for w in findings_of(moved) if "aggregated" in w]
    # Means spread like the prior with scales so small that 300 items leave gaps, due to the number of items alone.
    gaps = alike(300, 0.01, 1.0)
    rows = latent_usage(vae_of(), gaps, subset=(0, 1, 2), draws=200)
    assert figures(rows)["aggregate_kl"].value > 3
    assert diagnose(rows, NAMES) == []


def test_diagnose_sampled_kl_counts_unless_saturated() -> None:
    def rows(kl: float) -> list[Metric]:
        values = {"kl": kl, "aggregate_kl": 4.0, "aggregate_kl_moments": 0.1}
        return [Metric(name, "", NAMES, "z", value, 1000, 0) for name, value in values.items()]

    (finding,) = diagnose(rows(5.0), NAMES)
    assert "pyro-mmvae fit-prior RUN" in finding.advice
    (finding,) = diagnose(rows(5.0), NAMES, has_fitted_prior=True)
    assert finding.advice == ""  # a note
    assert "those of the fitted prior are not concerned" in finding.what
    assert len(diagnose(rows(5.0), NAMES)) == 1  # z carries 1 nat about the item, of at most 6.9
    assert diagnose(rows(10.5), NAMES) == []


@pytest.mark.parametrize(
    ("khat", "said"),
    [
        (18.6, "90% of the items, and its median is 19, at which no number of draws suffices; pyro-mmvae evaluate"),
        (0.75, "90% of the items, and its median is 0.75, which asks for 1e+04 draws per item; pyro-mmvae evaluate"),
    ],
)
def test_diagnose_unfit_guide_says_how_many_draws_it_would_take(khat: float, said: str) -> None:
    rows = [Metric(name, "", NAMES, "", value, 9, 0) for name, value in (("khat_share", 0.9), ("khat", khat))]
    (finding,) = diagnose([*rows, Metric("khat_joint", "", NAMES, "", 0.1, 9, 0)], NAMES)
    assert said in finding.what


def test_diagnose_averages_seeds_and_needs_figures() -> None:
    assert diagnose([], NAMES) == []
    rows = [Metric("khat_share", "", NAMES, "", value, 100, seed) for seed, value in enumerate((0.0, 0.3))]
    assert diagnose(rows, NAMES) == []
    assert len(diagnose(rows[1:], NAMES)) == 1
