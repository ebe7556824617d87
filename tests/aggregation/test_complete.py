"""Complete experts, which are aggregated without masks, against experts with a mask that is all true."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pyro
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_mmvae import Experts, aggregate, divergences, draw_component
from pyro_mmvae.aggregation import make_aggregation
from tests.strategies import BUILT_IN, joint_component

ITEMS, MODALITIES, LATENT = 4, 3, 2
OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "prior among all": {"prior_expert": "all", "prior": (0.5, 2.0)},
    "prior in full": {"prior_expert": "joint_only", "prior": (torch.arange(2.0).double(), 0.5)},
    "no prior": {"prior_expert": "none"},
    "weights": {"expert_weights": torch.tensor([0.5, 0.0, 2.0]).double()},
    "weights of items": {"expert_weights": torch.tensor([[1.0, 2, 3], [0, 0, 0], [0, 1, 0], [1, 1, 1]]).double()},
    "sizes": {"subset_weights": "by_size"},
    "own mixture weights": {"subset_weights": lambda members: members.double().sum(-1)},
    "mixture weights of items": {"subset_weights": lambda members: torch.eye(ITEMS, len(members)).double() + 0.5},
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
    """Return densities, moments, draws and gradients of the posterior, a drawn component and the joint one."""
    z = torch.linspace(-1, 1, ITEMS * LATENT).double().reshape(ITEMS, LATENT)
    found: list[Any] = []
    for build in (aggregate, draw_component, joint_component):
        if build is joint_component and name == "moe":
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
def test_complete_experts_aggregate_as_with_a_mask(name: str, options: str) -> None:
    given, present = tensors(), torch.ones(ITEMS, MODALITIES, dtype=torch.bool)
    chosen = OPTIONS[options]
    if name == "moe" and "items" in options and "mixture" in options:
        chosen = {"subset_weights": lambda members: torch.ones(ITEMS, len(members)).double()}
    torch.testing.assert_close(results(name, given, None, chosen), results(name, given, present, chosen))


@pytest.mark.parametrize("name", BUILT_IN)
def test_complete_full_covariance_experts_aggregate_as_with_a_mask(name: str) -> None:
    given, present = tensors("full"), torch.ones(ITEMS, MODALITIES, dtype=torch.bool)
    torch.testing.assert_close(results(name, given, None, {}), results(name, given, present, {}))


@pytest.mark.parametrize("name", [*divergences(), "code"])
def test_complete_experts_aggregate_as_with_a_mask_under_divergences(name: str) -> None:
    given, present = tensors(), torch.ones(ITEMS, MODALITIES, dtype=torch.bool)
    for which in (name, f"mixture:{name}"):
        one, other = (aggregate(Experts(**given, present=mask), which) for mask in (None, present))
        torch.testing.assert_close((one.mean, one.variance), (other.mean, other.variance))


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
@pytest.mark.parametrize("name", BUILT_IN)
def test_complete_experts_of_any_batch_shape_aggregate_as_with_a_mask(name: str, shape: tuple[int, ...]) -> None:
    loc = torch.randn(*shape, MODALITIES, LATENT).double()
    experts = Experts(loc, loc.exp())
    one, other = aggregate(experts, name), aggregate(experts.condition_on(torch.ones(MODALITIES).bool()), name)
    assert one.batch_shape == shape
    torch.testing.assert_close((one.mean, one.variance), (other.mean, other.variance))


def test_complete_is_kept_by_map_and_lost_by_given() -> None:
    experts = Experts(**tensors())
    assert experts.complete
    assert experts.map(lambda tensor, event_dim: tensor.index_select(-event_dim, torch.tensor([2, 0]))).complete
    assert experts.map(lambda tensor, _: tensor[:2]).mask.shape == (2, MODALITIES)
    assert not experts.condition_on((0, 1, 2)).complete
    assert not experts.condition_on((0,)).map(lambda tensor, _: tensor).complete
    assert experts.condition_on((0,)).mask.sum() == ITEMS


class _Shapes(TorchDispatchMode):
    """A mode that records the shapes of everything that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.seen.add(tuple(value.shape))
        return result


