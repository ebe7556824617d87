"""TraceGraph_ELBO, which marks values that depend on a draw, and the gradients of all rules under it."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.ops.provenance import get_provenance, track_provenance
from torch import Tensor

from pyro_mmvae import Experts, Modality, MultimodalVAE, aggregate, draw_component
from pyro_mmvae.networks.onednn.conditions import is_untraced

ITEMS = 20
RULES = ("poe", "moe", "mopoe", "wb", "mwb", "pool", "moment", "hellinger", "w1", "mixture:renyi:0.5")


def gradients(elbo: Any, name: str, build: Any, full: bool = False) -> list[Tensor]:
    """Return the gradients in loc and log scale for a guide whose encoder sees a discrete latent."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    x = torch.randn(ITEMS, 1).double()
    loc = torch.tensor([[0.3], [-0.4]]).double().requires_grad_()
    log_scale = torch.tensor([[-0.2], [0.1]]).double().requires_grad_()

    def model() -> None:
        with pyro.plate("data", ITEMS):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5).double()))
            z = pyro.sample("z", dist.Normal((2 * c - 1).unsqueeze(-1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide() -> None:
        pyro.param("unused", torch.zeros(()))
        with pyro.plate("data", ITEMS):
            c = pyro.sample("c", dist.Bernoulli(torch.full((ITEMS,), 0.6).double()))
            locs = loc + 0.5 * (2 * c - 1)[:, None, None]
            scales = log_scale.exp() * (1 + 0.1 * c[:, None, None])
            experts = Experts(locs, scale_tril=scales.unsqueeze(-1)) if full else Experts(locs, scales)
            pyro.sample("z", build(experts, name))

    elbo.loss_and_grads(model, guide)
    return [loc.grad, log_scale.grad]  # type: ignore[list-item]


@pytest.mark.parametrize("build", [aggregate, draw_component])
@pytest.mark.parametrize("name", RULES)
def test_tracegraph_elbo_has_the_pathwise_gradients_of_trace_elbo(name: str, build: Any) -> None:
    expected = gradients(Trace_ELBO(), name, build)
    assert all((gradient != 0).all() for gradient in expected)
    torch.testing.assert_close(gradients(TraceGraph_ELBO(), name, build), expected)


@pytest.mark.parametrize("name", ["poe", "wb", "mwb"])
def test_tracegraph_elbo_has_the_pathwise_gradients_of_full_covariances(name: str) -> None:
    expected = gradients(Trace_ELBO(), name, aggregate, full=True)
    torch.testing.assert_close(gradients(TraceGraph_ELBO(), name, aggregate, full=True), expected)


def learned_moe(elbo: Any) -> tuple[Tensor, ...]:
    pyro.clear_param_store()
    torch.manual_seed(0)
    loc, weights = (torch.tensor(v).requires_grad_() for v in ([[0.3], [-0.4]], [1.0, 2.0]))

    def model() -> None:
        with pyro.plate("data", ITEMS):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=torch.ones(ITEMS, 1))

    def guide() -> None:
        pyro.param("unused", torch.zeros(()))
        with pyro.plate("data", ITEMS):
            experts = Experts(loc.expand(ITEMS, 2, 1), torch.ones(ITEMS, 2, 1))
            pyro.sample("z", aggregate(experts, "moe", expert_weights=weights))

    elbo.loss_and_grads(model, guide)
    return loc.grad, weights.grad  # type: ignore[return-value]


def test_tracegraph_elbo_has_the_gradients_of_learned_subset_weights() -> None:
    torch.testing.assert_close(learned_moe(TraceGraph_ELBO()), learned_moe(Trace_ELBO()))


def test_mean_field_elbo_refuses_learned_subset_weights_without_validation() -> None:
    with pyro.validation_enabled(False), pytest.raises(ValueError, match="TraceMeanField_ELBO gives learned subset"):
        learned_moe(TraceMeanField_ELBO())


def test_decoders_keep_the_marks_of_their_latents() -> None:
    vae = MultimodalVAE([Modality("a", (3, 32, 32)), Modality("b", (4,))], 4)
    z = track_provenance(torch.randn(64, 4), frozenset({"z"}))
    assert not is_untraced(z)
    for parameters in vae.model.parameters_given(z, vae.names).values():
        assert get_provenance(parameters) == {"z"}
