"""Experts of which nothing is missing, known without a mask, are aggregated as those whose mask says so."""

from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_mmvae import Experts, aggregate, draw_component
from pyro_mmvae.aggregation import rules
from pyro_mmvae.aggregation.functional import full_component, get_aggregation
from tests.strategies import BUILT_IN, NAMES

ITEMS, MODALITIES, LATENT = 4, 3, 2
CPU = torch.device("cpu")
OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "prior among all": {"prior_expert": "all", "prior": (0.5, 2.0)},
    "prior in full": {"prior_expert": "full", "prior": (torch.arange(2.0).double(), 0.5)},
    "no prior": {"prior_expert": "none"},
    "weights": {"weights": torch.tensor([0.5, 0.0, 2.0]).double()},
    "weights of items": {"weights": torch.tensor([[1.0, 2, 3], [0, 0, 0], [0, 1, 0], [1, 1, 1]]).double()},
    "sizes": {"mixture_weights": "size"},
    "own mixture weights": {"mixture_weights": lambda members: members.double().sum(-1)},
    "mixture weights of items": {"mixture_weights": lambda members: torch.eye(ITEMS, len(members)).double() + 0.5},
}


def tensors(kind: str = "normal") -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    loc, noise = torch.randn(2, ITEMS, MODALITIES, LATENT, dtype=torch.float64, generator=generator)
    scale = (0.5 * noise).exp()
    if kind != "full":
        return {"loc": loc.requires_grad_(), "scale": scale.requires_grad_()}
    tril = torch.randn(ITEMS, MODALITIES, LATENT, LATENT, dtype=torch.float64, generator=generator).tril(-1)
    return {"loc": loc.requires_grad_(), "scale_tril": (tril + torch.diag_embed(scale)).requires_grad_()}


def results(name: str, given: dict[str, Any], present: torch.Tensor | None, options: dict[str, Any]) -> list[Any]:
    """Densities, moments, draws and gradients of the posterior, and a drawn component and the full one."""
    z = torch.linspace(-1, 1, ITEMS * LATENT).double().reshape(ITEMS, LATENT)
    found: list[Any] = []
    for build in (aggregate, draw_component, full_component):
        if build is full_component and name == "moe":
            continue
        experts = Experts(**given, present=present)
        assert experts.complete == (present is None)
        assert experts.mask.all()
        torch.manual_seed(1)
        q: Any = build(experts, name, **options)
        assert (q.batch_shape, q.event_shape) == ((ITEMS,), (LATENT,))
        values = [q.log_prob(z), q.mean, q.variance, q.rsample(), q.rsample((3,)), q.log_prob(q.rsample((2,)))]
        total = sum(value.sin().sum() for value in values)
        found += [*values, *torch.autograd.grad(total, list(given.values()), materialize_grads=True)]
    return found


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", BUILT_IN)
def test_as_with_a_mask(name: str, options: str) -> None:
    given, present = tensors(), torch.ones(ITEMS, MODALITIES, dtype=torch.bool)
    chosen = OPTIONS[options]
    if name == "moe" and "items" in options and "mixture" in options:
        chosen = {"mixture_weights": lambda members: torch.ones(ITEMS, len(members)).double()}
    torch.testing.assert_close(results(name, given, None, chosen), results(name, given, present, chosen))


@pytest.mark.parametrize("name", BUILT_IN)
def test_as_with_a_mask_where_covariances_are_full(name: str) -> None:
    given, present = tensors("full"), torch.ones(ITEMS, MODALITIES, dtype=torch.bool)
    torch.testing.assert_close(results(name, given, None, {}), results(name, given, present, {}))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BUILT_IN])