def test_aggregate_of_complete_experts_makes_one_matrix_for_all_items() -> None:
    """Check that no tensor `(item, component, modality)` is made."""
    loc = torch.randn(11, 3, 5)
    shapes = {}
    for present in (None, torch.ones(11, 3, dtype=torch.bool)):
        with _Shapes() as mode:
            aggregate(Experts(loc, loc.exp(), present), "mopoe")
        shapes[present is None] = mode.seen
    assert not shapes[True] & {(11, 7, 3), (11, 7, 4)}
    assert shapes[False] & {(11, 7, 3), (11, 7, 4)}


@pytest.mark.parametrize("name", BUILT_IN)
def test_kept_constants_made_in_inference_mode_serve_gradients(name: str) -> None:
    aggregation, given = make_aggregation(name), tensors()
    with torch.inference_mode():
        aggregation(Experts(**{key: value.detach() for key, value in given.items()}))
    q: Any = aggregation(Experts(**given))
    assert len(aggregation._complete) == 1
    gradients = torch.autograd.grad(q.log_prob(torch.zeros(ITEMS, LATENT).double()).sum(), list(given.values()))
    assert all(gradient.isfinite().all() and (gradient != 0).any() for gradient in gradients)


@pytest.mark.parametrize("name", BUILT_IN)
def test_kept_constants_are_never_fake_or_transformed_tensors(name: str) -> None:
    aggregation = make_aggregation(name)
    with FakeTensorMode(), pyro.validation_enabled(False):
        aggregation(Experts(torch.zeros(2, 3, 1), torch.ones(2, 3, 1), validate_args=False))
    torch.func.jacrev(lambda loc: aggregation(Experts(loc, loc.exp(), validate_args=False)).mean)(torch.zeros(2, 3, 1))
    assert not aggregation._complete
    torch.func.vmap(lambda loc: aggregation(Experts(loc, loc.exp(), validate_args=False)).mean)(torch.zeros(4, 2, 3, 1))
    assert aggregation(Experts(torch.zeros(2, 3, 1), torch.ones(2, 3, 1))).mean.tolist() == [[0.0], [0.0]]
    (constants,) = aggregation._complete.values()
    assert all(type(tensor) is torch.Tensor and not tensor.is_inference() for tensor in constants)


def test_kept_constants_have_no_prior_column_where_the_prior_is_in_no_subset() -> None:
    shapes = {}
    for name, prior in (("mwb", None), ("mopoe", None), ("wb", None), ("poe", None), ("pool", "all")):
        aggregation = make_aggregation(name, prior_expert=prior)
        aggregation(Experts(**tensors()))
        ((rows, *_),) = aggregation._complete.values()
        shapes[name] = rows.shape
    assert shapes == {"mwb": (7, 3), "mopoe": (7, 4), "wb": (1, 3), "poe": (1, 4), "pool": (1, 4)}


@pytest.mark.parametrize("name", BUILT_IN)
def test_kept_constants_are_made_once_per_modalities_and_dtype(name: str) -> None:
    aggregation = make_aggregation(name)
    for count, dtype in ((3, torch.float64), (3, torch.float64), (2, torch.float64), (3, torch.float32)):
        loc = torch.zeros(5, count, 1, dtype=dtype)
        assert aggregation(Experts(loc, loc.exp())).mean.dtype == dtype
    assert [key[:2] for key in aggregation._complete] == [
        (3, torch.float64), (2, torch.float64), (3, torch.float32)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["mopoe", "wb"])
def test_kept_constants_are_not_state_and_copies_work(name: str) -> None:
    aggregation = make_aggregation(name)
    expected = aggregation(Experts(**tensors())).mean
    assert not aggregation.state_dict()
    for twin in (copy.deepcopy(aggregation), pickle.loads(pickle.dumps(aggregation)), aggregation.to(torch.float32)):
        torch.testing.assert_close(twin(Experts(**tensors())).mean, expected, rtol=0, atol=0)
