"""Likelihoods against torch's and SciPy's distributions."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro.distributions.testing.gof import auto_goodness_of_fit
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_mmvae.likelihoods import LIKELIHOODS, SharedScaleLaplace, SharedScaleNormal, make_likelihood

FAMILIES = {"laplace": torch.distributions.Laplace, "normal": torch.distributions.Normal}
SCIPY = {"laplace": scipy.stats.laplace, "normal": scipy.stats.norm}
SHAPES = [(), (5,), (3, 4, 2)]
LOCATION = pytest.mark.parametrize("name", sorted(FAMILIES))


def parameters(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(6, *shape, dtype=dtype)


class Ops(TorchDispatchMode):
    """Sizes of the outputs of each operator of one name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.sizes = name, []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ == self.name:
            self.sizes.append(out.numel())
        return out


@LOCATION
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.75, "learned"])
def test_log_prob_shared_scale_equals_scipy(name: str, shape: tuple[int, ...], scale: float | str) -> None:
    loc, x = parameters(shape), parameters(shape)
    likelihood = make_likelihood(name, shape, scale=scale).double()
    number = 1.0 if scale == "learned" else float(scale)
    ours = likelihood(loc)
    assert ours.batch_shape == (6,)
    assert ours.event_shape == shape
    theirs = SCIPY[name].logpdf(x.numpy(), loc.numpy(), number).reshape(6, -1).sum(-1)
    torch.testing.assert_close(ours.log_prob(x), torch.from_numpy(theirs), rtol=1e-10, atol=1e-10)
    more = x + torch.randn(2, 1, *shape, dtype=x.dtype)
    assert ours.log_prob(more).shape == (2, 6)
    torch.testing.assert_close(ours.log_prob(more)[1], ours.log_prob(more[1]))
    assert torch.equal(ours.mean, loc)
    torch.testing.assert_close(ours.variance, FAMILIES[name](loc, number).variance, check_dtype=False)
    assert torch.equal(likelihood.mean(loc), loc)
    assert likelihood.parameter_shape == likelihood.feature_shape == shape
    assert likelihood.features(x) is x
    assert likelihood.point(loc) is loc
    assert not likelihood.is_categorical


@LOCATION
def test_log_prob_fixed_scale_has_the_precision_of_loc(name: str) -> None:
    loc, x = parameters((5,)), parameters((5,))
    ours, theirs = make_likelihood(name, (5,), scale=0.1)(loc), FAMILIES[name](loc, 0.1)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x).sum(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.variance, theirs.variance, rtol=1e-12, atol=1e-12)


@LOCATION
@pytest.mark.parametrize("shape", SHAPES)
def test_expand_and_mask_shared_scale_keep_the_density(name: str, shape: tuple[int, ...]) -> None:
    loc, x = parameters(shape), parameters(shape)
    ours = make_likelihood(name, shape, scale=0.3)(loc)
    more = ours.expand([4, 6])
    assert (more.batch_shape, more.event_shape) == ((4, 6), shape)
    torch.testing.assert_close(more.log_prob(x), ours.log_prob(x).expand(4, 6))
    assert more.sample().shape == (4, 6, *shape)
    assert more.has_rsample
    mask = torch.tensor([True, False, True, True, False, True])
    masked = ours.mask(mask)
    assert torch.equal(masked.log_prob(x) == 0, ~mask)
    single = make_likelihood(name, shape, scale=0.3)(loc[0])
    assert single.expand_by([7]).sample().shape == (7, *shape)


@LOCATION
def test_sample_site_counts_each_item_once(name: str) -> None:
    """Check scalar modalities too: a sum over no dimension must not become a sum over the batch."""
    for shape in SHAPES:
        loc, x = parameters(shape), parameters(shape)

        def model(x: Tensor, loc: Tensor, likelihood: Any) -> None:
            with pyro.plate("data", 6):
                pyro.sample("x", likelihood(loc).mask(torch.arange(6) < 3), obs=x)

        likelihood = make_likelihood(name, shape, scale=0.3)
        trace = pyro.poutine.trace(model).get_trace(x, loc, likelihood)
        trace.compute_log_prob()
        assert trace.nodes["x"]["log_prob"].shape == (6,)
        expected = FAMILIES[name](loc[:3], 0.3).log_prob(x[:3]).sum()
        torch.testing.assert_close(trace.nodes["x"]["log_prob_sum"], expected)


