"""The gradient of the Hölder pool's mixture weights under the objectives that draw subsets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_mmvae import HolderPool
from pyro_mmvae.training import local_pyro, make_objective
from tests.training.objectives.linear_models import NAMES, NOISE, WEIGHTS, Linear, log_normal, make

ITEMS, REPEATS, BETA = 6000, 8, 0.6
INSIDE, REST = (0, 1), (2,)
EVERY = (*INSIDE, *REST)


def expectation(model: Linear, given: tuple[int, ...], decoded: tuple[int, ...], other: Any = None) -> Tensor:
    """Return Σ_m w_m log p(x_m | z) - β log(q(z) / p(z)) of all items, the exact mean over the components of q.

    The sum over the components with their weights has the gradient of the weights by itself, without a score function.
    """
    q: Any = model.vae.guide.posterior(model.vae.guide.experts(model.batch).condition_on(list(given)), "mixture")
    z = q.components.rsample().transpose(0, 1)  # (component, item, latent)
    reference = model.vae.model.prior() if other is None else other
    value = -BETA * (q.log_prob(z) - reference.log_prob(z))
    for m in decoded:
        loc = model.decoders[NAMES[m]](z)
        noise = torch.tensor(NOISE, dtype=loc.dtype)
        value = value + WEIGHTS[NAMES[m]] * log_normal(model.values[NAMES[m]], loc, noise)
    return (q.probs.T * value).sum()


def exact(model: Linear, name: str) -> Tensor:
    if name == "elbo":  # with the bound "subsets"
        return expectation(model, INSIDE, EVERY)
    first = expectation(model, INSIDE, INSIDE)
    if name == "sub_elbos":
        return first + expectation(model, EVERY, EVERY)
    q_subset = model.vae.guide.posterior(model.vae.guide.experts(model.batch).condition_on(list(INSIDE)), "mixture")
    return first + expectation(model, EVERY, REST, q_subset)


@pytest.mark.parametrize(
    "objective",
    [{"name": "elbo"}, {"name": "masked"}, {"name": "sub_elbos", "singles": False}],
    ids=lambda o: o["name"],
)
def test_objective_of_holder_has_the_gradient_of_its_weights(
    objective: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("holder", bound="subsets", present=[[True] * 3] * ITEMS, beta=BETA)
    for values in model.values.values():
        values.copy_(values[:1].clone().expand_as(values))  # equal items, so that their mean has a small error
    with torch.no_grad():  # the experts differ, so that the weights of single experts and of the pair matter
        model.encoders["a"].linear.bias[:2] += 1.0
        model.encoders["b"].linear.bias[:2] -= 1.0
    members = torch.tensor([m in INSIDE for m in range(3)]).expand(ITEMS, -1)
    monkeypatch.setattr(HolderPool, "draw", lambda *_: members)
    module = make_objective(objective, model.vae)
    parameters = [model.encoders[name].linear.bias for name in NAMES[:2]]

    def gradients(loss: Any) -> Tensor:
        rows = []
        for seed in range(REPEATS):
            torch.manual_seed(seed)
            with local_pyro():
                rows.append(torch.cat(torch.autograd.grad(loss() / ITEMS, parameters)))
        return torch.stack(rows)

    found, expected = gradients(lambda: module(model.batch)[0]), gradients(lambda: -exact(model, objective["name"]))
    error = ((found.var(0) + expected.var(0)) / REPEATS).sqrt()
    assert ((found - expected).mean(0).abs() < 5 * error + 1e-6).all()
    assert error.max() < 0.1 * expected.mean(0).abs().max()