def test_as_with_a_mask_under_any_divergence(name: str) -> None:
    given, present = tensors(), torch.ones(ITEMS, MODALITIES, dtype=torch.bool)
    for which in (name, f"mixture:{name}"):
        one, other = (aggregate(Experts(**given, present=mask), which) for mask in (None, present))
        torch.testing.assert_close((one.mean, one.variance), (other.mean, other.variance))


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
@pytest.mark.parametrize("name", BUILT_IN)
def test_any_dimensions_of_items(name: str, shape: tuple[int, ...]) -> None:
    loc = torch.randn(*shape, MODALITIES, LATENT).double()
    experts = Experts(loc, loc.exp())
    one, other = aggregate(experts, name), aggregate(experts.condition_on(torch.ones(MODALITIES).bool()), name)
    assert one.batch_shape == shape
    torch.testing.assert_close((one.mean, one.variance), (other.mean, other.variance))


def test_what_stays_complete() -> None:
    experts = Experts(**tensors())
    assert experts.complete
    assert experts.map(lambda tensor, event_dim: tensor.index_select(-event_dim, torch.tensor([2, 0]))).complete
    assert experts.map(lambda tensor, _: tensor[:2]).mask.shape == (2, MODALITIES)
    assert not experts.condition_on((0, 1, 2)).complete
    assert not experts.condition_on((0,)).map(lambda tensor, _: tensor).complete
    assert experts.condition_on((0,)).mask.sum() == ITEMS


class _Shapes(TorchDispatchMode):
    """The shapes of everything that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.seen.add(tuple(value.shape))
        return result


def test_the_matrix_is_one_for_all_items() -> None:
    """No mask or weight is made an item, a component and a modality."""
    loc = torch.randn(11, 3, 5)
    shapes = {}
    for present in (None, torch.ones(11, 3, dtype=torch.bool)):
        with _Shapes() as mode:
            aggregate(Experts(loc, loc.exp(), present), "mopoe")
        shapes[present is None] = mode.seen
    assert not shapes[True] & {(11, 7, 3), (11, 7, 4)}
    assert shapes[False] & {(11, 7, 3), (11, 7, 4)}


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_kept_serves_in_any_mode(name: str) -> None:
    """What depends on the rule alone is made once, even if that was where no gradient can be taken."""
    given = tensors()
    with torch.inference_mode():
        aggregate(Experts(**{key: value.detach() for key, value in given.items()}), name)
    q: Any = aggregate(Experts(**given), name)
    found = torch.autograd.grad(q.log_prob(torch.zeros(ITEMS, LATENT).double()).sum(), list(given.values()))
    assert all(gradient.isfinite().all() and (gradient != 0).any() for gradient in found)


@pytest.mark.parametrize("name", BUILT_IN)
def test_tensors_without_values_and_transforms_leave_nothing_behind(name: str) -> None:
    rules._constants.cache_clear()
    with FakeTensorMode(), pyro.validation_enabled(False):
        aggregate(Experts(torch.zeros(2, 3, 1), torch.ones(2, 3, 1), validate_args=False), name)
    torch.func.vmap(lambda loc: aggregate(Experts(loc, loc.exp(), validate_args=False), name).mean)(
        torch.zeros(4, 2, 3, 1)
    )
    assert rules._constants.cache_info().currsize == 0
    assert aggregate(Experts(torch.zeros(2, 3, 1), torch.ones(2, 3, 1)), name).mean.tolist() == [[0.0], [0.0]]
    assert rules._constants.cache_info().currsize == 1
    kept = rules._constants(get_aggregation(name), 3, None, "uniform", torch.float32, CPU)
    assert all(type(tensor) is torch.Tensor and not tensor.is_inference() for tensor in kept)


def test_the_prior_has_no_column_where_it_is_in_no_subset() -> None:
    shapes = {
        name: rules._constants(get_aggregation(name), 3, prior, "uniform", torch.float32, CPU)[0].shape
        for name, prior in (("mwb", None), ("mopoe", None), ("wb", None), ("poe", None), ("pool", "all"))
    }
    assert shapes == {"mwb": (7, 3), "mopoe": (7, 4), "wb": (1, 3), "poe": (1, 4), "pool": (1, 4)}