@LOCATION
def test_sample_shared_scale_has_the_density(name: str) -> None:
    loc = torch.tensor([-1.0, 0.0, 2.0])
    draws = make_likelihood(name, (3,), scale=0.6)(loc.expand(20000, 3)).sample()
    for pixel in range(3):
        density = FAMILIES[name](loc[pixel], 0.6).log_prob(draws[:, pixel]).exp()
        assert auto_goodness_of_fit(draws[:, pixel], density) > 1e-3
    correlation = torch.corrcoef(draws.T) - torch.eye(3)
    assert correlation.abs().max() < 0.03


@LOCATION
def test_rsample_shared_scale_has_pathwise_gradients(name: str) -> None:
    loc = parameters((4,)).requires_grad_()
    likelihood = make_likelihood(name, (4,), scale="learned")
    draws = likelihood(loc).rsample()
    draws.sum().backward()
    assert loc.grad is not None
    assert (loc.grad == 1).all()
    noise = (draws - loc).detach().sum()  # the scale is 1
    torch.testing.assert_close(likelihood.log_scale.grad.double(), noise, rtol=1e-5, atol=1e-5)


@LOCATION
def test_log_prob_shared_scale_takes_at_most_one_logarithm(name: str) -> None:
    x = torch.rand(16, 3, 28, 28)
    for scale, expected in ((0.75, []), ("learned", [1])):
        likelihood = make_likelihood(name, (3, 28, 28), scale=scale)
        with Ops("log") as ops:
            likelihood(torch.zeros_like(x)).log_prob(x)
        assert ops.sizes == expected


@LOCATION
def test_learned_scale_starts_at_one_and_is_stationary_at_the_maximum(name: str) -> None:
    x = torch.randn(500, 3, dtype=torch.float64) * 0.2
    likelihood = make_likelihood(name, (3,), scale="learned").double()
    assert likelihood.log_scale.item() == 0
    best = x.abs().mean() if name == "laplace" else x.square().mean().sqrt()
    likelihood.log_scale.data = best.log()
    likelihood(torch.zeros_like(x)).log_prob(x).sum().backward()
    assert likelihood.log_scale.grad is not None
    assert abs(likelihood.log_scale.grad.item()) < 1e-9
    likelihood.zero_grad()
    likelihood.log_scale.data = best.log() + 0.1
    likelihood(torch.zeros_like(x)).log_prob(x).sum().backward()
    assert likelihood.log_scale.grad.item() < -1


@pytest.mark.parametrize("family", [SharedScaleLaplace, SharedScaleNormal])
def test_log_prob_shared_scale_validates_on_request_only(family: Any) -> None:
    loc, bad = torch.zeros(2, 3), torch.full((2, 3), torch.nan)
    assert family(loc, 1.0).log_prob(bad).isnan().all()
    with pytest.raises(ValueError, match="within the support"):
        family(loc, 1.0, validate_args=True).log_prob(bad)
    with pytest.raises(ValueError, match="within the support"):
        family(loc, 1.0, validate_args=True).expand([4, 2]).log_prob(bad)


