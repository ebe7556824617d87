"""Compiled ELBOs at another batch size and mask than they were compiled with."""

from __future__ import annotations

import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import JitTrace_ELBO, Trace_ELBO
from torch import Tensor

from pyro_mmvae import BarycentricGuide, Experts

LOC = torch.tensor([[-1.0], [0.5], [2.0]])


def model(x: Tensor, _present: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def encode(x: Tensor, present: Tensor) -> Experts:
    loc = LOC.to(x) + 0.0 * x.unsqueeze(-2)
    return Experts(loc, torch.full_like(loc, 0.1), present)


@pytest.mark.parametrize("aggregation", ["moe", "mwb"])
@pytest.mark.parametrize("subset_weights", ["uniform", "by_size"])
def test_compiled_component_bound_serves_other_batch_sizes(aggregation: str, subset_weights: str) -> None:
    pyro.clear_param_store()
    torch.manual_seed(0)
    guide = BarycentricGuide(encode, aggregation, bound="component", subset_weights=subset_weights)
    elbo: Any = JitTrace_ELBO(ignore_jit_warnings=True)
    pyro.param("unused", torch.zeros(()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        elbo.loss(model, guide, torch.zeros(12, 1), torch.ones(12, 3).bool())
        for items in (7,):
            data = torch.zeros(items, 1), torch.rand(items, 3) < 0.7
            compiled = torch.tensor([elbo.loss(model, guide, *data) for _ in range(60)])
            plain = torch.tensor([Trace_ELBO().loss(model, guide, *data) for _ in range(60)])
            error = (compiled.var() / 60 + plain.var() / 60).sqrt()
            assert compiled.std() > 0  # the subsets are drawn anew at each call
            assert abs(compiled.mean() - plain.mean()) < 4.5 * error
