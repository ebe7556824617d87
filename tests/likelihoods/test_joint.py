"""Log densities of several modalities at once, against those of each by itself."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.likelihoods import join, make_likelihood

EVENT = (3, 4)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Local draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def sites_of(scales: list[Any], batch: tuple[int, ...] = (5,), name: str = "laplace", **options: Any) -> Any:
    """Distributions with their observations side by side, and what the decoder gave."""
    whole = torch.randn(*batch, len(scales), *EVENT, dtype=torch.float64).requires_grad_()
    likelihoods = nn.ModuleList(make_likelihood(name, EVENT, scale=scale, **options) for scale in scales)
    parts = whole.unbind(len(batch))
    values = list(torch.randn(len(scales), batch[-1], *EVENT, dtype=torch.float64).unbind())
    return [f(part) for f, part in zip(likelihoods, parts, strict=True)], values, parts, whole, likelihoods


@pytest.mark.parametrize("name", ["laplace", "normal"])
@pytest.mark.parametrize("batch", [(5,), (2, 5)])
@pytest.mark.parametrize("scales", [[0.75, 0.75], [0.75, 0.5, 0.75], ["learned", "learned"], ["learned", 0.5]])
def test_each_is_what_it_is_by_itself(scales: list[Any], batch: tuple[int, ...], name: str) -> None:
    sites, values, parts, whole, likelihoods = sites_of(scales, batch, name)
    inputs = [whole, *likelihoods.parameters()]
    apart = [site.log_prob(value) for site, value in zip(sites, values, strict=True)]
    assert join(sites, values, parts, whole)
    together = [site.log_prob(value) for site, value in zip(sites, values, strict=True)]
    ahead = torch.linspace(-1, 1, apart[0].numel(), dtype=torch.float64).reshape(apart[0].shape)
    weighted = [sum(i * (ahead * one).sum() for i, one in enumerate(found, 1)) for found in (apart, together)]
    for one, other in zip(apart, together, strict=True):
        torch.testing.assert_close(other, one)
    torch.testing.assert_close(*(torch.autograd.grad(total, inputs, retain_graph=True) for total in weighted))


def test_the_pixels_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sites, values, parts, whole, _ = sites_of([0.75] * 3)
    assert join(sites, values, parts, whole)
    shapes = []
    energy = type(sites[0])._energy
    monkeypatch.setattr(type(sites[0]), "_energy", staticmethod(lambda r: shapes.append(r.shape) or energy(r)))
    for site, value in zip(sites, values, strict=True):
        site.log_prob(value)
    assert shapes == [(5, 3, *EVENT)]


def test_another_value_and_another_shape_are_computed_by_themselves() -> None:
    sites, values, parts, whole, _ = sites_of([0.75, 0.75])
    wanted = [site.log_prob(values[1]) for site in sites]
    wide = sites[0].expand((2, 5)).log_prob(values[0])
    assert join(sites, values, parts, whole)
    torch.testing.assert_close(sites[0].log_prob(values[1]), wanted[0])
    torch.testing.assert_close(sites[1].log_prob(values[1].clone()), wanted[1])
    assert sites[0].expand((2, 5)).joint is None
    torch.testing.assert_close(sites[0].expand((2, 5)).log_prob(values[0]), wide)
    assert sites[0].expand((5,)).joint is sites[0].joint  # as a plate does


def test_what_was_computed_without_gradients_is_not_given_where_they_are_wanted() -> None:
    sites, values, parts, whole, _ = sites_of([0.75, 0.75])
    assert join(sites, values, parts, whole)
    with torch.no_grad():
        assert not sites[0].log_prob(values[0]).requires_grad
    assert sites[0].log_prob(values[0]).requires_grad


def test_what_cannot_be_joined() -> None:
    sites, values, parts, whole, _ = sites_of([0.75, 0.75])
    assert not join(sites, [value.clone() for value in values], parts, whole)  # not side by side
    assert not join(sites[:1], values[:1], parts[:1], whole)
    assert not join(sites, values, [part.clone() for part in parts], whole)  # other locations
    other = make_likelihood("normal", EVENT)(parts[1])
    assert not join([sites[0], other], values, parts, whole)
    assert not join([sites[0], sites[1].mask(torch.ones(5, dtype=torch.bool))], values, parts, whole)
    assert all(site.joint is None for site in sites)
    sigmoid, values, parts, whole, _ = sites_of([0.75, 0.75], output="sigmoid")
    assert not join(sigmoid, values, parts, whole)


def test_nothing_keeps_them_alive() -> None:
    gc.disable()
    try:
        sites, values, parts, whole, _ = sites_of([0.75, 0.75])
        join(sites, values, parts, whole)
        sites[0].log_prob(values[0])
        alive = weakref.ref(sites[0])
        del sites
        assert alive() is None
    finally:
        gc.enable()


def trace_of(vae: MultimodalVAE, batch: dict[str, Tensor]) -> Any:
    with pyro.poutine.seed(rng_seed=0):
        trace = poutine.trace(vae.model).get_trace(batch)
    trace.compute_log_prob()
    return trace


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 0.0, 2.0)])
def test_a_model_gives_the_same_side_by_side_or_not(weights: tuple[float, ...]) -> None:
    names = ("a", "b", "c")
    modalities = [Modality(name, (1, 8, 8), weight=weight) for name, weight in zip(names, weights, strict=True)]
    vae = MultimodalVAE(modalities, latent_size=2)
    whole = torch.rand(3, 4, 1, 8, 8)
    beside = dict(zip(names, whole.unbind(), strict=True))
    apart = {name: value.clone() for name, value in beside.items()}
    one, other = trace_of(vae, beside), trace_of(vae, apart)
    assert [node for node in one.nodes if node in names] == [n for n, w in zip(names, weights, strict=True) if w]
    for name in set(names) & set(one.nodes):
        torch.testing.assert_close(one.nodes[name]["log_prob"], other.nodes[name]["log_prob"])
        joined = one.nodes[name]["fn"].joint is not None
        assert joined == (weights == (1.0, 1.0, 1.0))
        assert other.nodes[name]["fn"].joint is None