@pytest.mark.parametrize("shape", SHAPES)
def test_bernoulli_log_prob_equals_cross_entropy(shape: tuple[int, ...]) -> None:
    logits, x = parameters(shape), torch.rand(6, *shape, dtype=torch.float64)
    likelihood = make_likelihood("bernoulli", shape)
    ours = likelihood(logits)
    assert (ours.batch_shape, ours.event_shape) == ((6,), shape)
    expected = (x * logits.sigmoid().log() + (1 - x) * (-logits).sigmoid().log()).reshape(6, -1).sum(-1)
    torch.testing.assert_close(ours.log_prob(x), expected)  # grey values too
    torch.testing.assert_close(likelihood.mean(logits), logits.sigmoid())
    assert set(ours.sample().unique().tolist()) <= {0.0, 1.0}
    assert likelihood(logits.bfloat16()).log_prob(x.float()).dtype == torch.float32


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_categorical_log_prob_equals_cross_entropy(shape: tuple[int, ...]) -> None:
    likelihood = make_likelihood("categorical", shape, classes=4)
    assert likelihood.parameter_shape == (*shape, 4)
    logits, x = torch.randn(6, *shape, 4), torch.randint(0, 4, (6, *shape))
    ours = likelihood(logits)
    assert (ours.batch_shape, ours.event_shape) == ((6,), shape)
    expected = -torch.nn.functional.cross_entropy(logits.movedim(-1, 1), x, reduction="none").reshape(6, -1).sum(-1)
    torch.testing.assert_close(ours.log_prob(x), expected)
    torch.testing.assert_close(likelihood.mean(logits), logits.softmax(-1))
    assert torch.equal(likelihood.point(likelihood.mean(logits)), logits.argmax(-1))
    assert likelihood.is_categorical
    features = likelihood.features(x)
    assert features.shape[1:] == likelihood.feature_shape
    assert features.shape == (6, *shape, 4)
    assert features.dtype == torch.get_default_dtype()
    assert torch.equal(features.argmax(-1), x)
    assert (features.sum(-1) == 1).all()
    assert set(features.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gauss", {}, "unknown likelihood 'gauss'.* Available: laplace, normal, bernoulli, categorical"),
        (
            "laplace",
            {"scale": 0.0},
            "scale of a likelihood must be a positive number, 'learned', 'cal.*, got 0.0",
        ),
        ("normal", {"scale": -1.0}, "scale of a likelihood must be"),
        ("normal", {"scale": float("nan")}, "scale of a likelihood must be"),
        ("normal", {"scale": float("inf")}, "scale of a likelihood must be"),
        (
            "laplace",
            {"scale": "free"},
            "scale of a likelihood must be a positive number, 'learned', 'cal.*, got 'free'",
        ),
        ("categorical", {}, "classes of likelihood 'categorical' must be at least 2, got None"),
        ("categorical", {"classes": 1}, "classes of likelihood 'categorical' must be at least 2, got 1"),
    ],
)
def test_make_likelihood_wrong_option_is_refused_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make_likelihood(name, (3,), **options)
    assert "\n" not in str(error.value)


def test_make_likelihood_every_name_gives_a_distribution() -> None:
    for name in LIKELIHOODS:
        made = make_likelihood(name, (3,), classes=2)
        assert isinstance(made(torch.zeros(2, *made.parameter_shape)), dist.Distribution)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_likelihood_output_sigmoid_takes_logits_of_the_mean(name: str) -> None:
    logits = parameters((3, 4), torch.float64).requires_grad_()
    likelihood = make_likelihood(name, (3, 4), scale=0.3, output="sigmoid")
    value = torch.rand(6, 3, 4, dtype=torch.float64)
    wanted = FAMILIES[name](torch.special.expit(logits), 0.3).log_prob(value).sum((-2, -1))
    torch.testing.assert_close(likelihood(logits).log_prob(value), wanted)
    torch.testing.assert_close(likelihood.mean(logits), torch.special.expit(logits))
    likelihood(logits).log_prob(value).sum().backward()
    assert logits.grad is not None
    assert (logits.grad != 0).any()


@pytest.mark.parametrize(
    ("name", "output", "message"),
    [
        ("bernoulli", "sigmoid", "likelihood 'bernoulli' does not take output, got 'sigmoid'; laplace, normal do"),
        ("categorical", "sigmoid", "likelihood 'categorical' does not take output, got 'sigmoid'; laplace, normal do"),
        ("laplace", "tanh", "output must be one of identity, sigmoid, got 'tanh'"),
    ],
)
def test_make_likelihood_wrong_output_is_refused(name: str, output: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_likelihood(name, (3,), classes=4, output=output)
